# SPDX-License-Identifier: Apache-2.0
"""How near a simulation comes to the live replay of the same sessions: completion times, and who was stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

from agentcg.errors import InvalidInput
from agentcg.replay.events import Killed, Throttled
from agentcg.report.groups import Group
from agentcg.report.marks import Table
from agentcg.units import format_duration

__all__ = ["NEAR", "Agreement", "agreement"]

NEAR = 0.15
"""Completion times that differ by no more than this part of the live one agree."""

_Stop: TypeAlias = tuple[str, str | None, str]
"""Session, call (None: its agent), and what was done."""
_NAMED_MAX = 4


@dataclass(frozen=True, slots=True)
class Agreement:
    """A live run and a simulated one."""

    title: str
    sentence: str
    table: Table


def agreement(one: Group, other: Group) -> Agreement | None:
    """Compare a live run with a simulation of it, in whichever order they come; None if they are no such pair."""
    live, simulated = sorted((one, other), key=lambda group: group.description.mode)
    left, right = live.description, simulated.description
    alike = left.sessions and all(
        getattr(left, name) == getattr(right, name) for name in ("sessions", "memory_max", "speed")
    )
    if (left.mode, right.mode) != ("live", "simulated") or not alike:
        return None
    rows, gaps, unlike = [], dict[str, float](), list[str]()
    for arm in (arm for arm in live.arms if arm in simulated.arms):
        stops = _stops(live, arm), _stops(simulated, arm)
        unlike += [arm] if stops[0] != stops[1] else []
        for at, session in enumerate(left.sessions or ()):
            times = _times(live, arm, session.name), _times(simulated, arm, session.name)
            gap = median(times[1]) / median(times[0]) - 1 if all(times) else None
            if gap is not None:
                gaps[f"{session.name} under {arm}"] = gap
            said = "–" if gap is None else f"{gap:+.0%}" + (" (beyond 15 %)" if abs(gap) > NEAR else "")
            shown = tuple(_shown(part, group, arm) for part, group in zip(times, (live, simulated), strict=True))
            rows.append((arm if not at else "", session.name, *shown, said, *_only(stops, session.name)))
    columns = ("Arm", "Session", "Live", "Simulated", "Simulated over live", "Stopped live only", "… simulated only")
    caption = "Median completion, and calls that were throttled or killed in at least half of the rounds"
    sentence = _sentence(live.title, simulated.title, gaps, unlike)
    return Agreement(f"{simulated.title} against {live.title}", sentence, Table(caption, columns, tuple(rows)))


def _times(group: Group, arm: str, session: str) -> list[float]:
    results = (each[arm].result for each in group.results if arm in each)
    found = (one for result in results for one in result.sessions if one.name == session)
    return [one.completion_sec for one in found if one.state == "finished" and one.completion_sec > 0]


def _shown(times: Sequence[float], group: Group, arm: str) -> str:
    rounds = sum(arm in each for each in group.results)
    count = f"{len(times)} of {rounds} finished"
    return f"{format_duration(median(times))}, {count}" if times else count


def _stops(group: Group, arm: str) -> set[_Stop]:
    """Return what was done in at least half of the rounds whose events can be read.

    That an agent came to its session's memory.high is left out: a daemon tells it of calls alone.
    """
    seen: Counter[_Stop] = Counter()
    rounds = 0
    for at, each in enumerate(group.results):
        if arm not in each:
            continue
        try:
            told = {
                (event.session, event.call, "killed" if isinstance(event, Killed) else "throttled")
                for event in group.events(at, arm)
                if isinstance(event, Killed) or (isinstance(event, Throttled) and event.call is not None)
            }
        except InvalidInput:
            continue
        seen.update(told)
        rounds += 1
    return {stop for stop, times in seen.items() if 2 * times >= rounds}


def _only(stops: tuple[set[_Stop], set[_Stop]], session: str) -> tuple[str, str]:
    def said(here: set[_Stop], there: set[_Stop]) -> str:
        names = sorted(f"{call or 'the agent'} {what}" for name, call, what in here - there if name == session)
        more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
        return ", ".join(names[:_NAMED_MAX]) + more or "–"

    return said(stops[0], stops[1]), said(stops[1], stops[0])


def _sentence(live: str, simulated: str, gaps: dict[str, float], unlike: Sequence[str]) -> str:
    if not gaps:
        return f"No session finished both in {live} and in {simulated}: there are no times to compare."
    near = sum(abs(gap) <= NEAR for gap in gaps.values())
    worst = max(gaps, key=lambda name: abs(gaps[name]))
    times = f"{near} of {len(gaps)} completion times agree within 15 %; the farthest is {worst}, {gaps[worst]:+.0%}."
    arms = ", ".join(f"“{arm}”" for arm in unlike)
    calls = f"Under {arms} other calls were throttled or killed." if unlike else "The same calls were stopped."
    return f"{times} {calls}"
