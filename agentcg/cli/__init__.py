# SPDX-License-Identifier: Apache-2.0
"""The command line: a thin skin on the library. Each command is imported when it is used."""

from __future__ import annotations

import importlib
import sys

import click

from agentcg import __version__
from agentcg.errors import AgentcgError

__all__ = ["main"]

_COMMANDS = {
    "attach": "Make a running Docker container a session.",
    "daemon": "Make a cgroup for every tool call that asks for one, until stopped.",
    "detach": "Leave an attached container as it was found.",
    "doctor": "Say what agentcg can enforce on this host, and how to get the rest.",
    "exec": "Run one command as a tool call in an attached container.",
    "explain": "Show where the time of a running call goes.",
    "gateway": "Pass requests on to an LLM server, and know whose they are.",
    "history": "Show past calls, and what calls that are alike came to.",
    "hook": "Have the shell commands of Claude Code run as calls, by its hooks.",
    "mcp": "Run a server of the Model Context Protocol so that each of its tools/call is a call.",
    "policy": "Look at policies: what they say, whether they hold, what they would do.",
    "record": "Run an agent and record what its calls use.",
    "replay": "Replay recorded sessions.",
    "report": "Say which arm of replays is ahead, and show what happened, in one page.",
    "run": "Run one command as a tool call, in a cgroup of its own.",
    "session": "Open, list and close sessions, and run an agent in one.",
    "shim": "Put agentcg-exec in the place of the shells that an agent calls.",
    "status": "Show the daemon, its sessions and the calls that are running.",
    "top": "Show tenants, sessions and calls as they are, until q is pressed.",
    "trace": "Import, check, show and sum up recordings.",
}


class _Commands(click.Group):
    """Finds a command in the module of its name, so that ``agentcg run`` does not load all the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"agentcg.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def _cli() -> None:
    """A cgroup for every tool call of an AI agent: sized, enforced and explained."""


def main() -> None:
    """Run the command line. An error of ours is one line and, where there is one, a hint; the status is 1."""
    try:
        _cli(prog_name="agentcg")
    except AgentcgError as error:
        click.echo(f"agentcg: {error.message}", err=True)
        if error.hint:
            click.echo(f"  hint: {error.hint}", err=True)
        sys.exit(1)
