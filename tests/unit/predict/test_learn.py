# SPDX-License-Identifier: Apache-2.0
"""What is learned of verdicts and recordings, and what is not."""

import pytest

from agentcg.model import CallRef, Limits, Outcome, SessionRef, Usage, Verdict
from agentcg.predict.duration import Predictor
from agentcg.predict.learn import call_path, learn_recording, learn_verdict, progress_sec
from agentcg.trace.model import RecordedCall, Recording, Sample


def verdict(outcome: Outcome, usage: Usage) -> Verdict:
    ref = CallRef(SessionRef("u0", "s1"), "c1")
    return Verdict(ref, outcome, usage, Limits(), 0.0, 0.0, tool="Bash", command="cd /x && pytest -x")


def test_a_path_is_the_tool_the_words_and_the_session() -> None:
    assert call_path("Bash", "cd /x && pytest -x", "u0/s1") == ("Bash", "pytest", "u0/s1")


@pytest.mark.parametrize(
    ("usage", "sec"),
    [
        (Usage(10.0), 10.0),
        (Usage(10.0, frozen_sec=4.0), 6.0),
        (Usage(10.0, frozen_sec=11.0), 0.0),
        (Usage(10.0, cpu_throttled_sec=3.0), 7.0),
        # One CPU, half withheld, and it slept for a while.
        (Usage(10.0, cpu_throttled_sec=4.0, cpu_sec=4.0), 6.0),
        # Four CPUs, each withheld for half of the time: 20 s of throttling in 10 s.
        (Usage(10.0, cpu_throttled_sec=20.0, cpu_sec=20.0), 5.0),
        (Usage(12.0, cpu_throttled_sec=20.0, cpu_sec=20.0, frozen_sec=2.0), 5.0),
        (Usage(10.0, cpu_throttled_sec=40.0, cpu_sec=0.0), 0.0),
        (Usage(0.0, cpu_throttled_sec=1.0), 0.0),
    ],
)
def test_time_in_which_a_call_was_not_let_run_is_no_progress(usage: Usage, sec: float) -> None:
    assert progress_sec(usage) == pytest.approx(sec)


@pytest.mark.parametrize("outcome", ["ok", "exit_status", "signal", "memory_limit", "timed_out", "pids_limit"])
def test_a_verdict_is_learned(outcome: Outcome) -> None:
    predictor = Predictor()
    learn_verdict(predictor, verdict(outcome, Usage(9.0, frozen_sec=2.0, memory_peak=5)))
    assert predictor.remaining(("Bash", "pytest", "u0/s1")).values == (7.0,)
    assert predictor.memory_peak(("Bash", "pytest", "u0/s1")).values == (5.0,)


@pytest.mark.parametrize("outcome", ["killed", "oom_killed", "unknown"])
def test_an_end_that_others_made_is_not_learned(outcome: Outcome) -> None:
    predictor = Predictor()
    learn_verdict(predictor, verdict(outcome, Usage(9.0)))
    assert predictor.remaining(("Bash", "pytest", "u0/s1")).values == ()


CALLS = (
    RecordedCall("a", "Bash", "make", 0.0, 4.0),
    RecordedCall("b", "Read", "x.py", 1.0, 1.5),
    RecordedCall("c", "Bash", "sleep 9", 5.0, 9.0, end_estimated=True),
    RecordedCall("d", "Task", "look around", 9.0, 60.0, kind="subagent"),
)


def test_a_recording_is_learned_but_for_ends_that_were_not_recorded() -> None:
    predictor = Predictor()
    learn_recording(predictor, Recording("one", 0.0, CALLS))
    assert predictor.remaining(("x",)).values == (0.5, 4.0, 51.0)
    assert predictor.memory_peak(("x",)).values == ()


def test_peaks_are_learned_where_there_are_samples() -> None:
    predictor = Predictor()
    samples = (Sample(0.0, 100, 0.0), Sample(2.0, 600, 1.0), Sample(10.0, 100, 1.0))
    learn_recording(predictor, Recording("one", 0.0, CALLS[:1], samples))
    assert predictor.memory_peak(("Bash", "make", "one")).values == (500.0,)
