# SPDX-License-Identifier: Apache-2.0
"""The hooks of Claude Code: what they answer, and that the shell does with it what it did without."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agentcg.errors import AgentcgError, InvalidInput
from agentcg.launcher import launcher_path
from agentcg.runtimes.claude_code import folder_of, manage, tell

ID = "toolu_01ABC"


@pytest.fixture(autouse=True)
def _private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def payload(event: str = "PreToolUse", *, command: Any = "echo hi", **changes: Any) -> dict[str, Any]:
    """Return what the runtime writes, as version 2 of it does."""
    found = {
        "session_id": "4f6a6d2e-2f0f-4a30-9a6a-0f6f1c1d2b3a",
        "transcript_path": "/root/.claude/projects/-work/4f6a6d2e.jsonl",
        "cwd": "/work",
        "permission_mode": "default",
        "hook_event_name": event,
        "tool_name": "Bash",
        "tool_input": {"command": command, "description": "Say hi", "timeout": 120000},
        "tool_use_id": ID,
    }
    if event == "PostToolUse":
        found["tool_response"] = {"stdout": "hi", "stderr": "", "interrupted": False, "isImage": False}
    return found | changes


def managed(command: str, launcher: str | None = None) -> str:
    answer = manage(payload(command=command), launcher or launcher_path())
    assert answer is not None
    return str(answer["hookSpecificOutput"]["updatedInput"]["command"])


def run(command: str, *, after: str = "", environment: dict[str, str] | None = None, **options: Any) -> Any:
    """Run a command in the runtime's shell: one that goes on after it."""
    env = dict(os.environ) | {"AGENTCG_SOCKET": "/nowhere"} | (environment or {})
    return subprocess.run(
        ["bash", "-c", f"eval {quote(command)} {after}"], capture_output=True, text=True, env=env, timeout=60, **options
    )


def quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def test_the_rest_of_the_input_stays_and_nothing_is_said_about_permission() -> None:
    answer = manage(payload(), "/bin/agentcg-exec")
    assert answer is not None
    output = answer["hookSpecificOutput"]
    assert output.keys() == {"hookEventName", "updatedInput"}
    assert output["updatedInput"] | {"command": ""} == {"command": "", "description": "Say hi", "timeout": 120000}
    assert json.loads(json.dumps(answer)) == answer


@pytest.mark.parametrize("permission", ["allow", "ask"])
def test_what_is_said_about_permission_is_asked_for(permission: Any) -> None:
    answer = manage(payload(), "/bin/agentcg-exec", permission=permission)
    assert answer is not None
    assert answer["hookSpecificOutput"]["permissionDecision"] == permission


@pytest.mark.parametrize("changes", [{"tool_name": "Read", "tool_input": {"file_path": "x"}}, {"command": " \n"}])
def test_what_runs_no_command_is_left(changes: dict[str, Any]) -> None:
    assert manage(payload(**changes), "/bin/agentcg-exec") is None


COMMANDS = [
    "echo out; echo err >&2; exit 3",
    "cat <<'EOF'\na 'b' \"c\" $d `e`\nEOF",
    "false || echo \"it's\" 'so'",
    "x=1\nfor i in 1 2; do echo $((x + i)); done",
    "kill -TERM $$",
    "echo \\\n  two",
    "trap 'echo mine' EXIT; true",
    "exec sh -c 'exit 4'",
    "cat",
    "echo $BASH_ENV$AGENTCG_BASH_ENV; bash -c 'exit 5'",
    "syntax (",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_does_what_it_did_without(command: str) -> None:
    # Without a daemon it runs unmanaged after a line of warning.
    plain, ours = run(f"bash -c {quote(command)}", input="in"), run(managed(command), input="in")
    assert (ours.returncode, ours.stdout) == (plain.returncode, plain.stdout)
    said = [line for line in ours.stderr.splitlines() if "running unmanaged" not in line]
    assert len(said) == len(plain.stderr.splitlines())


def test_the_working_directory_is_kept_for_the_next_command_and_the_status_too(tmp_path: Path) -> None:
    place = tmp_path / "with 'a' space"
    place.mkdir()
    kept = run(managed(f"cd {quote(str(place))}; exit 7"), after="; echo $?; pwd -P")
    assert kept.stdout.splitlines() == ["7", str(place)]
    unmoved = run(managed("bash -c 'cd /'"), after="&& pwd -P", cwd=tmp_path)
    assert unmoved.stdout.splitlines() == [str(tmp_path)]


def test_the_users_own_file_for_bash_is_read(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("greeting=hello\n")
    ran = run(managed("echo $greeting; bash -c 'echo $greeting'"), environment={"BASH_ENV": str(mine)})
    assert ran.stdout == "hello\nhello\n"


@pytest.mark.parametrize(
    ("command", "hint", "rest"),
    [
        ("AGENT_RESOURCE_HINT=memory:2g pytest -x", "memory:2g", "pytest -x"),
        ("echo AGENT_RESOURCE_HINT=memory:2g x", None, "echo AGENT_RESOURCE_HINT=memory:2g x"),
    ],
)
def test_a_hint_at_the_head_of_the_command_is_declared(tmp_path: Path, command: str, hint: str, rest: str) -> None:
    spy = tmp_path / "spy"
    spy.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    spy.chmod(0o755)
    words = run(managed(command, str(spy))).stdout.splitlines()
    assert words[:8] == ["--id", ID, "--tool", "Bash", "--verdict", "json", "--verdict-fd", "9"]
    assert words[8:] == [*(["--hint", hint] if hint else []), "--", words[-3], "-c", rest]


def leave(verdict: str) -> None:
    manage(payload(), "/bin/agentcg-exec")
    (folder_of(ID) / "verdict").write_text(verdict)


@pytest.mark.parametrize("event", ["PostToolUse", "PostToolUseFailure"])
def test_the_advice_reaches_the_model_once(event: str) -> None:
    leave('{"outcome": "memory_limit", "advice": "ask for 128 MiB."}\n')
    assert tell(payload(event)) == {
        "hookSpecificOutput": {"hookEventName": event, "additionalContext": "agentcg: ask for 128 MiB."}
    }
    assert not folder_of(ID).exists()
    assert tell(payload(event)) is None


def test_there_is_nothing_to_tell_of_a_call_that_went_well_or_still_runs() -> None:
    leave('{"outcome": "ok", "advice": ""}\n')
    assert tell(payload("PostToolUse")) is None
    leave("")
    assert tell(payload("PostToolUse")) is None
    assert folder_of(ID).exists()
    assert tell(payload("PostToolUse", tool_name="Read")) is None
    assert tell(payload("PostToolUse", tool_use_id="toolu_other")) is None


@pytest.mark.parametrize("verdict", ["{", '{"outcome": "ok"}', "[]", '"x"'])
def test_a_verdict_that_is_none_is_an_error(verdict: str) -> None:
    leave(verdict)
    with pytest.raises(InvalidInput, match="the verdict: cannot be read"):
        tell(payload("PostToolUse"))


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ([], "standard input"),
        (payload(hook_event_name="PostToolUse"), "hook_event_name"),
        (payload(tool_name=None), "tool_name"),
        (payload(tool_use_id=None), "tool_use_id"),
        (payload(tool_use_id="../../etc"), "tool_use_id"),
        (payload(tool_input="echo"), "tool_input.command"),
        (payload(command=["echo"]), "tool_input.command"),
    ],
)
def test_a_payload_of_another_version_is_an_error_that_names_the_place(given: object, place: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        manage(given, "/bin/agentcg-exec")
    assert caught.value.message.startswith(f"{place}: ")
    assert caught.value.hint


def test_a_folder_that_others_may_write_to_is_not_used() -> None:
    leave('{"advice": "theirs"}')
    folder_of(ID).parent.chmod(0o777)
    assert tell(payload("PostToolUse")) is None
    with pytest.raises(AgentcgError, match="belongs to somebody else"):
        manage(payload(), "/bin/agentcg-exec")


def test_nothing_is_written_through_a_link_that_others_have_made(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    folder_of(ID).parent.symlink_to(theirs)
    with pytest.raises(AgentcgError, match="belongs to somebody else"):
        manage(payload(), "/bin/agentcg-exec")
    assert list(theirs.iterdir()) == []
    folder_of(ID).parent.unlink()
    folder_of(ID).parent.mkdir(mode=0o700)
    folder_of(ID).symlink_to(theirs)
    with pytest.raises(AgentcgError, match="belongs to somebody else"):
        manage(payload(), "/bin/agentcg-exec")
    assert list(theirs.iterdir()) == []
