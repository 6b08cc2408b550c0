# SPDX-License-Identifier: Apache-2.0
"""The predict bench: what it counts, on calls whose score is known."""

from pathlib import Path

import pytest
from benches import predict
from benches.harness import Stage
from benches.predict import UNITS, calls_of, score
from benches.predict_models import MODELS, Baseline, Call, Quantile

from agentcg.errors import InvalidInput
from agentcg.trace.model import RecordedCall, Recording


def call(start: float, sec: float, tool: str = "Bash", peak: float | None = None) -> Call:
    return Call((tool, "make", "s"), "build", start, sec, peak)


class Fixed:
    """Says always the same, and remembers what it was taught."""

    def __init__(self) -> None:
        self.heard: list[float] = []

    def observe(self, call: Call) -> None:
        self.heard.append(call.duration_sec)

    def remaining(self, call: Call, elapsed_sec: float) -> Quantile:
        self.heard.append(-elapsed_sec)
        return lambda q: 10 * q

    def memory_peak(self, call: Call) -> Quantile:
        return lambda q: 0.0


def test_pinball_and_coverage_by_hand() -> None:
    found = score(Fixed(), [call(0.0, 5.0), call(10.0, 0.5)])
    # Of 5 s: |5 - 10 q| weighed by the side, the mean over q = 0.05, ..., 0.95; of 0.5 s likewise.
    first = sum((5 - 10 * q) * (q if q <= 0.5 else q - 1) for q in (number / 20 for number in range(1, 20))) / 19
    second = sum((0.5 - 10 * q) * (q - 1) for q in (number / 20 for number in range(2, 20))) / 19
    assert found["pinball_sec"] == pytest.approx((first + second) / 2)
    assert (found["covered_50"], found["covered_80"], found["covered_95"]) == (0.5, 0.5, 1.0)
    # After 1, 2 and 4 s of the first: 4, 3 and 1 s are left.
    assert found["running_covered_50"] == pytest.approx(2 / 3)
    assert found["peak_pinball_mb"] is None


def test_a_call_is_learned_when_it_ends_and_not_before() -> None:
    model = Fixed()
    score(model, [call(0.0, 3.0), call(1.0, 1.0), call(3.0, 0.0), call(3.0, 0.5)])
    # It begins, and is looked at after 1 and 2 s; the second ends before it; both that begin at 3 s know of it.
    assert model.heard == [0, -1, -2, 0, 1.0, 3.0, 0, 0, 0.0, 0.5]


def test_baselines_fall_back_from_the_tool_to_all_to_what_is_said_of_nothing() -> None:
    model = Baseline(True, list)
    assert model.remaining(call(0, 1), 0.0)(0.5) == 1
    model.observe(call(0, 8, "Read"))
    assert model.remaining(call(0, 1), 0.0)(0.5) == 8
    model.observe(call(0, 2))
    assert model.remaining(call(0, 1), 0.0)(0.5) == 2
    assert model.remaining(call(0, 1), 3.0)(0.5) == 5


def test_calls_without_a_known_end_are_left_out() -> None:
    calls = (RecordedCall("a", "Bash", "make", 0.0, 4.0), RecordedCall("b", "Bash", "x", 1.0, 2.0, end_estimated=True))
    (found,) = calls_of(Recording("one", 0.0, calls))
    assert (found.path, found.call_class, found.duration_sec) == (("Bash", "make", "one"), "build", 4.0)


@pytest.mark.parametrize("name", MODELS)
def test_every_arm_scores_tasks_and_then_has_nothing_more(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    history, held_out = [[call(0.0, 1.0), call(2.0, 3.0, peak=5e6)]], [[call(0.0, 3.0, peak=6e6)]]
    monkeypatch.setattr(predict, "_tasks", lambda data_set: (history, held_out))
    with Stage() as stage:
        repeat = predict._prepare("x", MODELS[name], True, stage)
        found = repeat()
        assert found.keys() == UNITS.keys()
        assert all(value is not None and value >= 0 for value in found.values())
        assert set(repeat().values()) == {None}


def test_recordings_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTCG_TRACES", str(tmp_path))
    with pytest.raises(InvalidInput, match="AGENTCG_TRACES: there is no"):
        predict._tasks.__wrapped__("all_images_haiku")
