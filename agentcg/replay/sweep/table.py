# SPDX-License-Identifier: Apache-2.0
"""What a sweep came to: a row for each arm of each configuration, the best first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import mean, median
from typing import Literal, TypeAlias

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentcg.replay.result import ArmResult, SessionResult
from agentcg.replay.run_folder import read_run
from agentcg.replay.sweep.folder import folder_of
from agentcg.replay.sweep.plan import Configuration
from agentcg.replay.sweep.work import Failed
from agentcg.units import format_size

__all__ = ["Metric", "Row", "render", "rows_of"]

Metric: TypeAlias = Literal["completion", "survivors", "others"]

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Row:
    """One arm of one configuration, over its rounds."""

    configuration: str
    """Its folder."""
    arm: str
    memory_max: int
    cpus: float
    agent_memory: int
    rounds: int
    """Those that finished."""
    completion: float | None
    """What the protected sessions took, over the recorded time: the median of all rounds, where who did not finish took
    forever. None if that is as long."""
    others: float | None
    """The same of the others."""
    survivors: float | None
    """The part of the sessions that finished, the mean of the rounds."""
    failed: list[str]
    """Jobs that came to nothing, and why."""


def rows_of(path: Path, configurations: Sequence[Configuration], failed: Sequence[Failed], by: Metric) -> list[Row]:
    """Return what is in a sweep's folder, the best by a metric first."""
    rows = [
        row
        for number, configuration in enumerate(configurations)
        for row in _rows(path, number, configuration, [one for one in failed if one.job.configuration == number])
    ]
    return sorted(rows, key=lambda row: _rank(row, by))


def _rows(path: Path, number: int, configuration: Configuration, failed: Sequence[Failed]) -> list[Row]:
    results = [done.result for done in read_run(path / folder_of(number)).results]
    return [
        _row(
            number,
            configuration,
            spec.name,
            [result for result in results if result.arm == spec.name],
            [f"round {one.job.round}: {one.reason}" for one in failed if one.job.arm == spec],
        )
        for spec in configuration.arms
    ]


def _row(number: int, at: Configuration, arm: str, results: Sequence[ArmResult], failed: list[str]) -> Row:
    shares = [mean(one.state == "finished" for one in result.sessions) for result in results if result.sessions]
    return Row(
        configuration=folder_of(number),
        arm=arm,
        memory_max=at.memory_max,
        cpus=at.cpus,
        agent_memory=at.agent_memory,
        rounds=len(results),
        completion=_slowdown([one for result in results for one in result.sessions if one.protected]),
        others=_slowdown([one for result in results for one in result.sessions if not one.protected]),
        survivors=mean(shares) if shares else None,
        failed=failed,
    )


def _slowdown(sessions: Sequence[SessionResult]) -> float | None:
    times = [inf if one.ratio is None else one.ratio for one in sessions]
    middle = median(times) if times else inf
    return middle if middle < inf else None


def _rank(row: Row, by: Metric) -> tuple[float, float, float]:
    """Less is better. Those that are alike stand in the order of what else counts, and then of their configurations."""
    survivors = -1.0 if row.survivors is None else row.survivors
    completion, others = (inf if value is None else value for value in (row.completion, row.others))
    match by:
        case "completion":
            return completion, -survivors, others
        case "others":
            return others, -survivors, completion
    return -survivors, completion, others


def render(rows: Sequence[Row], by: Metric) -> RenderableType:
    """Return the first rows as a table, and below it what failed."""
    table = Table(title=f"The best by {by}, of {len(rows)}", title_justify="left", box=None, pad_edge=False)
    table.caption = (
        "completion: what the protected sessions took, over the recorded time at this pace, the median; others: the "
        "same of the others; survivors: the part of all that finished"
    )
    table.caption_justify = "left"
    table.add_column("Folder", no_wrap=True)
    table.add_column("Arm", overflow="fold")
    for name in ("Memory", "CPUs", "Agent", "completion", "others", "survivors"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[:_SHOWN]:
        sizes = (format_size(row.memory_max), f"{row.cpus:g}", format_size(row.agent_memory))
        times = (_times(row.completion), _times(row.others))
        survivors = "–" if row.survivors is None else f"{row.survivors:.0%}"
        table.add_row(row.configuration, Text(row.arm), *sizes, *times, survivors)
    lines = [Text(f"… and {len(rows) - _SHOWN} more: --json has all")] if len(rows) > _SHOWN else []
    lost = [Text(f"{row.configuration}, {row.arm}, {reason}", style="red") for row in rows for reason in row.failed]
    lines += sorted(lost, key=str)[:_SHOWN]
    if len(lost) > _SHOWN:
        lines.append(Text(f"… and {len(lost) - _SHOWN} more that failed: --json has all", style="red"))
    return Group(table, *lines)


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} x"
