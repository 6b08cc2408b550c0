# SPDX-License-Identifier: Apache-2.0
"""How well the durations and peaks of calls are predicted, on recordings that nothing was chosen on.

The tasks of the AgentCgroup recordings are divided in two by their names. On one half the predictor's constants were
chosen; it is the history here. A round is one task of the other half: each of its calls is predicted when it begins and
while it runs, and learned when it ends. Every round begins with the same history: tasks do not teach each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from statistics import fmean
from zlib import crc32

from agentcg.policy import classify, load
from agentcg.predict.learn import call_path, peaks_of
from agentcg.trace.agentcgroup import find_attempts, import_attempt
from agentcg.trace.model import Recording
from benches.harness import Arm, Bench, Part, Ratio, Repetition, Stage
from benches.place import recordings
from benches.predict_models import MODELS, Call, Model, Quantile

__all__ = ["BENCH", "UNITS", "calls_of", "score"]

MB = 1_000_000
QUANTILES = [number / 20 for number in range(1, 20)]
LOOKS_SEC = (1, 2, 4, 8, 16, 32, 64, 128)
"""How long a call has run when it is predicted again."""
UNITS = {
    "pinball_sec": "s",
    "covered_50": "",
    "covered_80": "",
    "covered_95": "",
    "running_pinball_sec": "s",
    "running_covered_50": "",
    "running_covered_80": "",
    "running_covered_95": "",
    "peak_pinball_mb": "MB",
    "peak_covered_80": "",
}


def calls_of(recording: Recording) -> list[Call]:
    """Return the calls of a recording whose ends are known, in the order they began."""
    policy, peaks = load("default"), peaks_of(recording)
    return [
        Call(
            call_path(call.tool, call.command, recording.name),
            classify(policy, call.tool, call.command)[0],
            call.start_sec,
            call.duration_sec,
            peaks.get(call.id),
        )
        for call in recording.calls
        if not call.end_estimated
    ]


@cache
def _tasks(data_set: str) -> tuple[list[list[Call]], list[list[Call]]]:
    """The calls of each task: of those that are history, and of those that are held out."""
    found: tuple[list[list[Call]], list[list[Call]]] = ([], [])
    for attempt in find_attempts(recordings(data_set)):
        found[crc32(attempt.parent.name.encode()) % 2].append(calls_of(import_attempt(attempt)))
    return found


def score(model: Model, calls: Sequence[Call]) -> dict[str, float | None]:
    """Predict each call when it begins and while it runs, and learn it when it ends; return the means."""
    begins = [(call.start_sec, 1, number) for number, call in enumerate(calls)]
    # Of two things at one time the end comes first, but no call ends before it began.
    ends = [(call.end_sec, 0 if call.duration_sec else 2, number) for number, call in enumerate(calls)]
    found: dict[str, list[float]] = {metric: [] for metric in UNITS}
    for _, what, number in sorted(begins + ends):
        call = calls[number]
        if what != 1:
            model.observe(call)
            continue
        _judge(found, "", "pinball_sec", model.remaining(call, 0.0), call.duration_sec)
        for look in LOOKS_SEC:
            if call.duration_sec > look:
                rest = call.duration_sec - look
                _judge(found, "running_", "pinball_sec", model.remaining(call, look), rest)
        if call.peak_bytes is not None:
            _judge(found, "peak_", "pinball_mb", model.memory_peak(call), call.peak_bytes, MB)
    return {metric: fmean(values) if values else None for metric, values in found.items()}


def _judge(
    found: dict[str, list[float]], prefix: str, pinball: str, predicted: Quantile, came: float, unit: int = 1
) -> None:
    losses = []
    for q in QUANTILES:
        above = came - predicted(q)
        losses.append(above * q if above > 0 else above * (q - 1))
    found[prefix + pinball].append(fmean(losses) / unit)
    for percent in (50, 80, 95):
        if (metric := f"{prefix}covered_{percent}") in found:
            beside = (1 - percent / 100) / 2
            found[metric].append(float(predicted(beside) <= came <= predicted(1 - beside)))


def _prepare(data_set: str, make: Callable[[], Model], warm: bool, stage: Stage) -> Repetition:
    history, held_out = _tasks(data_set)
    tasks = iter(held_out)

    def repeat() -> Mapping[str, float | None]:
        if (calls := next(tasks, None)) is None:  # The other set has more.
            return dict.fromkeys(UNITS)
        model = make()
        for past in history if warm else ():
            for call in sorted(past, key=lambda call: call.end_sec):
                model.observe(call)
        return score(model, calls)

    return repeat


def _arms(part: str, data_set: str, warm: bool) -> Sequence[Arm]:
    names = MODELS if warm else ("ours", "tool_ecdf", "constant")
    return [Arm(f"{name}.{part}", partial(_prepare, data_set, MODELS[name], warm)) for name in names]


def _part(name: str, data_set: str, warm: bool) -> Part:
    return Part(name, partial(_arms, name, data_set, warm), vm=None, quick_sec=8)


def _ratios(part: str) -> list[Ratio]:
    of = f"ours.{part}"
    found = [
        Ratio(f"mean_{metric}.{part}", of, metric=metric, summary="mean") for metric in UNITS if "covered" in metric
    ]
    for name in MODELS:
        found += [
            Ratio(f"mean_{metric}.{name}.{part}", f"{name}.{part}", metric=metric, summary="mean")
            for metric in ("pinball_sec", "running_pinball_sec")
        ]
        if name != "ours":
            found.append(Ratio(f"ours_over_{name}.{part}", of, f"{name}.{part}", metric="pinball_sec"))
    return found


BENCH = Bench(
    name="predict",
    summary="how well the durations and peaks of calls are predicted",
    parts=(
        _part("haiku", "all_images_haiku", warm=True),
        _part("local", "all_images_local", warm=True),
        _part("haiku_cold", "all_images_haiku", warm=False),
        _part("local_cold", "all_images_local", warm=False),
    ),
    units=UNITS,
    ratios=tuple(ratio for part in ("haiku", "local") for ratio in _ratios(part)),
    n=48,
    warm_up=0,
)
