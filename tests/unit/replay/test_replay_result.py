# SPDX-License-Identifier: Apache-2.0
"""Statistics, JSON and the table of a replay."""

import io

from rich.console import Console

from agentcg.replay.arms import judge_plain
from agentcg.replay.result import (
    ArmResult,
    CallResult,
    Latency,
    SessionResult,
    TurnsResult,
    arm_from_json,
    arm_to_json,
    latency,
    to_json,
    turns_of,
)
from agentcg.replay.served.conversation import Answer
from agentcg.replay.table import render


def session(name="s", state="finished", **fields):
    values = {
        "recording": "r",
        "protected": False,
        "reserve": None,
        "completion_sec": 6.0,
        "recorded_sec": 4.0,
        "calls_recorded": 3,
        "calls_started": 3,
        "failed": [],
        "growth": latency([0.001 * n for n in range(1, 101)]),
        "boundaries": latency([0.25]),
        "oom_kills_agent": 0,
        "oom_kills_call": 0,
    }
    return SessionResult(name=name, state=state, **(values | fields))


def arm(name, *sessions):
    return ArmResult(arm=name, memory_max=1 << 30, speed=10, wall_sec=7.0, sessions=list(sessions), memory_peak=1 << 29)


def shown(*arms):
    console = Console(width=100, file=io.StringIO(), highlight=False)
    console.print(render(arms))
    return console.file.getvalue()


def test_percentiles_are_steps_that_were_seen():
    found = latency([0.001 * n for n in range(1, 101)])
    assert (found.n, found.p50_ms, found.p95_ms, found.max_ms) == (100, 50, 95, 100)
    assert latency([0.002]) == Latency(1, 2, 2, 2, 2)
    assert latency([]) == Latency(0)


def test_only_a_finished_session_has_a_ratio():
    assert session().ratio == 1.5
    assert session(state="died").ratio is None


def test_json_has_the_names_of_the_socket():
    failed = [CallResult("c1", "pytest", "memory_limit", "ask for more")]
    result = to_json([(1, arm("none", session(failed=failed, calls_started=2)))], policy="default", agent_memory=5)
    one = result["arms"][0]["sessions"][0]
    assert (result["arms"][0]["round"], result["arms"][0]["arm"]) == (1, "none")
    assert (result["type"], result["version"], result["agentMemory"]) == ("agentcg.replay", 1, 5)
    assert (one["completionSec"], one["ratio"], one["callsRecorded"], one["callsStarted"]) == (6.0, 1.5, 3, 2)
    assert one["failed"] == [{"id": "c1", "command": "pytest", "outcome": "memory_limit", "advice": "ask for more"}]
    assert one["growth"] == {"n": 100, "p50Ms": 50, "p95Ms": 95, "maxMs": 100, "totalMs": 5050}


def answer(sec, prompt, cached):
    return Answer("", sec, 0.1, prompt, cached, 1)


def test_turns_are_summed_up_as_far_as_they_are_known():
    found = turns_of([answer(1.0, 100, 0), answer(3.0, 150, 90)])
    assert found == TurnsResult(2, 2.0, 3.0, 250, 90)
    assert found.computed_tokens == 160
    assert turns_of([answer(1.0, 100, 0), answer(3.0, 150, None)]) == TurnsResult(2, 2.0, 3.0, 250, None)
    assert turns_of([]) == TurnsResult(0, None, None, 0, 0)


def test_a_session_has_turns_only_with_a_server():
    served, plain = arm("none", session(turns=TurnsResult(2, 2.0, 3.0, 250, None))), arm("none", session())
    (values,) = arm_to_json(served)["sessions"]
    assert values["turns"] == {"n": 2, "meanSec": 2.0, "p95Sec": 3.0, "promptTokens": 250, "cachedTokens": None}
    assert "turns" not in arm_to_json(plain)["sessions"][0]
    for each in (served, plain):
        assert arm_from_json("there", arm_to_json(each)) == each


def test_the_table_has_turns_where_a_server_was_asked():
    gone = session("s", "unanswered", reason="it did not answer", turns=TurnsResult(0, None, None, 0, 0))
    text = shown(arm("none", gone), arm("agentcg", session(turns=TurnsResult(12, 3.25, 6.5, 12948, 9162))))
    assert "UNANSWERED after 6.0 s" in text
    assert "without agentcg, s: it did not answer." in text
    assert "12, 3.2 s / 6.5 s" in text
    assert "3,786 of 12,948 computed" in text
    assert "turns: mean / P95" in text
    assert "turns" not in shown(arm("none", session()))


def test_the_table_says_who_died_and_why():
    died = session("low", "died", calls_started=1, oom_kills_agent=1, reason="the OOM killer ended its agent")
    failed = [CallResult("c", "pytest \x1b[31m-x [bold]", "oom_killed", "`pytest` was ended because …")]
    text = shown(
        arm("none", session("high", protected=True, reserve=1 << 28), died),
        arm(
            "agentcg", session("high", protected=True, reserve=1 << 28), session("low", failed=failed, oom_kills_call=1)
        ),
    )
    assert "256 MiB reserved" in text
    assert "DIED after 6.0 s" in text
    assert "1 of 3 ok, 2 not made" in text
    assert "2 of 3 ok, 1 failed" in text
    assert "1 agent, 0 calls" in text
    assert "0 agents, 1 call" in text
    assert "without agentcg, low: the OOM killer ended its agent." in text
    assert "with agentcg, low, pytest [31m-x [bold]: `pytest` was ended because …" in text
    assert "\x1b" not in text


def test_what_is_known_of_a_call_without_agentcg():
    assert (judge_plain(-9).outcome, judge_plain(-9).oom_kills) == ("oom_killed", 1)
    assert [judge_plain(status).outcome for status in (0, 2, -11)] == ["ok", "exit_status", "signal"]
