# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: what it is, what has finished so far, and the events of each arm of each round.

What has finished is there to stay, whenever the run ends: a line is appended when its events are on disk, and only a
whole line counts. docs/replay.md describes the files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from agentcg.errors import AgentcgError, InvalidInput
from agentcg.replay.events import Event, decode, encode_all
from agentcg.replay.result import ArmResult, arm_from_json, arm_to_json
from agentcg.replay.run_description import VERSION, RunDescription, require_same
from agentcg.trace.source import convert, load

__all__ = ["FinishedArm", "Run", "RunFolder", "open_run", "read_run", "write_description"]

_DESCRIPTION, _RESULTS, _EVENTS = "run.json", "results.jsonl", "events"
_T = TypeVar("_T")


class _ResultLine(msgspec.Struct, rename="camel"):
    round: int
    arm: str
    result: dict[str, Any]
    wall_sec: float


@dataclass(frozen=True, slots=True)
class FinishedArm:
    """One arm in one round."""

    round: int
    arm: str
    result: ArmResult
    wall_sec: float
    """What it took on the machine that ran or simulated it."""


@dataclass(slots=True)
class Run:
    """A run as far as it has come."""

    path: Path
    description: RunDescription
    results: list[FinishedArm]
    """In the order in which they finished."""
    warnings: list[str] = field(default_factory=list)

    def events(self, number: int, arm: str) -> Iterator[Event]:
        """Yield what happened in an arm that has finished, by time. :raises InvalidInput: naming the line that is wrong

        :param number: of the round, from 0
        """
        path = self.path / _EVENTS / _events_name(number, arm)
        try:
            with path.open("rb") as file:
                for at, line in enumerate(file, 1):
                    yield decode(f"{path}:{at}", line)
        except OSError as error:
            raise InvalidInput(str(path), f"cannot be read: {error.strerror}") from None


class RunFolder:
    """A run that is being written.

    :param path: None if its results are not to be kept on disk
    :param results: what had finished before
    """

    def __init__(self, path: Path | None = None, results: Sequence[FinishedArm] = ()) -> None:
        self.path = path
        self.results = list(results)
        self._finished = {(done.round, done.arm) for done in results}

    def has(self, number: int, arm: str) -> bool:
        """Whether an arm of a round has finished."""
        return (number, arm) in self._finished

    @property
    def resume_hint(self) -> str:
        """How to go on with it."""
        return "" if self.path is None else f"go on with {self.path} by --resume"

    def append(self, done: FinishedArm, events: Sequence[Event]) -> None:
        """Keep what has finished, and what happened in it. With a path it is on disk afterwards."""
        self.append_lines(done, b"" if self.path is None else encode_all(events))

    def append_lines(self, done: FinishedArm, events: bytes) -> None:
        """The same, with the lines of the events."""
        if self.path is not None:
            _append(self.path, done, events)
        self.results.append(done)
        self._finished.add((done.round, done.arm))

    def sort(self, arms: Sequence[str]) -> None:
        """Put what has finished into the order of rounds and ``arms``, whoever was first."""
        self.results.sort(key=lambda done: (done.round, arms.index(done.arm)))
        if self.path is not None and self.results:
            file, text = self.path / _RESULTS, b"".join(map(_line, self.results))
            if _try(file, file.read_bytes) != text:
                _try(file, lambda: _replace(file, text))


def _line(done: FinishedArm) -> bytes:
    return msgspec.json.encode(_ResultLine(done.round, done.arm, arm_to_json(done.result), done.wall_sec)) + b"\n"


def _append(path: Path, done: FinishedArm, events: bytes) -> None:
    def write() -> None:
        (path / _EVENTS).mkdir(exist_ok=True)
        _write(path / _EVENTS / _events_name(done.round, done.arm), "wb", events)
        _write(path / _RESULTS, "ab", _line(done))

    _try(path, write)


def open_run(path: Path, description: RunDescription, *, resume: bool = False) -> RunFolder:
    """Begin a run in ``path``, or go on with the one that is there.

    :param resume: go on with the same run, if one is there
    :raises InvalidInput: if another run is there, or without ``resume`` any; naming what differs
    """
    _check_names(description.arms)
    if not (path / _DESCRIPTION).exists():
        if (path / _RESULTS).exists():
            raise InvalidInput(str(path), f"there are results without {_DESCRIPTION}", hint="choose another -o")
        write_description(path / _DESCRIPTION, description)
        return RunFolder(path)
    if not resume:
        raise InvalidInput(str(path), "a run is there already", hint="go on with it by --resume, or choose another -o")
    run = read_run(path)
    require_same(str(path / _DESCRIPTION), run.description, description)
    _cut_torn(path / _RESULTS)
    return RunFolder(path, run.results)


def write_description(file: Path, description: msgspec.Struct) -> None:
    """Write a file of JSON for people, and its folder if need be: it is there as a whole, or not at all."""

    def write() -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        _replace(file, msgspec.json.format(msgspec.json.encode(description)) + b"\n")

    _try(file.parent, write)


def read_run(path: Path) -> Run:
    """Read a run. Of one that was interrupted, a last line that is torn is left out, and ``warnings`` says so.

    :raises InvalidInput: naming the file and the field that is wrong
    """
    file = path / _DESCRIPTION
    description = load(file, RunDescription, hint="a run's folder is what -o named")
    if description.version != VERSION:
        raise InvalidInput(
            f"{file}: version",
            f"the run has format version {description.version}, this agentcg reads version {VERSION}",
            hint="read it with the agentcg that wrote it, or a newer one",
        )
    run = Run(path, description, [])
    results = path / _RESULTS
    text = _try(results, results.read_bytes) if results.exists() else b""
    *lines, torn = text.split(b"\n")
    if torn:
        run.warnings.append(f"{results}:{len(lines) + 1}: the line is cut off, and left out")
    for number, line in enumerate(lines, 1):
        run.results.append(_finished(f"{results}:{number}", line))
    return run


def _finished(place: str, line: bytes) -> FinishedArm:
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(place, f"not JSON: {error}") from None
    found = convert(place, value, _ResultLine)
    return FinishedArm(found.round, found.arm, arm_from_json(f"{place}: result", found.result), found.wall_sec)


def _cut_torn(path: Path) -> None:
    """Remove what stands behind the last whole line."""
    if path.exists():
        whole, newline, _ = path.read_bytes().rpartition(b"\n")
        _try(path, lambda: os.truncate(path, len(whole + newline)))


def _events_name(number: int, arm: str) -> str:
    return f"{number}-{re.sub(r'[^A-Za-z0-9_.-]', '-', arm)}.jsonl"


def _check_names(arms: Sequence[str]) -> None:
    taken: dict[str, str] = {}
    for arm in arms:
        other = taken.setdefault(_events_name(0, arm), arm)
        if other != arm:
            raise InvalidInput(
                "--arm", f"{other} and {arm} would have the same file", hint="rename one of the policies"
            )


def _replace(path: Path, text: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    _write(new, "wb", text)
    os.replace(new, path)


def _write(path: Path, mode: Literal["wb", "ab"], text: bytes) -> None:
    with path.open(mode) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _try(path: Path, what: Callable[[], _T]) -> _T:
    try:
        return what()
    except OSError as error:
        raise AgentcgError(f"{error.filename or path}: {error.strerror}", hint="choose another -o") from None
