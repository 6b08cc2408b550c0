# SPDX-License-Identifier: Apache-2.0
"""What a sweep is: a TOML file, and the configurations that it comes to.

::

    version = 1
    recordings = ["traces/"]      # as "agentcg replay simulated" takes them
    draw = 4                      # so many sessions a round, the first of them protected; default: all in each round
    rounds = 10                   # default: 1
    seed = 0                      # of all that is drawn; default: 0
    speed = 20                    # times the recorded pace; default: 20

    [grid]                        # each combination is a configuration, and the last key changes first
    arms = ["none", ["agentcg", "agentcg=policies/x.toml"]]    # one, or several to be compared in one run
    memory_max = ["1G", "2G"]     # what all sessions have together
    cpus = [1, 2]                 # default: [2]
    agent_memory = ["0", "64M"]   # what each agent holds besides what was recorded; default: ["0"]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from agentcg.errors import InvalidInput
from agentcg.replay.arm_spec import ArmSpec, parse_arm
from agentcg.tables import Reader, number, read_document, read_size, read_table, read_text, whole, wrong

__all__ = ["Configuration", "Sweep", "read_sweep"]

VERSION = 1


@dataclass(frozen=True, slots=True)
class Configuration:
    """One point of the grid: a run of its own."""

    arms: tuple[ArmSpec, ...]
    memory_max: int
    """Bytes."""
    cpus: float
    agent_memory: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What its file says."""

    recordings: tuple[str, ...]
    draw: int | None
    """How many sessions take part in a round; None: all, in each."""
    rounds: int
    seed: int
    speed: float
    configurations: tuple[Configuration, ...]


def read_sweep(path: Path) -> Sweep:
    """Read a sweep's file. :raises InvalidInput: naming the file and the key that is wrong"""
    document = read_document(path, VERSION, hint="name a sweep's file: docs/sweeps.md describes it")
    top = _required(f"{path}: ", read_table(f"{path}: ", document, _TOP_KEYS), "recordings", "grid")
    prefix = f"{path}: grid."
    grid = _required(prefix, read_table(prefix, top["grid"], _GRID_KEYS), "arms", "memory_max")
    axes = (grid["arms"], grid["memory_max"], grid.get("cpus", [2.0]), grid.get("agent_memory", [0]))
    return Sweep(
        recordings=tuple(top["recordings"]),
        draw=top.get("draw"),
        rounds=top.get("rounds", 1),
        seed=top.get("seed", 0),
        speed=top.get("speed", 20.0),
        configurations=tuple(Configuration(*point) for point in product(*axes)),
    )


def _required(prefix: str, table: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        if key not in table:
            raise InvalidInput(f"{prefix}{key}", "is missing", hint="docs/sweeps.md describes the keys")
    return table


def _list_of(read_one: Reader) -> Reader:
    """Values of one kind, each once: a configuration that is there twice says nothing more."""

    def read(place: str, value: object) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise wrong(place, value, "a list of one value or more")
        found: list[Any] = []
        for at, item in enumerate(value):
            one = read_one(f"{place}[{at}]", item)
            if one in found:
                raise InvalidInput(f"{place}[{at}]", f"{item!r} is there already", hint="write each value once")
            found.append(one)
        return found

    return read


def _arm(place: str, value: object) -> ArmSpec:
    return parse_arm(read_text(place, value), place)


def _arms(place: str, value: object) -> tuple[ArmSpec, ...]:
    return tuple(_list_of(_arm)(place, value)) if isinstance(value, list) else (_arm(place, value),)


def _size_or_none(place: str, value: object) -> int:
    return 0 if value == "0" else read_size(place, value)


def _texts(place: str, value: object) -> list[str]:
    if not isinstance(value, list) or not value:
        raise wrong(place, value, "a list of recordings in quotes")
    return [read_text(f"{place}[{at}]", item) for at, item in enumerate(value)]


def _any(place: str, value: object) -> object:
    return value


_TOP_KEYS: Mapping[str, Reader] = {
    "version": _any,
    "recordings": _texts,
    "draw": whole(1, 10_000),
    "rounds": whole(1, 100_000),
    "seed": whole(0, 2**63 - 1),
    "speed": number(0.01, 1000),
    "grid": _any,
}
_GRID_KEYS: Mapping[str, Reader] = {
    "arms": _list_of(_arms),
    "memory_max": _list_of(read_size),
    "cpus": _list_of(number(0.01, 8192)),
    "agent_memory": _list_of(_size_or_none),
}
