# SPDX-License-Identifier: Apache-2.0
"""Tables of a page: what was run, and what the arms came to."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

from agentcg.report.groups import Group
from agentcg.report.marks import Table, short
from agentcg.report.summary import ArmSummary, Summary, describe_all, format_estimate
from agentcg.statistics import Estimate
from agentcg.units import format_duration, format_size

__all__ = ["arms_table", "description", "verdict"]

_LOST_MAX = 3
"""Of who did not finish, beside how many did; another table has all."""
_OPTION_MAX = 300


def verdict(summary: Summary) -> Table:
    """Return the arms in few words, and the best of them against each other."""
    rows = [
        (
            arm.name,
            _estimate(arm.protected, arm.protected_rounds),
            _estimate(arm.others, arm.others_rounds),
            "; ".join([f"{arm.finished} of {arm.sessions}", *_lost(arm)[:_LOST_MAX]]),
            _compared(arm, summary.best),
        )
        for arm in summary.arms
    ]
    columns = (
        "Arm",
        "Protected sessions, × recorded",
        "Other sessions, × recorded",
        "Finished",
        f"{summary.best} against it",
    )
    caption = "Medians over the rounds with 95 % bootstrap intervals, of sessions that finished"
    return Table(caption, columns, tuple(rows))


def _compared(arm: ArmSummary, best: str) -> str:
    if arm.name == best:
        return "–"
    if not arm.against:
        return "no round has both"
    first = arm.against[0]
    if not first.differs:
        return f"no difference (n = {first.rounds})"
    return f"{'' if first.clear else 'not clear: '}{describe_all(arm.against)}"


def _estimate(estimate: Estimate | None, rounds: int) -> str:
    return "–" if estimate is None else f"{format_estimate(estimate)}, n = {rounds}"


def _lost(arm: ArmSummary) -> list[str]:
    return [f"{name} {times} ×" for name, times in arm.lost.items()]


def description(group: Group) -> tuple[Table, ...]:
    """Return what was run on what, and with which sessions."""
    run = group.description
    rows = [
        ("Run", ", ".join(str(each.path) for each in group.runs)),
        ("Mode", run.mode),
        ("Begun", ", ".join(each.description.created for each in group.runs)),
        ("agentcg", run.agentcg),
        ("Machine", f"{run.machine}; kernel {run.kernel}; {run.cpus:g} CPUs"),
        ("Memory of all", format_size(run.memory_max)),
        ("Speed", f"{run.speed:g} times the recorded pace"),
        ("Seed", ", ".join(str(each.description.seed) for each in group.runs)),
        ("Rounds", f"{len(group.results)} of {sum(each.description.rounds for each in group.runs)} have results"),
        *([] if run.sessions else [("Sessions", "each round has drawn its own")]),
        *((key, _option(value)) for key, value in run.options.items()),
    ]
    columns = ("Session", "Recording", "Protected", "Reserved", "Recorded peak", "Recorded length", "Calls")
    sessions = tuple(
        (
            each.name,
            each.recording,
            "yes" if each.protected else "no",
            "–" if each.reserve is None else format_size(each.reserve),
            format_size(each.peak),
            format_duration(each.recorded_sec),
            str(each.calls),
        )
        for each in run.sessions or ()
    )
    what = Table("What was run on what", ("", ""), tuple(rows))
    return (what, Table("Sessions", columns, sessions)) if run.sessions else (what,)


def _option(value: Any) -> str:
    return short(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), _OPTION_MAX)


def arms_table(group: Group, summary: Summary) -> Table:
    """Return what became of the sessions in each arm, in all rounds together."""
    rows = []
    for arm in summary.arms:
        results = [each[arm.name].result for each in group.results if arm.name in each]
        peaks = [result.memory_peak for result in results if result.memory_peak is not None]
        walls = [result.wall_sec for result in results]
        rows.append(
            (
                arm.name,
                str(arm.rounds),
                f"{arm.finished} of {arm.sessions}",
                ", ".join(_lost(arm)) or "nobody",
                str(arm.oom_kills),
                format_size(median(peaks)) if peaks else "–",
                f"{format_duration(median(walls))}, {format_duration(min(walls))} to {format_duration(max(walls))}",
            )
        )
    columns = (
        "Arm",
        "Rounds",
        "Finished",
        "Did not finish",
        "OOM kills",
        "Memory peak, median",
        "Took, median and range",
    )
    return Table("Arms, all rounds together", columns, tuple(rows))
