# SPDX-License-Identifier: Apache-2.0
"""Policies that keep nothing, and only choose who runs: by service, or fewer at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from agentcg.kv.policies.base import Lru, Order, ProgramLru
from agentcg.kv.state import Load, Request, State

__all__ = ["MarsAdmission", "Plas"]


@dataclass(frozen=True)
class Plas(Lru):
    """Program-level attained service (Autellix, arXiv 2502.13965): the session that was served least runs next.

    Autellix puts sessions into queues by their service and moves them back up when they have waited long; here the
    service itself is the order, which is the limit of many queues, and nobody is moved.
    """

    def rank(self, state: State, request: Request, now: float) -> Order:
        return (request.session.served_sec, request.arrived)


_CPU_HIGH, _CPU_LOW = 2.0, 1.0  # Calls per CPU.
_WAIT_HIGH_SEC, _WAIT_LOW_SEC = 5.0, 2.0
_CACHE_HIGH, _CACHE_LOW = 0.9, 0.85
_STEP_SEC = 0.2
_SHRINK = 0.7


@dataclass
class MarsAdmission(ProgramLru):
    """A window on the number of sessions, after MARS (arXiv 2604.26963): a new one is let in while fewer are.

    In steps of at least 0.2 s the window becomes 0.7 of itself while CPUs or cache are overloaded, and one more while
    both are well; between the two marks of each, it counts as what it was. A session leaves when it is closed. Of MARS
    this is the admission alone: not its queues, its chunks, or its choice of long prefills.
    """

    window: float = 30.0
    least: float = 4.0
    _stepped: float = field(default=-inf, repr=False)
    _cpu_over: bool = field(default=False, repr=False)
    _cache_over: bool = field(default=False, repr=False)

    def load_changed(self, state: State, now: float) -> None:
        if now - self._stepped < _STEP_SEC:
            return
        self._stepped = now
        load = state.load
        if load.cpu_backlog >= _CPU_HIGH or load.cpu_wait_sec >= _WAIT_HIGH_SEC:
            self._cpu_over = True
        elif load.cpu_backlog <= _CPU_LOW and load.cpu_wait_sec <= _WAIT_LOW_SEC:
            self._cpu_over = False
        if load.cache_used >= _CACHE_HIGH:
            self._cache_over = True
        elif load.cache_used <= _CACHE_LOW:
            self._cache_over = False
        self.window = self.window * _SHRINK if self._cpu_over or self._cache_over else self.window + 1
        self.window = max(self.least, min(self.window, self._most(load)))

    def _most(self, load: Load) -> float:
        """Where the cache is nearly full, the window is drawn towards its least."""
        full = min(1.0, max(0.0, (load.cache_used - _CACHE_LOW) / (_CACHE_HIGH - _CACHE_LOW)))
        return inf if not full else self.window + (self.least - self.window) * full

    def admits(self, state: State, request: Request, now: float) -> bool:
        inside = {session.name for session in state.sessions.values() if session.turns or session.running}
        return request.preempted or request.session.name in inside or len(inside) < int(self.window)
