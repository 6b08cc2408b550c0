# SPDX-License-Identifier: Apache-2.0
"""What is left of a running call, from its progress so far: time in which it is frozen or throttled is none."""

from __future__ import annotations

from agentcg.cgroup.usage import read_cpu
from agentcg.control.live import LiveCall
from agentcg.kv.coordinate import Forecast, forecast
from agentcg.model import Usage
from agentcg.predict.distribution import Distribution
from agentcg.predict.duration import Predictor
from agentcg.predict.learn import call_path, progress_sec

__all__ = ["Prediction"]

SOONEST_SEC, LATEST_SEC = 1.0, 5.0
"""A call is predicted anew after half of what its median was, but not sooner or later than that."""
_PACE_SEC = 0.5  # It must have run so long for its pace to be measured.


class Prediction:
    """Of one call; times are on the monotonic clock."""

    def __init__(self, live: LiveCall, now: float) -> None:
        self._live = live
        self._path = call_path(live.call.tool, live.call.command, str(live.ref.session))
        self._remaining: Distribution | None = None
        self._at, self._frozen, self._progress = now, live.still.sec(now), self._read(now)
        self._pace = 1.0
        self.due = now
        """When to predict it anew."""

    def make(self, predictor: Predictor, now: float) -> Forecast:
        """Predict it by what it has done so far, and by how fast it got on since it was predicted before."""
        frozen, progress = self._live.still.sec(now), self._read(now)
        ran = now - self._at - (frozen - self._frozen)
        if ran >= _PACE_SEC:
            self._pace = min(max(progress - self._progress, 0.0) / ran, 1.0)
        self._at, self._frozen, self._progress = now, frozen, progress
        self._remaining = predictor.remaining(self._path, progress)
        made = forecast(self._remaining, self._pace)
        self.due = now + min(max(made.p50_sec / 2, SOONEST_SEC), LATEST_SEC)
        return made

    def mean(self, now: float) -> float:
        """Return how many seconds of progress it still needs, as far as is known without reading its counters."""
        if self._remaining is None:
            return 0.0
        ran = now - self._at - (self._live.still.sec(now) - self._frozen)
        return self._remaining.after(max(0.0, ran) * self._pace).mean()

    def _read(self, now: float) -> float:
        duration, (cpu_sec, throttled) = max(0.0, now - self._live.started), read_cpu(self._live.leaf)
        frozen = self._live.still.sec(now)
        return progress_sec(Usage(duration, cpu_sec=cpu_sec, cpu_throttled_sec=throttled, frozen_sec=frozen))
