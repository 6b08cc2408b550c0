# SPDX-License-Identifier: Apache-2.0
"""Who was held, frozen, throttled, killed or asked to give way, how often and why: the arms side by side."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agentcg.replay.result import ArmResult
from agentcg.report.marks import Table, short
from agentcg.report.timeline import Timeline
from agentcg.units import format_duration

__all__ = ["Seen", "reasons", "stops"]

KINDS = ("held", "frozen", "throttled", "yielded", "killed")
REASONS_MAX = 40


@dataclass(slots=True)
class Seen:
    """What was seen of one arm in all its rounds."""

    rounds: int = 0
    durations: list[float] = field(default_factory=list)
    """Of calls that ended, seconds."""
    stopped: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By the label of the session and by kind."""
    lasted: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Milliseconds of it, all together."""
    why: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By kind and reason, in which each number is #."""
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    """A reason as it was said."""

    def add(self, timeline: Timeline, labels: Mapping[str, str]) -> None:
        """Count what happened in one more round.

        :param labels: what stands for each session in the tables
        """
        self.rounds += 1
        for lane in timeline.sessions.values():
            self.durations += [span.end - span.begin for span in lane.spans if span.end is not None]
            for stop in lane.stops:
                key = (labels.get(lane.name, lane.name), stop.kind)
                self.stopped[key] += 1
                if stop.end is not None:
                    self.lasted[key] += round(1e3 * (stop.end - stop.begin))
                self._reason(stop.kind, stop.why)

    def add_failures(self, result: ArmResult) -> None:
        """Count the calls and sessions of a result that did not end well, with what their agents were told."""
        for session in result.sessions:
            if session.state != "finished":
                self._reason(f"session {session.state.replace('_', ' ')}", session.reason)
            for call in session.failed:
                self._reason(f"call ended: {call.outcome.replace('_', ' ')}", call.advice)

    def _reason(self, kind: str, text: str) -> None:
        key = (kind, re.sub(r"\d+(\.\d+)?", "#", text))
        self.why[key] += 1
        self.examples.setdefault(key, text)


def stops(seen: Mapping[str, Seen], labels: Iterable[str]) -> Table:
    """Return how often sessions were stopped and for how long, per round, a column for each arm."""
    rows = []
    for label in labels:
        for kind in KINDS:
            cells = [_per_round(each, label, kind) for each in seen.values()]
            if any(cell != "–" for cell in cells):
                rows.append((label, kind, *cells))
    return Table("How often, and for how long, in one round on the average", ("Session", "What", *seen), tuple(rows))


def _per_round(seen: Seen, label: str, kind: str) -> str:
    times = seen.stopped[label, kind]
    if not times:
        return "–"
    lasted = seen.lasted[label, kind]
    often = times / seen.rounds
    return (f"{often:.2g} ×" if often < 10 else f"{often:.0f} ×") + (
        f", {format_duration(lasted / 1e3 / seen.rounds)}" if lasted else ""
    )


def reasons(seen: Mapping[str, Seen]) -> Table:
    """Return why, the most frequent first, with how often that was said in all rounds together."""
    examples = {key: text for each in reversed(list(seen.values())) for key, text in each.examples.items()}
    all_times: Counter[tuple[str, str]] = sum((each.why for each in seen.values()), Counter())
    rows = []
    for key, _ in all_times.most_common(REASONS_MAX):
        said = short(examples[key], 300) or "nobody said why"
        rows.append((key[0], said, *(_times(each.why[key]) for each in seen.values())))
    left = len(all_times) - len(rows)
    caption = "Why, in all rounds together" + (f"; {left} rarer reasons are left out" if left else "")
    return Table(f"{caption}. Reasons that differ in numbers alone count as one", ("What", "Why", *seen), tuple(rows))


def _times(number: int) -> str:
    return f"{number} ×" if number else "–"
