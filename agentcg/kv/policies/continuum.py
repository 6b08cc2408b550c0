# SPDX-License-Identifier: Apache-2.0
"""Continuum (arXiv 2511.02230): as the paper has it, and as its public code does."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from agentcg.kv.policies.base import Order
from agentcg.kv.policies.pins import FixedTtl
from agentcg.kv.state import Request, Session, State

__all__ = ["Continuum", "ContinuumCode"]


@dataclass(frozen=True)
class Continuum(FixedTtl):
    """Equation 2 when a turn ends (section 4.2), the queue of section 4.3, and a deadlock rule.

    A pin is kept past its deadline for a session that came back before it and waits (algorithm 1). A turn that calls
    nothing is not pinned. What is not pinned is the engine's, which takes the least recently used.

    The deadlock rule of section 5.2 can be read in two ways. ``literal``: whenever a waiting request does not fit, pins
    of the sessions that came last are given up. Otherwise: only when nothing runs, or for one that runs already.
    """

    literal: bool = False

    def turn_ended(self, state: State, session: Session, now: float) -> float:
        if not session.tool:
            return -inf
        ttl_sec = state.pauses.ttl(
            session.tool,
            delay_sec=state.delay.sec,
            eta=state.turns.eta,
            reload_sec=state.reload.sec(session.tokens),
        )
        return now + ttl_sec if ttl_sec > 0 else -inf

    def may_take(self, state: State, request: Request, session: Session, now: float) -> bool:
        return self.literal or request.started is not None

    def loss(self, state: State, session: Session, now: float) -> Order:
        return (-session.number if self.protected(state, session, now) else session.used,)

    def rank(self, state: State, request: Request, now: float) -> Order:
        pinned = self.protected(state, request.session, now)
        return (not request.preempted, not pinned, request.session.number)


@dataclass(frozen=True)
class ContinuumCode(FixedTtl):
    """Its public code (set_up_pin in vllm/v1/core/estimate_with_func.py): no equation, 2 s or nothing.

    A call is pinned for 2 s unless its tool's pauses have taken more than that in the mean; a tool that was never seen
    is pinned. Pins are given up, the one that ends last first, when no more than one request runs.
    """

    ttl_sec: float = 2.0

    def turn_ended(self, state: State, session: Session, now: float) -> float:
        if not session.tool or (state.pauses.mean(session.tool) or 0.0) > self.ttl_sec:
            return -inf
        return now + self.ttl_sec

    def may_take(self, state: State, request: Request, session: Session, now: float) -> bool:
        return len(state.running) <= 1

    def loss(self, state: State, session: Session, now: float) -> Order:
        return (-session.deadline if self.protected(state, session, now) else session.used,)

    def rank(self, state: State, request: Request, now: float) -> Order:
        return (not self.protected(state, request.session, now), request.session.number)
