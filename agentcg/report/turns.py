# SPDX-License-Identifier: Apache-2.0
"""What an LLM server's turns came to in each arm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from agentcg.replay.result import ArmResult, TurnsResult, known_sum
from agentcg.report.compare import Round
from agentcg.report.marks import Table
from agentcg.report.summary import format_estimate
from agentcg.statistics import median_of

__all__ = ["turns_table"]


def turns_table(rounds: Sequence[Round], arms: Sequence[str]) -> Table | None:
    """Return a row for each arm. None if no server was in the loop."""
    results = {arm: [each[arm] for each in rounds if arm in each] for arm in arms}
    if not any(_turns(result) for found in results.values() for result in found):
        return None
    rows = []
    for arm, found in results.items():
        turns = [each for result in found for each in _turns(result)]
        prompt = known_sum(each.prompt_tokens for each in turns)
        cached = known_sum(each.cached_tokens for each in turns)
        computed = known_sum(each.computed_tokens for each in turns)
        times = (_estimate(found, _mean_sec), _estimate(found, _p95_sec))
        tokens = ("–" if prompt is None else f"{prompt:,}", _part(cached, prompt), _part(computed, prompt))
        rows.append((arm, str(sum(each.n for each in turns)), *times, *tokens))
    columns = ("Arm", "Turns", "Mean turn, s", "P95 of a session, s", "Prompt tokens", "Found in the cache", "Computed")
    caption = "Turns that were answered, in all rounds; times are medians of the rounds with 95 % bootstrap intervals"
    return Table(caption, columns, tuple(rows))


def _turns(result: ArmResult) -> list[TurnsResult]:
    return [session.turns for session in result.sessions if session.turns is not None]


def _mean_sec(result: ArmResult) -> float | None:
    """Of all turns."""
    known = [(each.n, each.mean_sec) for each in _turns(result) if each.mean_sec is not None]
    return sum(n * sec for n, sec in known) / sum(n for n, _ in known) if known else None


def _p95_sec(result: ArmResult) -> float | None:
    """Of the session in the middle."""
    known = [each.p95_sec for each in _turns(result) if each.p95_sec is not None]
    return median(known) if known else None


def _estimate(results: Sequence[ArmResult], value: Callable[[ArmResult], float | None]) -> str:
    known = [found for result in results if (found := value(result)) is not None]
    return format_estimate(median_of(known)) if known else "–"


def _part(count: int | None, whole: int | None) -> str:
    return f"{count:,} ({count / whole:.0%})" if count is not None and whole else "–"
