# SPDX-License-Identifier: Apache-2.0
"""The memory of an LLM server's cache, in blocks, and the host's memory behind it.

A session's blocks are used together, and are given up from the end of its context. So it is enough to know how many
each session has; the least recently used block of all is the last one of the session that was used least recently.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from agentcg.kv.reload import Transfer

__all__ = ["Host", "HostMemory", "Pool"]


class Pool:
    """Tokens of each session that are cached; all numbers are whole blocks."""

    def __init__(self, tokens: int, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self.tokens = self.full(tokens)
        self.held: dict[str, int] = {}
        self.free = self.tokens

    def full(self, tokens: int) -> int:
        """Return how many of ``tokens`` are in blocks that are full: only these are found again."""
        return tokens // self._block_tokens * self._block_tokens

    def whole(self, tokens: int) -> int:
        """Return how many tokens the blocks have room for that hold ``tokens``."""
        return -(-tokens // self._block_tokens) * self._block_tokens

    def resize(self, session: str, tokens: int) -> None:
        """Let a session have blocks for ``tokens``, whatever it had."""
        self.free += self.held.pop(session, 0) - tokens
        if tokens:
            self.held[session] = tokens
        if self.free < 0:
            raise AssertionError(f"the pool lacks {-self.free} tokens for {session}")


@dataclass(frozen=True, slots=True)
class Host:
    """The host's memory: what is taken from the pool is copied here, and back over one link.

    The copy out costs nothing: it goes on beside the steps. Copies back come one after the other.
    """

    tokens: int
    transfer: Transfer


class HostMemory:
    """What is in it: of each session a piece of its context, from one token up to another."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._pieces: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._held = 0
        self._link_free_at = 0.0
        self.loaded_tokens = 0

    def put(self, session: str, begin: int, end: int) -> None:
        """Copy a piece that is taken from the pool; it stands before what is here of the session already."""
        _, known_end = self._drop(session)
        piece = (begin, max(end, known_end))
        while self._pieces and self._held + piece[1] - begin > self._host.tokens:
            self._drop(next(iter(self._pieces)))
        if piece[1] - begin <= self._host.tokens:
            self._pieces[session] = piece
            self._held += piece[1] - begin

    def load(self, session: str, begin: int, end: int, now: float) -> tuple[int, float]:
        """Copy back what follows token ``begin``, up to ``end``; return how many tokens, and when they are there."""
        known_begin, known_end = self._drop(session)
        tokens = min(known_end, end) - begin if known_begin <= begin else 0
        if tokens <= 0:
            return 0, now
        self._link_free_at = max(now, self._link_free_at) + self._host.transfer.sec(tokens)
        self.loaded_tokens += tokens
        return tokens, self._link_free_at

    def forget(self, session: str) -> None:
        """A session is over."""
        self._drop(session)

    def _drop(self, session: str) -> tuple[int, int]:
        begin, end = self._pieces.pop(session, (0, 0))
        self._held -= end - begin
        return begin, end
