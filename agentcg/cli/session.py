# SPDX-License-Identifier: Apache-2.0
"""``agentcg session``."""

from __future__ import annotations

import dataclasses
import json
import sys

import click

from agentcg.api import interfaces as wire
from agentcg.api import types
from agentcg.api.client import connect
from agentcg.sandbox.agent import AgentSession, exit_status
from agentcg.units import format_size, parse_size

__all__ = ["session"]

_socket = click.option("--socket", help="The daemon's socket. [AGENTCG_SOCKET]")
_memory = click.option("--memory", metavar="SIZE", help="What it may use in all.")
_protected = click.option("--protected", is_flag=True, help="Reserve its --memory from the start.")
_tenant = click.option("--tenant", help="Whose session it is; only operators may say.")


@click.group()
def session() -> None:
    """Open, list and close sessions, and run an agent in one."""


@session.command("open")
@click.argument("name", required=False)
@_memory
@_protected
@_tenant
@_socket
def open_(name: str | None, memory: str | None, protected: bool, tenant: str | None, socket: str | None) -> None:
    """Open a session that stays until it is closed, and print its full name."""
    with connect(socket) as client:
        reply = client.invoke(
            wire.SessionInterface,
            "Open",
            session=name,
            tenant=tenant,
            budget=types.Budget(memoryMax=parse_size("--memory", memory)) if memory else None,
            protected=protected,
        )
    for note in reply["notes"]:
        click.echo(f"agentcg: {note}", err=True)
    click.echo(reply["session"].session)


@session.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_socket
def list_(as_json: bool, socket: str | None) -> None:
    """List the sessions that you may see."""
    with connect(socket) as client:
        sessions = client.sessions()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in sessions], indent=2))
        return
    for one in sessions:
        kind = "protected" if one.protected else "shared"
        click.echo(f"{one.session}  {kind}  {one.calls} calls  {format_size(one.budget.memoryMax)}")


@session.command("close")
@click.argument("name")
@_socket
def close(name: str, socket: str | None) -> None:
    """End all that runs in the session NAME, and remove it."""
    with connect(socket) as client:
        for verdict in client.close_session(name):
            click.echo(f"{verdict.call}: {verdict.outcome}")


@session.command("run", context_settings={"ignore_unknown_options": True})
@click.option("--name", help="The session's name.")
@_memory
@_protected
@click.option("--transparent", is_flag=True, help="Make a call of each command that the agent executes by itself.")
@_tenant
@_socket
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    name: str | None,
    memory: str | None,
    protected: bool,
    transparent: bool,
    tenant: str | None,
    socket: str | None,
    command: tuple[str, ...],
) -> None:
    """Run an agent, COMMAND, in a session of its own that is closed when it ends.

    The agent lives in the session beside its calls and is not ended for their sake. AGENTCG_SESSION tells it, and
    every `agentcg run` and agentcg-exec below it, which session is theirs. With --transparent it needs neither: the
    kernel sees what it executes, and each shell with -c (or what the policy says) becomes a call.
    """
    with connect(socket) as client:
        limit = parse_size("--memory", memory) if memory else None
        with AgentSession(
            client, name, memory_max=limit, protected=protected, transparent=transparent, tenant=tenant
        ) as opened:
            for note in opened.notes:
                click.echo(f"agentcg: {note}", err=True)
            try:
                status = exit_status(opened.start(command).wait())
            except OSError as error:
                click.echo(f"agentcg: {command[0]}: {error.strerror}", err=True)
                status = 127 if isinstance(error, FileNotFoundError) else 126
    sys.exit(status)
