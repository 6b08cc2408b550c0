# SPDX-License-Identifier: Apache-2.0
"""The keys of a policy file, what each may hold, and the reading of one table by them."""

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from agentcg.errors import InvalidInput
from agentcg.model import CpuClass
from agentcg.policy.schema import LIMIT_FLOOR, Background, Share
from agentcg.policy.shell import program_name
from agentcg.units import format_size, parse_duration, parse_rate, parse_size

__all__ = ["BUDGET_KEYS", "CLASS_KEYS", "HISTORY_KEYS", "KV_KEYS", "RULE_KEYS", "TOP_KEYS", "TRANSPARENT_KEYS"]
__all__ += ["nearest", "read_table"]

Reader = Callable[[str, object], Any]
"""Returns the value at a place, or raises InvalidInput."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_PERCENT = re.compile(r"[0-9]{1,3}%", re.ASCII)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint: the known word that is most like ``word``, or all of them."""
    known = list(known)
    near = get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"


def read_table(prefix: str, table: object, keys: Mapping[str, Reader]) -> dict[str, Any]:
    """Return the values of a TOML table; ``prefix`` and a key make a place.

    :raises InvalidInput: if it is no table, has a key that is not in ``keys``, or a value its reader refuses
    """
    if not isinstance(table, dict):
        raise _wrong(prefix.rstrip(".: "), table, "a table")
    for key in table:
        if key not in keys:
            raise InvalidInput(f"{prefix}{key}", "is not a known key", hint=nearest(key, keys))
    return {key: keys[key](f"{prefix}{key}", value) for key, value in table.items()}


def _wrong(place: str, value: object, wanted: str) -> InvalidInput:
    return InvalidInput(place, f"{repr(value)[:80]} is not {wanted}", hint=f"write {wanted}")


def _text(place: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > 1000 or not value.isprintable():
        raise _wrong(place, value, "a line of text in quotes")
    return value


def _flag(place: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(place, value, "true or false")
    return value


def _whole(low: int, high: int) -> Reader:
    def read(place: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _wrong(place, value, f"a whole number from {low} to {high}, without quotes")
        return value

    return read


def _number(low: float, high: float) -> Reader:
    def read(place: str, value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise _wrong(place, value, f"a number from {low} to {high}, without quotes")
        return float(value)

    return read


def _size(place: str, value: object) -> int:
    if not isinstance(value, str):
        raise _wrong(place, value, 'a size in quotes, such as "512M"')
    return parse_size(place, value)


def _limit(place: str, value: object) -> int:
    size = _size(place, value)
    if size < LIMIT_FLOOR:
        raise InvalidInput(
            place, f"{value!r} is too small for anything to run", hint=f"write at least {format_size(LIMIT_FLOOR)}"
        )
    return size


def _limit_or_none(place: str, value: object) -> int | None:
    return None if value == "unlimited" else _limit(place, value)


def _swap(place: str, value: object) -> int:
    if value == "unlimited":
        raise InvalidInput(place, "swap is always limited", hint='write a size, or "0" for none')
    return 0 if value == "0" or (value == 0 and type(value) is int) else _size(place, value)


def _share(place: str, value: object) -> int | Share | None:
    if isinstance(value, str) and _PERCENT.fullmatch(value):
        percent = int(value[:-1])
        if not 1 <= percent <= 100:
            raise InvalidInput(place, f"{value!r} is out of range", hint='write "1%" to "100%"')
        return Share(percent / 100)
    return _limit_or_none(place, value)


def _duration(place: str, value: object) -> float | None:
    if value == "unlimited":
        return None
    if not isinstance(value, str):
        raise _wrong(place, value, 'a duration in quotes, such as "30m"')
    return parse_duration(place, value)


def _rate(place: str, value: object) -> int | None:
    if value == "unlimited":
        return None
    if not isinstance(value, str):
        raise _wrong(place, value, '"none", or bytes per second in quotes, such as "10M"')
    return parse_rate(place, value)


def _one_of(kind: Any) -> Reader:
    known = get_args(kind)

    def read(place: str, value: object) -> str:
        if value not in known:
            raise _wrong(place, value, f"one of {', '.join(map(repr, known))}")
        return str(value)

    return read


def _texts(place: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item.strip() for item in value):
        raise _wrong(place, value, 'a list of words in quotes, such as ["pytest", "python -m pytest"]')
    return tuple(value)


def _commands(place: str, value: object) -> frozenset[tuple[str, ...]]:
    split = [text.split() for text in _texts(place, value)]
    return frozenset((program_name(head), *rest) for head, *rest in split)


def _programs(place: str, value: object) -> tuple[str, ...]:
    names = () if value == [] else _texts(place, value)
    for name in names:
        if "/" in name or not name.isprintable():
            raise InvalidInput(place, f"{name[:80]!r} is not a program's name", hint="write it without folders")
    return names


def _classes(place: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _wrong(place, value, "tables of their own, such as [class.test]")
    for name in value:
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"{place}.{name[:80]!r}", "is not a class name", hint="use 1 to 64 letters, digits, '_' and '-'"
            )
    return value


def _list(place: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise _wrong(place, value, "a list of tables, each under [[rule]]")
    return value


def _any(place: str, value: object) -> object:
    return value


TOP_KEYS: dict[str, Reader] = {
    "version": _whole(1, 1_000_000),
    "name": _text,
    "description": _text,
    "extends": _text,
    "tenant": _any,
    "session": _any,
    "defaults": _any,
    "class": _classes,
    "rule": _list,
    "history": _any,
    "kv": _any,
    "transparent": _any,
}
BUDGET_KEYS: dict[str, Reader] = {
    "memory": _share,
    "swap": _swap,
    "pids": _whole(1, 4_194_304),
    "cpu_weight": _whole(1, 10_000),
    "cpu_cores": _number(0.01, 8192),
}
CLASS_KEYS: dict[str, Reader] = {
    "memory_expected": _size,
    "memory_max": _limit_or_none,
    "memory_cap": _limit_or_none,
    "headroom": _number(0.5, 0.99),
    "swap_max": _swap,
    "pids_max": _whole(1, 4_194_304),
    "cpu": _one_of(CpuClass),
    "cores": _number(0.01, 8192),
    "io": _one_of(CpuClass),
    "duration_max": _duration,
    "duration_cap": _duration,
    "network": _rate,
    "priority": _whole(0, 100),
    "background": _one_of(Background),
}
RULE_KEYS: dict[str, Reader] = {"tool": _texts, "command": _commands, "class": _text, "light": _flag}
TRANSPARENT_KEYS: dict[str, Reader] = {"shells": _programs, "programs": _programs, "new_session": _flag}
HISTORY_KEYS: dict[str, Reader] = {"min_calls": _whole(1, 1_000_000), "margin": _number(1, 100)}
KV_KEYS: dict[str, Reader] = {"signals": _flag, "weights": _flag, "order": _flag}
