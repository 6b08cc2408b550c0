# SPDX-License-Identifier: Apache-2.0
"""Importer for the recordings of the AgentCgroup data set: one directory ``attempt_N`` is one session.

What its files do not say plainly, and what is made of it:

- Sizes are ``podman stats`` text, decimal units with four digits: ``185.5MB`` is 185,500,000 bytes.
- ``cpu_percent`` is the average since the container began, so CPU seconds are percent / 100 x the time since then. The
  container's begin is not recorded: the first sample stands for it, and CPU time before that sample is not known.
- The last sample is often ``0B`` and ``0.00%``: the container had gone. It is left out.
- Samples carry seconds since the epoch, calls UTC text: both become seconds since the session's start.
- ``Task`` starts a sub-agent. Its own calls are not recorded.
- Some sets have ends and commands of calls only in ``trace.jsonl``, Claude Code's own transcript. It also says which
  model answered, and some exit codes.
- A call without an end gets the latest end it can have had, the next call's start, and is marked so.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from agentcg.errors import InvalidInput
from agentcg.model import validate_name
from agentcg.trace.assemble import FoundCall, assemble
from agentcg.trace.claude_code import SUBAGENT_TOOLS, Transcript, read_transcript
from agentcg.trace.importer import Importer
from agentcg.trace.model import Recording, Sample
from agentcg.trace.source import command_of, convert_rows, load, seconds
from agentcg.trace.turns import FoundTurn, answered, load_rows, recorded_turns

__all__ = [
    "IMPORTER",
    "find",
    "find_attempts",
    "import_attempt",
    "read_calls",
    "read_transcript_of",
    "recording_name",
    "without_start",
]

_UNITS = {"B": 1, "KB": 10**3}
_UNITS |= {f"{letter}B": 1000**power for power, letter in enumerate("kMGT", 1)}
_UNITS |= {f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)}
_SIZE = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]{1,3})\s*(?:/.*)?", re.ASCII | re.DOTALL)
_PERCENT = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*%\s*", re.ASCII)
_HINT = "an attempt has resources.json and tool_calls.json"


class _Reading(msgspec.Struct):
    epoch: float
    mem_usage: str
    cpu_percent: str


class _Resources(msgspec.Struct):
    samples: list[Any]


class _Call(msgspec.Struct):
    timestamp: str
    tool: str
    id: str
    end_timestamp: str | None = None
    input: dict[str, Any] | None = None


def find(path: str | os.PathLike[str]) -> list[Path]:
    """Return ``path`` if it is an attempt, else every attempt below it, in the order of their names."""
    return sorted(
        Path(directory)
        for directory, _, files in os.walk(path)
        if "resources.json" in files or "tool_calls.json" in files
    )


def find_attempts(path: str | os.PathLike[str]) -> list[Path]:
    """Do as :func:`find`. :raises InvalidInput: if there is none"""
    found = find(path)
    if not found:
        raise InvalidInput(
            os.fspath(path),
            "no recording of the AgentCgroup layout is here",
            hint="name a directory that holds resources.json and tool_calls.json, or one above it",
        )
    return found


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
    warnings: list[str] = []
    transcript = read_transcript_of(attempt / "tool_calls.json", warnings)
    readings = _samples(attempt / "resources.json", warnings)
    calls = read_calls(attempt / "tool_calls.json", transcript)
    model, first_turn, turns = _turns(attempt / "turns.json", warnings)
    if not include_start:
        readings = without_start(readings, transcript.first_answer if first_turn is None else first_turn, calls)
    recording = assemble(
        str(attempt / "tool_calls.json"),
        recording_name(attempt),
        calls,
        began=readings[0].t_sec,
        ended=readings[-1].t_sec,
        samples=readings,
        source=f"AgentCgroup {'/'.join(attempt.absolute().parts[-3:])}",
        model=model or transcript.model,
        warnings=warnings,
    )
    return replace(recording, turns=recorded_turns(turns, recording))


def read_transcript_of(calls: Path, warnings: list[str]) -> Transcript:
    """Return what Claude Code itself wrote, beside the file of the calls; it may be absent."""
    path = calls.with_name("trace.jsonl")
    transcript = Transcript()
    if path.exists():
        try:
            read_transcript(path, transcript)
        except InvalidInput as error:
            warnings.append(f"{error.message}; the transcript is not used")
            return Transcript()
    return transcript


def read_calls(path: Path, transcript: Transcript) -> list[FoundCall]:
    """Return the calls of ``tool_calls.json``; ends and commands that are not there are taken from the transcript."""
    found = []
    for index, row in enumerate(convert_rows(f"{path}: ", load(path, list[Any], hint=_HINT), _Call)):
        place = f"{path}: [{index}]"
        known = transcript.calls.get(row.id)
        end = known.end if known else None
        if row.end_timestamp is not None:
            end = seconds(f"{place}.end_timestamp", row.end_timestamp)
        found.append(
            FoundCall(
                place=place,
                id=validate_name(f"{place}.id", row.id),
                tool=row.tool,
                command=command_of(row.input or {}) or (known.command if known else ""),
                start=seconds(f"{place}.timestamp", row.timestamp),
                end=end,
                kind="subagent" if row.tool in SUBAGENT_TOOLS else "tool",
                exit_code=known.exit_code if known else None,
            )
        )
    return found


def _samples(path: Path, warnings: list[str]) -> list[Sample]:
    """The samples of ``resources.json``, with seconds since the epoch and cumulative CPU seconds."""
    rows = convert_rows(f"{path}: samples", load(path, _Resources, hint=_HINT).samples, _Reading)
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


def _turns(path: Path, warnings: list[str]) -> tuple[str | None, float | None, list[FoundTurn]]:
    """The model most of the turns were answered by, when the first answer began, and the turns; turns.json may be
    absent."""
    if not path.exists():
        return None, None, []
    try:
        rows = load_rows(path)
        begins = [seconds(f"{path}: first_at", row.first_at) for row in rows if row.first_at]
        found = answered(str(path), rows)
    except InvalidInput as error:
        warnings.append(f"{error.message}; the model is not known")
        return None, None, []
    models = Counter(row.model for row in rows if row.model).most_common(1)
    return (models[0][0] if models else None), min(begins, default=None), found


def without_start(readings: list[Sample], first_answer: float | None, calls: list[FoundCall]) -> list[Sample]:
    """Return the samples from the last one before the first answer or the first call on."""
    begins = [*(call.start for call in calls), *([] if first_answer is None else [first_answer])]
    begin = min(begins, default=0.0)
    first = max((index for index, item in enumerate(readings) if item.t_sec <= begin), default=0)
    used = readings[first].cpu_sec
    return [Sample(item.t_sec, item.memory_bytes, round(item.cpu_sec - used, 6)) for item in readings[first:]]


IMPORTER = Importer(
    name="agentcgroup",
    looks_for="directories with resources.json and tool_calls.json",
    find=find,
    read=lambda source: [import_attempt(source.path, source.include_start)],
)
