# SPDX-License-Identifier: Apache-2.0
"""What engines are told of tool calls, and what is made of their answers. Pure: no clock, no I/O.

**Urgency.** A session whose cache is pinned while somebody waits for room is in the way until its calls are over. Of
share s of an engine's cache, under pressure p, with r seconds left of the call that is expected to take longest, it is
worth s x p / r: how much of the cache is had back per second. What several engines hold adds up. Urgency is that
value as a part of the largest of all sessions', or of 1 % of a cache per second where that is more: next to nothing
is no reason to favour anybody. It comes in steps of a sixth, so that it does not change with every report.

**Weight.** A session's share of the CPUs is multiplied by 1 to 4, by its urgency: nobody falls behind by more than
that, and at a pressure of 0 all are as the policy has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

from agentcg.kv.reports import Engine
from agentcg.model import SessionRef
from agentcg.predict.distribution import Distribution

__all__ = ["FACTOR_MAX", "Forecast", "cpu_factor", "differs", "forecast", "in_steps", "urgencies", "worth"]

_Key = TypeVar("_Key")

FACTOR_MAX = 4.0
_STEPS = 6
_WORTH_IT = 0.01  # Parts of a cache per second.
_SHORTEST_SEC = 1.0  # A call that is nearly over gets no more for being nearer still.

_HORIZON_SEC = 86_400.0  # Nothing is foretold beyond.
_PACE_MIN = 0.05
_PART, _LEAST_SEC = 0.5, 0.5


class Forecast(NamedTuple):
    """When a call will be over: seconds from now that are not exceeded with this probability, and the mean."""

    p10_sec: float
    p50_sec: float
    p90_sec: float
    mean_sec: float


def forecast(remaining: Distribution, pace: float) -> Forecast:
    """Return when a call will be over that goes on as now.

    :param remaining: seconds of progress that it still needs
    :param pace: progress that it makes in a second, 0 to 1
    """
    pace = max(pace, _PACE_MIN)
    seconds = (remaining.quantile(0.1), remaining.quantile(0.5), remaining.quantile(0.9), remaining.mean())
    return Forecast(*(min(sec / pace, _HORIZON_SEC) for sec in seconds))


def differs(new: Forecast, told: Forecast, elapsed_sec: float) -> bool:
    """Return whether who was told another forecast, so long ago, is wrong by half of what is right, and by 0.5 s."""
    for now, before in ((new.p50_sec, told.p50_sec), (new.p90_sec, told.p90_sec)):
        if abs(now - max(0.0, before - elapsed_sec)) > max(_LEAST_SEC, _PART * now):
            return True
    return False


def urgencies(engines: Iterable[Engine], remaining: Mapping[SessionRef, float], now: float) -> dict[SessionRef, float]:
    """Return the urgency of each session that has any, 0 to 1.

    :param remaining: what is left, in seconds, of the calls of each session that has some
    """
    values: dict[SessionRef, float] = {}
    for engine in engines:
        if pressure := engine.pressure(now):
            for session, held in engine.in_the_way(now).items():
                if session in remaining:
                    gain = worth(held / engine.capacity, pressure, remaining[session])
                    values[session] = values.get(session, 0.0) + gain
    return in_steps(values)


def worth(share: float, pressure: float, left_sec: float) -> float:
    """Return how much of a cache is had back per second when calls end that are in the way of a ``share`` of it."""
    return share * pressure / max(left_sec, _SHORTEST_SEC)


def in_steps(values: Mapping[_Key, float]) -> dict[_Key, float]:
    """Return values per second as parts of the largest, or of 0.01 if that is more; those that come to nothing are
    left out."""
    most = max([_WORTH_IT, *values.values()])
    steps = {key: round(value / most * _STEPS) for key, value in values.items()}
    return {key: step / _STEPS for key, step in steps.items() if step}


def cpu_factor(urgency: float) -> float:
    """Return what a session's share of the CPUs is multiplied by."""
    return 1 + (FACTOR_MAX - 1) * urgency
