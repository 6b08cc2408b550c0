# SPDX-License-Identifier: Apache-2.0
"""What an engine says of its cache: checked, and kept as long as it can be believed.

Times are monotonic seconds of the caller's clock. What an engine says in seconds counts from when it was heard.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from agentcg.errors import InvalidInput
from agentcg.model import MAX_BYTES, SessionRef, check_range

__all__ = ["FRESH_SEC", "Engine", "Holding", "Queue", "SessionReport"]

FRESH_SEC = 10.0
"""An engine that has said nothing for so long is taken to have no queue."""

_BLOCKS_MAX, _BLOCK_BYTES_MAX = 1 << 32, 1 << 30
_TURNS_MAX = 1 << 16
_PINNED_MAX_SEC = 86_400.0


@dataclass(frozen=True, slots=True)
class SessionReport:
    """What an engine says of one session."""

    session: SessionRef
    tokens: int
    """Of its context that are cached."""
    bytes: int
    """That these take of the engine's cache."""
    turns: int = 0
    """Requests of it that wait or are served now: several, for an agent that branches."""
    pinned_sec: float | None = None
    """For how long from now nobody else can take its cache; None: anybody may take it."""
    hit: bool | None = None
    """It has come back since the report before, and found its cache (True) or not (False)."""

    def validate(self, place: str, capacity: int) -> None:
        """:raises InvalidInput: naming the first field out of its range; ``capacity`` is the whole cache, in bytes"""
        check_range(place, "tokens", self.tokens, 0, MAX_BYTES)
        check_range(place, "bytes", self.bytes, 0, capacity)
        check_range(place, "turns", self.turns, 0, _TURNS_MAX)
        check_range(place, "pinnedSec", self.pinned_sec, 0, _PINNED_MAX_SEC)


@dataclass(frozen=True, slots=True)
class Queue:
    """Who waits at an engine, and for what."""

    waiting: int
    """Requests that are not served yet."""
    free_blocks: int
    """That nobody's cache holds, or that can be taken at once."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What a session has at an engine."""

    tokens: int
    bytes: int
    turns: int
    pinned_until: float


@dataclass(slots=True, eq=False)
class Engine:
    """One engine, from its hello until it hangs up or says hello anew.

    :raises InvalidInput: for a cache that cannot be
    """

    name: str
    blocks: int
    block_bytes: int
    queue: Queue = Queue(0, 0)
    heard: float = -inf
    hits: int = 0
    misses: int = 0
    holdings: dict[SessionRef, Holding] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value, most in (
            ("totalBlocks", self.blocks, _BLOCKS_MAX),
            ("blockBytes", self.block_bytes, _BLOCK_BYTES_MAX),
        ):
            if not 1 <= value <= most:
                raise InvalidInput(name, f"{value} is not between 1 and {most}")

    @property
    def capacity(self) -> int:
        """Its whole cache, in bytes."""
        return self.blocks * self.block_bytes

    def report(
        self, sessions: Sequence[SessionReport], queue: Queue | None, known: Container[SessionRef], now: float
    ) -> list[SessionRef]:
        """Take a report to heart: the sessions that it names, and the queue unless it says nothing of it.

        :return: the sessions that are not ``known``, of which nothing is kept
        :raises InvalidInput: naming what cannot be; nothing of the report counts then
        """
        named: set[SessionRef] = set()
        for index, given in enumerate(sessions):
            place = f"sessions[{index}]"
            given.validate(place, self.capacity)
            if given.session in named:
                hint = "say it once, with the number of its turns"
                raise InvalidInput(f"{place}.session", f"{given.session} is reported twice", hint=hint)
            named.add(given.session)
        if queue is not None:
            check_range("queue", "waiting", queue.waiting, 0, _BLOCKS_MAX)
            check_range("queue", "freeBlocks", queue.free_blocks, 0, self.blocks)
            self.queue = queue
        self.heard = now
        for given in sessions:
            if given.session in known:
                self._keep(given, now)
        return [given.session for given in sessions if given.session not in known]

    def _keep(self, given: SessionReport, now: float) -> None:
        self.hits += given.hit is True
        self.misses += given.hit is False
        if given.bytes or given.turns:
            until = -inf if given.pinned_sec is None else now + given.pinned_sec
            self.holdings[given.session] = Holding(given.tokens, given.bytes, given.turns, until)
        else:
            self.holdings.pop(given.session, None)

    def pressure(self, now: float) -> float:
        """Return how short the cache is, 0 to 1: the part of it that is not free, and 0 while nobody waits."""
        if not self.queue.waiting or now - self.heard > FRESH_SEC:
            return 0.0
        return 1 - self.queue.free_blocks / self.blocks

    def in_the_way(self, now: float) -> Mapping[SessionRef, int]:
        """Return how many bytes each session holds that nobody can take, and that it does not use either."""
        return {
            session: holding.bytes
            for session, holding in self.holdings.items()
            if not holding.turns and holding.pinned_until > now
        }
