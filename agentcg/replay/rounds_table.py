# SPDX-License-Identifier: Apache-2.0
"""The table of many rounds: medians with their intervals, one column an arm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from agentcg.replay.arm_spec import title_of
from agentcg.replay.result import SessionResult, TurnsResult
from agentcg.replay.run_folder import FinishedArm
from agentcg.statistics import Estimate, median_of, median_quotient
from agentcg.units import format_size

__all__ = ["render_rounds"]

Rounds = dict[int, list[SessionResult]]
"""The sessions of a group, by round."""


def render_rounds(results: Sequence[FinishedArm], arms: Sequence[str]) -> RenderableType:
    """Return the arms side by side.

    :param arms: their names; the others are compared with the first
    """
    by_arm = {arm: {done.round: done for done in results if done.arm == arm} for arm in arms}
    first, *_ = results
    number = len({done.round for done in results})
    table = Table(
        title=f"{number} rounds of {len(first.result.sessions)} sessions at {first.result.speed:g} times the recorded "
        f"pace, {format_size(first.result.memory_max)} for all",
        title_justify="left",
        caption="in how many rounds; medians of the rounds, and where they lie with 95 % confidence; "
        "x: of the recorded time at this pace; several sessions of a round: the median of those that finished",
        caption_justify="left",
    )
    table.add_column("Sessions", overflow="fold")
    table.add_column("")
    for arm in arms:
        table.add_column(title_of(arm))
    for name, belongs in _groups(results):
        groups: list[Rounds] = [
            {at: [one for one in done.result.sessions if belongs(one)] for at, done in by_arm[arm].items()}
            for arm in arms
        ]
        rows: list[tuple[str, list[Text]]] = [
            ("died", [_died(group) for group in groups]),
            ("not finished", [_unfinished(group) for group in groups]),
            ("calls failed", [_failed(group) for group in groups]),
            ("x", [_estimate(list(_ratios(group).values())) for group in groups]),
            (f"over {title_of(arms[0])}", [_over(group, groups[0], at) for at, group in enumerate(groups)]),
            ("growth P95, ms", [_estimate(_growth(group)) for group in groups]),
        ]
        if any(one.turns is not None for group in groups for sessions in group.values() for one in sessions):
            rows.append(("mean turn, s", [_estimate(_turns(group, lambda turns: turns.mean_sec)) for group in groups]))
            computed = [_estimate(_turns(group, lambda turns: turns.computed_tokens)) for group in groups]
            rows.append(("prompt tokens computed", computed))
        for at, (label, cells) in enumerate(rows):
            table.add_row(Text(name if at == 0 else ""), label, *cells, end_section=at == len(rows) - 1)
    table.add_row("all", "somebody died", *(_died(_all_sessions(by_arm[arm])) for arm in arms))
    table.add_row("", "peak", *(_peak(list(by_arm[arm].values())) for arm in arms))
    return table


def _groups(results: Sequence[FinishedArm]) -> list[tuple[str, Callable[[SessionResult], bool]]]:
    """Each session, if every round has the same; else those that are protected, and the others."""
    names = [[session.name for session in done.result.sessions] for done in results]
    if all(found == names[0] for found in names):
        return [(name, lambda one, name=name: one.name == name) for name in names[0]]  # type: ignore[misc]
    return [("protected", lambda one: one.protected), ("others", lambda one: not one.protected)]


def _all_sessions(done: dict[int, FinishedArm]) -> Rounds:
    return {number: one.result.sessions for number, one in done.items()}


def _in_rounds(group: Rounds, happened: Callable[[SessionResult], bool], style: str) -> Text:
    number = sum(any(map(happened, sessions)) for sessions in group.values())
    return Text(f"{number} of {len(group)}", style=style if number else "green")


def _died(group: Rounds) -> Text:
    return _in_rounds(group, lambda one: one.state == "died", "bold red")


def _unfinished(group: Rounds) -> Text:
    return _in_rounds(group, lambda one: one.state in ("refused", "timed_out", "unanswered"), "red")


def _failed(group: Rounds) -> Text:
    return _in_rounds(group, lambda one: bool(one.failed), "yellow")


def _ratios(group: Rounds) -> dict[int, float]:
    """Of each round in which some have finished."""
    found = {number: [one.ratio for one in sessions if one.ratio is not None] for number, sessions in group.items()}
    return {number: median(ratios) for number, ratios in found.items() if ratios}


def _over(group: Rounds, first: Rounds, at: int) -> Text:
    """Of the rounds in which some have finished under both."""
    if at == 0:
        return Text("")
    ours, theirs = _ratios(group), _ratios(first)
    both = sorted(ours.keys() & theirs.keys())
    if not both or not all(theirs[number] for number in both):
        return Text("–")
    return _text(median_quotient([ours[number] for number in both], [theirs[number] for number in both]))


def _growth(group: Rounds) -> list[float]:
    found = [[one.growth.p95_ms for one in sessions if one.growth.p95_ms is not None] for sessions in group.values()]
    return [median(times) for times in found if times]


def _turns(group: Rounds, value: Callable[[TurnsResult], float | None]) -> list[float]:
    """Of the rounds in which some have finished and it is known."""
    turns = [[one.turns for one in sessions if one.turns and one.state == "finished"] for sessions in group.values()]
    found = [[known for each in one if (known := value(each)) is not None] for one in turns]
    return [median(values) for values in found if values]


def _estimate(values: Sequence[float]) -> Text:
    return _text(median_of(values)) if values else Text("–")


def _text(found: Estimate) -> Text:
    value, low, high = (f"{number:.{0 if number >= 100 else 1 if number >= 10 else 2}f}" for number in found)
    return Text(f"{value} [{low}, {high}]")


def _peak(done: Sequence[FinishedArm]) -> Text:
    peaks = [one.result.memory_peak for one in done if one.result.memory_peak is not None]
    return Text(format_size(round(median(peaks))) if peaks else "–")
