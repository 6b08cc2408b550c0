# SPDX-License-Identifier: Apache-2.0
"""What the proxy asks about a request, and tells of its answer. Faults stay here: nothing raises but a cancellation.

Of the engines, ``llamacpp`` is told which slot to use. ``vllm`` is told which session asks and what that has called
since its last turn, where the client did not say so. ``none`` is told nothing.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Literal

from agentcg.gateway.answered import Answered
from agentcg.gateway.asked import Asked, insert, read_request
from agentcg.gateway.conversations import Conversation, Conversations
from agentcg.kv.engines.llamacpp.driver import Driver
from agentcg.kv.engines.llamacpp.turn import Outcome, Turn
from agentcg.kv.engines.signals import full_name

__all__ = ["SESSION_HEADER", "EngineName", "Managed", "Turns"]

log = logging.getLogger(__name__)

EngineName = Literal["vllm", "llamacpp", "none"]
SESSION_HEADER = "X-Session-ID"


class Managed:
    """A request that is understood, and what came of it."""

    def __init__(self, body: bytes, headers: Mapping[str, str], conversation: Conversation, turn: Turn | None) -> None:
        self.body, self.headers = body, headers
        """As they are to be sent: the headers are to be added."""
        self._conversation, self._turn = conversation, turn
        self._answered: Answered | None = None

    def answer(self, status: int, headers: Mapping[str, str]) -> None:
        """The answer begins."""
        if status == 200 and headers.get("Content-Encoding", "identity") == "identity":
            kind = headers.get("Content-Type", "")
            self._answered = Answered(streamed=kind.startswith("text/event-stream"))

    def feed(self, data: bytes) -> None:
        """Some of the answer passes."""
        if self._answered is None:
            return
        try:
            self._answered.feed(data)
        except Exception:
            log.exception("an answer was not understood")
            self._answered = None

    def over(self, *, whole: bool) -> None:
        """The answer is over, or what became of it instead."""
        self._conversation.running = False
        said = self._answered if whole else None
        try:
            if said is not None:
                said.end()
                self._conversation.tool = said.tool
            if self._turn is not None and said is not None:
                self._turn.end(Outcome(said.tokens, said.tool, said.cached, said.computed))
            elif self._turn is not None:
                self._turn.cancel()
        except Exception:
            log.exception("a turn's end was not understood")


class Turns:
    """Which conversation a request goes on with, and when it may run.

    :param driver: of the server's slots, for ``llamacpp``
    """

    def __init__(self, engine: EngineName, driver: Driver | None = None) -> None:
        self._engine, self._driver = engine, driver
        self._conversations = Conversations()

    async def begin(self, path: str, headers: Mapping[str, str], body: bytes) -> Managed | None:
        """Wait until a request may run; None: pass it on as it is."""
        try:
            return await self._begin(path, headers, body)
        except Exception:
            log.exception("a request is passed on as it is")
            return None

    async def _begin(self, path: str, headers: Mapping[str, str], body: bytes) -> Managed | None:
        asked = read_request(path, body)
        if asked is None:
            return None
        key = headers.get("Authorization", "").removeprefix("Bearer ")
        session = _named(headers.get(SESSION_HEADER, ""), key)
        conversation = self._conversations.find(session, key, asked.pieces, asked.preamble)
        try:
            return await self._managed(asked, conversation, headers, body)
        except BaseException:
            conversation.running = False
            raise

    async def _managed(
        self, asked: Asked, conversation: Conversation, headers: Mapping[str, str], body: bytes
    ) -> Managed:
        turn: Turn | None = None
        fields: Mapping[str, object] = {}
        added: dict[str, str] = {}
        if self._driver is not None and not asked.has_slot:
            turn = await self._driver.begin(conversation.session, asked.tokens, branch=conversation.branch)
            if turn is not None:
                fields = {"id_slot": turn.slot} | ({} if asked.has_cache_prompt else {"cache_prompt": True})
        if self._engine == "vllm":
            if full_name(header := headers.get(SESSION_HEADER, "")) or not header:
                added = {SESSION_HEADER: conversation.session}
            if conversation.tool and not asked.has_xargs:
                fields = {"vllm_xargs": {"agentcg_tool": conversation.tool}}
        return Managed(insert(body, fields), added, conversation, turn)

    def lost(self) -> None:
        """The server cannot be reached."""
        if self._driver is not None:
            self._driver.lost()


def _named(header: str, key: str) -> str | None:
    """Return the session that a client names: in the header, or with a key that reads TENANT/SESSION."""
    if header:
        digest = hashlib.blake2b(header.encode(errors="replace"), digest_size=8)
        return full_name(header) or f"unnamed-{digest.hexdigest()}"
    return full_name(key) if "/" in key else None
