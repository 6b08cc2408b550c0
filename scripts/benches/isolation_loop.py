# SPDX-License-Identifier: Apache-2.0
"""The controller that many would write: every 10 ms it looks at memory.current, and freezes or thaws the others.

Run as ``python -m benches.isolation_loop DIRECTORY LIMIT PROTECTED OTHER...``, until it is ended.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

__all__ = ["PERIOD_SEC", "frozen"]

PERIOD_SEC = 0.01
GROWS = 1 << 20
"""The protected session grows if it has grown by this in one period, bytes."""
SOME, ALL, THAW = 0.90, 0.95, 0.85
"""All but the first are frozen above SOME of the limit, all above ALL; they are thawed below THAW."""


def frozen(share: float, before: int, alive: int, *, protected_lives: bool, grows: bool) -> int:
    """Return how many of the others are to be frozen, counted from the last.

    :param share: used memory over the limit
    :param before: how many are frozen now
    :param alive: how many others there are
    """
    # Somebody must be able to finish: the protected one, or the first of the others.
    most = alive if protected_lives else max(alive - 1, 0)
    if grows or share > ALL:
        return most
    if share > SOME:
        return min(most, max(before, alive - 1))
    return 0 if share < THAW else min(most, before)


def _read(path: str) -> int:
    try:
        with open(path) as file:
            return int(file.read())
    except FileNotFoundError:
        return 0


def _populated(directory: str) -> bool:
    try:
        with open(f"{directory}/cgroup.events") as file:
            return "populated 1" in file.read()
    except FileNotFoundError:
        return False


def _set(directory: str, freeze: bool) -> None:
    with open(f"{directory}/cgroup.freeze", "w") as file:
        file.write(str(int(freeze)))


def main(directory: str, limit: int, protected: str, others: Sequence[str]) -> None:
    """Control the sessions below ``directory`` for ever."""
    held, now_frozen = 0, frozenset[str]()
    print("ready", flush=True)
    due = time.monotonic()
    while True:
        due = max(due + PERIOD_SEC, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
        share = _read(f"{directory}/memory.current") / limit
        before, held = held, _read(f"{directory}/{protected}/memory.current")
        lives = _populated(f"{directory}/{protected}")
        alive = [other for other in others if _populated(f"{directory}/{other}")]
        number = frozen(
            share,
            len(now_frozen & set(alive)),
            len(alive),
            protected_lives=lives,
            grows=lives and held - before > GROWS,
        )
        wanted = frozenset(alive[len(alive) - number :])
        for other in alive:
            if (other in wanted) != (other in now_frozen):
                _set(f"{directory}/{other}", other in wanted)
        now_frozen = wanted


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
