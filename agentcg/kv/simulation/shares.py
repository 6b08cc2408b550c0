# SPDX-License-Identifier: Apache-2.0
"""How much of the CPUs the calls of a session get while their session is paused: what the co-ordinator would give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from agentcg.kv.coordinate import cpu_factor, in_steps, worth
from agentcg.predict.distribution import Distribution

__all__ = ["CpuShares", "Predicts", "Rule", "by_cache", "shortest_first"]

Rule = Callable[[Mapping[str, float], Mapping[str, float], float], Mapping[str, float]]
"""From what each session's calls still need, in seconds, the part of the cache that it is in the way of, and the
pressure, to urgencies of 0 to 1."""


class Predicts(Protocol):
    """What :class:`agentcg.predict.duration.Predictor` does."""

    def observe(self, path: tuple[str, ...], progress_sec: float) -> None: ...

    def remaining(self, path: tuple[str, ...]) -> Distribution: ...


def by_cache(left_sec: Mapping[str, float], held: Mapping[str, float], pressure: float) -> dict[str, float]:
    """Return what :func:`agentcg.kv.coordinate.urgencies` does for one engine."""
    if not pressure:
        return {}
    return in_steps({name: worth(share, pressure, left_sec[name]) for name, share in held.items() if name in left_sec})


def shortest_first(left_sec: Mapping[str, float], held: Mapping[str, float], pressure: float) -> dict[str, float]:
    """Return what comes of the same rule when all caches are alike, and always in the way."""
    return in_steps({name: worth(1.0, 1.0, left) for name, left in left_sec.items()})


class CpuShares:
    """A rule, and what is expected of the calls that run. Learns from those that end."""

    def __init__(self, rule: Rule, predictor: Predicts) -> None:
        self._rule, self._predictor = rule, predictor
        self._calls: dict[tuple[str, int], Distribution] = {}

    def began(self, session: str, index: int, path: tuple[str, ...]) -> None:
        """A call begins."""
        self._calls[session, index] = self._predictor.remaining(path)

    def ended(self, session: str, index: int, path: tuple[str, ...], progress_sec: float) -> None:
        """It is over."""
        del self._calls[session, index]
        self._predictor.observe(path, progress_sec)

    def factors(
        self, progress: Iterable[tuple[tuple[str, int], float]], held: Mapping[str, float], pressure: float
    ) -> dict[str, float]:
        """Return what the weight of each session with calls is multiplied by."""
        left: dict[str, float] = {}
        for (session, index), done in progress:
            mean = self._calls[session, index].after(done).mean()
            left[session] = max(left.get(session, 0.0), mean)
        urgent = self._rule(left, held, pressure)
        return {session: cpu_factor(urgent.get(session, 0.0)) for session in left}
