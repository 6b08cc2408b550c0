# SPDX-License-Identifier: Apache-2.0
"""``agentcg top``."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Iterator

import click
import msgspec
from rich.console import Console

from agentcg.api.types import SnapshotPart
from agentcg.top.frame import frame
from agentcg.top.rows import rows_of
from agentcg.top.terminal import Source, interactive, watch
from agentcg.units import parse_duration

__all__ = ["top"]


@click.command()
@click.option("--socket", help="The daemon's socket. [AGENTCG_SOCKET]")
@click.option("--every", default="2s", show_default=True, metavar="DURATION", help="How often to look.")
@click.option("--once", is_flag=True, help="Look once.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each look.")
def top(socket: str | None, every: str, once: bool, as_json: bool) -> None:
    """Show tenants, sessions and calls as they are, until q is pressed.

    m, c and t sort by memory, CPU and time, / filters, the arrows select a call or a session. f freezes it or thaws it,
    k ends a call, and a asks for other limits for it, in the words of AGENT_RESOURCE_HINT. Without a terminal one frame
    is printed after the other.
    """
    every_sec = parse_duration("--every", every)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # A terminal that has not all characters shows the others.
    console, source = Console(), Source(socket)
    with contextlib.closing(source), contextlib.suppress(KeyboardInterrupt):
        if not once and not as_json and interactive(console):
            watch(source, console, every_sec)
            return
        before = None
        for now in _looks(source, every_sec, once):
            if as_json:
                click.echo(msgspec.json.encode(now))
                continue
            for line in frame(now, rows_of(now, before), None, console.width, None):
                console.print(line, no_wrap=True, crop=True)
            before = now


def _looks(source: Source, every_sec: float, once: bool) -> Iterator[SnapshotPart]:
    yield source.look()
    while not once:
        time.sleep(every_sec)
        yield source.look()
