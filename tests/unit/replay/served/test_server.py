# SPDX-License-Identifier: Apache-2.0
"""The client, at a server over HTTP that is well or in trouble."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiohttp
import pytest
from benches.llamacpp import free_port

from agentcg.errors import Unsupported
from agentcg.replay.served.conversation import Answer, NoAnswer
from agentcg.replay.served.lengths import TokenCount
from agentcg.replay.served.server import LlmServer
from tests.unit.replay.served.llm import EXCHANGE, OPENING, Llm

T = TypeVar("T")
ASKED = [{"role": "user", "content": "one two three"}]


def at(url: str, what: Callable[[LlmServer], Awaitable[T]], timeout_sec: float = 10.0) -> T:
    async def run() -> T:
        async with aiohttp.ClientSession() as http:
            return await what(LlmServer(http, url, "m", timeout_sec))

    return asyncio.run(asyncio.wait_for(run(), 30))


def ask(llm: Llm, timeout_sec: float = 10.0) -> Answer:
    return at(llm.url, lambda server: server.ask(ASKED, 4, "u0/s"), timeout_sec)


@pytest.mark.parametrize("timings", [False, True])
def test_an_answer_is_measured(llm: Llm, timings: bool) -> None:
    llm.timings = timings
    first, second = ask(llm), ask(llm)
    assert (first.text, first.prompt_tokens, first.cached_tokens, first.output_tokens) == (
        "0 1 2 3 ",
        3 + OPENING,
        0,
        4,
    )
    assert second.cached_tokens == 3
    assert first.first_sec is not None
    assert 0 < first.first_sec <= first.sec < 10
    session, body = llm.asked[0]
    assert session == "u0/s"
    assert body == {
        "messages": ASKED,
        "max_tokens": 4,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        "model": "m",
    }


def test_what_the_server_does_not_say_is_not_known(llm: Llm) -> None:
    llm.trouble = "quiet"
    answer = ask(llm)
    assert (answer.prompt_tokens, answer.cached_tokens, answer.output_tokens) == (None, None, None)
    with pytest.raises(Unsupported, match="does not say how many tokens") as caught:
        at(llm.url, lambda server: server.count())
    assert "include_usage" in caught.value.hint


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("status", r"answered 503: 'no\\tmodel is loaded'"),
        ("silent", r"did not answer within 300 ms"),
        ("drips", r"did not answer within 300 ms"),
        ("broken", r"broke off its answer"),
        ("short", r"does not answer: ClientPayloadError"),
        ("nonsense", r"was not understood: b' what\?'"),
        ("gives_up", r"the server gave up: .*out of memory"),
    ],
)
def test_trouble_is_no_answer_and_is_said(llm: Llm, trouble: str, said: str) -> None:
    llm.trouble = trouble
    with pytest.raises(NoAnswer, match=said) as caught:
        ask(llm, 0.3 if trouble in ("silent", "drips") else 10.0)
    assert caught.value.status == (503 if trouble == "status" else None)


def test_nobody_there_is_no_answer() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(NoAnswer, match=r"does not answer: ClientConnectorError"):
        at(url, lambda server: server.ask(ASKED, 1, "s"))


def test_it_finds_out_how_a_server_counts(llm: Llm) -> None:
    assert at(llm.url, lambda server: server.count()) == TokenCount(1.0, OPENING, EXCHANGE)


def test_a_server_that_knows_less_is_told_less(llm: Llm) -> None:
    llm.knows.discard("ignore_eos")

    async def count_and_ask(server: LlmServer) -> Answer:
        assert await server.count() == TokenCount(1.0, OPENING, EXCHANGE)
        return await server.ask(ASKED, 2, "s")

    assert at(llm.url, count_and_ask).text == "0 1 "
    assert "ignore_eos" not in llm.asked[-1][1]
    llm.knows.clear()
    with pytest.raises(NoAnswer, match="stream_options"):
        at(llm.url, lambda server: server.count())
