# SPDX-License-Identifier: Apache-2.0
"""Tool calls that compete for CPUs: processor sharing by weight, and nobody gets more than it can use.

A call that would use d CPUs and gets g of them makes g / d seconds of progress a second. What one does not use is
divided among the others by their weights (water-filling), as the kernel does with ``cpu.weight``.

Where calls are *held*, one that finds too few CPUs free does not begin before others have ended, and all that run have
what they can use. The first in the line stays the first; behind it, the heaviest goes before the others, but whoever
has been held for 60 s goes before them all. A call that uses no CPU is never held.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from math import inf, ulp
from typing import Generic, TypeVar

__all__ = ["Cores", "share_out"]

_Key = TypeVar("_Key", bound=Hashable)
_ROUNDING_SEC = 1e-9
_HELD_SEC = 60.0


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
    asked: float
    rate: float = 1.0


class Cores(Generic[_Key]):
    """The calls that run on so many CPUs. :param holds: they are held while CPUs are scarce"""

    def __init__(self, cpus: float, *, holds: bool = False) -> None:
        self.cpus, self._holds = cpus, holds
        self._running: dict[_Key, _Running] = {}
        self._line: dict[_Key, _Running] = {}
        self._now = 0.0
        self.next_end = inf

    @property
    def wanted(self) -> float:
        """CPUs that the calls would use, those that are held too."""
        return self._used + sum(call.cpus for call in self._line.values())

    @property
    def _used(self) -> float:
        return sum(call.cpus for call in self._running.values())

    def begin(self, key: _Key, wall_sec: float, cpu_sec: float, weight: float, now: float) -> None:
        """A call begins that takes ``wall_sec`` if it gets all the CPU it can use."""
        self._pass(now)
        cpus = min(self.cpus, cpu_sec / wall_sec) if wall_sec else 0.0
        call = _Running(wall_sec, wall_sec, cpus, weight, now)
        if self._holds and cpus:
            self._line[key] = call
            self._start(now)
        else:
            self._running[key] = call
        self._divide()

    def reweigh(self, weights: Mapping[_Key, float], now: float) -> None:
        """Give calls that run other weights."""
        self._pass(now)
        for key, weight in weights.items():
            (self._running.get(key) or self._line[key]).weight = weight
        self._divide()

    def progress(self, now: float) -> dict[_Key, float]:
        """Return how much of its time each call has behind it, in seconds of a call that gets all it can use."""
        self._pass(now)
        return {key: call.wall_sec - call.left_sec for key, call in (self._running | self._line).items()}

    def advance(self, now: float) -> list[_Key]:
        """Let time pass, up to ``next_end`` and no further; return the calls that have ended."""
        self._pass(now)
        # Far from zero, time itself is rounded: a call would never quite be over.
        rounding = max(_ROUNDING_SEC, 4 * ulp(now))
        ended = [key for key, call in self._running.items() if call.left_sec <= rounding]
        for key in ended:
            del self._running[key]
        if ended:
            self._start(now)
            self._divide()
        return ended

    def _start(self, now: float) -> None:
        """Let those begin who are held and find enough CPUs."""
        while self._line:
            head = self._line[next(iter(self._line))]
            self._line = dict(sorted(self._line.items(), key=lambda held: self._place(held[1], held[1] is head, now)))
            first, call = next(iter(self._line.items()))
            if self._used and self._used + call.cpus > self.cpus * (1 + _ROUNDING_SEC):
                return
            self._running[first] = self._line.pop(first)

    def _place(self, call: _Running, first: bool, now: float) -> tuple[int, float, float]:
        if now - call.asked >= _HELD_SEC:
            return 0, call.asked, 0.0
        return (1, 0.0, 0.0) if first else (2, -call.weight, call.asked)

    def _pass(self, now: float) -> None:
        for call in self._running.values():
            call.left_sec -= (now - self._now) * call.rate
        self._now = now

    def _divide(self) -> None:
        calls = list(self._running.values())
        if self._used > self.cpus:
            shares = share_out(self.cpus, [(call.cpus, call.weight) for call in calls])
            for call, share in zip(calls, shares, strict=True):
                call.rate = share / call.cpus if call.cpus else 1.0
        else:
            for call in calls:
                call.rate = 1.0
        self.next_end = self._now + min((max(0.0, call.left_sec) / call.rate for call in calls), default=inf)
