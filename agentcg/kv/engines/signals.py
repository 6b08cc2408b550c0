# SPDX-License-Identifier: Apache-2.0
"""What the co-ordinator tells of calls, as a policy is told it, and what it can be told of sessions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import cast, get_args

from agentcg.api.types import KvEvent, KvForecast, KvSession
from agentcg.errors import InvalidInput
from agentcg.kv.state import CallEvent, CallEventKind
from agentcg.model import SessionRef
from agentcg.predict.distribution import Distribution

__all__ = ["call_event", "full_name", "is_full_name", "remaining", "reports_of"]

_SCALE_MIN_SEC = 1.0
_SESSIONS_MAX = 500  # In one report: a message has 256 KiB at most.


def remaining(forecast: KvForecast) -> Distribution:
    """Return a distribution with the quantiles of a forecast, and its mean where a tail beyond the last allows it."""
    values = tuple(sorted((forecast.p10Sec, forecast.p50Sec, forecast.p90Sec)))
    shares, tail = (0.25, 0.4, 0.25), 0.1
    known = sum(value * share for value, share in zip(values, shares, strict=True))
    return Distribution(values, shares, tail, max(_SCALE_MIN_SEC, (forecast.meanSec - known) / tail))


def call_event(event: KvEvent) -> CallEvent | None:
    """Return what an event says of a call, or None if it is about something else."""
    if event.call is None or event.kind not in get_args(CallEventKind):
        return None
    left = None if event.forecast is None else remaining(event.forecast)
    return CallEvent(event.call, cast(CallEventKind, event.kind), left)


def full_name(name: str) -> str | None:
    """Return TENANT/SESSION for a session's name, as the daemon would read it from us; None if it can be no name."""
    try:
        return str(SessionRef.parse("session", name, tenant=f"u{os.getuid()}"))
    except InvalidInput:
        return None


def is_full_name(name: str) -> bool:
    """Return whether a session's name is one that the daemon knows sessions by."""
    return full_name(name) == name


def reports_of(sessions: Sequence[KvSession]) -> Iterator[Sequence[KvSession]]:
    """Yield the sessions of one report after the other; of none there is one, too, since a queue is told with it."""
    for begin in range(0, max(1, len(sessions)), _SESSIONS_MAX):
        yield sessions[begin : begin + _SESSIONS_MAX]
