# SPDX-License-Identifier: Apache-2.0
"""What a policy is asked, and the plainest one.

A policy decides nothing but this: whose cache is protected, who may take it all the same, what is taken first, and who
runs next. It has no clock and does no I/O: the same events and questions, with the same times, get the same answers.
"""

from __future__ import annotations

from math import inf
from typing import Protocol

from agentcg.kv.state import Request, Session, State

__all__ = ["Lru", "Order", "Policy", "ProgramLru"]

Order = tuple[float, ...]
"""What comes first is less."""


class Policy(Protocol):
    """Whose cache stays, and who runs next."""

    def turn_ended(self, state: State, session: Session, now: float) -> float:
        """Return the deadline of the pause that begins now; what it means is the policy's own matter."""
        ...

    def call_changed(self, state: State, session: Session, now: float) -> float:
        """Return the deadline of a pause after an event of one of its calls."""
        ...

    def load_changed(self, state: State, now: float) -> None:
        """Take note of how busy tools and cache are."""
        ...

    def protected(self, state: State, session: Session, now: float) -> bool:
        """Return whether the cache of a session that does not run is kept, though somebody could use it."""
        ...

    def may_take(self, state: State, request: Request, session: Session, now: float) -> bool:
        """Return whether a request that does not fit may have what is protected. While nothing runs, it may anyway."""
        ...

    def loss(self, state: State, session: Session, now: float) -> Order:
        """Return what it costs to take this session's cache: of those that may be taken, the least is taken first."""
        ...

    def rank(self, state: State, request: Request, now: float) -> Order:
        """Return the place of a waiting request: the least runs next."""
        ...

    def admits(self, state: State, request: Request, now: float) -> bool:
        """Return whether a waiting request may run now, if it fits."""
        ...


class Lru:
    """What engines do: nothing is protected, the least recently used is taken first, first come, first served."""

    def turn_ended(self, state: State, session: Session, now: float) -> float:
        return -inf

    def call_changed(self, state: State, session: Session, now: float) -> float:
        return session.deadline

    def load_changed(self, state: State, now: float) -> None:
        pass

    def protected(self, state: State, session: Session, now: float) -> bool:
        return False

    def may_take(self, state: State, request: Request, session: Session, now: float) -> bool:
        return False

    def loss(self, state: State, session: Session, now: float) -> Order:
        return (session.used,)

    def rank(self, state: State, request: Request, now: float) -> Order:
        return (request.arrived,)

    def admits(self, state: State, request: Request, now: float) -> bool:
        return True


class ProgramLru(Lru):
    """The session that came first is served first, at every one of its turns."""

    def rank(self, state: State, request: Request, now: float) -> Order:
        return (request.session.number,)
