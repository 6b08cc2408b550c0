# SPDX-License-Identifier: Apache-2.0
"""Between an engine's blocks and :class:`agentcg.kv.retention.Retention`: whose blocks are held, and for how long.

When a turn ends, its blocks are *pinned*: held as a request would hold them, so that nobody else gets them. A pin ends

- when its session's next turn runs: that one holds by then what it found of them;
- when somebody lacks room and the policy lets him have it, from the end of the context, the least loss first;
- when the policy does not protect it any more, or its session has paused for very long. It is looked for once a
  second. What is not pinned stays in the engine's cache as long as the engine keeps it;
- when the session is over, or the engine forgets its cache.

So the engine itself sees to it that nobody takes what is pinned, and whatever goes wrong here, it never has a block
twice. No cache is locked for ever: while nothing runs, everything is given up for who waits, whatever the policy says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from agentcg.kv.engines.cache import Cache
from agentcg.kv.engines.prefill import MeasuredPrefill
from agentcg.kv.policies import Policy
from agentcg.kv.retention import Retention
from agentcg.kv.state import Load, Session

__all__ = ["Keeper"]

Block = TypeVar("Block")

LOOK_SEC = 1.0
ORDER_SEC = 0.01
"""The order of those who wait is that of at most so long ago, ..."""
RANK_SEC = 0.1
"""... and where nothing has happened, of so long ago: time alone may change it."""
ASK_SEC = 0.05
"""Whoever was refused room is not asked for again before that, unless more is free."""
_UNNAMED_TOOL = "call"
_ALONE = "\0"  # Before the name of a session that has one request: no client's session begins with it.


@dataclass(slots=True)
class _Turn:
    """A request, from its arrival to its end."""

    session: str
    tool: str
    last: bool

    @property
    def alone(self) -> bool:
        return self.session.startswith(_ALONE)


class Keeper(Generic[Block]):
    """Pins blocks in ``cache`` as a policy says. For one thread.

    :param pin_max_sec: a pin ends when its session has paused for so long, whatever the policy says
    :param clock: gives seconds
    """

    def __init__(
        self,
        policy: Policy,
        cache: Cache[Block],
        *,
        pin_max_sec: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.prefill = MeasuredPrefill()
        self.retention = Retention(policy, self.prefill)
        self.pins: dict[str, list[Block]] = {}
        """The blocks of each session that are held, in the order of its context."""
        self.changed: set[str] = set()
        """Sessions that are not as they were when somebody last emptied this."""
        self.found: dict[str, bool] = {}
        """Sessions that have come back since somebody last emptied this: whether they found their cache."""
        self.barred: set[str] = set()
        """Requests that may not run yet, even if they fit."""
        self._cache, self.clock, self._pin_max_sec = cache, clock, pin_max_sec
        self._turns: dict[str, _Turn] = {}
        self._unordered, self._ordered_at = False, float("-inf")
        self._looked_at = float("-inf")
        self._refused: tuple[str, int, float] | None = None

    @property
    def block_tokens(self) -> int:
        """Tokens in a block."""
        return self._cache.block_tokens

    @property
    def pinned_blocks(self) -> int:
        """Blocks that are held, counted once for every session."""
        return sum(map(len, self.pins.values()))

    # The requests

    def arrive(self, request: str, session: str | None, tokens: int, *, tool: str = "", last: bool = False) -> None:
        """A request is there; without a session it is one of its own, of which nothing is kept."""
        if request in self._turns:
            return
        turn = self._turns[request] = _Turn(session or _ALONE + request, tool, last)
        self.retention.arrive(request, turn.session, tokens, self.clock(), tool=tool)
        self._unordered = True
        self._changes(turn)

    def start(self, request: str, found_tokens: int) -> None:
        """A request that waited has blocks from now on, ``found_tokens`` of them out of the cache."""
        turn = self._turns.get(request)
        if turn is None:
            return
        known = self.retention.state.sessions.get(turn.session)
        found = known is not None and 2 * found_tokens >= known.tokens
        if known is not None and known.turns and known.returned is not None:
            self.found[turn.session] = found
        self.retention.start(request, self.clock(), hit=found)
        self._release(self.pins.pop(turn.session, []))
        self._changes(turn)

    def preempt(self, request: str) -> None:
        """A request that was served has lost its blocks, and waits."""
        if (turn := self._turns.get(request)) is not None:
            self.retention.preempt(request, 0, self.clock())
            self._unordered = True
            self._changes(turn)

    def end(self, request: str, blocks: Sequence[Block]) -> None:
        """A request is answered, and still holds ``blocks``, in which its context begins and can be found again."""
        if (turn := self._turns.pop(request, None)) is None:
            return
        if turn.alone:
            self._gone(request, turn)
            return
        now, session = self.clock(), turn.session
        tokens = len(blocks) * self._cache.block_tokens
        tool = turn.tool or _UNNAMED_TOOL
        before = self.pins.pop(session, [])  # Of a branch: the latest counts.
        self.retention.end(request, tokens, now, tool=tool, last=turn.last)
        known = self.retention.state.sessions.get(session)
        if known is not None and blocks and self._protected(known, now):
            self._cache.hold(blocks)
            self.pins[session] = list(blocks)
        else:
            self.retention.taken(session, tokens, now)
        self._release(before)
        self._changes(turn)

    def cancel(self, request: str) -> None:
        """A request is given up; what it held is the engine's."""
        if (turn := self._turns.pop(request, None)) is not None:
            self._gone(request, turn)

    def _gone(self, request: str, turn: _Turn) -> None:
        now = self.clock()
        self.retention.cancel(request, now)
        if turn.alone:
            self.retention.close(turn.session, now)
        elif turn.session not in self.pins:
            self._lost(turn.session)
        self._changes(turn)

    def close(self, session: str) -> None:
        """A session is over."""
        self.retention.close(session, self.clock())
        self._release(self.pins.pop(session, []))
        self.changed.add(session)

    # Who runs next

    def order(self) -> list[str] | None:
        """Return the requests that may run, the next one first, or None if that is as it was."""
        now = self.clock()
        if now - self._ordered_at < (ORDER_SEC if self._unordered else RANK_SEC):
            return None
        self._unordered, self._ordered_at = False, now
        found = self.retention.order(now)
        self.barred = {request.id for request in self.retention.state.waiting}.difference(found)
        return found

    # Who gets whose blocks

    def make_room(self, request: str, lacking: int, *, found: Iterable[Block] | None, alone: bool) -> bool:
        """A request lacks so many blocks: release pins. Return whether any was, so that it is worth another try.

        :param found: the blocks that it has found in the cache; None if it runs already
        :param alone: nothing runs; everything is given up if need be
        """
        if not self.pins:
            return False
        now, free, turn = self.clock(), self._cache.free_blocks(), self._turns.get(request)
        if turn is not None and found is not None and self._drop_rest(turn.session, found):
            return True
        if not alone and self._refused is not None:
            who, before, at = self._refused
            if who == request and free <= before and 0 <= now - at < ASK_SEC:
                return False
        size = self._cache.block_tokens
        takes = self.retention.give_up(request, lacking * size, now)
        gave = [self._take(take.session, -(-take.tokens // size)) for take in takes]
        if alone and not any(gave):
            gave = [self._take(session, len(pin)) for session, pin in list(self.pins.items())]
        self._refused = None if any(gave) else (request, free, now)
        return any(gave)

    def _drop_rest(self, session: str, found: Iterable[Block]) -> bool:
        """Release what a session has pinned and did not find: its context begins in another way now."""
        pin, same = self.pins.get(session, []), 0
        for held, hit in zip(pin, found, strict=False):
            if held is not hit:
                break
            same += 1
        return self._take(session, len(pin) - same)

    def _take(self, session: str, blocks: int) -> bool:
        """Release so many blocks from the end of a session's context; return whether it had any."""
        pin = self.pins.get(session)
        if not pin or blocks <= 0:
            return False
        kept, taken = pin[:-blocks], pin[-blocks:]
        if kept:
            self.pins[session] = kept
        else:
            del self.pins[session]
        self._cache.release(taken)
        self.retention.taken(session, len(taken) * self._cache.block_tokens, self.clock())
        self._unordered = True
        self.changed.add(session)
        return True

    # What happens to all

    def forget(self) -> None:
        """The engine forgets its cache."""
        for session, pin in list(self.pins.items()):
            self._take(session, len(pin))
        for session in self.retention.state.sessions:
            self._lost(session)

    def look(self) -> bool:
        """End the pins that are over; return whether it was time to look."""
        now = self.clock()
        if 0 <= now - self._looked_at < LOOK_SEC:
            return False
        self._looked_at = now
        self.retention.loaded(Load(cache_used=self._cache.used), now)
        for session, pin in list(self.pins.items()):
            known = self.retention.state.sessions.get(session)
            over = known is None or (known.paused and now - known.used > self._pin_max_sec)
            if over or (known is not None and known.paused and not self._protected(known, now)):
                self._take(session, len(pin))
        return True

    def _protected(self, session: Session, now: float) -> bool:
        return self.retention.policy.protected(self.retention.state, session, now)

    def _lost(self, session: str) -> None:
        known = self.retention.state.sessions.get(session)
        if known is not None and known.resident:
            self.retention.taken(session, known.resident, self.clock())

    def _release(self, blocks: list[Block]) -> None:
        if blocks:
            self._cache.release(blocks)

    def _changes(self, turn: _Turn) -> None:
        if not turn.alone:
            self.changed.add(turn.session)
