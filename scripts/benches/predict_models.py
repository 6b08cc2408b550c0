# SPDX-License-Identifier: Apache-2.0
"""What the predict bench compares: the predictor, with more and with less to go by, and what is simpler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median
from typing import Protocol

from agentcg.predict import duration
from agentcg.predict.history import quantile

__all__ = ["MODELS", "Baseline", "Call", "Model", "Quantile"]

COLD = {"duration_sec": 1.0, "peak_bytes": float(64 << 20)}
"""What a baseline says before it has seen anything: what the predictor begins with."""

Quantile = Callable[[float], float]


@dataclass(frozen=True)
class Call:
    """What there is to predict, and what is known of it before."""

    path: duration.Path
    call_class: str
    start_sec: float
    duration_sec: float
    peak_bytes: float | None

    @property
    def end_sec(self) -> float:
        return self.start_sec + self.duration_sec


class Model(Protocol):
    """Something that predicts."""

    def observe(self, call: Call) -> None: ...

    def remaining(self, call: Call, elapsed_sec: float) -> Quantile: ...

    def memory_peak(self, call: Call) -> Quantile: ...


class Ours:
    """The predictor. ``path`` makes the path under which a call is known."""

    def __init__(self, path: Callable[[Call], duration.Path]) -> None:
        self._path = path
        self._predictor = duration.Predictor()

    def observe(self, call: Call) -> None:
        peak = None if call.peak_bytes is None else round(call.peak_bytes)
        self._predictor.observe(self._path(call), call.duration_sec, peak)

    def remaining(self, call: Call, elapsed_sec: float) -> Quantile:
        return self._predictor.remaining(self._path(call), elapsed_sec).quantile

    def memory_peak(self, call: Call) -> Quantile:
        return self._predictor.memory_peak(self._path(call)).quantile


class Baseline:
    """What all calls, or those of the same tool, came to that got as far; without any of the tool, all of them.

    :param by_tool: look at the calls of the same tool
    :param reduce: what is made of their values, in ascending order
    """

    def __init__(self, by_tool: bool, reduce: Callable[[Sequence[float]], Sequence[float]]) -> None:
        self._by_tool, self._reduce = by_tool, reduce
        self._seen: dict[tuple[str, ...], list[Call]] = {}

    def observe(self, call: Call) -> None:
        for key in {(), call.path[:1]}:
            self._seen.setdefault(key, []).append(call)

    def remaining(self, call: Call, elapsed_sec: float) -> Quantile:
        return self._predict(call, "duration_sec", elapsed_sec)

    def memory_peak(self, call: Call) -> Quantile:
        return self._predict(call, "peak_bytes", 0.0)

    def _predict(self, call: Call, what: str, reached: float) -> Quantile:
        for key in [call.path[:1], ()] if self._by_tool else [()]:
            known = [value for seen in self._seen.get(key, ()) if (value := getattr(seen, what)) is not None]
            if beyond := [value - reached for value in known if value > reached or not reached]:
                break
        else:
            beyond = [COLD[what]]
        values = self._reduce(sorted(beyond))
        return lambda q: quantile(values, q) or 0.0


MODELS: dict[str, Callable[[], Model]] = {
    "ours": partial(Ours, lambda call: call.path),
    "without_session": partial(Ours, lambda call: call.path[:2]),
    "with_class": partial(Ours, lambda call: (call.call_class, *call.path)),
    "tool_ecdf": partial(Baseline, True, list),
    "all_ecdf": partial(Baseline, False, list),
    "tool_mean": partial(Baseline, True, lambda values: [fmean(values)]),
    "constant": partial(Baseline, False, lambda values: [median(values)]),
}
