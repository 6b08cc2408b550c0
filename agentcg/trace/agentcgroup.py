# SPDX-License-Identifier: Apache-2.0
"""Importer for the recordings of the AgentCgroup data set: one directory ``attempt_N`` is one session.

What its files do not say plainly, and what is made of it:

- Sizes are ``podman stats`` text, decimal units with four digits: ``185.5MB`` is 185,500,000 bytes.
- ``cpu_percent`` is the average since the container began, so CPU seconds are percent / 100 x the time since then. The
  container's begin is not recorded: the first sample stands for it, and CPU time before that sample is not known.
- The last sample is often ``0B`` and ``0.00%``: the container had gone. It is left out.
- Samples carry seconds since the epoch, calls UTC text: both become seconds since the session's start.
- ``Task`` starts a sub-agent. Its own calls are not recorded.
- A call without an end gets the latest end it can have had, the next call's start, and is marked so.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agentcg.errors import InvalidInput
from agentcg.model import COMMAND_MAX, validate_name
from agentcg.trace.checks import TEXT_MAX, Checks
from agentcg.trace.model import RecordedCall, Recording, Sample
from agentcg.trace.wire import explain

__all__ = ["find_attempts", "import_attempt", "recording_name"]

_UNITS = {"B": 1, "KB": 10**3}
_UNITS |= {f"{letter}B": 1000**power for power, letter in enumerate("kMGT", 1)}
_UNITS |= {f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)}
_SIZE = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]{1,3})\s*(?:/.*)?", re.ASCII | re.DOTALL)
_PERCENT = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*%\s*", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SUBAGENTS = frozenset({"Task"})
_COMMAND_FIELDS = ("command", "file_path", "pattern", "path", "url", "query", "description")


class _Reading(msgspec.Struct):
    epoch: float
    mem_usage: str
    cpu_percent: str


class _Resources(msgspec.Struct):
    samples: list[msgspec.Raw]


class _Call(msgspec.Struct):
    timestamp: str
    tool: str
    id: str
    end_timestamp: str | None = None
    input: dict[str, Any] | None = None


class _Turn(msgspec.Struct):
    first_at: str | None = None
    model: str | None = None


_T = TypeVar("_T")


def find_attempts(path: str | os.PathLike[str]) -> list[Path]:
    """Return ``path`` if it is an attempt, else every attempt below it, in the order of their names.

    :raises InvalidInput: if there is none
    """
    found = [
        Path(directory)
        for directory, _, files in os.walk(path)
        if "resources.json" in files or "tool_calls.json" in files
    ]
    if not found:
        raise InvalidInput(
            os.fspath(path),
            "no recording of the AgentCgroup layout is here",
            hint="name a directory that holds resources.json and tool_calls.json, or one above it",
        )
    return sorted(found)


def recording_name(attempt: Path) -> str:
    """Return ``SET-TASK-attempt_N``, the last three directories: unique in the data set."""
    return "-".join(part for part in attempt.absolute().parts[-3:] if part != attempt.anchor)


def import_attempt(path: str | os.PathLike[str], include_start: bool = True) -> Recording:
    """Read one attempt.

    :param include_start: keep the start of container and agent. Without it the session begins at the last sample before
        the model's first answer, or before the first call where that is not known
    :raises InvalidInput: naming the file and the field that is broken
    """
    attempt = Path(path)
    resources = _load(attempt / "resources.json", _Resources)
    rows = _rows(f"{attempt / 'tool_calls.json'}: ", _load(attempt / "tool_calls.json", list[msgspec.Raw]), _Call)
    warnings: list[str] = []
    model, first_turn = _turns(attempt / "turns.json", warnings)

    place = attempt / "resources.json"
    readings = _readings(place, _rows(f"{place}: samples", resources.samples, _Reading), warnings)
    times = [
        (_time(f"{attempt / 'tool_calls.json'}: [{index}].timestamp", row.timestamp), index, row)
        for index, row in enumerate(rows)
    ]
    times.sort(key=lambda item: item[:2])
    started = readings[0].t_sec
    if not include_start:
        begin = min(
            [time for time in (first_turn, times[0][0] if times else None) if time is not None], default=started
        )
        readings = _without_start(readings, begin)
        started = readings[0].t_sec
    if times:
        started = min(started, times[0][0])
    calls = _calls(attempt / "tool_calls.json", times, started, readings[-1].t_sec, warnings)
    recording = Recording(
        name=recording_name(attempt)[:TEXT_MAX],
        started=started,
        calls=tuple(sorted(calls, key=lambda call: (call.start_sec, call.end_sec, call.id))),
        samples=tuple(Sample(_since(item.t_sec, started), item.memory_bytes, item.cpu_sec) for item in readings),
        source=f"AgentCgroup {'/'.join(attempt.absolute().parts[-3:])}"[:TEXT_MAX],
        model=model,
        warnings=tuple(warnings),
    )
    _check(attempt, recording)
    return recording


def _load(path: Path, kind: type[_T]) -> _T:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InvalidInput(
            str(path), f"cannot be read: {error.strerror}", hint="an attempt has resources.json and tool_calls.json"
        ) from None
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(f"{path}: ", error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        lines = text.count(b"\n") + 1
        cut = "truncated" in str(error)
        what = f"cut off after {len(text)} bytes, in line {lines}" if cut else f"not JSON: {error}"
        raise InvalidInput(str(path), what, hint="fetch the file again") from None


def _rows(place: str, rows: Sequence[msgspec.Raw], kind: type[_T]) -> list[_T]:
    # One at a time, because msgspec does not say which element of a list was wrong.
    found = []
    for index, row in enumerate(rows):
        try:
            found.append(msgspec.json.decode(row, type=kind))
        except msgspec.ValidationError as error:
            raise _invalid(f"{place}[{index}].", error) from None
    return found


def _invalid(place: str, error: msgspec.ValidationError) -> InvalidInput:
    what, where = explain(error)
    return InvalidInput((place + where).rstrip(".: "), what)


def _readings(path: Path, rows: Sequence[_Reading], warnings: list[str]) -> list[Sample]:
    """The samples with absolute times and cumulative CPU seconds."""
    if not rows:
        raise InvalidInput(f"{path}: samples", "there are none", hint="nothing of this attempt can be replayed")
    found: list[Sample] = []
    used = 0.0
    for index, row in enumerate(rows):
        place = f"{path}: samples[{index}]"
        if not 0 <= row.epoch < 1e11:
            raise InvalidInput(f"{place}.epoch", f"{row.epoch} is no time")
        if found and row.epoch <= found[-1].t_sec:
            raise InvalidInput(
                f"{place}.epoch",
                f"time runs backwards: {row.epoch} comes after {found[-1].t_sec}",
                hint="sort the samples",
            )
        memory = _size(f"{place}.mem_usage", row.mem_usage)
        share = _percent(f"{place}.cpu_percent", row.cpu_percent) / 100
        # Rounded to two digits, the average times a long time falls by a little between samples.
        used = max(used, share * (row.epoch - rows[0].epoch))
        found.append(Sample(row.epoch, memory, round(used, 6)))
    last = len(found)
    while last > 1 and found[last - 1].memory_bytes == 0:
        last -= 1
    if last < len(found):
        warnings.append(f"{path}: samples left out at the end: {len(found) - last}, taken when the container had gone")
    return found[:last]


def _size(place: str, text: str) -> int:
    match = _SIZE.fullmatch(text)
    if not match or match[2] not in _UNITS:
        raise InvalidInput(place, f"{text[:80]!r} is not a size", hint="podman writes 185.5MB / 134.5GB")
    return round(float(match[1]) * _UNITS[match[2]])


def _percent(place: str, text: str) -> float:
    match = _PERCENT.fullmatch(text)
    if not match:
        raise InvalidInput(place, f"{text[:80]!r} is not a percentage", hint="podman writes 66.25%")
    return float(match[1])


def _time(place: str, text: str) -> float:
    """Seconds since the epoch of an ISO time; one without a zone is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            place, f"{text[:80]!r} is no time", hint="an ISO time in UTC: 2026-02-07T01:48:03.518Z"
        ) from None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH).total_seconds()


def _turns(path: Path, warnings: list[str]) -> tuple[str | None, float | None]:
    """The model most of the turns were answered by, and when the first answer began; turns.json may be absent."""
    if not path.exists():
        return None, None
    try:
        turns = _load(path, list[_Turn])
        begins = [_time(f"{path}: first_at", turn.first_at) for turn in turns if turn.first_at]
    except InvalidInput as error:
        warnings.append(f"{error.message}; the model is not known")
        return None, None
    models = Counter(turn.model for turn in turns if turn.model).most_common(1)
    return (models[0][0][:TEXT_MAX] if models else None), min(begins, default=None)


def _without_start(readings: list[Sample], begin: float) -> list[Sample]:
    first = max((index for index, item in enumerate(readings) if item.t_sec <= begin), default=0)
    used = readings[first].cpu_sec
    return [Sample(item.t_sec, item.memory_bytes, round(item.cpu_sec - used, 6)) for item in readings[first:]]


def _calls(
    path: Path, times: Sequence[tuple[float, int, _Call]], started: float, last: float, warnings: list[str]
) -> list[RecordedCall]:
    calls = []
    ends = [
        None if row.end_timestamp is None else _time(f"{path}: [{index}].end_timestamp", row.end_timestamp)
        for _, index, row in times
    ]
    session_end = max([last, *(start for start, _, _ in times), *(end for end in ends if end is not None)])
    open_ended = 0
    later = math.inf  # the start of the next call that begins after this one
    following = [later] * len(times)
    for at in range(len(times) - 2, -1, -1):
        if times[at + 1][0] > times[at][0]:
            later = times[at + 1][0]
        following[at] = later
    for (start, index, row), end, following_start in zip(times, ends, following, strict=True):
        place = f"{path}: [{index}]"
        open_ended += end is None
        calls.append(
            RecordedCall(
                id=validate_name(f"{place}.id", row.id),
                tool=row.tool[:TEXT_MAX],
                command=_command(row.input or {}),
                start_sec=_since(start, started),
                end_sec=_since(min(following_start, session_end) if end is None else end, started),
                kind="subagent" if row.tool in _SUBAGENTS else "tool",
                end_estimated=end is None,
            )
        )
        if calls[-1].end_sec < calls[-1].start_sec:
            raise InvalidInput(
                f"{place}.end_timestamp", f"{row.end_timestamp!r} is before the call's start {row.timestamp!r}"
            )
    if open_ended:
        warnings.append(f"{path}: {open_ended} calls have no end; each is taken to last until the next begins")
    return calls


def _command(arguments: dict[str, Any]) -> str:
    """The shell line, or what comes nearest to it for a tool without one."""
    for field in _COMMAND_FIELDS:
        value = arguments.get(field)
        if isinstance(value, str) and value:
            return value if len(value) <= COMMAND_MAX else value[: COMMAND_MAX - 1] + "…"
    return ""


def _since(moment: float, started: float) -> float:
    # Epoch seconds in a float are good to a quarter of a microsecond.
    return round(moment - started, 6)


def _check(attempt: Path, recording: Recording) -> None:
    """Find what remains: duplicate ids, no calls, a clock that is years off."""
    checks = Checks()
    checks.header(str(attempt), recording)
    for call in recording.calls:
        checks.call(f"{attempt / 'tool_calls.json'}: call {call.id!r}", call)
    for index, sample in enumerate(recording.samples):
        checks.sample(f"{attempt / 'resources.json'}: samples[{index}]", sample)
    checks.complete(str(attempt / "tool_calls.json"))
