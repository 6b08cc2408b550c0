# SPDX-License-Identifier: Apache-2.0
"""``agentcg explain``."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable

import click
from rich.console import Console
from rich.live import Live

from agentcg.api.client import Client, connect
from agentcg.errors import AgentcgError, InvalidInput
from agentcg.explain.table import render
from agentcg.explain.task_time import TaskTime
from agentcg.units import parse_duration

__all__ = ["explain"]


@click.command()
@click.argument("call")
@click.option("--socket", help="The daemon's socket. [AGENTCG_SOCKET]")
@click.option("--for", "for_", default="10s", show_default=True, metavar="DURATION", help="How long to look.")
@click.option("--every", default="1s", show_default=True, metavar="DURATION", help="How often to show it meanwhile.")
@click.option("--stacks", default=5, show_default=True, type=click.IntRange(0, 100), help="How many waits to name.")
@click.option("--json", "as_json", is_flag=True, help="Print one object of JSON, at the end.")
def explain(call: str, socket: str | None, for_: str, every: str, stacks: int, as_json: bool) -> None:
    """Show where the time of a running call goes, until it is over or Ctrl-C.

    On a CPU, waiting for one, in direct reclaim, throttled at memory.high, waiting for I/O, frozen, or asleep; and the
    stacks at which its tasks wait longest. CALL is its full name, or the last part of it.

    \b
        agentcg explain u0/fix-123/c-09ef08a8b431
        agentcg explain --for 30s --json c-09ef08a8b431
    """
    for_sec, every_sec = parse_duration("--for", for_), parse_duration("--every", every)
    with connect(socket) as client:
        name, cgroup = _find(client, call)
    console = Console()
    with TaskTime(name, cgroup) as watched:
        if as_json or not console.is_terminal:
            _wait(watched, for_sec, every_sec)
            seen = watched.look(stacks)
            if as_json:
                click.echo(json.dumps(seen.to_wire()))
            else:
                console.print(render(seen))
            return
        with Live(console=console, auto_refresh=False) as live:

            def show() -> None:
                live.update(render(watched.look(stacks)), refresh=True)

            _wait(watched, for_sec, every_sec, show)
            show()


def _find(client: Client, call: str) -> tuple[str, str]:
    """Return the full name of a call and its cgroup. :raises InvalidInput: if there is none, or more than one"""
    found = [one for one in client.calls() if call in (one.call, one.call.rpartition("/")[2])]
    if len(found) != 1:
        names = ", ".join(one.call for one in found)
        why = f"is the name of more than one: {names}" if found else "is no call that runs: see `agentcg status`"
        raise InvalidInput(f"CALL {call!r}", why)
    if found[0].cgroup is None:
        raise AgentcgError("the daemon does not say where its cgroup is", hint="it is of an older version: restart it")
    return found[0].call, found[0].cgroup


def _wait(watched: TaskTime, for_sec: float, every_sec: float, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Wait for the end of the time or of the call, or for Ctrl-C; do something again and again meanwhile."""
    end = time.monotonic() + for_sec
    with contextlib.suppress(KeyboardInterrupt):
        while not watched.over and (left := end - time.monotonic()) > 0:
            time.sleep(min(every_sec, left))
            if time.monotonic() < end:
                meanwhile()
