# SPDX-License-Identifier: Apache-2.0
"""TOML files that people write: reading one, and what its tables may hold."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from agentcg.errors import InvalidInput
from agentcg.units import parse_size

__all__ = ["Reader", "nearest", "number", "read_document", "read_size", "read_table", "read_text", "whole", "wrong"]

_SIZE_MAX = 1 << 20  # Bytes of a file.

Reader = Callable[[str, object], Any]
"""Returns the value at a place, or raises InvalidInput."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint: the known word that is most like ``word``, or all of them."""
    known = list(known)
    near = get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"


def read_document(path: Path, version: int, *, hint: str) -> dict[str, Any]:
    """Return the tables of a file whose first key is ``version``.

    :param hint: what to do if it cannot be read
    :raises InvalidInput: if it cannot be read, or is not of this version: its keys may be others then
    """
    place = str(path)
    document = _parse(path, hint)
    if "version" not in document:
        raise InvalidInput(f"{place}: version", "is missing", hint=f"begin the file with: version = {version}")
    there = whole(1, 1_000_000)(f"{place}: version", document["version"])
    if there != version:
        todo = f"write version = {version}, or use an agentcg that reads version {there}"
        raise InvalidInput(f"{place}: version", f"{there} is not known to this agentcg", hint=todo)
    return document


def _parse(path: Path, hint: str) -> dict[str, Any]:
    place = str(path)
    try:
        with path.open("rb") as file:
            content = file.read(_SIZE_MAX + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidInput(
            place if place.isprintable() else repr(place), f"cannot be read: {reason}", hint=hint
        ) from error
    if len(content) > _SIZE_MAX:
        raise InvalidInput(place, "is larger than 1 MiB", hint="is it the right file?")
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidInput(place, f"is not UTF-8 (at line {line})", hint="save it as UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidInput(place, f"is not TOML: {error}", hint="see https://toml.io for the syntax") from error


def read_table(prefix: str, table: object, keys: Mapping[str, Reader]) -> dict[str, Any]:
    """Return the values of a TOML table; ``prefix`` and a key make a place.

    :raises InvalidInput: if it is no table, has a key that is not in ``keys``, or a value its reader refuses
    """
    if not isinstance(table, dict):
        raise wrong(prefix.rstrip(".: "), table, "a table")
    for key in table:
        if key not in keys:
            raise InvalidInput(f"{prefix}{key}", "is not a known key", hint=nearest(key, keys))
    return {key: keys[key](f"{prefix}{key}", value) for key, value in table.items()}


def wrong(place: str, value: object, wanted: str) -> InvalidInput:
    """Return the error of a value that is not what is wanted."""
    return InvalidInput(place, f"{repr(value)[:80]} is not {wanted}", hint=f"write {wanted}")


def read_text(place: str, value: object) -> str:
    """A line of text."""
    if not isinstance(value, str) or len(value) > 1000 or not value.isprintable():
        raise wrong(place, value, "a line of text in quotes")
    return value


def whole(low: int, high: int) -> Reader:
    """Return the reader of whole numbers."""

    def read(place: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise wrong(place, value, f"a whole number from {low} to {high}, without quotes")
        return value

    return read


def number(low: float, high: float) -> Reader:
    """Return the reader of numbers."""

    def read(place: str, value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise wrong(place, value, f"a number from {low} to {high}, without quotes")
        return float(value)

    return read


def read_size(place: str, value: object) -> int:
    """A size in bytes."""
    if not isinstance(value, str):
        raise wrong(place, value, 'a size in quotes, such as "512M"')
    return parse_size(place, value)
