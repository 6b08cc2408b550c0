# SPDX-License-Identifier: Apache-2.0
"""The keys of a policy file, and what each may hold."""

import re
from typing import Any, get_args

from agentcg.errors import InvalidInput
from agentcg.model import CpuClass
from agentcg.policy.schema import LIMIT_FLOOR, Background, Share
from agentcg.policy.shell import program_name
from agentcg.tables import Reader, number, read_size, read_text, whole, wrong
from agentcg.units import format_size, parse_duration, parse_rate

__all__ = ["BUDGET_KEYS", "CLASS_KEYS", "HISTORY_KEYS", "KV_KEYS", "RULE_KEYS", "TOP_KEYS", "TRANSPARENT_KEYS"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_PERCENT = re.compile(r"[0-9]{1,3}%", re.ASCII)


def _flag(place: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise wrong(place, value, "true or false")
    return value


def _limit(place: str, value: object) -> int:
    size = read_size(place, value)
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
    return 0 if value == "0" or (value == 0 and type(value) is int) else read_size(place, value)


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
        raise wrong(place, value, 'a duration in quotes, such as "30m"')
    return parse_duration(place, value)


def _rate(place: str, value: object) -> int | None:
    if value == "unlimited":
        return None
    if not isinstance(value, str):
        raise wrong(place, value, '"none", or bytes per second in quotes, such as "10M"')
    return parse_rate(place, value)


def _one_of(kind: Any) -> Reader:
    known = get_args(kind)

    def read(place: str, value: object) -> str:
        if value not in known:
            raise wrong(place, value, f"one of {', '.join(map(repr, known))}")
        return str(value)

    return read


def _texts(place: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item.strip() for item in value):
        raise wrong(place, value, 'a list of words in quotes, such as ["pytest", "python -m pytest"]')
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
        raise wrong(place, value, "tables of their own, such as [class.test]")
    for name in value:
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"{place}.{name[:80]!r}", "is not a class name", hint="use 1 to 64 letters, digits, '_' and '-'"
            )
    return value


def _list(place: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise wrong(place, value, "a list of tables, each under [[rule]]")
    return value


def _any(place: str, value: object) -> object:
    return value


TOP_KEYS: dict[str, Reader] = {
    "version": whole(1, 1_000_000),
    "name": read_text,
    "description": read_text,
    "extends": read_text,
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
    "pids": whole(1, 4_194_304),
    "cpu_weight": whole(1, 10_000),
    "cpu_cores": number(0.01, 8192),
}
CLASS_KEYS: dict[str, Reader] = {
    "memory_expected": read_size,
    "memory_max": _limit_or_none,
    "memory_cap": _limit_or_none,
    "headroom": number(0.5, 0.99),
    "swap_max": _swap,
    "pids_max": whole(1, 4_194_304),
    "cpu": _one_of(CpuClass),
    "cores": number(0.01, 8192),
    "io": _one_of(CpuClass),
    "duration_max": _duration,
    "duration_cap": _duration,
    "network": _rate,
    "priority": whole(0, 100),
    "background": _one_of(Background),
}
RULE_KEYS: dict[str, Reader] = {"tool": _texts, "command": _commands, "class": read_text, "light": _flag}
TRANSPARENT_KEYS: dict[str, Reader] = {"shells": _programs, "programs": _programs, "new_session": _flag}
HISTORY_KEYS: dict[str, Reader] = {"min_calls": whole(1, 1_000_000), "margin": number(1, 100)}
KV_KEYS: dict[str, Reader] = {"signals": _flag, "weights": _flag, "order": _flag}
