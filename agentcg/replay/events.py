# SPDX-License-Identifier: Apache-2.0
"""What happens in one arm of a replay, event by event, and its lines of JSON: docs/replay.md has the format.

Times ``t`` are seconds since the arm's start, sizes are bytes. What nobody knows is None.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from agentcg.errors import InvalidInput
from agentcg.replay.result import State
from agentcg.trace.wire import explain

__all__ = ["CallBegan", "CallEnded", "Event", "Frozen", "Held", "Killed", "Kv", "Limits", "Sample"]
__all__ += ["SessionBegan", "SessionEnded", "Tell", "Thawed", "Throttled", "Turn", "Yielded"]
__all__ += ["decode", "encode", "encode_all"]


def _snake(name: str) -> str:
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()


class _Event(msgspec.Struct, frozen=True, tag_field="kind", tag=_snake, rename="camel", forbid_unknown_fields=True):
    t: float


class SessionBegan(_Event, frozen=True):
    session: str


class SessionEnded(_Event, frozen=True):
    session: str
    state: State
    reason: str


class CallBegan(_Event, frozen=True):
    session: str
    call: str
    """Its id in the recording, as in all events."""
    tool: str
    command: str


class CallEnded(_Event, frozen=True):
    session: str
    call: str
    outcome: str
    """As in a verdict, or ``lost`` or ``refused``."""
    advice: str
    peak_bytes: int | None = None
    cpu_sec: float | None = None
    frozen_sec: float | None = None


class _Control(_Event, frozen=True):
    """What was done to a session, or to one of its calls."""

    session: str
    call: str | None = None
    why: str = ""


class Held(_Control, frozen=True):
    """It may not begin yet."""


class Frozen(_Control, frozen=True):
    """It was stopped."""


class Thawed(_Control, frozen=True):
    """It goes on."""


class Throttled(_Control, frozen=True):
    """It is slowed down."""


class Killed(_Control, frozen=True):
    """It was ended, or one of its processes was."""


class Yielded(_Control, frozen=True):
    """It gave way so that another could go on."""


class Sample(_Event, frozen=True):
    """What everybody holds, and has used so far."""

    memory: dict[str, int]
    cpu: dict[str, float]
    """CPU seconds."""
    total: int


class Limits(_Event, frozen=True):
    """The limits in force from now on; None is no limit."""

    wall: int | None
    """memory.max of what is not reserved, all together."""
    high: dict[str, int | None]
    max: dict[str, int | None]
    reserved: int


class Turn(_Event, frozen=True):
    """An LLM server has answered a session's turn."""

    session: str
    sec: float
    """From the request to the end of the answer."""
    first_sec: float | None
    """To the answer's first token."""
    prompt_tokens: int | None
    cached_tokens: int | None
    """Of the prompt, found in the server's cache."""
    output_tokens: int | None


class Kv(_Event, frozen=True):
    """What a session has in the cache of an LLM server."""

    session: str
    blocks: int
    bytes: int
    state: str


Event: TypeAlias = (
    SessionBegan
    | SessionEnded
    | CallBegan
    | CallEnded
    | Held
    | Frozen
    | Thawed
    | Throttled
    | Killed
    | Yielded
    | Sample
    | Limits
    | Turn
    | Kv
)
Tell: TypeAlias = Callable[[Event], None]
"""Told of each event, in the order of their times."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    """Return the event's line, with its newline."""
    return _encoder.encode(event) + b"\n"


def encode_all(events: Iterable[Event]) -> bytes:
    """Return the lines of events, in the order of their times."""
    return b"".join(map(encode, sorted(events, key=lambda event: event.t)))


def decode(place: str, line: bytes) -> Event:
    """Read one line.

    :param place: ``FILE:LINE``, for the error
    :raises InvalidInput: naming the field that is wrong
    """
    try:
        found: Event = _decoder.decode(line)
    except msgspec.ValidationError as error:
        what, where = explain(error)
        raise InvalidInput(
            f"{place}: {where}" if where else place, what, hint="docs/replay.md has the events"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(place, f"not JSON: {error}", hint="one JSON object stands on each line") from None
    return found
