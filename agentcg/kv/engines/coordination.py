# SPDX-License-Identifier: Apache-2.0
"""An engine's connection to the co-ordinator, for asyncio: it hears of calls, and reports. Nobody waits for it.

Without a daemon, or with one that refuses, it tries again later, and the engine decides alone meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Protocol

from agentcg.api.aclient import AsyncClient, aconnect
from agentcg.api.client import default_socket
from agentcg.api.types import KvEvent, KvQueue, KvSession
from agentcg.errors import AgentcgError
from agentcg.kv.engines.signals import is_full_name, reports_of

__all__ = ["Coordination", "Reporter"]

log = logging.getLogger(__name__)

REPORT_SEC = 1.0
_ANSWER_SEC = 5.0
AGAIN_SEC = (1.0, 30.0)
"""How long to wait before the next try: at first, and at most."""


class Reporter(Protocol):
    """An engine, as the co-ordinator sees it."""

    def capacity(self) -> tuple[int, int] | None:
        """Return how many blocks its cache has, and their bytes; None while that is not known."""
        ...

    def report(self) -> tuple[list[KvSession], KvQueue]:
        """Return all sessions that there is anything to say of, and those once more that it was said of before."""
        ...

    def heard(self, event: KvEvent) -> None:
        """Take an event to heart."""
        ...

    def unheard(self) -> None:
        """Forget what was heard of calls: nobody would say that they have ended."""
        ...


class Coordination:
    """Keeps up the connection.

    :param name: what the engine is called
    :param path: the daemon's socket
    """

    def __init__(self, engine: Reporter, name: str, path: str | None = None) -> None:
        self._engine, self._name, self._path = engine, name, path or default_socket()
        self.connected = False

    async def run(self) -> None:
        """Connect, and stay connected, until cancelled."""
        pause, most = AGAIN_SEC
        complained = False
        while True:
            try:
                await self._speak()
            except (AgentcgError, OSError, TimeoutError) as error:
                if self.connected:
                    pause, complained = AGAIN_SEC[0], False
                if not complained:
                    what = error.line if isinstance(error, AgentcgError) else type(error).__name__
                    log.warning("without a co-ordinator: %s", what)
                    complained = True
            self.connected = False
            await asyncio.sleep(pause)
            pause = min(2 * pause, most)

    async def _speak(self) -> None:
        async with await aconnect(self._path) as speaking, await aconnect(self._path) as listening:
            following = asyncio.create_task(self._listen(listening))
            try:
                await self._report(speaking, following)
            finally:
                following.cancel()
                with suppress(asyncio.CancelledError, AgentcgError, OSError):
                    await following
                self._engine.unheard()

    async def _report(self, client: AsyncClient, following: asyncio.Task[None]) -> None:
        told: tuple[int, int] | None = None
        while not following.done():
            if (capacity := self._engine.capacity()) is not None:
                if capacity != told:
                    blocks, size = told = capacity
                    hello = client.kv_hello(self._name, total_blocks=blocks, block_bytes=size)
                    await asyncio.wait_for(hello, _ANSWER_SEC)
                sessions, queue = self._engine.report()
                for part in reports_of([said for said in sessions if is_full_name(said.session)]):
                    await asyncio.wait_for(client.kv_report(part, queue), _ANSWER_SEC)
                self.connected = True
            await asyncio.wait([following], timeout=REPORT_SEC)
        following.result()

    async def _listen(self, client: AsyncClient) -> None:
        async for event in client.kv_listen():
            if event.kind == "lost":
                return  # Listen anew, which tells of every call that runs.
            try:
                self._engine.heard(event)
            except Exception:
                log.exception("what the co-ordinator said could not be taken to heart")
