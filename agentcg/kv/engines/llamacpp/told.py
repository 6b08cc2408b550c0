# SPDX-License-Identifier: Apache-2.0
"""What the co-ordinator is told of the slots."""

from __future__ import annotations

from agentcg.api.types import KvQueue, KvSession
from agentcg.kv.engines.llamacpp.seats import Seats

__all__ = ["BRANCH", "Told"]

BRANCH = "#"
"""Between a session's name and the number of its branch. No name has it."""

_RENEWED_SEC = 3.0
"""What is reported as kept is kept for so long, unless the next report renews it."""


class Told:
    """Remembers what was said, and what is to be said once."""

    def __init__(self) -> None:
        self._hits: dict[str, bool] = {}
        self._sessions: set[str] = set()

    def came_back(self, session: str, *, hit: bool) -> None:
        """A session came back, and found its cache or did not."""
        self._hits[session.partition(BRANCH)[0]] = hit

    def capacity(self, seats: Seats) -> tuple[int, int] | None:
        """Return how many blocks the cache has, and their bytes; None until that is known.

        A block is a token. Its bytes are what the server wrote of one, and 1 until it wrote any.
        """
        if not seats.slots:
            return None
        return seats.slots * seats.context, max(1, round(seats.costs.bytes_per_token))

    def report(self, seats: Seats, now: float) -> tuple[list[KvSession], KvQueue]:
        """Return what each session has, its branches together, and those that have nothing any more once."""
        found: dict[str, KvSession] = {}
        slot_bytes = seats.context * (self.capacity(seats) or (0, 1))[1]
        for held in seats.holdings(now):
            name = held.session.partition(BRANCH)[0]
            said = found.setdefault(name, KvSession(name, 0, 0, turns=0, hit=self._hits.get(name)))
            said.tokens += held.tokens
            said.bytes += slot_bytes if held.seated else 0
            said.turns = (said.turns or 0) + held.turns
            if held.protected:
                said.pinnedSec = _RENEWED_SEC
        gone = [KvSession(name, 0, 0) for name in sorted(self._sessions - found.keys())]
        self._sessions = set(found)
        self._hits.clear()
        return [*found.values(), *gone], KvQueue(seats.waiting, seats.free_slots(now) * seats.context)
