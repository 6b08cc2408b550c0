# SPDX-License-Identifier: Apache-2.0
"""What a run is, and whether it is the same as another."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec

from agentcg.errors import InvalidInput

__all__ = ["VERSION", "Mode", "RunDescription", "SessionDescription", "require_same"]

VERSION = 1
Mode: TypeAlias = Literal["live", "simulated", "served"]
"""``served``: live, with an LLM server in the loop."""


class SessionDescription(msgspec.Struct, frozen=True, rename="camel"):
    """A session that takes part in every round. Sizes are bytes."""

    name: str
    recording: str
    protected: bool
    reserve: int | None
    peak: int
    recorded_sec: float
    calls: int


class RunDescription(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="agentcg.run"):
    """What a run is: everything that its results depend on."""

    version: int = VERSION
    mode: Mode
    created: str = msgspec.field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """When it began, an ISO time."""
    agentcg: str
    """The version of agentcg."""
    kernel: str
    cpus: float
    machine: str
    memory_max: int
    """What all sessions have together, bytes."""
    speed: float
    seed: int
    rounds: int
    arms: list[str]
    sessions: list[SessionDescription] | None
    """None where each round draws its own."""
    options: dict[str, Any]


def require_same(place: str, there: msgspec.Struct, wanted: msgspec.Struct) -> None:
    """:raises InvalidInput: if a run that is there is another than what is wanted, naming the first difference

    :param place: the file of the one that is there
    """
    if different := _difference(_comparable(there), _comparable(wanted)):
        where, was, now = different
        raise InvalidInput(
            f"{place}: {where}",
            f"is {_shown(was)} in the run that is there, and {_shown(now)} now",
            hint="resume a run by its own command, or choose another -o",
        )


def _comparable(description: msgspec.Struct) -> Any:
    """The description as JSON has it, without what may differ in a run that is gone on with."""
    value = msgspec.json.decode(msgspec.json.encode(description))
    del value["created"]
    return value


def _difference(there: Any, wanted: Any, where: str = "") -> tuple[str, Any, Any] | None:
    """Return the first place where two values differ, and what stands there in each."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        inner = [(f"{where}.{key}".lstrip("."), there.get(key), wanted.get(key)) for key in {**there, **wanted}]
    elif isinstance(there, list) and isinstance(wanted, list) and len(there) == len(wanted):
        inner = [(f"{where}[{at}]", was, now) for at, (was, now) in enumerate(zip(there, wanted, strict=True))]
    else:
        return None if there == wanted else (where, there, wanted)
    return next((found for place, was, now in inner if (found := _difference(was, now, place))), None)


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else text[:79] + "…"
