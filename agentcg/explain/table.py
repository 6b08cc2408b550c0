# SPDX-License-Identifier: Apache-2.0
"""An explanation for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentcg.explain.result import MEANING, Explanation, Kind
from agentcg.units import format_duration

__all__ = ["render"]

FRAMES = 6
"""Of a stack, the innermost so many are shown."""
_BAR = 24
_STYLES = {Kind.RUN: "green", Kind.QUEUE: "yellow", Kind.SLEEP: "dim"}


def render(seen: Explanation) -> RenderableType:
    """Return what a terminal shows: a line, a row for each kind of time, and the longest waits."""
    ended = ", then it was over" if seen.ended else ""
    head = f"{seen.call}: {format_duration(seen.seconds)}{ended}, {seen.tasks} tasks now"
    times = Table(box=None, pad_edge=False)
    times.add_column("TASK TIME", justify="right")
    times.add_column("SHARE", justify="right")
    times.add_column("")
    times.add_column("")
    for kind in Kind:
        share, style = seen.share(kind), _STYLES.get(kind, "red")
        times.add_row(
            format_duration(seen.spent[kind]),
            f"{100 * share:.0f} %",
            Text("█" * round(_BAR * share), style=style),
            MEANING[kind],
        )
    parts: list[RenderableType] = [Text(head, style="bold"), times]
    if seen.cpu_max_seconds:
        parts.append(Text(f"cpu.max held it back for {format_duration(seen.cpu_max_seconds)} of that"))
    if seen.stacks:
        parts.append(Text("longest waits", style="bold"))
    for stack in seen.stacks:
        where = " < ".join(stack.frames[:FRAMES]) or "unknown"
        what = stack.kind.name.lower()
        parts.append(Text(f"{format_duration(stack.seconds):>8}  {stack.count:>5} x  {what}: {where}"))
    return Group(*parts)
