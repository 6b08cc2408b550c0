# SPDX-License-Identifier: Apache-2.0
"""What holds for the lines of one recording, whoever reads or writes them."""

from __future__ import annotations

from agentcg.errors import InvalidInput
from agentcg.model import COMMAND_MAX, MAX_BYTES, validate_name
from agentcg.trace.model import RecordedCall, Recording, Sample, Timing

__all__ = ["SECONDS_MAX", "TEXT_MAX", "Checks"]

SECONDS_MAX = 31_536_000.0  # One year.
TEXT_MAX = 1024
_EPOCH_MAX = 1e11


class Checks:
    """Remembers what came so far. Each method takes one line and raises InvalidInput, its place starting ``place``."""

    def __init__(self) -> None:
        self.calls: set[str] = set()
        self.samples = 0
        self.timing: Timing = "clock"
        self.subjects: dict[str | None, Sample] = {}  # the last sample of each
        self.unknown: dict[str, str] = {}  # calls that have samples and no line yet: where they are first named

    def header(self, place: str, recording: Recording) -> None:
        _text(f"{place}: name", recording.name)
        if not recording.name or not recording.name.isprintable():
            raise InvalidInput(f"{place}: name", "is empty or holds control characters")
        _text(f"{place}: source", recording.source)
        _text(f"{place}: model", recording.model or "")
        _number(f"{place}: started", recording.started or 0, _EPOCH_MAX)
        _number(f"{place}: base_memory", recording.base_memory or 0, MAX_BYTES)
        self.timing = recording.timing

    def call(self, place: str, call: RecordedCall) -> None:
        validate_name(f"{place}: id", call.id)
        if call.id in self.calls:
            raise InvalidInput(f"{place}: id", f"{call.id!r} is the id of an earlier call too", hint="ids are unique")
        _text(f"{place}: tool", call.tool)
        _text(f"{place}: call_class", call.call_class)
        _text(f"{place}: command", call.command, COMMAND_MAX)
        _number(f"{place}: start_sec", call.start_sec, SECONDS_MAX)
        _number(f"{place}: end_sec", call.end_sec, SECONDS_MAX)
        if call.end_sec < call.start_sec:
            raise InvalidInput(
                f"{place}: end_sec", f"the call ends at {call.end_sec} s, before it starts at {call.start_sec} s"
            )
        if call.exit_code is not None and not -MAX_BYTES <= call.exit_code <= MAX_BYTES:
            raise InvalidInput(f"{place}: exit_code", "is out of range")
        if call.intent is not None:
            call.intent.validate(f"{place}: intent")
        self.calls.add(call.id)
        self.unknown.pop(call.id, None)

    def sample(self, place: str, sample: Sample) -> None:
        if self.timing != "clock":
            raise InvalidInput(place, f"a recording whose timing is {self.timing!r} has no samples")
        _number(f"{place}: t_sec", sample.t_sec, SECONDS_MAX)
        _number(f"{place}: memory_bytes", sample.memory_bytes, MAX_BYTES)
        _number(f"{place}: cpu_sec", sample.cpu_sec, MAX_BYTES)
        last = self.subjects.get(sample.call)
        if last and sample.t_sec <= last.t_sec:
            raise InvalidInput(
                f"{place}: t_sec",
                f"time runs backwards: {sample.t_sec} s comes after {last.t_sec} s",
                hint="each sample of a session, or of a call, is later than the one before",
            )
        if last and sample.cpu_sec < last.cpu_sec:
            raise InvalidInput(
                f"{place}: cpu_sec",
                f"falls from {last.cpu_sec} s to {sample.cpu_sec} s",
                hint="CPU time is counted from the start, so it never falls",
            )
        self.subjects[sample.call] = sample
        self.samples += 1
        if sample.call is not None and sample.call not in self.calls:
            self.unknown.setdefault(sample.call, place)

    def complete(self, place: str) -> None:
        if not self.calls:
            raise InvalidInput(
                place, "the recording has no calls", hint="a session without tool calls is not replayable"
            )
        for call, where in self.unknown.items():
            raise InvalidInput(f"{where}: call", f"no call has the id {call[:80]!r}")


def _text(place: str, text: str, limit: int = TEXT_MAX) -> None:
    if len(text) > limit:
        raise InvalidInput(place, f"is {len(text)} characters long", hint=f"at most {limit} are kept")


def _number(place: str, value: float, high: float) -> None:
    if value < 0:
        raise InvalidInput(place, f"{value} is negative")
    if not value <= high:  # Also true of NaN.
        raise InvalidInput(place, f"{value} is above {high}")
