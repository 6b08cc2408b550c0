# SPDX-License-Identifier: Apache-2.0
"""Events as spans and values over time."""

from agentcg.replay import events
from agentcg.report.timeline import read_timeline


def begin(t, call, session="a"):
    return events.CallBegan(t, session, call, "Bash", f"run {call}")


def end(t, call, outcome="ok", session="a"):
    return events.CallEnded(t, session, call, outcome, "", 5)


def test_calls_are_spans_and_those_side_by_side_are_on_tracks():
    lane = read_timeline([begin(0, "1"), begin(1, "2"), end(2, "1"), begin(3, "3"), end(4, "2"), end(5, "3")]).sessions[
        "a"
    ]
    assert [(span.call, span.begin, span.end, span.track) for span in lane.spans] == [
        ("1", 0, 2, 0),
        ("2", 1, 4, 1),
        ("3", 3, 5, 0),
    ]
    assert lane.tracks == 2


def test_a_call_held_begins_when_it_is_let_go():
    lane = read_timeline([events.Held(1.0, "a", "1", "full"), begin(3.0, "1"), end(4.0, "1")]).sessions["a"]
    assert [(stop.kind, stop.begin, stop.end, stop.why) for stop in lane.stops] == [("held", 1.0, 3.0, "full")]


def test_a_call_frozen_goes_on_when_it_is_thawed_or_ends():
    lane = read_timeline(
        [
            *(begin(0.0, "1"), events.Frozen(1.0, "a", "1"), events.Thawed(2.0, "a", "1")),
            *(events.Frozen(3.0, "a", "1"), end(4.0, "1"), events.Frozen(5.0, "a"), events.Throttled(6.0, "a", "1")),
        ]
    ).sessions["a"]
    assert [(stop.kind, stop.begin, stop.end) for stop in lane.stops] == [
        ("frozen", 1.0, 2.0),
        ("frozen", 3.0, 4.0),
        ("frozen", 5.0, 6.0),  # to the end of everything
        ("throttled", 6.0, None),
    ]


def test_a_call_that_was_refused_has_a_span_of_no_length():
    (span,) = read_timeline([end(2.0, "1", "refused")]).sessions["a"].spans
    assert (span.begin, span.end, span.outcome) == (2.0, 2.0, "refused")


def test_a_call_that_nobody_saw_end_has_no_end():
    timeline = read_timeline([begin(0.0, "1"), events.SessionEnded(9.0, "a", "died", "OOM")])
    assert timeline.sessions["a"].spans[0].end is None
    assert timeline.sessions["a"].ended == (9.0, "died", "OOM")
    assert timeline.end == 9.0


def test_a_turn_is_nobodys_stop():
    lane = read_timeline([begin(0, "1"), events.Turn(1.0, "a", 1.0, 0.5, 100, 90, 4), end(2, "1")]).sessions["a"]
    assert (lane.stops, len(lane.spans)) == ([], 1)


def test_cpu_is_what_was_used_since_the_sample_before():
    samples = [(0.0, 0.0), (1.0, 0.5), (3.0, 4.5), (3.0, 4.5), (4.0, 4.0)]
    timeline = read_timeline([events.Sample(t, {"a": 7}, {"a": used}, 7) for t, used in samples])
    assert timeline.sessions["a"].cpu == [(1.0, 0.5), (3.0, 2.0), (4.0, 0.0)]
    assert timeline.total[0] == (0.0, 7)


def test_limits_and_the_cache_are_values_over_time():
    timeline = read_timeline([events.Limits(0.0, 100, {"a": None}, {"a": 50}, 10), events.Kv(1.0, "a", 2, 3, "pinned")])
    assert (timeline.wall, timeline.reserved) == ([(0.0, 100)], [(0.0, 10)])
    lane = timeline.sessions["a"]
    assert (lane.high, lane.max) == ([(0.0, None)], [(0.0, 50)])
    assert lane.kv == {"pinned": [(1.0, 3)]}


def test_the_cache_of_an_llm_server_is_in_one_state_at_a_time():
    states = [(1.0, 3, "pinned"), (2.0, 3, "free"), (4.0, 1, "free"), (5.0, 2, "pinned")]
    lane = read_timeline([events.Kv(t, "a", 1, size, state) for t, size, state in states]).sessions["a"]
    assert lane.kv == {
        "pinned": [(1.0, 3), (2.0, 0), (5.0, 2)],
        "free": [(2.0, 3), (4.0, 1), (5.0, 0)],
    }


def test_nothing_is_a_timeline_too():
    assert read_timeline([]).sessions == {}
