# SPDX-License-Identifier: Apache-2.0
"""Who held what: nothing is lost or made up, and the plain cases come out as a person would divide them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcg.errors import InvalidInput
from agentcg.trace.demand import GROWTH_MAX, demand
from agentcg.trace.model import RecordedCall, Recording, Sample

MB = 10**6


def _recording(memory, *calls, cpu=None, own=(), **header):
    """Samples each second; a call is (start, end) or (start, end, kind)."""
    cpu = cpu or [0.0] * len(memory)
    return Recording(
        "r",
        0.0,
        tuple(RecordedCall(f"c{index}", "Bash", "", *call[:2], *call[2:]) for index, call in enumerate(calls)),
        (*(Sample(float(t), size, used) for t, (size, used) in enumerate(zip(memory, cpu, strict=True))), *own),
        **header,
    )


def test_a_call_that_takes_and_gives_back():
    needs = demand(_recording([100, 100, 180, 180, 100], (1, 3.5)))
    (call,) = needs.calls
    assert [call.memory_at(t) for t in (0, 1, 1.5, 2, 3, 3.5, 4)] == [0, 0, 40, 80, 80, 0, 0]
    assert {needs.agent_memory.at(t) for t in (0, 1, 2, 3, 3.5, 4)} == {100}
    assert needs.outlived_bytes == 0
    assert (needs.growth.total, needs.growth.in_calls) == (80, 80)


def test_what_outlives_its_call_is_the_agents():
    needs = demand(_recording([100, 180, 150, 150], (0, 1.5)))
    assert needs.calls[0].memory_at(1.25) == 80
    assert needs.agent_memory.at(1.25) == 100
    assert needs.agent_memory.at(1.5) == needs.agent_memory.at(3) == 150
    assert needs.outlived_bytes == needs.growth.outlived == 50
    assert needs.growth.total == 80


def test_a_call_between_two_samples_has_their_difference_if_it_is_a_rise():
    needs = demand(_recording([100, 130, 110], (0.25, 0.5), (1.25, 1.5)))
    assert [call.memory.peak for call in needs.calls] == [30, 0]
    assert needs.memory_at(0.499) == pytest.approx(130, abs=1)
    assert needs.agent_memory.at(0.25) == 100
    assert needs.agent_memory.at(0.5) == 130


def test_overlapping_calls_share_a_rise_by_the_time_they_ran():
    needs = demand(_recording([100, 190, 190], (0, 2), (0.5, 2)))
    assert [call.memory_at(1) for call in needs.calls] == [60, 30]


def test_a_fall_is_taken_from_those_that_ended_then_from_those_that_run_then_from_the_agent():
    needs = demand(_recording([100, 200, 130, 10], (0, 1.5), (0, 3)))
    first, second = needs.calls
    assert first.memory_at(1) == second.memory_at(1) == 50
    assert second.memory_at(2) == 30  # 70 fell: 50 with the first call, 20 of the second
    assert needs.agent_memory.at(2) == 100
    assert needs.agent_memory.at(3) == 10


def test_nobody_elses_memory_is_the_agents():
    needs = demand(_recording([10, 100, 150, 120], (2.5, 2.9)))
    assert [needs.agent_memory.at(t) for t in (0, 1, 2, 3)] == [10, 100, 150, 120]
    subagent = demand(_recording([10, 100], (0, 1, "subagent")))
    assert subagent.calls == ()
    assert subagent.agent_memory.at(1) == 100


def test_a_call_of_milliseconds_is_not_given_a_rise_it_cannot_have_made():
    needs = demand(_recording([0, 500 * MB], (0.5, 0.51)))
    assert needs.calls[0].memory.peak == pytest.approx(GROWTH_MAX * 0.01, rel=0.001)
    assert needs.agent_memory.at(0.5) == pytest.approx(250 * MB, rel=0.05)


def test_cpu_goes_to_calls_but_for_the_agents_idle_rate():
    needs = demand(_recording([0] * 5, (2, 4), cpu=[0, 0.1, 0.2, 2.2, 4.2]))
    assert needs.calls[0].cpu.at(4) == pytest.approx(3.8)
    assert needs.agent_cpu.at(4) == pytest.approx(0.4)
    short = demand(_recording([0, 0], (0.4, 0.5), cpu=[0, 0.9]))
    assert short.calls[0].cpu_at(1) == pytest.approx(0.1)  # one CPU for its tenth of a second


def test_a_call_with_samples_of_its_own_keeps_them():
    own = (Sample(1.5, 70, 0.2, "c0"), Sample(2.5, 90, 0.6, "c0"))
    needs = demand(_recording([100, 120, 200, 200, 110], (1, 3), (1, 3), cpu=[0, 0, 1, 2, 2], own=own))
    known, other = needs.calls
    assert [known.memory_at(t) for t in (1, 1.5, 2, 2.5, 3)] == [0, 70, 80, 90, 0]
    assert known.cpu.at(3) == 0.6
    assert [needs.memory_at(t) for t in range(5)] == [100, 120, 200, 200, 110]
    assert known.cpu.at(9) + other.cpu.at(9) + needs.agent_cpu.at(9) == pytest.approx(2)


def test_the_base_is_what_was_recorded_or_the_low_level_while_calls_were_made():
    memory = [5] + [100] * 8 + [300] + [1]
    assert demand(_recording(memory, (1, 2), (8, 9.5))).base_memory == 100
    assert demand(_recording(memory, (1, 2), base_memory=77)).base_memory == 77


def test_calls_outside_the_samples_hold_nothing():
    needs = demand(_recording([100, 150], (5, 6), (0.5, 9)))
    assert [call.memory.peak for call in needs.calls] == [50, 0]
    assert needs.calls[0].memory_at(8) == 50
    assert needs.duration_sec == 9


def test_without_samples_there_is_no_demand():
    with pytest.raises(InvalidInput, match="no samples of the session"):
        demand(_recording([], (0, 1)))


times = st.integers(0, 120).map(lambda tenth: tenth / 10)
sizes = st.integers(0, 3 * 2**30) | st.integers(0, 3)


@st.composite
def sessions(draw, own):
    moments = sorted(draw(st.sets(times, min_size=1, max_size=10)))
    used = sorted(draw(st.lists(st.floats(0, 100), min_size=len(moments), max_size=len(moments))))
    samples = [Sample(t, draw(sizes), cpu) for t, cpu in zip(moments, used, strict=True)]
    calls = []
    for index in range(draw(st.integers(0, 6))):
        start, end = sorted((draw(times), draw(times)))
        calls.append(RecordedCall(f"c{index}", "Bash", "", start, end, draw(st.sampled_from(["tool", "subagent"]))))
        if own and draw(st.booleans()):
            taken = sorted(draw(st.sets(times, max_size=4)))
            samples += [Sample(t, draw(sizes), float(count), f"c{index}") for count, t in enumerate(taken)]
    return Recording("r", 0.0, tuple(calls), tuple(samples))


@settings(max_examples=400, deadline=None)
@given(sessions(own=False))
def test_agent_and_calls_come_to_what_was_recorded(recording):
    needs = demand(recording)
    for sample in recording.session_samples:
        assert needs.memory_at(sample.t_sec) == sample.memory_bytes
        used = needs.agent_cpu.at(sample.t_sec) + sum(call.cpu_at(sample.t_sec) for call in needs.calls)
        assert used == pytest.approx(sample.cpu_sec, abs=1e-6)
    for profile in [needs.agent_memory, *(call.memory for call in needs.calls)]:
        assert all(value >= 0 for _, value in profile.points)
        assert [t for t, _ in profile.points] == sorted(t for t, _ in profile.points)
    for profile in [needs.agent_cpu, *(call.cpu for call in needs.calls)]:
        assert [value for _, value in profile.points] == sorted(value for _, value in profile.points)


@settings(max_examples=400, deadline=None)
@given(sessions(own=False), st.lists(times, min_size=1, max_size=10))
def test_between_two_samples_the_sum_stays_between_them(recording, moments):
    needs = demand(recording)
    samples = recording.session_samples
    for t in moments:
        around = [s for s in samples if s.t_sec <= t][-1:] + [s for s in samples if s.t_sec >= t][:1]
        if len(around) < 2:
            continue  # Before the first sample and behind the last one nothing is known.
        levels = [sample.memory_bytes for sample in around]
        slack = 2 + len(needs.calls)  # bytes, of rounding
        assert min(levels) - slack <= needs.memory_at(t) <= max(levels) + slack


@settings(max_examples=400, deadline=None)
@given(sessions(own=True))
def test_with_samples_of_calls_nothing_is_lost_either(recording):
    needs = demand(recording)
    own = {sample.call for sample in recording.samples}
    for sample in recording.session_samples:
        known = sum(call.memory_at(sample.t_sec) for call in needs.calls if call.call.id in own)
        assert needs.memory_at(sample.t_sec) == pytest.approx(max(known, sample.memory_bytes), abs=1 + len(needs.calls))
