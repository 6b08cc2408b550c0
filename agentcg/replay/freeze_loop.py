# SPDX-License-Identifier: Apache-2.0
"""The controller that many would write: every 10 ms it looks at memory.current, and freezes or thaws the others.

Run as ``python -m agentcg.replay.freeze_loop DIRECTORY LIMIT current|pressure NUMBER NAME...``, until it is ended: of
the sessions below DIRECTORY the first NUMBER are protected. It says ``ready``, and then whom it freezes (1) and thaws
(0) and when, by the monotonic clock: ``12.345678 1 NAME``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

__all__ = ["PERIOD_SEC", "frozen"]

PERIOD_SEC = 0.01
GROWS = 1 << 20
"""A protected session grows if it has grown by this in one period, bytes."""
STALLS_USEC = 1000
"""With ``pressure``, or if it has waited for memory for this long in one."""
SOME, ALL, THAW = 0.90, 0.95, 0.85
"""All but the first are frozen above SOME of the limit, all above ALL; they are thawed below THAW."""


def frozen(share: float, before: int, alive: int, *, protected_lives: bool, grows: bool) -> int:
    """Return how many of the others are to be frozen, counted from the last.

    :param share: used memory over the limit
    :param before: how many are frozen now
    :param alive: how many others there are
    :param grows: a protected one is growing, or waits for memory
    """
    # Somebody must be able to finish: the protected one, or the first of the others.
    most = alive if protected_lives else max(alive - 1, 0)
    if grows or share > ALL:
        return most
    if share > SOME:
        return min(most, max(before, alive - 1))
    return 0 if share < THAW else min(most, before)


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _held(directory: str) -> int:
    return int(_read(f"{directory}/memory.current") or 0)


def _stalled_usec(directory: str) -> int:
    """How long some task has waited for memory so far (Documentation/accounting/psi.rst)."""
    some = _read(f"{directory}/memory.pressure").partition("\n")[0]
    return int(some.rpartition("total=")[2] or 0)


def _populated(directory: str) -> bool:
    return "populated 1" in _read(f"{directory}/cgroup.events")


def _set(directory: str, name: str, freeze: bool) -> None:
    with open(f"{directory}/{name}/cgroup.freeze", "w") as file:
        file.write(str(int(freeze)))
    print(f"{time.monotonic():.6f} {int(freeze)} {name}", flush=True)


def main(directory: str, limit: int, by: str, protected: Sequence[str], others: Sequence[str]) -> None:
    """Control the sessions below ``directory`` for ever."""
    now_frozen = frozenset[str]()
    held, stalled = dict.fromkeys(protected, 0), dict.fromkeys(protected, 0)
    print("ready", flush=True)
    due = time.monotonic()
    while True:
        due = max(due + PERIOD_SEC, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
        share = _held(directory) / limit
        lives = [name for name in protected if _populated(f"{directory}/{name}")]
        grows = False
        for name in protected:
            before, held[name] = held[name], _held(f"{directory}/{name}")
            waited = stalled[name]
            if by == "pressure":
                stalled[name] = _stalled_usec(f"{directory}/{name}")
            if name in lives:
                grows |= held[name] - before > GROWS or stalled[name] - waited > STALLS_USEC
        alive = [other for other in others if _populated(f"{directory}/{other}")]
        number = frozen(share, len(now_frozen & set(alive)), len(alive), protected_lives=bool(lives), grows=grows)
        wanted = frozenset(alive[len(alive) - number :])
        for other in alive:
            if (other in wanted) != (other in now_frozen):
                _set(directory, other, other in wanted)
        now_frozen = wanted


if __name__ == "__main__":
    count = int(sys.argv[4])
    names = sys.argv[5:]
    main(os.path.abspath(sys.argv[1]), int(sys.argv[2]), sys.argv[3], names[:count], names[count:])
