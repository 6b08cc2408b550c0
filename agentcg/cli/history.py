# SPDX-License-Identifier: Apache-2.0
"""``agentcg history``."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any, get_args

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agentcg.api.types import verdict_to_wire
from agentcg.daemon import DEFAULT_HISTORY
from agentcg.model import Outcome, Verdict
from agentcg.predict.query import BY, By, Filter, Reader
from agentcg.units import format_duration, format_size, parse_duration

__all__ = ["history"]


@click.command()
@click.option("--history", "path", default=DEFAULT_HISTORY, show_default=True, help="The file.")
@click.option("--tool", help="Calls of this tool.")
@click.option("--kind", help="Calls of this kind, such as pytest or 'git status'.")
@click.option("--command", metavar="TEXT", help="Calls with TEXT in their command.")
@click.option("--session", metavar="NAME", help="Calls of this session: NAME, or TENANT/NAME.")
@click.option("--outcome", "outcomes", multiple=True, type=click.Choice(get_args(Outcome)), help="May be repeated.")
@click.option("--since", metavar="DURATION", help="Calls that began in the last 90s, 10m, 2h.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many verdicts to show.")
@click.option("--by", type=click.Choice(list(BY)), help="Show what the calls of each came to, not each call.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: one object a line.")
def history(
    path: str,
    tool: str | None,
    kind: str | None,
    command: str | None,
    session: str | None,
    outcomes: tuple[str, ...],
    since: str | None,
    limit: int,
    by: By | None,
    as_json: bool,
) -> None:
    """Show past calls, the newest first, or what calls that are alike came to.

    \b
        agentcg history --outcome memory_limit --since 2h
        agentcg history --by kind --tool Bash
    """
    begun = None if since is None else time.time() - parse_duration("--since", since)
    asked = Filter(tool, kind, command, session, outcomes, begun)
    with Reader(path) as reader:
        groups = [group.figures() for group in reader.groups(asked, by)] if by else []
        verdicts = [] if by else list(reader.verdicts(asked, limit))
    if as_json:
        for one in groups or map(asdict, map(verdict_to_wire, verdicts)):
            click.echo(json.dumps(one))
    elif not groups and not verdicts:
        click.echo("no such calls")
    else:
        Console().print(_groups(groups, by) if by else _verdicts(verdicts))


def _verdicts(found: list[Verdict]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("began", "call", "outcome"):
        table.add_column(heading)
    for heading in ("took", "peak"):
        table.add_column(heading, justify="right")
    table.add_column("command", overflow="ellipsis", no_wrap=True)
    for verdict in found:
        table.add_row(
            time.strftime("%m-%d %H:%M:%S", time.localtime(verdict.started)),
            escape(str(verdict.ref)),
            verdict.outcome,
            format_duration(verdict.usage.duration_sec),
            _size(verdict.usage.memory_peak),
            escape(_line(verdict.command)),
        )
    return table


def _groups(found: list[dict[str, Any]], by: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(by, overflow="ellipsis", no_wrap=True)
    for heading in ("calls", "well", "took p50", "p95", "most", "peak p50", "p95", "most"):
        table.add_column(heading, justify="right")
    for group in found:
        took, peak = group["durationSec"], group["memoryPeak"]
        table.add_row(
            escape(_line(group["name"])),
            str(group["n"]),
            str(group["outcomes"].get("ok", 0)),
            *(format_duration(took[label]) for label in ("p50", "p95", "max")),
            *(_size(peak[label]) for label in ("p50", "p95", "max")),
        )
    return table


def _line(command: str) -> str:
    return " ".join(command.split())


def _size(size: int | None) -> str:
    return "-" if size is None else format_size(size)
