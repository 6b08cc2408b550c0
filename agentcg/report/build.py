# SPDX-License-Identifier: Apache-2.0
"""Runs as what a page shows of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from agentcg.errors import InvalidInput
from agentcg.replay.run_folder import Run
from agentcg.report.agreement import Agreement, agreement
from agentcg.report.compare import Round, drawn, labels, slowdown
from agentcg.report.distributions import call_durations, completion, latencies
from agentcg.report.groups import Group, differences, group_runs
from agentcg.report.lanes import lanes
from agentcg.report.marks import Figure, Table
from agentcg.report.stops import Seen, reasons, stops
from agentcg.report.summary import Summary, summarise
from agentcg.report.tables import arms_table, description, verdict
from agentcg.report.timeline import Timeline, read_timeline
from agentcg.report.turns import turns_table

__all__ = ["Report", "Section", "build", "median_round"]


@dataclass(slots=True)
class Section:
    """Runs that may be looked at as one."""

    title: str
    summary: Summary
    verdict: Table
    """The arms, in few words."""
    what: tuple[Table, ...]
    """What was run on what."""
    shown: str
    """The round that is shown over time."""
    lanes: Mapping[str, Figure]
    """By arm."""
    figures: tuple[Figure, ...]
    turns: Table | None
    """With an LLM server in the loop."""
    stops: tuple[Table, ...]
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """All of a page."""

    sections: list[Section]
    agreements: list[Agreement]
    """Of live runs and their simulations."""
    notes: list[str]

    @property
    def figures(self) -> list[Figure]:
        return [figure for section in self.sections for figure in (*section.lanes.values(), *section.figures)]

    @property
    def all_notes(self) -> list[str]:
        return self.notes + [note for section in self.sections for note in section.notes]


def build(runs: Sequence[Run], number: int | None = None) -> Report:
    """Return what is to be shown of runs.

    :param number: the round that is shown over time, from 1; the median one if left out
    :raises InvalidInput: if a run has finished nothing, or has no such round
    """
    groups = group_runs(runs)
    notes = [warning for run in runs for warning in run.warnings]
    agreements = []
    for at, group in enumerate(groups):
        for other in groups[at + 1 :]:
            if (pair := agreement(group, other)) is not None:
                agreements.append(pair)
                continue
            why = "; ".join(differences(group.description, other.description)) or "one of their runs differs"
            notes.append(f"{group.title} and {other.title} are not compared: {why}.")
    return Report([_section(group, number, at) for at, group in enumerate(groups, 1)], agreements, notes)


def median_round(rounds: Sequence[Round]) -> int:
    """Return the index of the round that is closest to the medians of all arms, of those with the most arms."""
    most = max(len(each) for each in rounds)
    middles = {}
    for arm in {arm for each in rounds for arm in each}:
        times = [_time(each, arm) for each in rounds]
        middles[arm] = median([time for time in times if time is not None] or [1.0])

    def distance(each: Round) -> float:
        times = ((arm, _time(each, arm)) for arm in each)
        return sum(1.0 if time is None else abs(math.log(time / middles[arm])) for arm, time in times)

    return min((at for at, each in enumerate(rounds) if len(each) == most), key=lambda at: distance(rounds[at]))


def _time(each: Round, arm: str) -> float | None:
    """Of the protected sessions, or of the others where none is or none finished."""
    result = [each[arm]] if arm in each else []
    return next(iter(slowdown(result, protected=True) + slowdown(result, protected=False)), None)


def _section(group: Group, number: int | None, position: int) -> Section:
    rounds = group.rounds
    summary = summarise(rounds, group.arms)
    arms = [arm.name for arm in summary.arms]
    at = median_round(rounds) if number is None else number - 1
    if not 0 <= at < len(rounds):
        raise InvalidInput("--round", f"there is no round {number}", hint=f"{group.title} has {len(rounds)}")
    own = drawn(rounds)
    named: dict[str, None] = {}
    seen: dict[str, Seen] = {arm: Seen() for arm in arms}
    shown: dict[str, Timeline] = {}
    notes = [f"{arm} has not finished any round, and is left out." for arm in group.arms if arm not in arms]
    for index, each in enumerate(rounds):
        for arm, result in each.items():
            kinds = labels(result, drawn=own)
            named |= dict.fromkeys(kinds.values())
            seen[arm].add_failures(result)
            try:
                timeline = read_timeline(group.events(index, arm))
            except InvalidInput as error:
                notes.append(f"The events of {arm}, {group.name(index)}, are left out: {error.line}.")
                continue
            seen[arm].add(timeline, kinds)
            if index == at:
                shown[arm] = timeline
    return Section(
        title=group.title,
        summary=summary,
        verdict=verdict(summary),
        what=(*description(group), arms_table(group, summary)),
        shown=group.name(at) + ("" if number else ", the median one" if len(rounds) > 1 else ""),
        lanes={
            arm: lanes(f"lanes-{position}-{index}", f"{arm}, {group.name(at)}", timeline, rounds[at][arm])
            for index, (arm, timeline) in enumerate(shown.items(), 1)
        },
        figures=_figures(rounds, arms, seen, position),
        turns=turns_table(rounds, arms),
        stops=(stops(seen, named), reasons(seen)),
        notes=notes,
    )


def _figures(
    rounds: Sequence[Round], arms: Sequence[str], seen: Mapping[str, Seen], position: int
) -> tuple[Figure, ...]:
    durations = {arm: each.durations for arm, each in seen.items()}
    made = (
        completion(f"completion-{position}", rounds, arms),
        latencies(f"latency-{position}", rounds, arms),
        call_durations(f"durations-{position}", durations),
    )
    return tuple(figure for figure in made if figure is not None)
