# SPDX-License-Identifier: Apache-2.0
"""What is said of calls and sessions."""

import json

import pytest

from agentcg.model import Budget, CallRef, Limits, Session, SessionRef, Usage, Verdict
from agentcg.spans.attributes import call_attributes, failed, session_attributes, tool_name

REF = SessionRef("u0", "fix")
M = 1 << 20


def verdict(outcome="ok", **fields) -> Verdict:  # type: ignore[no-untyped-def]
    usage = Usage(2.5, cpu_sec=1.25, memory_peak=64 * M, frozen_sec=0.5, cpu_throttled_sec=0.25, oom_kills=1)
    given = {"tool": "Bash", "command": "pytest -x", "call_class": "test"} | fields
    return Verdict(CallRef(REF, "c1"), outcome, usage, Limits(memory_max=128 * M), 100.0, 102.5, **given)


def test_a_call_by_the_conventions_and_in_base_units() -> None:
    said = call_attributes(verdict("exit_status", exit_code=2), content=False)
    assert {key: value for key, value in said.items() if value is not None} == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "Bash",
        "gen_ai.tool.call.id": "c1",
        "gen_ai.conversation.id": "u0/fix",
        "agentcg.tenant": "u0",
        "agentcg.session": "u0/fix",
        "agentcg.class": "test",
        "agentcg.kind": "pytest",
        "agentcg.outcome": "exit_status",
        "agentcg.throttled": False,
        "process.exit.code": 2,
        "error.type": "exit_status",
        "agentcg.usage.duration_sec": 2.5,
        "agentcg.usage.cpu_sec": 1.25,
        "agentcg.usage.memory_peak": 64 * M,
        "agentcg.usage.frozen_sec": 0.5,
        "agentcg.usage.cpu_throttled_sec": 0.25,
        "agentcg.usage.oom_kills": 1,
        "agentcg.limits.memory_max": 128 * M,
        "agentcg.limits.swap_max": 0,
        "agentcg.limits.cpu_weight": 100,
        "agentcg.limits.io_weight": 100,
    }


def test_a_command_is_said_only_where_that_is_wanted() -> None:
    said = call_attributes(verdict(command="curl -H 'token: s3cret' x"), content=False)
    assert "s3cret" not in str(said)
    said = call_attributes(verdict(command='echo "ü"'), content=True)
    assert json.loads(said["gen_ai.tool.call.arguments"]) == {"command": 'echo "ü"'}


@pytest.mark.parametrize(
    ("tool", "command", "name"),
    [("Bash", "make", "Bash"), ("", "cd x && git status", "git status"), ("", "", "unknown")],
)
def test_a_call_without_a_tool_is_named_by_its_kind(tool: str, command: str, name: str) -> None:
    assert tool_name(verdict(tool=tool, command=command)) == name


def test_only_what_is_known_to_have_failed_is_an_error() -> None:
    assert not failed(verdict("ok"))
    assert not failed(verdict("unknown"))
    assert failed(verdict("memory_limit"))
    assert call_attributes(verdict("unknown"), content=False)["error.type"] is None


def test_what_cannot_be_encoded_is_replaced() -> None:
    assert call_attributes(verdict("killed", reason="x\ud800"), content=False)["agentcg.reason"] == "x?"


def test_a_session() -> None:
    said = session_attributes(Session(REF, 0, 90.0, Budget(memory_max=256 * M), protected=True), "it was closed")
    assert said["gen_ai.operation.name"] == "invoke_agent"
    assert said["gen_ai.agent.name"] == "fix"
    assert said["agentcg.budget.memory_max"] == 256 * M
    assert said["agentcg.protected"] is True
    assert said["agentcg.reason"] == "it was closed"
