# SPDX-License-Identifier: Apache-2.0
"""A gateway with all that belongs to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp

from agentcg.gateway.proxy import Proxy
from agentcg.gateway.turns import EngineName, Turns
from agentcg.kv.engines.coordination import Coordination
from agentcg.kv.engines.llamacpp.driver import FILES, Driver
from agentcg.kv.engines.llamacpp.server import SlotServer
from agentcg.kv.policies import POLICIES

__all__ = ["serving"]


@asynccontextmanager
async def serving(
    upstream: str,
    engine: EngineName,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    policy: str = "soft_pins",
    files: int = FILES,
    socket: str | None = None,
) -> AsyncIterator[int]:
    """Serve in front of a server while this is entered, on the port that it gives.

    :param upstream: the server's URL, that of its root
    :param port: 0: one that is free
    :param policy: whose slot is kept
    :param files: how many contexts the server saves at a time
    :param socket: the daemon's
    :raises OSError: if nobody can listen there
    """
    async with AsyncExitStack() as stack:
        driver = None
        if engine == "llamacpp":
            http = await stack.enter_async_context(aiohttp.ClientSession())
            server = SlotServer(http, upstream, os.environ.get("LLAMA_API_KEY", ""))
            driver = Driver(server, POLICIES[policy](), files=files)
            stack.push_async_callback(driver.close)
        proxy = Proxy(upstream, Turns(engine, driver))
        stack.push_async_callback(proxy.stop)
        port = await proxy.start(host, port)
        if driver is not None:
            link = asyncio.create_task(Coordination(driver, f"llamacpp-{port}", socket).run())
            stack.push_async_callback(asyncio.wait, {link})
            stack.callback(link.cancel)
        yield port
