# SPDX-License-Identifier: Apache-2.0
"""The figure of one arm over time."""

import itertools

from agentcg.replay import events
from agentcg.replay.result import ArmResult
from agentcg.report.lanes import lanes
from agentcg.report.timeline import read_timeline

MIB = 1 << 20


def figure(*told):
    result = ArmResult("agentcg", 200 * MIB, 1.0, 1.0, [])
    return lanes("lanes-1-1", "agentcg, round 1", read_timeline(told), result)


def traces(drawn, name):
    return [trace for trace in drawn.plot["data"] if trace["name"] == name]


def test_a_session_has_its_memory_limits_and_calls(hostile):
    drawn = figure(
        events.Limits(0.0, 100 * MIB, {"a": 50 * MIB}, {"a": None}, 10 * MIB),
        events.CallBegan(1.0, "a", "c1", "Bash", hostile),
        events.Sample(2.0, {"a": 7 * MIB}, {"a": 1.0}, 7 * MIB),
        events.Frozen(2.0, "a", "c1", "full"),
        events.CallEnded(3.0, "a", "c1", "memory_limit", "take less", 7 * MIB),
    )
    assert [trace["y"] for trace in traces(drawn, "memory")] == [[7.0], [7.0]]
    assert traces(drawn, "limit of all")[0]["y"] == [200.0, 200.0]
    assert traces(drawn, "limit of those not protected")[0]["y"] == [100.0, 100.0]
    assert traces(drawn, "memory.high")[0]["y"] == [50.0, 50.0]
    assert traces(drawn, "memory.max") == []
    (call,) = traces(drawn, "call that failed")
    assert (call["base"], call["x"]) == ([1.0], [2.0])
    assert "&lt;/script&gt;" in call["customdata"][0]
    assert "<script" not in call["customdata"][0]
    assert traces(drawn, "frozen")[0]["x"] == [1.0]
    assert "<b>a</b><br>memory, MiB" in [each["text"] for each in drawn.plot["layout"]["annotations"]]


def test_the_tables_say_the_same():
    drawn = figure(
        events.CallBegan(1.0, "a", "c1", "Bash", "make"),
        events.Throttled(1.5, "a", "c1", "high"),
        events.Sample(2.0, {"a": 7 * MIB}, {"a": 1.0}, 7 * MIB),
        events.CallEnded(3.0, "a", "c1", "ok", "", 7 * MIB),
        events.SessionEnded(4.0, "a", "died", "OOM"),
    )
    sessions, calls = drawn.tables
    assert sessions.rows == (("a", "died: OOM", "4.0 s", "7.0 MiB", "0.50", "1", "0"),)
    assert calls.rows == (("a", "make", "1.00 s", "2.0 s", "ok", "7.0 MiB", "1 × throttled"),)


def test_the_cache_of_an_llm_server_has_a_row_where_there_is_one():
    with_kv = figure(events.Kv(1.0, "a", 2, 3 * MIB, "pinned"))
    assert traces(with_kv, "KV cache: pinned")[0]["y"] == [3.0]
    rows = [each["text"] for each in figure(events.SessionBegan(0.0, "a")).plot["layout"]["annotations"]]
    assert "KV cache, MiB" not in rows


def test_a_session_that_is_protected_is_called_so(arm):
    timeline = read_timeline([events.SessionBegan(0.0, "a"), events.SessionBegan(0.0, "b")])
    captions = [each["text"] for each in lanes("l", "x", timeline, arm("x", 1, [1])).plot["layout"]["annotations"]]
    assert {"<b>a</b><br>protected: memory, MiB", "<b>b</b><br>memory, MiB"} <= set(captions)


def test_a_thousand_calls_are_few_traces():
    told = []
    for at in range(1000):
        told += [events.CallBegan(at, "a", f"c{at}", "", "x"), events.CallEnded(at + 0.5, "a", f"c{at}", "ok", "")]
    drawn = figure(*told)
    assert len(traces(drawn, "call")[0]["x"]) == 1000
    assert len(drawn.plot["data"]) < 5


def test_rows_do_not_overlap():
    drawn = figure(
        events.SessionBegan(0.0, "a"), events.SessionBegan(0.0, "b"), events.Sample(1.0, {"a": 1}, {"a": 1}, 1)
    )
    axes = [axis for key, axis in drawn.plot["layout"].items() if key.startswith("yaxis")]
    edges = [axis["domain"] for axis in axes]
    assert all(below[1] < above[0] for above, below in itertools.pairwise(edges))
    assert edges[0][1] < 1
    assert edges[-1][0] == 0


def test_an_arm_in_which_nothing_happened_can_be_drawn():
    assert figure().plot["layout"]["xaxis"]["range"] == [0, 1]
