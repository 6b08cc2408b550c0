# SPDX-License-Identifier: Apache-2.0
"""Recording files: JSON Lines, read and written line by line. The format is described in docs/recordings.md."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO

from agentcg.errors import AgentcgError, InvalidInput
from agentcg.trace import wire
from agentcg.trace.checks import Checks
from agentcg.trace.model import RecordedCall, Recording, Sample, Timing

__all__ = ["Recorder", "read", "write"]

LINE_MAX = 1 << 20  # Bytes. The longest legal line is a call with a full command, each character escaped.


def read(path: str | os.PathLike[str], *, allow_cut: bool = False) -> Recording:
    """Read a recording.

    :param allow_cut: take what is there of a file that ends too early; ``warnings`` say what is missing
    :raises InvalidInput: with the place ``FILE:LINE: field``, for anything that docs/recordings.md does not allow
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            return _Reader(name, allow_cut).read(file)
    except (OSError, ValueError) as error:
        if isinstance(error, AgentcgError):
            raise
        raise InvalidInput(name, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


class _Reader:
    def __init__(self, name: str, allow_cut: bool) -> None:
        self.name = name
        self.allow_cut = allow_cut
        self.checks = Checks()
        self.header: Recording | None = None
        self.calls: list[RecordedCall] = []
        self.samples: list[Sample] = []
        self.warnings: list[str] = []

    def read(self, file: BinaryIO) -> Recording:
        ended = False
        number = 0
        for number, text in enumerate(iter(lambda: file.readline(LINE_MAX + 1), b""), 1):
            place = f"{self.name}:{number}"
            if len(text) > LINE_MAX:
                raise InvalidInput(place, f"the line is longer than {LINE_MAX} bytes")
            if ended:
                raise InvalidInput(place, "there is more after the end line", hint="write one recording to a file")
            try:
                line = wire.decode(place, text)
            except InvalidInput:
                if text.endswith(b"\n") or self.header is None or wire.is_json(text):
                    raise
                self._cut(place, "the file is cut off in the middle of this line")
                break
            ended = self._take(place, line)
        if self.header is None:
            raise InvalidInput(f"{self.name}:1", "the file is empty", hint="this is no recording")
        if not ended and not self.warnings:
            self._cut(f"{self.name}:{number + 1}", "the file is cut off here: the end line is missing")
        if self.allow_cut:
            self._drop_unfinished()
        self.checks.complete(self.name)
        return dataclasses.replace(
            self.header,
            calls=tuple(sorted(self.calls, key=lambda call: (call.start_sec, call.end_sec, call.id))),
            samples=tuple(sorted(self.samples, key=lambda sample: (sample.t_sec, sample.call or ""))),
            warnings=tuple(self.warnings),
        )

    def _take(self, place: str, line: wire.Line) -> bool:
        """Keep what ``line`` says; true for the end line."""
        if isinstance(line, wire.HeaderLine):
            if self.header is not None:
                raise InvalidInput(f"{place}: type", "a second header", hint="write one recording to a file")
            self.header = wire.header_from_wire(line)
            self.checks.header(place, self.header)
        elif self.header is None:
            raise InvalidInput(
                f"{place}: type", "the first line is not the header", hint='it starts {"type":"agentcg.recording",…'
            )
        elif isinstance(line, wire.CallLine):
            call = wire.call_from_wire(place, line)
            self.checks.call(place, call)
            self.calls.append(call)
        elif isinstance(line, wire.SampleLine):
            sample = Sample(line.t_sec, line.memory_bytes, line.cpu_sec, line.call)
            self.checks.sample(place, sample)
            self.samples.append(sample)
        else:
            for field, said, found in (
                ("calls", line.calls, len(self.calls)),
                ("samples", line.samples, len(self.samples)),
            ):
                if said != found:
                    raise InvalidInput(
                        f"{place}: {field}",
                        f"the end line counts {said} {field}, there are {found}",
                        hint="lines are lost",
                    )
            return True
        return False

    def _cut(self, place: str, message: str) -> None:
        if not self.allow_cut:
            raise InvalidInput(place, message, hint="'agentcg trace salvage FILE -o OUT' keeps what was written")
        self.warnings.append(f"{place}: {message}")

    def _drop_unfinished(self) -> None:
        """Leave out the samples of calls that were still running when the file was cut: they have no line."""
        unknown = self.checks.unknown
        if self.warnings and unknown:
            self.warnings.append(
                f"{self.name}: left out the samples of calls without an end: {', '.join(sorted(unknown))}"
            )
            self.samples = [sample for sample in self.samples if sample.call not in unknown]
            self.checks.unknown = {}


class Recorder:
    """Writes a recording while its session runs. What was written stays readable if the recorder dies.

    As a context manager it writes the end line when its block ends, and leaves it out when the block raises, so that
    an incomplete recording cannot be taken for a whole one.

    :raises InvalidInput: for a line that :func:`read` would refuse; it is not written, and recording can go on
    :raises AgentcgError: if the file cannot be written; the recorder is closed then
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        name: str,
        started: float | None,
        source: str = "",
        model: str | None = None,
        timing: Timing = "clock",
        base_memory: int | None = None,
    ) -> None:
        self._path = os.fspath(path)
        self._checks = Checks()
        header = Recording(name, started, (), source=source, model=model, timing=timing, base_memory=base_memory)
        self._checks.header(self._path, header)
        self._flush = True
        try:
            self._file = open(path, "wb")  # noqa: SIM115  it stays open while the session runs
        except OSError as error:
            raise _unwritable(self._path, error) from None
        self._write(wire.header_to_wire(header))

    def call(self, call: RecordedCall) -> None:
        """Add a call that has ended."""
        self._checks.call(f"{self._path}: call {call.id[:80]!r}", call)
        self._write(wire.call_to_wire(call))

    def sample(self, sample: Sample) -> None:
        """Add a sample, in the order of time for each subject. Its call may be added later, when it has ended."""
        subject = "session" if sample.call is None else f"call {sample.call[:80]!r}"
        self._checks.sample(f"{self._path}: sample of {subject}", sample)
        self._write(wire.sample_to_wire(sample))

    def close(self) -> None:
        """Write the end line and close the file. :raises InvalidInput: if :func:`read` would refuse the whole"""
        try:
            self._checks.complete(self._path)
            self._write(wire.EndLine(calls=len(self._checks.calls), samples=self._checks.samples))
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file without an end line."""
        with contextlib.suppress(OSError):
            self._file.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _write(self, line: wire.Line) -> None:
        try:
            self._file.write(wire.encode(line))
            if self._flush:
                self._file.flush()
        except OSError as error:
            self.abandon()  # Half a line may be in the file; nothing may follow it.
            raise _unwritable(self._path, error) from None


def write(recording: Recording, path: str | os.PathLike[str]) -> None:
    """Write a whole recording. The file appears under its name only when it is complete.

    :raises InvalidInput: if :func:`read` would refuse it
    :raises AgentcgError: if the file cannot be written
    """
    part = f"{os.fspath(path)}.part"
    try:
        recorder = Recorder(
            part,
            name=recording.name,
            started=recording.started,
            source=recording.source,
            model=recording.model,
            timing=recording.timing,
            base_memory=recording.base_memory,
        )
        recorder._flush = False
        with recorder:
            for item in _by_time(recording):
                recorder.sample(item) if isinstance(item, Sample) else recorder.call(item)
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(part)
        if isinstance(error, OSError):
            raise _unwritable(os.fspath(path), error) from None
        raise


def _by_time(recording: Recording) -> Iterator[RecordedCall | Sample]:
    """The lines as a recorder would have written them: a call stands where it ended."""
    calls = sorted(recording.calls, key=lambda call: call.end_sec)
    at = 0
    for sample in recording.samples:
        while at < len(calls) and calls[at].end_sec < sample.t_sec:
            yield calls[at]
            at += 1
        yield sample
    yield from calls[at:]


def _unwritable(path: str, error: OSError) -> AgentcgError:
    return AgentcgError(f"{path}: cannot be written: {error.strerror or error}", hint="choose another place for it")
