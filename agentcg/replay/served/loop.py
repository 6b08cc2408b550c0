# SPDX-License-Identifier: Apache-2.0
"""The server as the arms of a replay see it: as it is, or under agentcg behind a gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TypeAlias

import aiohttp

from agentcg.gateway.serve import serving
from agentcg.replay.plan import SessionPlan
from agentcg.replay.served.conversation import Conversation
from agentcg.replay.served.lengths import TokenCount, fit, lengths_of
from agentcg.replay.served.options import ServerOptions
from agentcg.replay.served.server import LlmServer

__all__ = ["Loop", "Talk", "open_loop"]

Talk: TypeAlias = Callable[[SessionPlan], Conversation]
"""Begins the conversation of a session that was opened."""


class Loop:
    """A server that has been asked how it counts."""

    def __init__(
        self, server: LlmServer, options: ServerOptions, count: TokenCount, plans: Sequence[SessionPlan], seed: int
    ) -> None:
        self._server, self._options, self._seed = server, options, seed
        scale = fit([plan.turns for plan in plans], options.context_max, count)
        self._turns = {plan.name: lengths_of(plan.turns, scale, count) for plan in plans}

    @asynccontextmanager
    async def under(
        self, number: int, arm: str, socket: str | None, name_of: Callable[[str], str]
    ) -> AsyncIterator[Talk]:
        """While this is entered, the sessions of an arm may talk.

        What is said is the same in every round and arm, but for the first words: nothing that an arm leaves in the
        server's cache is of use to another.

        :param number: the round
        :param socket: of the arm's daemon, if it has one
        :param name_of: says by which name the server is to know a session
        """
        async with AsyncExitStack() as stack:
            server = self._server
            if socket is not None and self._options.engine != "none":
                gateway = serving(server.url, self._options.engine, socket=socket)
                server = replace(server, url=f"http://127.0.0.1:{await stack.enter_async_context(gateway)}")

            def talk(plan: SessionPlan) -> Conversation:
                seed = f"{self._seed} {plan.name}"
                opening = f"{seed} {number} {arm}"
                turns = self._turns[plan.name]
                return Conversation(server.ask, name_of(plan.name), turns, seed=seed, opening=opening)

            yield talk


@asynccontextmanager
async def open_loop(options: ServerOptions, plans: Sequence[SessionPlan], seed: int) -> AsyncIterator[Loop]:
    """Have a server in the loop.

    :param seed: of what is said
    :raises NoAnswer: if the server does not answer
    :raises InvalidInput: if the turns cannot be as short as was asked for
    """
    # A connection for each turn: a server may close one that was kept at the moment when it is used again.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as http:
        server = LlmServer(http, options.url, options.model, options.timeout_sec)
        yield Loop(server, options, await server.count(), plans, seed)
