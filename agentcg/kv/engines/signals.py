# SPDX-License-Identifier: Apache-2.0
"""What the co-ordinator tells of calls, as a policy is told it."""

from __future__ import annotations

from typing import cast, get_args

from agentcg.api.types import KvEvent, KvForecast
from agentcg.kv.state import CallEvent, CallEventKind
from agentcg.predict.distribution import Distribution

__all__ = ["call_event", "remaining"]

_SCALE_MIN_SEC = 1.0


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
