# SPDX-License-Identifier: Apache-2.0
"""``turns.json`` beside an attempt of the AgentCgroup data set: one row a request to the language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agentcg.trace.model import RecordedTurn, Recording
from agentcg.trace.source import load, seconds, since

__all__ = ["FoundTurn", "TurnRow", "answered", "load_rows", "recorded_turns"]


class _Result(msgspec.Struct):
    id: str
    at: str


class TurnRow(msgspec.Struct):
    """One row, as it stands there."""

    first_at: str | None = None
    last_at: str | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    results: list[_Result] = []


@dataclass(frozen=True, slots=True)
class FoundTurn:
    """A request that was answered. Times are seconds since the epoch."""

    first: float
    """When the first line of the answer came."""
    last: float
    prompt_tokens: int
    output_tokens: int
    results: Mapping[str, float]
    """Of the calls that it made: when the result of each was there."""


def load_rows(path: Path) -> list[TurnRow]:
    """Read the file. :raises InvalidInput: naming the line or the field that is wrong"""
    return load(path, list[TurnRow], hint="leave this attempt out")


def answered(place: str, rows: Sequence[TurnRow]) -> list[FoundTurn]:
    """Return the rows of requests that were answered: the others have no prompt or no time.

    :param place: the file, for errors
    :raises InvalidInput: for what is no time
    """
    found = []
    for index, row in enumerate(rows):
        if row.last_at is None or row.prompt_tokens is None or row.prompt_tokens < 1:
            continue
        where = f"{place}: [{index}]"
        last = seconds(f"{where}.last_at", row.last_at)
        first = last if row.first_at is None else min(last, seconds(f"{where}.first_at", row.first_at))
        results = {result.id: seconds(f"{where}.results", result.at) for result in row.results}
        found.append(FoundTurn(first, last, row.prompt_tokens, max(0, row.output_tokens or 0), results))
    return found


def recorded_turns(found: Sequence[FoundTurn], recording: Recording) -> tuple[RecordedTurn, ...]:
    """Return the turns on the recording's clock, one behind the other and none after its end.

    A turn begins when all results that it waited for were there, and ends when its answer was, or at the first call of
    that, whichever came first. When the first turn was asked for is not recorded: when its answer began, at the latest.
    """
    calls = {call.id: call for call in recording.calls}
    started = recording.started or 0.0
    turns: list[RecordedTurn] = []
    free, back = 0.0, since(found[0].first, started) if found else 0.0
    for turn in found:
        own = [calls[name] for name in turn.results if name in calls]
        end = min([since(turn.last, started), recording.duration_sec, *(call.start_sec for call in own)])
        start = max(free, min(back, end))
        free = end = max(start, end)
        turns.append(RecordedTurn(start, end, turn.prompt_tokens, turn.output_tokens))
        results = [since(at, started) for at in turn.results.values()]
        back = max([*results, *(call.end_sec for call in own if not call.end_estimated)], default=end)
    return tuple(turns)
