# SPDX-License-Identifier: Apache-2.0
"""The lines of a recording file as they are written, and their way to and from :mod:`agentcg.trace.model`."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, TypeAlias

import msgspec

from agentcg.errors import InvalidInput
from agentcg.model import Intent
from agentcg.trace.model import CallKind, RecordedCall, Recording, Sample, Timing

__all__ = [
    "VERSION",
    "CallLine",
    "EndLine",
    "HeaderLine",
    "Line",
    "SampleLine",
    "decode",
    "encode",
    "explain",
    "is_json",
]
__all__ += ["call_from_wire", "call_to_wire", "header_from_wire", "header_to_wire", "sample_to_wire"]

VERSION = 2
"""Version 2 can say that times are not known. What version 1 can say is written as version 1."""

_HEADER = "agentcg.recording"


class HeaderLine(
    msgspec.Struct, frozen=True, tag_field="type", tag=_HEADER, forbid_unknown_fields=True, omit_defaults=True
):
    """The first line."""

    version: int
    name: str
    started: float | None = None
    source: str = ""
    model: str | None = None
    timing: Timing = "clock"
    base_memory: int | None = None


class CallLine(
    msgspec.Struct, frozen=True, tag_field="type", tag="call", forbid_unknown_fields=True, omit_defaults=True
):
    """One tool call, written when it has ended."""

    id: str
    tool: str
    command: str
    start_sec: float
    end_sec: float
    kind: CallKind = "tool"
    end_estimated: bool = False
    call_class: str = ""
    exit_code: int | None = None
    intent: dict[str, int | float | str] | None = None


class SampleLine(
    msgspec.Struct, frozen=True, tag_field="type", tag="sample", forbid_unknown_fields=True, omit_defaults=True
):
    """What the session, or one call, held and had used."""

    t_sec: float
    memory_bytes: int
    cpu_sec: float
    call: str | None = None


class EndLine(msgspec.Struct, frozen=True, tag_field="type", tag="end", forbid_unknown_fields=True):
    """The last line: how many there were, so that a cut file shows."""

    calls: int
    samples: int


Line: TypeAlias = HeaderLine | CallLine | SampleLine | EndLine


class _Kind(msgspec.Struct):
    type: str = ""
    version: int | None = None


_lines = msgspec.json.Decoder(HeaderLine | CallLine | SampleLine | EndLine)
_kind = msgspec.json.Decoder(_Kind)
_encoder = msgspec.json.Encoder()
_FIELD = re.compile(r"(?s)(.*) - at `\$\.?(.*?)`")


def encode(line: Line) -> bytes:
    """Return ``line`` with its newline."""
    return _encoder.encode(line) + b"\n"


def decode(place: str, text: bytes) -> Line:
    """Read one line.

    :param place: ``FILE:LINE``, for the error
    :raises InvalidInput: naming the field, when the line is not JSON, not of this format, or of a newer version
    """
    try:
        kind = _kind.decode(text)
        if kind.type == _HEADER and kind.version is not None and not 1 <= kind.version <= VERSION:
            raise InvalidInput(
                f"{place}: version",
                f"the recording has format version {kind.version}, this agentcg reads versions 1 to {VERSION}",
                hint="read it with the agentcg that wrote it, or a newer one",
            )
        line: Line = _lines.decode(text)
    except msgspec.ValidationError as error:
        what, where = explain(error)
        raise InvalidInput(
            f"{place}: {where}" if where else place, what, hint="docs/recordings.md has the format"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(place, f"not JSON: {error}", hint="one JSON object stands on each line") from None
    except RecursionError:
        raise InvalidInput(place, "nested too deeply", hint="no field of a recording is nested") from None
    if isinstance(line, HeaderLine) and line.version < _version(line.started, line.timing):
        raise InvalidInput(f"{place}: version", "is 1, and a recording of version 1 has 'started' and no 'timing'")
    return line


def explain(error: msgspec.ValidationError) -> tuple[str, str]:
    """Return what msgspec found wrong, and in which field."""
    match = _FIELD.fullmatch(str(error))
    return (match[1], match[2]) if match else (str(error), "")


def is_json(text: bytes) -> bool:
    """Whether ``text`` is whole, whatever it says."""
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _version(started: float | None, timing: Timing) -> int:
    """The first version of the format that can say this."""
    return 2 if started is None or timing != "clock" else 1


def header_to_wire(recording: Recording) -> HeaderLine:
    return HeaderLine(
        version=_version(recording.started, recording.timing),
        name=recording.name,
        started=recording.started,
        source=recording.source,
        model=recording.model,
        timing=recording.timing,
        base_memory=recording.base_memory,
    )


def header_from_wire(line: HeaderLine) -> Recording:
    """Return a recording without calls and samples."""
    return Recording(
        name=line.name,
        started=line.started,
        calls=(),
        source=line.source,
        model=line.model,
        timing=line.timing,
        base_memory=line.base_memory,
    )


def call_to_wire(call: RecordedCall) -> CallLine:
    intent = call.intent and {key: value for key, value in dataclasses.asdict(call.intent).items() if value is not None}
    values = {field.name: getattr(call, field.name) for field in dataclasses.fields(call)}
    return CallLine(**(values | {"intent": intent}))


def call_from_wire(place: str, line: CallLine) -> RecordedCall:
    """Return the call. :raises InvalidInput: if its intent is not one"""
    values: dict[str, Any] = msgspec.structs.asdict(line)
    if line.intent is not None:
        values["intent"] = _intent(f"{place}: intent", line.intent)
    return RecordedCall(**values)


def _intent(place: str, fields: dict[str, int | float | str]) -> Intent:
    known = {field.name for field in dataclasses.fields(Intent)}
    for name in fields:
        if name not in known:
            raise InvalidInput(
                f"{place}.{name[:80]}", "there is no such field", hint=f"known are {', '.join(sorted(known))}"
            )
    try:
        return msgspec.convert(fields, Intent).validate(place)
    except msgspec.ValidationError as error:
        raise InvalidInput(place, str(error)) from None


def sample_to_wire(sample: Sample) -> SampleLine:
    return SampleLine(sample.t_sec, sample.memory_bytes, sample.cpu_sec, sample.call)
