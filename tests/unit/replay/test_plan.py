# SPDX-License-Identifier: Apache-2.0
"""What is to be replayed of a recording."""

import pytest

from agentcg.errors import InvalidInput
from agentcg.replay.plan import make_plan, name_for, points, protect, unique_names
from agentcg.trace.model import RecordedCall, Recording, Sample

MB = 1_000_000


def recording(samples, *calls):
    return Recording("r", 0.0, tuple(RecordedCall(*item) for item in calls), tuple(samples))


def test_a_call_follows_its_own_profile_at_the_speed():
    samples = [Sample(0, 100 * MB, 0), Sample(10, 100 * MB, 0), Sample(12, 160 * MB, 2), Sample(14, 100 * MB, 2)]
    plan = make_plan(recording(samples, ("a", "Bash", "pytest", 10.0, 14.0)), "s")
    assert points(plan.calls[0], 4) == [(0, 0, 0), (0.5, 60 * MB, 0.5), (1.0, 60 * MB, 0.5)]
    assert plan.calls[0].declared == 60 * MB
    assert plan.peak == 160 * MB
    assert {piece.memory for piece in plan.agent} == {100 * MB}


def test_the_agent_holds_what_was_asked_in_addition_and_steps_where_a_call_left_something():
    samples = [Sample(0, 100 * MB, 0), Sample(1, 100 * MB, 0), Sample(2, 130 * MB, 0), Sample(4, 130 * MB, 0)]
    plan = make_plan(recording(samples, ("a", "Bash", "server &", 1.0, 2.0)), "s", agent_memory=50 * MB)
    steps = [piece for piece in plan.agent if piece.begin_sec == piece.end_sec == 2.0]
    assert [(piece.memory) for piece in steps] == [180 * MB]
    assert plan.agent[-1].end_sec == plan.duration_sec == 4.0
    assert plan.peak == 180 * MB
    assert plan.calls[0].left_behind == 30 * MB


def test_the_agents_cpu_time_bends_within_flat_memory():
    samples = [Sample(0, MB, 0), Sample(1, MB, 0.5), Sample(2, MB, 0.5), Sample(3, MB, 0.6)]
    plan = make_plan(recording(samples, ("a", "Read", "x", 2.5, 2.5)), "s")
    assert [(piece.end_sec, round(piece.cpu_sec, 3)) for piece in plan.agent][1:4] == [(1, 0.5), (2, 0.5), (3, 0.6)]


def test_what_is_reserved_is_the_peak_and_a_margin_unless_said():
    plan = make_plan(recording([Sample(0, 1000 * MB, 0)], ("a", "Bash", "x", 0.0, 1.0)), "s")
    assert protect(plan, None).reserve == 1050 * MB
    assert protect(plan, 7 * MB).reserve == 7 * MB
    small = make_plan(recording([Sample(0, 10 * MB, 0)], ("a", "Bash", "x", 0.0, 1.0)), "s")
    assert protect(small, None).reserve == 10 * MB + (16 << 20)


def test_a_recording_without_samples_cannot_be_planned():
    with pytest.raises(InvalidInput, match="no samples of the session"):
        make_plan(recording([], ("a", "Bash", "x", 0.0, 1.0)), "s")


def test_names():
    assert name_for("all/dask__dask-11628 attempt.1") == "all-dask__dask-11628-attempt-1"
    assert unique_names(["a", "b", "a", "a-2", "a"]) == ["a", "b", "a-3", "a-2", "a-4"]
    with pytest.raises(InvalidInput, match="no name can be made of"):
        name_for("…")
