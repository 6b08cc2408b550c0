# SPDX-License-Identifier: Apache-2.0
"""From the calls that an importer found to a recording."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from agentcg.errors import InvalidInput
from agentcg.trace.checks import Checks
from agentcg.trace.model import CallKind, RecordedCall, Recording, Sample
from agentcg.trace.source import cut, since

__all__ = ["FoundCall", "Ids", "assemble"]

_ID_MAX = 64
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(slots=True)
class FoundCall:
    """A call as its source tells of it. Times are seconds since the epoch."""

    place: str
    """Where it stands, for errors."""
    id: str
    tool: str
    command: str
    start: float
    end: float | None = None
    """None if the source has none."""
    kind: CallKind = "tool"
    estimated: bool = False
    """The source does not say how long it took: it ran somewhere between the two."""
    exit_code: int | None = None


class Ids:
    """Makes ids that a recording can have, each once, of those that a source gave."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, text: str) -> str:
        wanted = _NOT_IN_IDS.sub("_", text).lstrip("_-")[:_ID_MAX] or "call"
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted[: _ID_MAX - len(str(number)) - 1]}-{number}"
        self._taken.add(name)
        return name


def assemble(
    place: str,
    name: str,
    found: Sequence[FoundCall],
    *,
    began: float | None = None,
    ended: float = -math.inf,
    samples: Sequence[Sample] = (),
    source: str,
    model: str | None = None,
    warnings: Sequence[str] = (),
) -> Recording:
    """Return the recording of one session.

    A call without an end lasts until the next begins, at most to the session's end, and is marked. One after which
    nothing more is known is left out.

    :param place: the session's file, for errors
    :param began: when the session began, seconds since the epoch; the first call's start if that is earlier
    :param ended: when it ended, as far as is known; the last call's start or end if that is later
    :param samples: with seconds since the epoch
    :raises InvalidInput: for what no recording can hold
    """
    ordered = sorted(found, key=lambda call: call.start)
    started = min([call.start for call in ordered[:1]] + ([] if began is None else [began]), default=0.0)
    last = max([ended, *(call.start for call in ordered), *(call.end for call in ordered if call.end is not None)])
    notes = list(warnings)
    unended = sum(call.end is None for call in ordered)
    if unended:
        notes.append(f"{place}: {unended} calls have no end; each is taken to last until the next begins")
    calls = []
    lost = 0
    for call, following in zip(ordered, _following_starts(ordered), strict=True):
        end = min(following, last) if call.end is None else call.end
        if call.end is None and end <= call.start:
            lost += 1
            continue
        if end < call.start:
            raise InvalidInput(call.place, f"the call's end is {call.start - end:.3f} s before the call's start")
        calls.append(
            RecordedCall(
                id=call.id,
                tool=cut(call.tool),
                command=call.command,
                start_sec=since(call.start, started),
                end_sec=since(end, started),
                kind=call.kind,
                end_estimated=call.estimated or call.end is None,
                exit_code=call.exit_code,
            )
        )
    if lost:
        notes.append(f"{place}: left out {lost} calls without an end, after which nothing more is recorded")
    recording = Recording(
        name=cut(name),
        started=started,
        calls=tuple(sorted(calls, key=lambda call: (call.start_sec, call.end_sec, call.id))),
        samples=tuple(Sample(since(item.t_sec, started), item.memory_bytes, item.cpu_sec) for item in samples),
        source=cut(source),
        model=model and cut(model),
        warnings=tuple(notes),
    )
    check(place, recording)
    return recording


def _following_starts(ordered: Sequence[FoundCall]) -> list[float]:
    """For each call, when the next one that begins later does."""
    following = [math.inf] * len(ordered)
    for at in range(len(ordered) - 2, -1, -1):
        later = ordered[at + 1].start
        following[at] = later if later > ordered[at].start else following[at + 1]
    return following


def check(place: str, recording: Recording) -> None:
    """Find what remains: duplicate ids, no calls, a clock that is years off."""
    checks = Checks()
    checks.header(place, recording)
    for call in recording.calls:
        checks.call(f"{place}: call {call.id!r}", call)
    for sample in recording.samples:
        checks.sample(f"{place}: sample at {sample.t_sec} s", sample)
    checks.complete(place)
