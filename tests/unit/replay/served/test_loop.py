# SPDX-License-Identifier: Apache-2.0
"""A server in the loop: llama.cpp's own, as it is and behind a gateway; and one that counts words."""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest
from benches.llamacpp import LlamaServer

from agentcg.errors import InvalidInput, Unsupported
from agentcg.replay.plan import SessionPlan
from agentcg.replay.served import in_loop
from agentcg.replay.served.conversation import Answer, NoAnswer
from agentcg.replay.served.options import ServerOptions
from tests.unit.replay.served.llm import Llm

Plan = Callable[..., SessionPlan]


def play(
    options: ServerOptions, plan: SessionPlan, *, socket: str | None = None, until: Event | None = None
) -> list[Answer]:
    """Take all turns of a session in one arm, which is over when ``until`` is set."""

    async def run() -> list[Answer]:
        async with in_loop(options, [plan], 7) as loop, loop.under(0, "agentcg", socket, str) as talk:
            conversation = talk(plan)
            for _ in plan.turns:
                await conversation.take_turn()
            if until is not None:
                await asyncio.to_thread(until.wait, 20)
            return conversation.answers

    return asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize("engine", ["none", "llamacpp"])
def test_prompts_are_as_long_as_recorded_and_what_was_said_is_found_in_the_cache(
    llama: LlamaServer, plan: Plan, engine: Any
) -> None:
    # A word is five of this model's tokens, or four or six.
    answers = play(ServerOptions(llama.url, engine=engine), plan("s", 4))
    for answer, recorded in zip(answers, plan("s", 4).turns, strict=True):
        assert answer.prompt_tokens == pytest.approx(recorded.prompt_tokens, rel=0.1)
        assert answer.output_tokens == recorded.output_tokens
        assert answer.first_sec is None or answer.first_sec <= answer.sec
    assert [answer.cached_tokens is not None and answer.cached_tokens > 300 for answer in answers] == [
        False,
        True,
        True,
    ]


def test_under_agentcg_a_gateway_tells_the_daemon_whose_cache_it_is(
    llama: LlamaServer, plan: Plan, served: Any
) -> None:
    seen: list[Any] = []
    held: list[int] = []
    told = Event()
    options = ServerOptions(llama.url, engine="llamacpp")

    async def run() -> None:
        playing = asyncio.create_task(
            asyncio.to_thread(play, options, plan("s", 4), socket=served.path, until=told),
        )
        with served.client() as client:
            client.session("s")
            while not playing.done():
                found = await asyncio.to_thread(client.kv_engines)
                seen.extend(found)
                held.extend(one.tokens for engine in found for one in engine.sessions if one.session == name)
                if held and held[-1] >= 0.9 * 4 * 200:  # The last turn is in the report.
                    told.set()
                await asyncio.sleep(0.1)
        await playing

    name = f"u{os.getuid()}/s"
    asyncio.run(asyncio.wait_for(run(), 60))
    assert max(held) == pytest.approx(4 * 200, rel=0.1)
    assert {engine.totalBlocks for engine in seen} == {3 * 8192}
    deadline = time.monotonic() + 10
    with served.client() as client:
        while client.kv_engines():  # The arm is over, and its gateway gone.
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_rounds_and_arms_find_nothing_of_one_another(llm: Llm, plan: Plan) -> None:
    sessions = [plan("one"), plan("two")]

    async def run() -> list[int | None]:
        found: list[int | None] = []
        async with in_loop(ServerOptions(llm.url), sessions, 1) as loop:
            for number, arm in ((0, "none"), (0, "static"), (1, "none")):
                async with loop.under(number, arm, None, str) as talk:
                    found += [(await talk(each).take_turn()).cached_tokens for each in sessions]
        return found

    # A word may be the same by chance.
    assert all(cached is not None and cached < 4 for cached in asyncio.run(run()))


def test_the_longest_context_is_the_one_that_was_asked_for(llm: Llm, plan: Plan) -> None:
    answers = play(ServerOptions(llm.url, context_max=101), plan("s"))
    assert [(answer.prompt_tokens, answer.output_tokens) for answer in answers] == [(50, 2), (80, 1), (100, 1)]


def test_too_small_a_context_is_refused_before_anything_runs(llm: Llm, plan: Plan) -> None:
    with pytest.raises(InvalidInput, match=r"--server-tokens: 20 are too few"):
        play(ServerOptions(llm.url, context_max=20), plan("s"))


def test_a_server_that_is_not_there_is_said_at_once(llm: Llm, plan: Plan) -> None:
    llm.trouble = "status"
    with pytest.raises(NoAnswer, match="503"):
        play(ServerOptions(llm.url), plan("s"))


def test_without_its_client_it_says_what_to_install(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "agentcg.replay.served.loop", raising=False)
    with pytest.raises(Unsupported, match="--server needs the Python package aiohttp") as caught:
        in_loop(ServerOptions("http://127.0.0.1:1"), [plan("s")], 0)
    assert caught.value.hint == "pip install 'agentcg[gateway]'"
