# SPDX-License-Identifier: Apache-2.0
"""What one session came to."""

import dataclasses

import pytest

from agentcg.trace.model import RecordedCall, Recording, Sample
from agentcg.trace.stats import Spread, covered, session_figures, spread

MB = 10**6


def _call(name, start, end, **more):
    return RecordedCall(name, more.pop("tool", "Bash"), "true", start, end, **more)


SESSION = Recording(
    "n",
    started=1.0,
    calls=(
        _call("a", 12.0, 14.0),
        _call("b", 13.0, 16.0),
        _call("c", 20.0, 24.0, kind="subagent"),
        _call("d", 24.0, 25.0, tool="WebFetch"),
        _call("e", 30.0, 31.0, end_estimated=True),
    ),
    samples=(
        Sample(0.0, 0, 0.0),
        Sample(5.0, 100 * MB, 1.0),
        Sample(10.0, 120 * MB, 1.0),
        Sample(15.0, 220 * MB, 11.0),
        Sample(20.0, 160 * MB, 11.0),
        Sample(25.0, 170 * MB, 12.0),
        Sample(35.0, 119 * MB, 12.0),
        Sample(40.0, 119 * MB, 12.0),
    ),
)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        ([None, None], None),
        ([3, None], Spread(1, 3, 3, 3, 3)),
        ([1.0, 2.0], Spread(2, 1.5, 1.95, 1.99, 2.0)),
        (range(101), Spread(101, 50, 95, 99, 100)),
    ],
)
def test_percentiles_lie_between_the_values_beside_them(values, expected):
    assert spread(values) == expected


def test_memory_and_cpu_time_are_what_the_samples_say():
    memory = session_figures(SESSION).memory
    assert (memory.samples, memory.sampled_sec, memory.peak, memory.mean) == (8, 40.0, 220 * MB, 126 * MB)
    assert (memory.largest_rise, memory.largest_fall) == (100 * MB, 60 * MB)
    assert memory.peak_over_mean == pytest.approx(220 / 126)
    assert (memory.cpu_sec, memory.cpu_mean) == (12.0, 0.3)
    assert memory.cpu_p95 == pytest.approx(1.46), "of 0.2, 0, 2, 0, 0.2, 0, 0"


def test_steps_are_changes_of_50_mb_and_the_settled_ones_not_at_start_and_end():
    memory = session_figures(SESSION).memory
    assert (memory.steps, memory.steps_per_min) == (4, 6.0)
    assert memory.steps_in_calls == 3, "no call ran in the first"
    assert (memory.settled_steps, memory.settled_sec) == (3, 25.0)


def test_time_in_calls_counts_once_and_without_what_waits_for_others():
    session = session_figures(SESSION)
    assert (session.duration_sec, session.tool_sec, session.own_tool_sec) == (40.0, 10.0, 5.0)
    assert session.tool_share == 0.25
    assert (session.calls, session.estimated, session.overlaps) == (5, 1, 1)
    assert session.samples_in_calls == (2, 3, 0)


def test_calls_that_enclose_each_other_are_covered_once():
    assert covered([_call("a", 1, 9), _call("b", 2, 3), _call("c", 8, 10)]) == 9
    assert covered([]) == 0


def test_what_a_recording_does_not_say_is_not_known_rather_than_nothing():
    session = session_figures(dataclasses.replace(SESSION, samples=()))
    assert session.memory is None
    assert session.samples_in_calls == (0, 0, 0)
    assert session.tool_share == pytest.approx(10 / 31)
    session = session_figures(dataclasses.replace(SESSION, samples=(), timing="durations"))
    assert (session.duration_sec, session.tool_sec, session.tool_share, session.overlaps) == (None, None, None, 0)


def test_a_single_sample_has_a_peak_and_no_rates():
    memory = session_figures(dataclasses.replace(SESSION, samples=SESSION.samples[1:2])).memory
    assert (memory.peak, memory.mean, memory.largest_rise) == (100 * MB, 100 * MB, 0)
    assert (memory.steps_per_min, memory.cpu_mean, memory.cpu_p95) == (None, None, None)
