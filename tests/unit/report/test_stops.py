# SPDX-License-Identifier: Apache-2.0
"""Who was stopped, how often and why."""

from types import MappingProxyType

from agentcg.replay import events
from agentcg.report.stops import REASONS_MAX, Seen, reasons, stops
from agentcg.report.timeline import read_timeline


def seen(*told, rounds=2, labels=MappingProxyType({})):
    found = Seen()
    for _ in range(rounds):
        found.add(
            read_timeline([events.SessionBegan(0.0, "b"), *told, events.SessionEnded(9.0, "b", "finished", "")]), labels
        )
    return found


def test_stops_are_counted_per_round_with_the_time_they_lasted():
    frozen = (events.Frozen(1.0, "b", None, "full"), events.Thawed(2.5, "b", None))
    table = stops({"none": seen(), "agentcg": seen(*frozen, events.Killed(3.0, "b"))}, ["a", "b"])
    assert table.columns == ("Session", "What", "none", "agentcg")
    assert table.rows == (("b", "frozen", "–", "1 ×, 1.5 s"), ("b", "killed", "–", "1 ×"))


def test_sessions_that_were_drawn_are_counted_by_their_kind():
    found = seen(events.Killed(3.0, "b"), events.Killed(4.0, "b"), labels={"b": "another"})
    assert stops({"none": found}, ["a protected one", "another"]).rows == (("another", "killed", "2 ×"),)


def test_reasons_that_differ_in_numbers_count_as_one():
    told = (events.Held(1.0, "b", "1", "12.5 MiB are missing"), events.Held(2.0, "b", "2", "3 MiB are missing"))
    assert reasons({"agentcg": seen(*told)}).rows == (("held", "12.5 MiB are missing", "4 ×"),)


def test_failed_calls_say_what_their_agents_were_told(arm):
    result = arm("none", 10, [20], died=("b",))
    result.sessions[1].reason = "the OOM killer ended its agent"
    found = Seen()
    found.add_failures(result)
    assert reasons({"none": found}).rows == (("session died", "the OOM killer ended its agent", "1 ×"),)


def test_rare_reasons_are_left_out_and_that_is_said():
    words = [events.Killed(1.0, "b", None, "x" * (at + 1)) for at in range(REASONS_MAX + 3)]
    table = reasons({"none": seen(*words)})
    assert len(table.rows) == REASONS_MAX
    assert "; 3 rarer reasons are left out" in table.caption


def test_durations_are_of_calls_that_ended():
    call = (events.CallBegan(1.0, "b", "1", "", ""), events.CallEnded(3.0, "b", "1", "ok", ""))
    assert seen(*call, events.CallBegan(4.0, "b", "2", "", "")).durations == [2.0, 2.0]
