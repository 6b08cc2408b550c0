# SPDX-License-Identifier: Apache-2.0
"""Tool calls that compete for CPUs: processor sharing by weight, and nobody gets more than it can use.

A call that would use d CPUs and gets g of them makes g / d seconds of progress a second. What one does not use is
divided among the others by their weights (water-filling), as the kernel does with ``cpu.weight``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from math import inf, ulp
from typing import Generic, TypeVar

__all__ = ["Cores", "share_out"]

_Key = TypeVar("_Key", bound=Hashable)
_ROUNDING_SEC = 1e-9


def share_out(total: float, wants: list[tuple[float, float]]) -> list[float]:
    """Divide ``total`` among (most, weight): in proportion to the weights, and nobody gets more than its most."""
    shares = [0.0] * len(wants)
    weight_left = sum(weight for _, weight in wants)
    # Whoever needs least for its weight is full first.
    for index in sorted(range(len(wants)), key=lambda index: wants[index][0] / wants[index][1]):
        most, weight = wants[index]
        shares[index] = min(most, total * weight / weight_left)
        total -= shares[index]
        weight_left -= weight
    return shares


@dataclass(slots=True)
class _Running:
    wall_sec: float
    left_sec: float
    cpus: float
    weight: float
    rate: float = 1.0


class Cores(Generic[_Key]):
    """The calls that run on so many CPUs."""

    def __init__(self, cpus: float) -> None:
        self.cpus = cpus
        self._running: dict[_Key, _Running] = {}
        self._now = 0.0
        self.next_end = inf

    @property
    def wanted(self) -> float:
        """CPUs that the calls would use."""
        return sum(call.cpus for call in self._running.values())

    def begin(self, key: _Key, wall_sec: float, cpu_sec: float, weight: float, now: float) -> None:
        """A call begins that takes ``wall_sec`` if it gets all the CPU it can use."""
        self._pass(now)
        cpus = min(self.cpus, cpu_sec / wall_sec) if wall_sec else 0.0
        self._running[key] = _Running(wall_sec, wall_sec, cpus, weight)
        self._divide()

    def reweigh(self, weights: Mapping[_Key, float], now: float) -> None:
        """Give calls that run other weights."""
        self._pass(now)
        for key, weight in weights.items():
            self._running[key].weight = weight
        self._divide()

    def progress(self, now: float) -> dict[_Key, float]:
        """Return how much of its time each call has behind it, in seconds of a call that gets all it can use."""
        self._pass(now)
        return {key: call.wall_sec - call.left_sec for key, call in self._running.items()}

    def advance(self, now: float) -> list[_Key]:
        """Let time pass, up to ``next_end`` and no further; return the calls that have ended."""
        self._pass(now)
        # Far from zero, time itself is rounded: a call would never quite be over.
        rounding = max(_ROUNDING_SEC, 4 * ulp(now))
        ended = [key for key, call in self._running.items() if call.left_sec <= rounding]
        for key in ended:
            del self._running[key]
        if ended:
            self._divide()
        return ended

    def _pass(self, now: float) -> None:
        for call in self._running.values():
            call.left_sec -= (now - self._now) * call.rate
        self._now = now

    def _divide(self) -> None:
        calls = list(self._running.values())
        if self.wanted > self.cpus:
            shares = share_out(self.cpus, [(call.cpus, call.weight) for call in calls])
            for call, share in zip(calls, shares, strict=True):
                call.rate = share / call.cpus if call.cpus else 1.0
        else:
            for call in calls:
                call.rate = 1.0
        self.next_end = self._now + min((max(0.0, call.left_sec) / call.rate for call in calls), default=inf)
