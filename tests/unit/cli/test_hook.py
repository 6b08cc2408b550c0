# SPDX-License-Identifier: Apache-2.0
"""``agentcg hook``: JSON in, JSON out, and an error that does not stop the runtime."""

import json

import pytest
from click.testing import CliRunner, Result

from agentcg.cli.hook import hook
from agentcg.errors import InvalidInput

PAYLOAD = {
    "session_id": "s",
    "hook_event_name": "PreToolUse",
    "tool_name": "Bash",
    "tool_input": {"command": "echo hi"},
    "tool_use_id": "toolu_1",
}


@pytest.fixture(autouse=True)
def _private(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def run(*arguments: str, given: str) -> Result:
    return CliRunner().invoke(hook, arguments, input=given)


def test_a_command_is_answered_with_another_and_a_tool_that_runs_none_with_nothing():
    answered = run("pre-tool-use", "--permission", "ask", given=json.dumps(PAYLOAD))
    output = json.loads(answered.output)["hookSpecificOutput"]
    assert output["permissionDecision"] == "ask"
    assert "agentcg-exec" in output["updatedInput"]["command"]
    other = run("pre-tool-use", given=json.dumps(PAYLOAD | {"tool_name": "Read"}))
    assert (other.exit_code, other.output) == (0, "")
    after = run("post-tool-use", given=json.dumps(PAYLOAD | {"hook_event_name": "PostToolUse"}))
    assert (after.exit_code, after.output) == (0, "")


@pytest.mark.parametrize("given", ["", "{", '"\xff', "[" * 100_000])
def test_what_is_no_json_is_an_error_of_one_line(given):
    result = run("post-tool-use", given=given)
    # Any status but 0 and 2 lets the runtime go on.
    assert isinstance(result.exception, InvalidInput)
    assert "standard input: is not JSON" in result.exception.message
    assert "\n" not in result.exception.message
