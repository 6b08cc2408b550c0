# SPDX-License-Identifier: Apache-2.0
"""``agentcg trace stats``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentcg.cli.trace_sources import read_all, shown
from agentcg.jsonkeys import camel_keys
from agentcg.policy.load import load
from agentcg.trace.summary import Summary
from agentcg.units import format_duration, format_size

__all__ = ["stats"]

_QUANTILES = ("p50", "p95", "max")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _share(value: float) -> str:
    return f"{value:.1%}"


_FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "duration_sec": ("length", format_duration),
    "calls": ("calls", _number),
    "tool_share": ("time in calls", _share),
    "peak": ("memory peak", format_size),
    "mean": ("memory mean", format_size),
    "peak_over_mean": ("peak / mean", _number),
    "steps_per_min": ("steps of 50 MB a minute", _number),
    "largest_rise": ("largest rise between two samples", format_size),
    "largest_fall": ("largest fall", format_size),
    "cpu_sec": ("CPU time", format_duration),
    "cpu_mean": ("CPUs used, mean", _number),
    "cpu_p95": ("CPUs used between two samples, P95", _number),
}


@click.command()
@click.argument("sources", metavar="FILE|DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print all of it as one JSON object.")
def stats(sources: Sequence[Path], as_json: bool) -> None:
    """Show what recorded sessions came to: memory, CPU time, and what their calls took.

    FILE|DIR is a recording, a directory of them, or anything that 'agentcg trace import' reads. What cannot be read is
    named at the end, and the exit status is 1.
    """
    summary = Summary(load("default"))
    failures: list[str] = []
    for recording in read_all(sources, failures):
        summary.add(recording)
    if summary.sessions:
        found = summary.to_dict()
        if as_json:
            click.echo(json.dumps(camel_keys(found), indent=2))
        else:
            _show(Console(highlight=False), found)
    for failure in failures:
        click.echo(f"agentcg: {failure}", err=True)
    if failures:
        sys.exit(1)


def _show(console: Console, found: dict[str, Any]) -> None:
    console.print(_figures(found))
    console.print("", *_pooled(found), "", sep="\n")
    tools = _table("tool", "timed", "P50", "P95", "max")
    for item in found["tools"]:
        spread = item["duration_sec"]
        tools.add_row(Text(shown(item["tool"])), str(spread["n"]), *_quantiles(spread, format_duration))
    console.print(tools)
    if found["classes"]:
        classes = _table("class of shell command", "timed", "of their time", "memory rise P50", "P95", "max")
        for item in found["classes"]:
            share, rises = item["share_of_sec"], item["memory_rise"]
            classes.add_row(item["class"], str(item["n"]), _known(share, _share), *_quantiles(rises, format_size))
        console.print("", classes, sep="\n")


def _figures(found: dict[str, Any]) -> Table:
    names = [session["name"] for session in found["sessions"]]
    single = len(names) == 1
    table = _table(shown(names[0]), "") if single else _table(f"{len(names)} sessions", "known", "P50", "P95", "max")
    for key, (label, form) in _FIGURES.items():
        spread = found["figures"][key]
        if spread is not None:
            table.add_row(label, *([form(spread["max"])] if single else [str(spread["n"]), *_quantiles(spread, form)]))
    return table


def _pooled(found: dict[str, Any]) -> Iterable[str]:
    calls, pooled = found["calls"], found["pooled"]
    timed, share, own = calls["duration_sec"], pooled["tool_share"], pooled["own_tool_share"]
    if timed:
        yield (
            f"{timed['n']} calls with a known duration: {_share(calls['under_100_ms'])} took less than 100 ms, "
            f"{_share(calls['under_1_sec'])} less than 1 s, {_share(calls['over_10_sec'])} more than 10 s, "
            f"{_share(calls['over_60_sec'])} more than 1 min; P99 {format_duration(timed['p99'])}."
        )
    if calls["estimated"]:
        yield f"Of {calls['estimated']} calls it is only known between which times they ran."
    if share is not None:
        without = "" if own == share else f", {_share(own)} without sub-agents and the web"
        yield f"Calls ran for {_share(share)} of all time{without}; {calls['overlaps']} began before another had ended."
    if pooled["samples"]:
        yield (
            f"{pooled['samples']} samples over {format_duration(pooled['sampled_sec'])}. "
            f"{_share(calls['without_sample'])} of the calls contain none, {_share(calls['with_one_sample'])} one."
        )
    if pooled["steps"]:
        yield (
            f"A call ran in {_share(pooled['steps_in_calls'])} of {pooled['steps']} steps of 50 MB. Without the first "
            f"10 s and the last 5 s of sessions there are {_known(pooled['settled_steps_per_min'], _number)} a minute."
        )
    if calls["exit_codes"]:
        yield f"Known exit codes: {', '.join(f'{code}: {count}' for code, count in calls['exit_codes'].items())}."


def _known(value: float | None, form: Callable[[float], str]) -> str:
    return "–" if value is None else form(value)


def _quantiles(spread: dict[str, float] | None, form: Callable[[float], str]) -> list[str]:
    return ["–" if spread is None else form(spread[label]) for label in _QUANTILES]


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(Text(heading), justify="right" if number else "left", no_wrap=not number)
    return table
