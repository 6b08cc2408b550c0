# SPDX-License-Identifier: Apache-2.0
"""Reading what others recorded: files, values and times, and errors that name the file, the line and the field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agentcg.errors import InvalidInput
from agentcg.model import COMMAND_MAX
from agentcg.trace.checks import TEXT_MAX
from agentcg.trace.wire import explain

__all__ = [
    "command_of",
    "convert",
    "convert_rows",
    "cut",
    "from_nanoseconds",
    "head",
    "load",
    "load_lines",
    "seconds",
    "since",
]

_LINE_MAX = 64 << 20  # Bytes: transcripts hold images, and a batch of spans is one line.
_HEAD = 256 << 10
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COMMAND_FIELDS = ("command", "code", "file_path", "pattern", "path", "url", "query", "description")
_T = TypeVar("_T")


def head(path: Path) -> bytes:
    """Return how the file begins; nothing of one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""


def load(path: Path, kind: type[_T], *, hint: str = "") -> _T:
    """Read a file that is one JSON value.

    :param hint: what to do if it cannot be read
    :raises InvalidInput: naming the line or the field that is wrong
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InvalidInput(str(path), f"cannot be read: {error.strerror}", hint=hint) from None
    return convert(str(path), _parse(path, 1, text), kind)


def load_lines(path: Path, kind: type[_T]) -> Iterator[tuple[str, _T]]:
    """Read a file of JSON lines, one at a time. Yield each with its place, ``FILE:LINE``.

    :raises InvalidInput: naming the line and the field that is wrong
    """
    try:
        with open(path, "rb") as file:
            for number, text in enumerate(iter(lambda: file.readline(_LINE_MAX + 1), b""), 1):
                if len(text) > _LINE_MAX:
                    raise InvalidInput(f"{path}:{number}", f"the line is longer than {_LINE_MAX} bytes")
                if not text.isspace():
                    place = f"{path}:{number}"
                    yield place, convert(place, _parse(path, number, text), kind)
    except OSError as error:
        raise InvalidInput(str(path), f"cannot be read: {error.strerror}") from None


def _parse(path: Path, first_line: int, text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    except RecursionError:
        raise InvalidInput(f"{path}:{first_line}", "nested too deeply") from None
    # The standard library says where it stopped, and reads half of a surrogate pair, which JavaScript leaves of text
    # that it cuts.
    try:
        return json.loads(text.decode())
    except UnicodeDecodeError as error:
        line = first_line + text.count(b"\n", 0, error.start)
        raise InvalidInput(f"{path}:{line}", f"not UTF-8: byte 0x{text[error.start]:02x}") from None
    except json.JSONDecodeError as error:
        if error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated"):
            line = first_line + error.doc.rstrip().count("\n")
            raise InvalidInput(f"{path}:{line}", "the file is cut off here", hint="fetch it again") from None
        line = first_line + error.lineno - 1
        raise InvalidInput(f"{path}:{line}", f"not JSON: {error.msg} at column {error.colno}") from None


def convert(place: str, value: Any, kind: type[_T]) -> _T:
    """Return a JSON value as what it should be. :raises InvalidInput: naming the field that is wrong"""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what, where = explain(error)
        separator = "." if place.endswith("]") else ": "
        raise InvalidInput((place + separator + where).rstrip(".: "), what) from None


def convert_rows(place: str, rows: Sequence[Any], kind: type[_T]) -> list[_T]:
    """The same for each of ``rows``, because the whole would not say which of them was wrong."""
    return [convert(f"{place}[{index}]", row, kind) for index, row in enumerate(rows)]


def seconds(place: str, text: str) -> float:
    """Seconds since the epoch of an ISO time; one without a zone is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            place, f"{text[:80]!r} is no time", hint="an ISO time in UTC: 2026-02-07T01:48:03.518Z"
        ) from None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH).total_seconds()


def from_nanoseconds(place: str, number: int) -> float:
    """Seconds since the epoch. :raises InvalidInput: for what no clock shows"""
    if not 0 <= number < 10**20:
        raise InvalidInput(place, f"{str(number)[:80]} is no time in nanoseconds")
    return number / 10**9


def since(moment: float, started: float) -> float:
    """Seconds from ``started`` to ``moment``. Epoch seconds in a float are good to a quarter of a microsecond."""
    return round(moment - started, 6)


def cut(text: str, limit: int = TEXT_MAX) -> str:
    """Return ``text`` as a recording can keep it: not longer, and encodable."""
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text.encode("utf-8", "replace").decode()


def command_of(arguments: Mapping[str, Any]) -> str:
    """Return a tool's shell line, or what comes nearest to it for a tool without one."""
    for field in _COMMAND_FIELDS:
        value = arguments.get(field)
        if isinstance(value, str) and value:
            return cut(value, COMMAND_MAX)
    return ""
