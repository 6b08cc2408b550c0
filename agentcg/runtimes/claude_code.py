# SPDX-License-Identifier: Apache-2.0
"""Claude Code, by its hooks: its shell commands become calls, and their verdicts reach the model.

Before a command runs, the runtime shows it to the ``PreToolUse`` hook, which may answer with another
(``updatedInput``); after it, ``PostToolUse`` or ``PostToolUseFailure`` may add to what the model reads
(``additionalContext``). Both are JSON, on standard input and output
(https://code.claude.com/docs/en/hooks). The two hooks are separate processes: what the command leaves for the
second one lies in a folder that the first has made.

The command runs in a shell of its own inside the call, as every command of this runtime does. What is kept from one to
the next is the working directory alone, and it is kept here too. Aliases and functions of the runtime's shell are not
known in there.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any, Literal

from agentcg.errors import AgentcgError, InvalidInput
from agentcg.policy.hint import take_hint

__all__ = ["Permission", "folder_of", "manage", "tell"]

Permission = Literal["none", "allow", "ask"]
"""What the runtime is told about whether the command may run: nothing, or one of its own words."""

_TOOL = "Bash"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_VERDICT_MAX = 64 << 10
_UPDATE = "this is for the hooks of Claude Code 2; give agentcg's version and the payload in a report"


def manage(payload: object, launcher: str, *, permission: Permission = "none") -> dict[str, Any] | None:
    """Return the answer to a ``PreToolUse`` payload: the command as a call. None where there is nothing to change.

    A hint may stand at the head of the command: ``AGENT_RESOURCE_HINT=memory:2g pytest``.

    :param launcher: the path of agentcg-exec
    :raises InvalidInput: naming the member of the payload that is not as expected
    :raises AgentcgError: if the folder for what the command leaves cannot be made
    """
    fields = _fields(payload, ("PreToolUse",))
    if fields["tool_name"] != _TOOL:
        return None
    given = fields.get("tool_input")
    command = given.get("command") if isinstance(given, dict) else None
    if not isinstance(given, dict) or not isinstance(command, str):
        raise InvalidInput("tool_input.command", "is not a text", hint=_UPDATE)
    if not command.strip():
        return None
    updated = given | {"command": _managed(command, launcher, _make(_id(fields)))}
    answer: dict[str, Any] = {"hookEventName": "PreToolUse", "updatedInput": updated}
    if permission != "none":
        answer["permissionDecision"] = permission
    return {"hookSpecificOutput": answer}


def tell(payload: object) -> dict[str, Any] | None:
    """Return the answer to a ``PostToolUse`` or ``PostToolUseFailure`` payload: the advice of the call's verdict.

    None where there is none to give: it was well, it still runs, or it was no call.

    :raises InvalidInput: naming the member of the payload, or the verdict, that is not as expected
    """
    fields = _fields(payload, ("PostToolUse", "PostToolUseFailure"))
    if fields["tool_name"] != _TOOL:
        return None
    folder = folder_of(_id(fields))
    if not _is_ours(folder):
        return None
    with (folder / "verdict").open("rb") as file:
        text = file.read(_VERDICT_MAX)
    if not text:  # In the background, or run without a daemon.
        return None
    shutil.rmtree(folder, ignore_errors=True)
    try:
        verdict = json.loads(text)
        advice = verdict["advice"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            "the verdict", f"cannot be read: {error}", hint="are agentcg-exec and agentcg of one version?"
        ) from error
    if not advice:
        return None
    return {
        "hookSpecificOutput": {"hookEventName": fields["hook_event_name"], "additionalContext": f"agentcg: {advice}"}
    }


def folder_of(tool_use_id: str) -> Path:
    """Return the folder of a command, where its verdict is kept for the second hook."""
    return _top() / tool_use_id


def _fields(payload: object, events: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(payload, dict):
        raise InvalidInput("standard input", "is not a JSON object", hint=_UPDATE)
    if payload.get("hook_event_name") not in events:
        got = payload.get("hook_event_name")
        raise InvalidInput(
            "hook_event_name", f"is {got!r}, not {' or '.join(events)}", hint="see to which event it is hooked"
        )
    if not isinstance(payload.get("tool_name"), str):
        raise InvalidInput("tool_name", "is not a text", hint=_UPDATE)
    return payload


def _id(fields: dict[str, Any]) -> str:
    found = fields.get("tool_use_id")
    if not isinstance(found, str) or not _ID.fullmatch(found):
        raise InvalidInput("tool_use_id", f"{found!r} is not a name of letters, digits, _ and -", hint=_UPDATE)
    return found


def _managed(command: str, launcher: str, folder: Path) -> str:
    hint, command = take_hint(command)
    options = ["--id", folder.name, "--tool", _TOOL, "--verdict", "json", "--verdict-fd", "9"]
    if hint is not None:
        options += ["--hint", hint]
    environment, cwd, verdict = (shlex.quote(str(folder / name)) for name in ("env", "cwd", "verdict"))
    return (
        f'AGENTCG_BASH_ENV="$BASH_ENV" BASH_ENV={environment} '
        f'{shlex.join([launcher, *options])} -- "${{BASH:-bash}}" -c {shlex.quote(command)} 9>{verdict}\n'
        f'agentcg_status=$?; [ -s {cwd} ] && cd -- "$(cat {cwd})"; (exit "$agentcg_status")'
    )


def _environment(folder: Path) -> str:
    """Return what bash reads before the command, so that the command itself stays as the policy is to see it."""
    leave = shlex.quote(f"pwd -P >{shlex.quote(str(folder / 'cwd'))}")
    # Its own, if there was one, is read too; shells below this one have nothing of ours.
    return (
        "BASH_ENV=$AGENTCG_BASH_ENV; unset AGENTCG_BASH_ENV\n"
        'if [ -n "$BASH_ENV" ]; then . "$BASH_ENV"; else unset BASH_ENV; fi\n'
        f"trap {leave} EXIT\n"
    )


def _top() -> Path:
    return Path(tempfile.gettempdir()) / f"agentcg-hook-{os.getuid()}"


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder that only we may write to: the one above it lies where everybody may make one."""
    return _is_private(folder.parent) and _is_private(folder)


def _is_private(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _make(name: str) -> Path:
    folder = folder_of(name)
    try:
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        if _is_private(folder.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        if not _is_ours(folder):  # Before anything is written: what is there may be a link.
            raise AgentcgError(f"{folder.parent} belongs to somebody else", hint="remove it, or set TMPDIR")
        (folder / "verdict").touch(mode=0o600)
        (folder / "env").write_text(_environment(folder))
    except OSError as error:
        raise AgentcgError(
            f"cannot make {folder}: {error.strerror}", hint="set TMPDIR to where this user may write"
        ) from error
    return folder
