# SPDX-License-Identifier: Apache-2.0
"""``agentcg hook``: what agent runtimes call before and after a tool call."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from agentcg.errors import InvalidInput
from agentcg.launcher import launcher_path
from agentcg.runtimes import claude_code

__all__ = ["hook"]


@click.group()
def hook() -> None:
    """Have the shell commands of Claude Code run as calls, by its hooks.

    \b
    In .claude/settings.json (docs/runtimes.md has all of it):
        "PreToolUse":  [{"matcher": "Bash", "hooks": [{"type": "command", "command": "agentcg hook pre-tool-use"}]}],
        "PostToolUse": [{"matcher": "Bash", "hooks": [{"type": "command", "command": "agentcg hook post-tool-use"}]}]
    """


@hook.command("pre-tool-use")
@click.option(
    "--permission",
    type=click.Choice(["none", "allow", "ask"]),
    default="none",
    show_default=True,
    help="Whether the command may run: leave it to the runtime, or tell it.",
)
def pre_tool_use(permission: claude_code.Permission) -> None:
    """Answer a PreToolUse payload on standard input with the command as a call."""
    _answer(claude_code.manage(_payload(), launcher_path(), permission=permission))


@hook.command("post-tool-use")
def post_tool_use() -> None:
    """Answer a PostToolUse or PostToolUseFailure payload on standard input with the call's advice, if there is any."""
    _answer(claude_code.tell(_payload()))


def _payload() -> Any:
    try:
        return json.load(sys.stdin.buffer)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            "standard input", f"is not JSON: {error}", hint="the runtime writes the payload there"
        ) from error


def _answer(answer: dict[str, Any] | None) -> None:
    if answer is not None:
        click.echo(json.dumps(answer))
