# SPDX-License-Identifier: Apache-2.0
"""Who was held, frozen, throttled, killed or asked to give way, how often and why: the arms side by side."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
    """By session and kind."""
    lasted: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Milliseconds of it, all together."""
    why: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By kind and reason, in which each number is #."""
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    """A reason as it was said."""

    def add(self, timeline: Timeline) -> None:
        """Count what happened in one more round."""
        self.rounds += 1
        for lane in timeline.sessions.values():
            self.durations += [span.end - span.begin for span in lane.spans if span.end is not None]
            for stop in lane.stops:
                self.stopped[lane.name, stop.kind] += 1
                if stop.end is not None:
                    self.lasted[lane.name, stop.kind] += round(1e3 * (stop.end - stop.begin))
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


def stops(seen: Mapping[str, Seen], sessions: Iterable[str]) -> Table:
    """Return how often each session was stopped and for how long, per round, a column for each arm."""
    rows = []
    for session in sessions:
        for kind in KINDS:
            cells = [_per_round(each, session, kind) for each in seen.values()]
            if any(cell != "–" for cell in cells):
                rows.append((session, kind, *cells))
    return Table("How often, and for how long, in one round on the average", ("Session", "What", *seen), tuple(rows))


def _per_round(seen: Seen, session: str, kind: str) -> str:
    times = seen.stopped[session, kind]
    if not times:
        return "–"
    lasted = seen.lasted[session, kind]
    return f"{times / seen.rounds:.3g} ×" + (f", {format_duration(lasted / 1e3 / seen.rounds)}" if lasted else "")


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


def session_names(results: Sequence[ArmResult]) -> list[str]:
    """Return the names of the sessions in the order in which they are first named, those that are protected first."""
    sessions = [session for result in results for session in result.sessions]
    first = [session.name for session in sessions if session.protected]
    return list(dict.fromkeys(first + [session.name for session in sessions]))
