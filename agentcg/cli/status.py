# SPDX-License-Identifier: Apache-2.0
"""``agentcg status``."""

from __future__ import annotations

import dataclasses
import json
import time

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agentcg.api.client import connect
from agentcg.units import format_duration, format_size

__all__ = ["status"]


@click.command()
@click.option("--socket", help="The daemon's socket. [AGENTCG_SOCKET]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(socket: str | None, as_json: bool) -> None:
    """Show the daemon, its sessions and the calls that are running."""
    with connect(socket) as client:
        state, sessions, calls = client.status(), client.sessions(), client.calls()
    if as_json:
        found = {"status": state, "sessions": sessions, "calls": calls}
        click.echo(json.dumps(found, default=dataclasses.asdict, indent=2))
        return
    click.echo(
        f"agentcg {state.version}, pid {state.pid}, up {format_duration(time.time() - state.started)}, "
        f"policy {state.policy}, root {state.root}"
    )
    limited = ", ".join(state.controllers) or "nothing"
    click.echo(f"limits by {limited}" + (f"; missing: {', '.join(state.missing)}" if state.missing else ""))
    click.echo(
        f"{state.sessions} sessions, {state.calls} calls; since the start {state.callsBegun} begun, "
        f"{state.callsEnded} ended, {state.callsAdopted} adopted, {state.refused} refused"
    )
    console = Console()
    if sessions:
        table = Table("session", "protected", "memory", "of", "calls", box=None)
        for session in sessions:
            budget = format_size(session.budget.memoryMax)
            memory = format_size(session.memoryCurrent) if session.memoryCurrent is not None else "?"
            protected = "yes" if session.protected else ""
            table.add_row(session.session, protected, memory, budget, str(session.calls))
        console.print(table)
    if calls:
        table = Table("call", "class", "for", "memory", "of", "pids", "command", box=None)
        for call in calls:
            memory = format_size(call.memoryCurrent) if call.memoryCurrent is not None else "?"
            age = format_duration(time.time() - call.started)
            limit = format_size(call.limits.memoryMax)
            command = escape(repr(call.command[:60])[1:-1])
            table.add_row(call.call, call.callClass, age, memory, limit, str(call.pidsCurrent), command)
        console.print(table)
