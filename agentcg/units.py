# SPDX-License-Identifier: Apache-2.0
"""Sizes and durations as people write them. Parsed strictly: nothing is rounded, guessed or evaluated."""

import re

from agentcg.errors import InvalidInput
from agentcg.model import MAX_BYTES

__all__ = ["format_duration", "format_rate", "format_size", "parse_duration", "parse_rate", "parse_size"]

_SIZE = re.compile(r"([0-9]{1,20})(?:([KMGT])(?:iB)?|B)?", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"([0-9]{1,12})(ms|s|m|h)?", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def parse_size(place: str, text: str) -> int:
    """Read a size in bytes: ``512M``, ``2GiB``, ``4096``; K, M, G and T are powers of 1024.

    :raises InvalidInput: for anything else, for zero and below, and above 2**63 - 1
    """
    match = _SIZE.fullmatch(text)
    if not match:
        raise InvalidInput(place, f"{text[:80]!r} is not a size", hint="write a whole number and a unit: 512M, 2G")
    number, unit = int(match[1]), match[2]
    size = number << {"K": 10, "M": 20, "G": 30, "T": 40}[unit.upper()] if unit else number
    if not 0 < size <= MAX_BYTES:
        raise InvalidInput(place, f"{text[:80]!r} is out of range", hint=f"a size is between 1 and {MAX_BYTES} bytes")
    return size


def parse_duration(place: str, text: str) -> float:
    """Read a duration in seconds: ``500ms``, ``30s``, ``5m``, ``2h``; a bare number is seconds.

    :raises InvalidInput: for anything else, and for zero
    """
    match = _DURATION.fullmatch(text)
    if not match or not int(match[1]):
        raise InvalidInput(
            place, f"{text[:80]!r} is not a duration", hint="write a whole number and a unit: 500ms, 30s, 5m, 2h"
        )
    return int(match[1]) * _SECONDS[match[2]]


def parse_rate(place: str, text: str) -> int:
    """Read what may be sent, in bytes per second: ``none``, which is 0, or a size.

    :raises InvalidInput: for anything else
    """
    if text == "none":
        return 0
    try:
        return parse_size(place, text)
    except InvalidInput as error:
        hint = "write none, or bytes per second: 512K, 10M"
        raise InvalidInput(place, f"{text[:80]!r} is not a rate", hint=hint) from error


def format_size(size: float | None) -> str:
    """Return a size for people: ``1.6 GiB``, ``512 MiB``; ``unlimited`` for None."""
    if size is None:
        return "unlimited"
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    text = f"{value:.0f}" if value >= 100 or (value == int(value) and unit in ("B", "KiB")) else f"{value:.1f}"
    return f"{text} {unit}"


def format_rate(rate: float | None) -> str:
    """Return what may be sent for people: ``10.0 MiB/s``; ``none`` for 0, ``unlimited`` for None."""
    if rate == 0:
        return "none"
    return format_size(rate) if rate is None else f"{format_size(rate)}/s"


def format_duration(seconds: float | None) -> str:
    """Return a duration for people: ``3.2 s``, ``12 ms``, ``4 min 10 s``; ``unlimited`` for None."""
    if seconds is None:
        return "unlimited"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
