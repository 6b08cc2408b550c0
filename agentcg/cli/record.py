# SPDX-License-Identifier: Apache-2.0
"""``agentcg record``."""

from __future__ import annotations

import sys

import click

from agentcg.api.client import connect
from agentcg.sandbox.agent import AgentSession, exit_status
from agentcg.sandbox.recording import EventFeed, SessionRecorder
from agentcg.units import parse_duration, parse_size

__all__ = ["record"]


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("-o", "--output", metavar="FILE", required=True, help="Where the recording goes.")
@click.option("--name", help="The session's name, and the recording's.")
@click.option("--memory", metavar="SIZE", help="What the session may use in all.")
@click.option("--every", metavar="DURATION", default="100ms", show_default=True, help="Between two samples.")
@click.option("--socket", help="The daemon's socket. [AGENTCG_SOCKET]")
@click.argument("agent", nargs=-1, required=True, type=click.UNPROCESSED)
def record(
    output: str, name: str | None, memory: str | None, every: str, socket: str | None, agent: tuple[str, ...]
) -> None:
    """Run AGENT in a session of its own and record what it and its tool calls use.

    \b
        agentcg record -o tests.jsonl -- ./my-agent

    Its tool calls are those that it makes through `agentcg run` or agentcg-exec, or asks the daemon for. The exit
    status is AGENT's.
    """
    every_sec = parse_duration("--every", every)
    memory_max = parse_size("--memory", memory) if memory else None
    with connect(socket) as client, connect(socket) as watching:
        feed = EventFeed(watching)
        with (
            AgentSession(client, name, memory_max=memory_max) as session,
            SessionRecorder(client, feed, session.name, output, name=name, every_sec=every_sec) as recorder,
        ):
            for note in session.notes:
                click.echo(f"agentcg: {note}", err=True)
            try:
                process = session.start(agent)
            except OSError as error:
                click.echo(f"agentcg: {agent[0]}: {error.strerror}", err=True)
                sys.exit(127 if isinstance(error, FileNotFoundError) else 126)
            recorder.until_ended(process)
    click.echo(f"agentcg: {output}: {recorder.calls} calls, {recorder.samples} samples", err=True)
    sys.exit(exit_status(process.returncode))
