# SPDX-License-Identifier: Apache-2.0
"""The order of a replay, on a clock that the test turns."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcg.replay.plan import Piece, PlannedCall, SessionPlan
from agentcg.replay.schedule import FollowPiece, Schedule, StartCall, TakeTurn
from agentcg.trace.model import RecordedTurn
from agentcg.trace.profile import Profile

FLAT = Profile(((0.0, 0.0),))


def call(name, start, end):
    return PlannedCall(name, "Bash", "true", start, end, FLAT, FLAT)


def plan(*calls, pieces=(), duration=None):
    length = duration or max([*(call.end_sec for call in calls), *(piece.end_sec for piece in pieces)])
    return SessionPlan("s", "s", tuple(sorted(calls, key=lambda item: item.start_sec)), tuple(pieces), length, 0)


def turns(*spans):
    return [RecordedTurn(start, end, 10, 1) for start, end in spans]


def course(session, lengths, speed=1.0, piece_lengths=None, taken=(), turn_sec=1.0):
    """When each call and turn started and the session ended, if the calls took ``lengths``, a piece took no time, and
    each of the turns ``turn_sec``."""
    schedule = Schedule(session, speed, 100.0, turns=taken)
    now, started, ends = 100.0, {}, []
    for _ in range(10_000):
        for action in schedule.advance(now):
            if isinstance(action, StartCall):
                started[action.call.id] = now - 100
                ends.append((now + lengths.get(action.call.id, action.call.end_sec - action.call.start_sec), action))
            elif isinstance(action, TakeTurn):
                started[action.turn] = now - 100
                ends.append((now + turn_sec, action))
            else:
                ends.append((now + (piece_lengths or {}).get(action.piece.begin_sec, 0.0), action))
        if schedule.done:
            return started, now - 100
        due = [end for end, _ in ends] + [time for time in (schedule.next_sec(),) if time is not None]
        assert due, "the replay hangs"
        now = max(now, min(due))
        for end, action in sorted((item for item in ends if item[0] <= now), key=lambda item: item[0]):
            ends.remove((end, action))
            if isinstance(action, StartCall):
                schedule.call_ended(action.call.id, now)
            elif isinstance(action, TakeTurn):
                schedule.turn_ended(now)
            else:
                schedule.piece_done(now)
    raise AssertionError("the replay does not end")


def rounded(started):
    return {name: round(time, 3) for name, time in started.items()}


def test_undisturbed_it_takes_the_recorded_times_divided_by_the_speed():
    session = plan(call("a", 1, 2), call("b", 1.5, 4), call("c", 6, 7), duration=10)
    started, end = course(session, {}, speed=1)
    assert (rounded(started), round(end, 3)) == ({"a": 1, "b": 1.5, "c": 6}, 10)
    started, end = course(session, {"a": 0.25, "b": 0.625, "c": 0.25}, speed=4)
    assert (rounded(started), round(end, 3)) == ({"a": 0.25, "b": 0.375, "c": 1.5}, 2.5)


def test_a_late_end_shifts_what_follows_and_keeps_the_gap():
    started, end = course(plan(call("a", 0, 2), call("b", 5, 6), duration=8), {"a": 7})
    assert (rounded(started), round(end, 3)) == ({"a": 0, "b": 10}, 13)


def test_a_call_that_dies_early_is_not_waited_for():
    started, end = course(plan(call("a", 0, 20), call("b", 22, 23), duration=25), {"a": 3})
    assert (rounded(started), round(end, 3)) == ({"a": 0, "b": 5}, 8)


def test_a_dead_call_beside_one_that_runs_on():
    # c was recorded 2 s after a's end, while b ran: so it starts 2 s after a's death, while b runs.
    session = plan(call("a", 0, 10), call("b", 0, 20), call("c", 12, 13), duration=22)
    started, end = course(session, {"a": 3})
    assert rounded(started) == {"a": 0, "b": 0, "c": 5}
    assert round(end, 3) == 22


def test_a_late_call_does_not_hold_up_a_parallel_one_that_started():
    # The gap counts from the last of them to end, as recorded: 0.1 s after b, however late a was.
    session = plan(call("a", 0, 10), call("b", 0, 11.9), call("c", 12, 13), duration=13)
    started, _ = course(session, {"a": 15})
    assert rounded(started)["c"] == 15.1


def test_the_agent_takes_over_what_a_call_leaves_only_after_its_end():
    pieces = [Piece(0, 4, 100, 0), Piece(4, 4, 150, 0), Piece(4, 6, 150, 0)]
    schedule = Schedule(plan(call("a", 1, 4), pieces=pieces), 1.0, 0.0)
    assert schedule.advance(0.0) == [FollowPiece(pieces[0])]
    schedule.piece_done(0.5)
    assert [action.call.id for action in schedule.advance(1.0)] == ["a"]
    assert schedule.advance(4.0) == []
    assert schedule.next_sec() is None
    assert schedule.advance(9.0) == []
    schedule.call_ended("a", 9.0)
    assert schedule.advance(9.0) == [FollowPiece(pieces[1])]
    assert schedule.advance(9.5) == []
    schedule.piece_done(9.5)
    assert schedule.advance(9.5) == [FollowPiece(pieces[2])]


def test_a_killed_call_leaves_nothing_behind_until_the_agent_would_have_given_it_back():
    pieces = [Piece(0, 4, 100, 0), Piece(4, 4, 150, 0), Piece(4, 6, 160, 0), Piece(6, 8, 130, 0), Piece(8, 9, 90, 0)]
    session = plan(replace(call("a", 1, 4), left_behind=50), pieces=pieces)
    for killed, expected in ((True, [100, 100, 110, 110, 90]), (False, [100, 150, 160, 130, 90])):
        schedule, held = Schedule(session, 1.0, 0.0), []
        for tenth in range(200):
            for action in schedule.advance(tenth / 10):
                if isinstance(action, StartCall):
                    schedule.call_ended("a", tenth / 10, killed=killed)
                else:
                    held.append(action.piece.memory)
                    schedule.piece_done(tenth / 10)
        assert held == expected
        assert schedule.done


def test_an_agent_that_is_slow_to_grow_makes_its_next_call_later():
    pieces = [Piece(0, 2, 100, 0), Piece(2, 5, 200, 0)]
    started, end = course(plan(call("a", 3, 4), pieces=pieces), {}, piece_lengths={0: 6.0})
    assert (rounded(started), round(end, 3)) == ({"a": 7}, 9)


def test_calls_without_length_follow_one_another():
    started, end = course(plan(call("a", 1, 1), call("b", 1, 1), duration=2), {"a": 0.5, "b": 0.5})
    assert sorted(rounded(started).values()) == [1, 1.5]
    assert round(end, 3) == 3


@pytest.mark.parametrize("took", [0.5, 2.0, 9.0])
def test_turns_take_the_time_of_the_server_whatever_was_recorded(took):
    # 1 s, a turn of 2, a call of 2 behind it, and a turn of 3 again; half a second is left.
    first, last = taken = turns((1, 3), (5, 8))
    session = plan(call("a", 3, 5), duration=8.5)
    started, ended = course(session, {}, taken=taken, turn_sec=took)
    assert rounded(started) == {first: 1, "a": 1 + took, last: 3 + took}
    assert round(ended, 3) == 3.5 + 2 * took


def test_the_speed_is_that_of_calls_and_pauses():
    first, last = taken = turns((1, 3), (5, 8))
    started, ended = course(plan(call("a", 3, 5), duration=8.5), {"a": 0.2}, 10.0, taken=taken, turn_sec=2.0)
    assert rounded(started) == {first: 0.1, "a": 2.1, last: 2.3}
    assert round(ended, 3) == 4.35


def test_a_turn_waits_for_all_calls_that_had_ended_before_it():
    (turn,) = taken = turns((4, 5))
    session = plan(call("a", 0, 2), call("b", 1, 3.5), call("c", 1, 9), duration=9)
    started, _ = course(session, {"a": 2, "b": 7}, taken=taken)
    assert rounded(started)[turn] == 8.5  # c was running beside it.


def test_a_call_of_no_length_comes_before_the_turn_behind_it():
    (turn,) = taken = turns((2, 3))
    started, _ = course(plan(call("a", 2, 2), duration=3), {"a": 0.25}, taken=taken)
    assert rounded(started) == {"a": 2, turn: 2.25}


def test_the_agent_grows_on_while_it_waits_for_an_answer_and_no_further():
    pieces = [Piece(0, 2, 100, 0), Piece(2, 6, 200, 0)]
    schedule = Schedule(plan(pieces=pieces), 1.0, 0.0, turns=turns((1, 2)))
    assert schedule.advance(0.0) == [FollowPiece(pieces[0])]
    schedule.piece_done(0.5)
    assert [type(action) for action in schedule.advance(1.0)] == [TakeTurn]
    assert schedule.advance(9.0) == []
    assert schedule.next_sec() is None
    schedule.turn_ended(9.0)
    assert schedule.advance(9.0) == [FollowPiece(pieces[1])]


times = st.integers(0, 40).map(lambda number: number / 4)


@given(
    st.lists(st.tuples(times, times, times), max_size=8),
    st.lists(st.tuples(times, times), max_size=8),
    st.sampled_from([0.5, 1.0, 20.0]),
    st.lists(st.tuples(times, times), max_size=5),
)
def test_every_course_ends_with_every_call_and_turn_started_in_order(spans, agent, speed, asked):
    calls = [call(f"c{at}", start, start + length) for at, (start, length, _) in enumerate(spans)]
    lengths = {f"c{at}": now for at, (_, _, now) in enumerate(spans)}
    pieces, at = [], 0.0
    for length, _ in agent:
        pieces.append(Piece(at, at + length, 1, 0))
        at += length
    took = {piece.begin_sec: now for piece, (_, now) in zip(pieces, agent, strict=True)}
    taken, over = [], 0.0
    for pause, length in asked:
        taken.append(RecordedTurn(over + pause, over + pause + length, len(taken), 1))
        over = taken[-1].end_sec
    session = plan(*calls, pieces=pieces, duration=max([1, at, over, *(item.end_sec for item in calls)]))
    started, _ = course(session, lengths, speed, took, taken)
    assert started.keys() == lengths.keys() | set(taken)
    assert [turn for turn in started if isinstance(turn, RecordedTurn)] == taken
    for turn in taken:
        for item in calls:
            if item.end_sec < turn.start_sec:
                assert started[item.id] + lengths[item.id] <= started[turn] + 1e-9
            elif turn.end_sec < item.start_sec:
                assert started[turn] + 1.0 <= started[item.id] + 1e-9
    for before in calls:
        for after in calls:
            if before.end_sec < after.start_sec:
                assert started[before.id] + lengths[before.id] <= started[after.id] + 1e-9
