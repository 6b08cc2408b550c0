# SPDX-License-Identifier: Apache-2.0
"""What the figure of one arm over time shows, as tables."""

from __future__ import annotations

from agentcg.report.marks import Table, short
from agentcg.report.timeline import Timeline
from agentcg.units import format_duration, format_size

__all__ = ["call_table", "session_table"]


def session_table(timeline: Timeline) -> Table:
    """Return how each session went."""
    rows = []
    for lane in timeline.sessions.values():
        peak = max((value for _, value in lane.memory if value is not None), default=None)
        at, state, why = lane.ended or (timeline.end, "did not end", "")
        mean = sum(value or 0.0 for _, value in lane.cpu) / len(lane.cpu) if lane.cpu else None
        rows.append(
            (
                lane.name,
                f"{state.replace('_', ' ')}{': ' * bool(why)}{why}",
                format_duration(at),
                "–" if peak is None else format_size(peak),
                "–" if mean is None else f"{mean:.2f}",
                str(len(lane.spans)),
                str(sum(span.outcome not in ("ok", "") for span in lane.spans)),
            )
        )
    columns = ("Session", "How it ended", "After", "Most memory", "CPUs, mean", "Calls", "Failed")
    return Table("Sessions", columns, tuple(rows))


def call_table(timeline: Timeline) -> Table:
    """Return each call, and what was done to it."""
    rows = []
    for lane in timeline.sessions.values():
        for span in lane.spans:
            done = [stop.kind for stop in lane.stops if stop.call == span.call]
            rows.append(
                (
                    lane.name,
                    short(span.command or span.tool or span.call),
                    f"{span.begin:.2f} s",
                    "–" if span.end is None else format_duration(span.end - span.begin),
                    (span.outcome or "did not end").replace("_", " "),
                    "–" if span.peak is None else format_size(span.peak),
                    ", ".join(f"{done.count(kind)} × {kind}" for kind in dict.fromkeys(done)) or "–",
                )
            )
    columns = ("Session", "Call", "Began", "Took", "Outcome", "Most memory", "What was done to it")
    return Table("Calls", columns, tuple(rows))
