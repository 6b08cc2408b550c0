# SPDX-License-Identifier: Apache-2.0
"""Live replays with a server in the loop, with real processes in cgroups that limit nothing."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentcg.replay import live
from agentcg.replay.arm_spec import parse_arm
from agentcg.replay.events import CallBegan, CallEnded, SessionBegan, SessionEnded, Turn
from agentcg.replay.plan import SessionPlan
from agentcg.replay.result import SessionResult, TurnsResult
from agentcg.replay.run_description import RunDescription
from agentcg.replay.run_folder import open_run, read_run
from agentcg.replay.served.conversation import NoAnswer
from agentcg.replay.served.lengths import OPENING_WORDS
from agentcg.replay.served.options import ServerOptions
from tests.unit.replay.served.llm import Llm, words_of

Plan = Callable[[str], SessionPlan]


@pytest.fixture
def replay(host: Any, plan: Plan, llm: Llm, tmp_path: Path) -> Callable[..., Any]:
    """Return what replays two sessions and returns the run."""

    def run(*arms: str, server: Any = None, **changes: Any) -> Any:
        options = live.Options(1 << 30, tuple(map(parse_arm, arms)), speed=20.0, timeout_sec=20.0)
        options = replace(
            options, server=None if server is False else ServerOptions(llm.url, **(server or {})), **changes
        )
        description = RunDescription(
            mode="served", agentcg="", kernel="", cpus=1, machine="", memory_max=1 << 30, speed=20.0, seed=0, rounds=1,
            arms=list(arms), sessions=None, options={},
        )  # fmt: skip
        live.replay([plan("high"), plan("low")], options, open_run(tmp_path / "run", description, resume=True))
        return read_run(tmp_path / "run")

    return run


def sessions(run: Any, at: int = 0) -> dict[str, SessionResult]:
    return {session.name: session for session in run.results[at].result.sessions}


@pytest.mark.timeout(60)
def test_a_session_asks_waits_and_makes_its_calls(replay: Callable[..., Any], llm: Llm) -> None:
    run = replay("none", "static")
    for at in range(2):
        for session in sessions(run, at).values():
            assert (session.state, session.failed, session.calls_started) == ("finished", [], 2)
            assert session.turns is not None
            assert (session.turns.n, session.turns.prompt_tokens) == (3, 100 + 160 + 200)
            # All of a prompt is found but what is new in it: nobody else's is of use.
            assert session.turns.cached_tokens == pytest.approx(100 + 160, abs=30)
            assert 0 < (session.turns.mean_sec or 0) <= (session.turns.p95_sec or 0) < 10

    events = [event for event in run.events(0, "none") if getattr(event, "session", None) == "low"]
    began = [SessionBegan, Turn, CallBegan, CallEnded, Turn, CallBegan, CallEnded, Turn, SessionEnded]
    assert [type(event) for event in events] == began
    turns = [event for event in events if isinstance(event, Turn)]
    assert [(turn.prompt_tokens, turn.output_tokens) for turn in turns] == [(100, 4), (160, 3), (200, 2)]

    first, *_, last = llm.of("low")[:3]
    assert [message["role"] for message in last["messages"]] == ["user", "assistant", "user", "assistant", "user"]
    again = llm.of("low")[3]
    said, said_again = words_of(first["messages"]), words_of(again["messages"])
    assert said[:OPENING_WORDS] != said_again[:OPENING_WORDS]
    assert said[OPENING_WORDS:] == said_again[OPENING_WORDS:] != words_of(llm.of("high")[0]["messages"])[OPENING_WORDS:]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("trouble", "reason"),
    [("silent", "did not answer within 500 ms"), ("status", "answered 503"), ("short", "Payload")],
)
def test_who_gets_no_answer_says_so_and_the_others_go_on(
    replay: Callable[..., Any], llm: Llm, offspring: Callable[[], list[psutil.Process]], trouble: str, reason: str
) -> None:
    llm.trouble, llm.troubled = trouble, "low"
    run = replay("none", server={"timeout_sec": 0.5})
    high, low = sessions(run).values()
    assert (high.state, high.calls_started) == ("finished", 2)
    assert (low.state, low.calls_started, low.failed) == ("unanswered", 0, [])
    assert reason in low.reason
    assert low.turns == TurnsResult(0, None, None, 0, 0)
    (ended,) = [event for event in run.events(0, "none") if isinstance(event, SessionEnded) and event.session == "low"]
    assert (ended.state, ended.reason) == ("unanswered", low.reason)
    assert offspring() == []


@pytest.mark.timeout(60)
def test_the_time_limit_of_the_arm_ends_a_turn_that_waits(replay: Callable[..., Any], llm: Llm) -> None:
    llm.trouble, llm.troubled = "silent", "low"
    began = time.monotonic()
    run = replay("none", timeout_sec=1.0)
    assert time.monotonic() - began < 10
    assert [session.state for session in sessions(run).values()] == ["finished", "timed_out"]


@pytest.mark.timeout(60)
def test_without_a_server_turns_are_pauses(replay: Callable[..., Any], llm: Llm) -> None:
    run = replay("none", server=False)
    assert [(session.state, session.turns) for session in sessions(run).values()] == [("finished", None)] * 2
    assert b'"turns"' not in (run.path / "results.jsonl").read_bytes()
    assert llm.asked == []
    assert [event for event in run.events(0, "none") if isinstance(event, Turn)] == []


@pytest.mark.timeout(60)
def test_a_server_that_is_not_there_is_said_before_anything_runs(
    replay: Callable[..., Any], llm: Llm, host: Any
) -> None:
    llm.trouble = "status"
    with pytest.raises(NoAnswer, match="503"):
        replay("none")
    assert [path for path in host.top.iterdir() if path.is_dir()] == []
