# SPDX-License-Identifier: Apache-2.0
"""Soft pins: a cache is taken only when somebody waits for it, and the one first whose loss is expected to be least."""

from __future__ import annotations

from dataclasses import dataclass

from agentcg.kv.policies.base import Order, ProgramLru
from agentcg.kv.state import Request, Session, State
from agentcg.kv.ttl import hold_value

__all__ = ["Clairvoyant", "SoftPins"]

_DOUBT = 0.5
"""How far a prediction is not trusted: 1 would be ski rental, and towards 0 the prediction alone decides. The trade-off
is that of Purohit, Svitkina and Kumar, Improving Online Algorithms via ML Predictions, NeurIPS 2018."""


@dataclass(frozen=True)
class _Soft(ProgramLru):
    """Who may take what is protected, and who goes first, when there is a value to each cache."""

    def value(self, state: State, session: Session, now: float) -> float:
        """Return what is lost with the cache of a session that does not run, in seconds; 0 or less: nothing."""
        raise NotImplementedError

    def protected(self, state: State, session: Session, now: float) -> bool:
        return self.value(state, session, now) > 0

    def may_take(self, state: State, request: Request, session: Session, now: float) -> bool:
        # One that runs would be put back otherwise. One that is back goes before those that came after it.
        returning = request.session.turns > 0 and session.number > request.session.number
        return returning or request.started is not None

    def loss(self, state: State, session: Session, now: float) -> Order:
        return (self.value(state, session, now), -session.number)

    def rank(self, state: State, request: Request, now: float) -> Order:
        # Whoever has most of its cache left needs little room and little work.
        return (2 * request.session.resident < request.tokens, request.session.number)


@dataclass(frozen=True)
class SoftPins(_Soft):
    """Ours: what a cache is worth follows from what is known of the call, and is asked again while it runs.

    - Keeping has a price only while somebody waits; so does the time that counts here, the *rent*.
    - Known is the distribution of what is left of the call: the value is :func:`agentcg.kv.ttl.hold_value`; where that
      is nothing, B less what is left in the mean, so that the longest is given up first.
    - Unknown: ski rental, B less the rent. So too, anew, from when the calls are over: the session is about to be back.
    - Wrong: up to half of B the cache is kept, and beyond twice B it is not, whatever was predicted.

    So no prediction makes a pause cost more than four times what the clairvoyant pays, min(R, B) for a whole rent R:
    given up at a rent r in [B / 2, 2 B] it costs r + B, at most 3 min(r, B); a call's end adds at most B, once, and
    then r >= B, so that r + B <= 4 B.
    """

    def value(self, state: State, session: Session, now: float) -> float:
        benefit = state.benefit_sec(session)
        if session.waiting:
            return benefit
        rent = state.rent_sec(session, now)
        if not session.calls and session.over_from is not None:
            return benefit - (state.contended_sec(now) - session.over_from)
        left = session.left(now)
        if left is None:
            return benefit - rent
        worth = hold_value(left, benefit) or benefit - left.mean()
        if rent >= benefit / _DOUBT:
            return min(worth, 0.0)
        return max(worth, benefit * _DOUBT - rent) if rent < benefit * _DOUBT else worth


@dataclass(frozen=True)
class Clairvoyant(_Soft):
    """A bound, no policy: it knows when each session will be back (:meth:`agentcg.kv.retention.Retention.foretell`).

    What is lost is B, and what is gained is the time until then. One whose return nobody has foretold never comes back.

    :param patience: how many times B the rest of a pause may be long; which one is best depends on the load
    """

    patience: float = 1.0

    def value(self, state: State, session: Session, now: float) -> float:
        benefit = self.patience * state.benefit_sec(session)
        if session.waiting:
            return benefit
        return 0.0 if session.returns_at is None else benefit - max(0.0, session.returns_at - now)
