# SPDX-License-Identifier: Apache-2.0
"""The proxy before a real server of llama.cpp, which it tells what slots to use."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from benches.llamacpp import LlamaServer

from agentcg.kv.engines.llamacpp.driver import Driver
from agentcg.kv.engines.llamacpp.server import SlotServer
from agentcg.kv.policies import POLICIES
from tests.unit.gateway.upstream import Gateway, gateway, raw, reply

Run = Callable[[Coroutine[Any, Any, None]], None]
PROPERTIES = b'{"total_slots":2,"default_generation_settings":{"n_ctx":1000}}'


@asynccontextmanager
async def before(url: str, answer: Any = None) -> AsyncIterator[Gateway]:
    """Serve in front of ``url``, or of a server that answers so."""
    async with aiohttp.ClientSession() as http:

        def driver(upstream: str) -> Driver:
            return Driver(SlotServer(http, upstream), POLICIES["soft_pins"]())

        async with gateway(answer or raw(b""), engine="llamacpp", driver=driver, url=url) as served:
            yield served


class Agent:
    """A session that talks, turn by turn."""

    def __init__(self, served: Gateway, name: str, *, named: bool = True) -> None:
        self.served = served
        self.headers = {"X-Session-ID": f"u0/{name}"} if named else {}
        self.messages = [{"role": "system", "content": "you are"}, {"role": "user", "content": name * 300}]

    async def turn(self, **options: Any) -> Any:
        """Return what the server measured."""
        body = {"messages": self.messages, "max_tokens": 4, "temperature": 0, **options}
        status, said = await self.served.post(body, headers=self.headers)
        assert status == 200
        if options.get("stream"):
            last = [line for line in said.decode().splitlines() if line.startswith("data: {")][-1]
            timings = json.loads(last[6:])["timings"]
        else:
            timings = json.loads(said)["timings"]
        self.messages += [{"role": "assistant", "content": "so"}, {"role": "user", "content": "and"}]
        return timings


@pytest.mark.usefixtures("slow_prefill")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_five_sessions_on_three_slots_compute_nothing_twice(
    llama: LlamaServer, run: Run, *, stream: bool, named: bool
) -> None:
    async def story() -> None:
        async with before(llama.url) as served:
            agents = [Agent(served, name, named=named) for name in "abcde"]
            for agent in agents:
                await agent.turn(stream=stream)
            for _ in range(3):
                for agent in agents:
                    timings = await agent.turn(stream=stream)
                    assert timings["cache_n"] > 300 > timings["prompt_n"]
            assert served.driver is not None
            assert served.driver.seats.waiting == 0
            said, _ = served.driver.report()
            assert len([each for each in said if each.tokens > 300]) == 3
            assert all(each.hit is True for each in said)

    run(story())


def test_more_turns_at_once_than_slots_are_all_served(llama: LlamaServer, run: Run) -> None:
    async def story() -> None:
        async with before(llama.url) as served:
            agents = [Agent(served, name) for name in "abcdefgh"]
            for _ in range(2):
                await asyncio.gather(*(agent.turn() for agent in agents))
            twice = await asyncio.gather(*(agents[0].turn() for _ in range(3)))  # One session, three turns at once.
            assert len(twice) == 3

    run(story())


def test_a_server_that_starts_anew_is_served_on(llama: LlamaServer, run: Run) -> None:
    async def story() -> None:
        async with before(llama.url) as served:
            agent = Agent(served, "a")
            await agent.turn()
            llama.kill()
            status, _ = await served.post({"messages": agent.messages}, headers=agent.headers)
            assert status == 502
            llama.slots = 1
            llama.start()
            assert (await agent.turn())["cache_n"] == 0
            assert (await agent.turn())["cache_n"] > 300
            assert served.driver is not None
            assert served.driver.seats.slots == 1

    run(story())


def test_a_server_that_dies_in_the_middle_of_an_answer_blocks_nobody(llama: LlamaServer, run: Run) -> None:
    async def story() -> None:
        async with before(llama.url) as served:
            agent = Agent(served, "a")
            body = {"messages": agent.messages, "max_tokens": 4000, "stream": True, "ignore_eos": True}
            async with served.http.post(served.url + "/v1/chat/completions", json=body, headers=agent.headers) as got:
                await got.content.readany()
                llama.kill()
                with pytest.raises(aiohttp.ClientPayloadError):
                    await got.content.read()
            llama.start()
            await agent.turn()
            assert served.driver is not None
            assert served.driver.report()[0][0].turns == 0

    run(story())


def test_who_hangs_up_in_the_middle_leaves_its_slot(llama: LlamaServer, run: Run) -> None:
    async def story() -> None:
        async with before(llama.url) as served:
            for number in range(6):
                agent = Agent(served, "abcdef"[number])
                body = {"messages": agent.messages, "max_tokens": 5000, "stream": True, "ignore_eos": True}
                async with served.http.post(
                    served.url + "/v1/chat/completions", json=body, headers=agent.headers
                ) as got:
                    await got.content.readany()
                    got.close()
            await Agent(served, "g").turn()
            assert served.driver is not None
            assert served.driver._identity  # The server is not taken to be lost.

    run(story())


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "nobody"}]},
        {"messages": [{"role": "user", "content": "x" * 9000}]},  # More than a slot holds.
        {"messages": [{"role": "user", "content": "x"}], "max_tokens": "many"},
        {"prompt": ["a", "b"], "max_tokens": 1},
    ],
)
def test_what_the_server_says_of_a_bad_request_is_what_it_says_without_us(
    llama: LlamaServer, run: Run, body: Any
) -> None:
    async def story() -> None:
        async with before(llama.url) as served:
            path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
            ours = await served.post(body, path)
            async with served.http.post(llama.url + path, json=body) as got:
                assert ours[0] == got.status
                if got.status != 200:
                    assert ours[1] == await got.read()
            await Agent(served, "a").turn()

    run(story())


def test_a_request_that_names_its_slot_is_left_alone(llama: LlamaServer, run: Run) -> None:
    async def story() -> None:
        async with before(llama.url) as served:
            await Agent(served, "a").turn(id_slot=2)
            assert served.driver is not None
            assert served.driver.capacity() is None  # Nobody has asked it.

    run(story())


def test_what_we_added_is_no_reason_for_an_error(run: Run) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        await answers[min(len(asked.bodies), len(answers)) - 1](writer)

    refused = reply(b"unknown field id_slot", status="400 Bad Request")
    answers = [reply(PROPERTIES), reply(PROPERTIES), refused, reply(b"{}")]

    async def story() -> None:
        nonlocal asked
        async with before("", answer) as served:
            asked = served.upstream
            agent = Agent(served, "a")
            assert await served.post({"messages": agent.messages}) == (200, b"{}")
            changed, plain = asked.bodies[-2:]
            assert json.loads(changed) == {"id_slot": 0, "cache_prompt": True, "messages": agent.messages}
            assert json.loads(plain) == {"messages": agent.messages}

    asked: Any = None
    run(story())


def test_a_server_that_is_no_llama_cpp_is_served_all_the_same(run: Run) -> None:
    async def story() -> None:
        async with before("", reply(b"what?")) as served:
            agent = Agent(served, "a")
            for _ in range(2):
                assert await served.post({"messages": agent.messages}) == (200, b"what?")
            assert json.loads(served.upstream.bodies[-1]) == {"messages": agent.messages}

    run(story())
