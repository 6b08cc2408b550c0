# SPDX-License-Identifier: Apache-2.0
"""``AGENT_RESOURCE_HINT``: an intent as one line of text, ``memory:512m,cpu:batch,time:10m``.

| key | value | sets |
|---|---|---|
| ``memory`` | ``low`` (256 MiB), ``medium`` (1 GiB), ``high`` (asks for no limit), ``<N>m``, ``<N>g`` | memory_max |
| ``expect`` | a size: ``300M`` | memory_expected |
| ``cpu``, ``io`` | ``interactive``, ``normal`` or ``batch`` | cpu_class, io_class |
| ``cores`` | a decimal number: ``1.5`` | cpu_cores |
| ``pids`` | a whole number | pids_max |
| ``time`` | a duration: ``90s``, ``10m`` | duration_max_sec |
| ``net`` | ``none``, or bytes per second: ``512k``, ``10m`` | network_rate |
| ``priority`` | 0 to 100 | priority |

``memory:high`` leaves memory_max undeclared, so history and the policy's class decide, within the session's budget.
"""

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from agentcg.errors import InvalidInput
from agentcg.model import CpuClass, Intent
from agentcg.policy.shell import program_name
from agentcg.units import parse_duration, parse_rate, parse_size

__all__ = ["HINT_MAX", "parse_hint", "take_hint", "take_shell_hint"]

HINT_MAX = 256  # Characters.

_LEVELS = {"low": 256 << 20, "medium": 1 << 30, "high": None}
_MEMORY = re.compile(r"[0-9]{1,20}[mg]", re.IGNORECASE | re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,5}(\.[0-9]{1,3})?", re.ASCII)
_AT_THE_HEAD = re.compile(r"\s*AGENT_RESOURCE_HINT=(\"[^\"\s]*\"|'[^'\s]*'|[^\s\"';&|]*)\s+(?=\S)")
_WHOLE = re.compile(r"[0-9]{1,10}", re.ASCII)
_SHELLS = {("sh", "-c"), ("bash", "-c"), ("bash", "-lc"), ("bash", "--login", "-c")}


def take_hint(command: str) -> tuple[str | None, str]:
    """Return the hint that stands at the head of a shell command, unread, and the rest of the command.

    >>> take_hint("AGENT_RESOURCE_HINT=memory:2g pytest -x")
    ('memory:2g', 'pytest -x')
    """
    found = _AT_THE_HEAD.match(command)
    return (None, command) if found is None else (found[1].strip("\"'"), command[found.end() :])


def take_shell_hint(command: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the hint that stands at the head of what a shell is given to run, and the command without it.

    >>> take_shell_hint(["bash", "-c", "AGENT_RESOURCE_HINT=memory:2g pytest -x"])
    ('memory:2g', ['bash', '-c', 'pytest -x'])
    """
    shell = command[:-1]
    if not shell or (program_name(shell[0]), *shell[1:]) not in _SHELLS:
        return None, list(command)
    hint, text = take_hint(command[-1])
    return hint, [*shell, text]


def parse_hint(text: str, *, place: str = "AGENT_RESOURCE_HINT") -> Intent:
    """Read a hint. Nothing in it is evaluated, rounded or guessed.

    :raises InvalidInput: for an unknown or repeated key, a value that is not of its kind or out of range, an empty
        hint, a control character, or more than :data:`HINT_MAX` characters
    """
    if not text:
        raise InvalidInput(place, "is empty", hint="unset it, or write such as memory:512m,cpu:batch")
    if len(text) > HINT_MAX:
        raise InvalidInput(place, f"is {len(text)} characters long", hint=f"at most {HINT_MAX} are read")
    if not text.isprintable():
        raise InvalidInput(place, f"{text!r} holds a control character", hint="write key:value items with commas")
    fields: dict[str, Any] = {}
    seen: set[str] = set()
    for item in text.split(","):
        key, colon, value = item.partition(":")
        if not colon or key not in _KEYS:
            near = get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near and colon else f"write KEY:VALUE with one of {', '.join(_KEYS)}"
            raise InvalidInput(place, f"{item!r} is not a known item", hint=hint)
        if key in seen:
            raise InvalidInput(f"{place}.{key}", "is given twice", hint="keep one of them")
        seen.add(key)
        name, read = _KEYS[key]
        fields[name] = read(f"{place}.{key}", value)
    return Intent(**fields).validate(place)


def _memory(place: str, text: str) -> int | None:
    if text in _LEVELS:
        return _LEVELS[text]
    if not _MEMORY.fullmatch(text):
        raise InvalidInput(
            place, f"{text!r} is not an amount of memory", hint="write low, medium, high, or such as 512m or 2g"
        )
    return parse_size(place, text)


def _class(place: str, text: str) -> str:
    if text not in get_args(CpuClass):
        raise InvalidInput(place, f"{text!r} is not a class", hint=f"write one of {', '.join(get_args(CpuClass))}")
    return text


def _cores(place: str, text: str) -> float:
    if not _DECIMAL.fullmatch(text) or not 0.01 <= float(text) <= 8192:
        raise InvalidInput(place, f"{text!r} is not a number of cores", hint="write such as 2 or 0.5, at most 8192")
    return float(text)


def _whole(what: str, low: int, high: int) -> Callable[[str, str], int]:
    def read(place: str, text: str) -> int:
        if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
            raise InvalidInput(place, f"{text!r} is not {what}", hint=f"write a whole number from {low} to {high}")
        return int(text)

    return read


def _duration(place: str, text: str) -> float:
    seconds = parse_duration(place, text)
    if seconds > 31_536_000:
        raise InvalidInput(place, f"{text!r} is too long", hint="a call may run for a year at most: 8760h")
    return seconds


_KEYS: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "memory": ("memory_max", _memory),
    "expect": ("memory_expected", parse_size),
    "cpu": ("cpu_class", _class),
    "io": ("io_class", _class),
    "cores": ("cpu_cores", _cores),
    "pids": ("pids_max", _whole("a number of processes", 1, 4_194_304)),
    "time": ("duration_max_sec", _duration),
    "net": ("network_rate", parse_rate),
    "priority": ("priority", _whole("a priority", 0, 100)),
}
