# SPDX-License-Identifier: Apache-2.0
"""Policies that keep a paused session's cache for a time, whoever waits."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from agentcg.kv.policies.base import Order, ProgramLru
from agentcg.kv.reload import Transfer
from agentcg.kv.state import Request, Session, State

__all__ = ["EvictLatest", "FixedTtl", "InferCept", "SkiRental"]


@dataclass(frozen=True)
class EvictLatest(ProgramLru):
    """No time-to-live: a session's cache is taken only for one that came earlier, the latest session's first."""

    def protected(self, state: State, session: Session, now: float) -> bool:
        return True

    def may_take(self, state: State, request: Request, session: Session, now: float) -> bool:
        return session.number > request.session.number

    def loss(self, state: State, session: Session, now: float) -> Order:
        return (-session.number,)


@dataclass(frozen=True)
class FixedTtl(ProgramLru):
    """A pause's cache is kept for ``ttl_sec``, and on when its session is back by then and waits."""

    ttl_sec: float = 8.0

    def turn_ended(self, state: State, session: Session, now: float) -> float:
        return now + self.ttl_sec

    def protected(self, state: State, session: Session, now: float) -> bool:
        back = session.returned if session.returned is not None else now
        return back <= session.deadline


@dataclass(frozen=True)
class SkiRental(ProgramLru):
    """Without any prediction: the cache is kept while the pause is shorter than B, and for a session that waits.

    To keep costs a second a second, to come back to nothing costs B. Over a pause of D seconds this rule never costs
    more than twice what is possible: the clairvoyant pays min(D, B), because it keeps either until the end or not at
    all. Where D <= B this rule pays D too; where D > B it has kept for B when it gives up, and pays B again: 2 B.
    """

    def protected(self, state: State, session: Session, now: float) -> bool:
        return bool(session.waiting) or self._left(state, session, now) > 0

    def loss(self, state: State, session: Session, now: float) -> Order:
        return (state.benefit_sec(session) if session.waiting else self._left(state, session, now),)

    def _left(self, state: State, session: Session, now: float) -> float:
        """How much longer to keep it, in seconds."""
        return state.benefit_sec(session) - (now - session.used)


@dataclass(frozen=True)
class InferCept(ProgramLru):
    """The least waste of memory (InferCept, arXiv 2402.01869, section 4): what is held without being used, or twice.

    With C tokens of the session's context, C_other of those that run, a token's memory cancelling everywhere, and the
    pause taken to be what it has been so far: to keep wastes pause x C; to compute again, PrefillReload x (C +
    C_other), for all stand still with it; to copy out and back, 2 x transfer x C_other. It is kept while that is least.
    """

    transfer: Transfer | None = None
    """How it would be copied; None: it is not."""

    def protected(self, state: State, session: Session, now: float) -> bool:
        if session.waiting:
            return True
        others = sum(request.tokens for request in state.running)
        again = state.reload.sec(session.tokens) * (session.tokens + others)
        swap = inf if self.transfer is None else 2 * self.transfer.sec(session.tokens) * others
        return (now - session.used) * session.tokens < min(again, swap)
