# SPDX-License-Identifier: Apache-2.0
"""Who asks: the conversation that a request goes on with.

A session is named by the client, or else known by what its prompt begins with. One session may have several
conversations, which are called its branches: agents that it sends out, turns that it makes side by side.

- A request goes on with the conversation that its prompt has most in common with, if it begins with that one's last
  prompt. The last piece of it may have changed, where more than tools and system messages are left.
- One that is in the middle of a turn is nobody's to go on with.
- A named session whose tools and system messages are the same, and the rest is not, has compacted its context, or gone
  back: it goes on with the conversation that was used last.
- Everything else is new: a branch of the session that was named, or a session of its own.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Conversation", "Conversations"]

_CONVERSATIONS = 4096
_PIECES = 4096
"""So many of a conversation's pieces are remembered, the last ones."""


@dataclass(slots=True, eq=False)
class Conversation:
    """One of them."""

    session: str
    """TENANT/SESSION, if a client named it."""
    branch: int
    tool: str = ""
    """What its last answer called."""
    running: bool = False
    """It is in the middle of a turn."""
    first: bytes = b""
    """Tools and system messages."""
    chain: Sequence[bytes] = field(default_factory=list)
    """For each piece of its last prompt, a digest of all up to it."""
    length: int = 0


class Conversations:
    """The 4096 that were used last."""

    def __init__(self) -> None:
        self._used: OrderedDict[tuple[str, int], Conversation] = OrderedDict()
        self._index: dict[bytes, Conversation] = {}
        self._latest: dict[str, Conversation] = {}
        self._number = 0

    def find(self, session: str | None, scope: str, pieces: Sequence[bytes], preamble: int) -> Conversation:
        """Return the conversation that a request goes on with, which is in the middle of a turn from now on.

        :param session: its session's name, if the client named one
        :param scope: who asks, as far as is known: prompts of others are not compared
        :param pieces: of the prompt
        :param preamble: how many of them others may have as well
        """
        chain = _digests(session or f"\0{scope}", pieces)
        first = chain[preamble - 1] if preamble else b""
        found = self._deepest(chain, preamble)
        if found is None and session is not None:
            latest = self._latest.get(session)
            if latest is not None and not latest.running and latest.first == first:
                found = latest
        if found is None:
            found = self._new(session)
        self._forget(found)
        found.running, found.first, found.chain, found.length = True, first, chain[-_PIECES:], len(chain)
        for digest in found.chain:
            self._index[digest] = found
        self._used.move_to_end((found.session, found.branch))
        self._latest[found.session] = found
        while len(self._used) > _CONVERSATIONS:
            self._drop(next(iter(self._used.values())))
        return found

    def _deepest(self, chain: Sequence[bytes], preamble: int) -> Conversation | None:
        for depth in range(len(chain), 0, -1):
            known = self._index.get(chain[depth - 1])
            if known is not None:
                goes_on = depth == known.length or preamble < depth == known.length - 1
                return known if goes_on and not known.running else None
        return None

    def _new(self, session: str | None) -> Conversation:
        self._number += 1
        name = f"unnamed-{self._number}" if session is None else session
        branch = 0
        while (name, branch) in self._used:
            branch += 1
        self._used[name, branch] = found = Conversation(name, branch)
        return found

    def _forget(self, conversation: Conversation) -> None:
        for digest in conversation.chain:
            if self._index.get(digest) is conversation:
                del self._index[digest]

    def _drop(self, conversation: Conversation) -> None:
        self._forget(conversation)
        del self._used[conversation.session, conversation.branch]
        if self._latest.get(conversation.session) is conversation:
            del self._latest[conversation.session]


def _digests(seed: str, pieces: Sequence[bytes]) -> list[bytes]:
    """Return for each piece a digest of it and all before it."""
    state = hashlib.blake2b(seed.encode(errors="surrogatepass"), digest_size=16)
    found = []
    for piece in pieces:
        state.update(b"%d " % len(piece))
        state.update(piece)
        found.append(state.copy().digest())
    return found
