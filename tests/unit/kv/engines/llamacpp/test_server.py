# SPDX-License-Identifier: Apache-2.0
"""What is asked of the server, and what its answers are taken for."""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from benches.llamacpp import LlamaServer

from agentcg.kv.engines.llamacpp.server import EngineError, SlotServer
from tests.unit.gateway.upstream import Answer, Upstream, reply


def beside(url: str, story: Callable[[SlotServer], Awaitable[None]], key: str = "") -> None:
    async def whole() -> None:
        async with aiohttp.ClientSession() as http:
            await asyncio.wait_for(story(SlotServer(http, url, key)), 30)

    asyncio.run(whole())


def answered(answer: Answer, story: Callable[[SlotServer], Awaitable[None]], key: str = "") -> Upstream:
    """Play a story beside a server that answers so."""
    upstream = Upstream(answer)

    async def whole() -> None:
        server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
        async with server, aiohttp.ClientSession() as http:
            port = server.sockets[0].getsockname()[1]
            await asyncio.wait_for(story(SlotServer(http, f"http://127.0.0.1:{port}", key)), 30)

    asyncio.run(whole())
    return upstream


def test_a_slot_goes_to_a_file_and_into_another_slot(llama: LlamaServer) -> None:
    async def story(server: SlotServer) -> None:
        described = await server.describe()
        assert (described.slots, described.context) == (3, 8192)
        assert await server.identity() == described.identity
        saved = await server.save(1, "a.slot")
        await server.erase(1)
        read = await server.restore(2, "a.slot")
        assert (saved.tokens, saved.bytes) == (read.tokens, read.bytes)
        assert saved.tokens > 300
        assert 0 < saved.sec < 10
        assert (await server.save(1, "b.slot")).tokens == 0

    llama.post("/v1/completions", {"prompt": "x" * 300, "max_tokens": 2, "id_slot": 1})
    beside(llama.url, story)


def test_another_start_is_another_server(llama: LlamaServer) -> None:
    found = []

    async def story(server: SlotServer) -> None:
        found.append(await server.identity())

    beside(llama.url, story)
    llama.kill()
    llama.start()
    beside(llama.url, story)
    assert found[0] != found[1]


def test_the_key_is_sent() -> None:
    async def story(server: SlotServer) -> None:
        await server.erase(1)

    (head,) = answered(reply(b"{}"), story, "secret").heads
    assert head.startswith("POST /slots/1?action=erase ")
    assert "Authorization: Bearer secret\r\n" in head


@pytest.mark.parametrize(
    "answer",
    [
        reply(b""),
        reply(b"[]"),
        reply(b"{}"),
        reply(b'{"total_slots":0,"default_generation_settings":{"n_ctx":5}}'),
        reply(b'{"total_slots":"many","default_generation_settings":{"n_ctx":5}}'),
        reply(b'{"error":"loading"}', status="503 Service Unavailable"),
    ],
)
def test_an_answer_that_makes_no_sense_is_an_error(answer: Answer) -> None:
    async def story(server: SlotServer) -> None:
        with pytest.raises(EngineError, match=r"127\.0\.0\.1"):
            await server.describe()

    answered(answer, story)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"n_saved":1,"n_written":2}', b'{"n_saved":[],"n_written":2}'])
def test_a_copy_that_is_not_said_to_be_one_is_an_error(body: bytes) -> None:
    async def story(server: SlotServer) -> None:
        with pytest.raises(EngineError, match="not understood"):
            await server.save(0, "a.slot")

    answered(reply(body), story)


def test_nobody_there_is_an_error() -> None:
    async def story(server: SlotServer) -> None:
        with pytest.raises(EngineError, match="does not answer"):
            await server.identity()

    beside("http://127.0.0.1:1", story)
