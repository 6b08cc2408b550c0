# SPDX-License-Identifier: Apache-2.0
"""The driver beside a real server of llama.cpp: three slots, more sessions, and everything that may go wrong."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import aiohttp
import pytest
from benches.llamacpp import LlamaServer

from agentcg.api.types import KvEvent, KvForecast
from agentcg.kv.engines.llamacpp import driver as module
from agentcg.kv.engines.llamacpp.driver import Driver
from agentcg.kv.engines.llamacpp.server import SlotServer
from agentcg.kv.engines.llamacpp.turn import Outcome, Turn
from agentcg.kv.policies import POLICIES
from agentcg.kv.policies.soft import SoftPins

PROMPT = 400


class Agents:
    """Sessions that ask the server turn by turn, each with a prompt that grows."""

    def __init__(self, llama: LlamaServer, http: aiohttp.ClientSession, **options: Any) -> None:
        self.llama, self.http = llama, http
        self.now = 0.0
        policy = POLICIES[options.pop("policy", "soft_pins")]()
        self.driver = Driver(SlotServer(http, llama.url), policy, **options)
        self.prompts: dict[str, str] = {}

    async def ask(self, session: str, slot: int | None, prompt: str) -> Any:
        body: dict[str, Any] = {"prompt": prompt, "max_tokens": 4, "cache_prompt": True}
        if slot is not None:
            body["id_slot"] = slot
        async with self.http.post(f"{self.llama.url}/v1/completions", json=body) as reply:
            assert reply.status == 200
            return await reply.json()

    async def turn(self, session: str, *, branch: int = 0, lie: int | None = None) -> int:
        """Serve a turn; return how many tokens of its prompt were found."""
        prompt = self.prompts[session] = self.prompts.get(session, session * PROMPT) + "."
        turn = await self.driver.begin(f"u0/{session}", len(prompt), branch=branch)
        assert turn is not None
        answer = await self.ask(session, turn.slot, prompt)
        end(turn, answer, lie)
        found: int = answer["timings"]["cache_n"]
        return found

    @property
    def held(self) -> list[str]:
        return [held.session for held in self.driver.seats.holdings(0) if held.seated]


def end(turn: Turn, answer: Any, lie: int | None = None) -> None:
    timings = answer["timings"]
    tokens = answer["usage"]["total_tokens"] if lie is None else lie
    turn.end(Outcome(tokens, "Bash", timings["cache_n"], (timings["prompt_n"], timings["prompt_ms"] / 1000)))


Story = Callable[[Agents], Awaitable[None]]


@pytest.fixture
def run(llama: LlamaServer) -> Callable[..., None]:
    """Return what runs a story beside the server, within a minute."""

    @asynccontextmanager
    async def agents(**options: Any) -> AsyncIterator[Agents]:
        async with aiohttp.ClientSession() as http:
            found = Agents(llama, http, **options)
            yield found
            await found.driver.close()

    def play(story: Story, **options: Any) -> None:
        async def whole() -> None:
            async with agents(**options) as found:
                await asyncio.wait_for(story(found), 60)

        asyncio.run(whole())

    return play


@pytest.mark.usefixtures("slow_prefill")
def test_four_sessions_on_three_slots_compute_nothing_twice(run: Callable[..., None]) -> None:
    async def story(agents: Agents) -> None:
        for name in "abcd":
            assert await agents.turn(name) < 10
        blocks, block_bytes = agents.driver.capacity() or (0, 0)
        assert blocks == 3 * 8192
        assert block_bytes > 500  # Two layers, keys and values, 64 numbers each of two bytes: 512, and who it is.
        for _ in range(3):
            for name in "abcd":
                assert await agents.turn(name) >= PROMPT
        assert len(agents.held) == 3

    run(story)


def test_without_saving_what_is_taken_is_computed_again(run: Callable[..., None]) -> None:
    async def story(agents: Agents) -> None:
        for name in "abcd":
            await agents.turn(name)
        (taken,) = {"a", "b", "c"} - {name.removeprefix("u0/") for name in agents.held}
        assert await agents.turn("d") >= PROMPT
        assert await agents.turn(taken) < 10

    run(story, files=0)


def test_a_server_that_cannot_save_serves_on(llama: LlamaServer, run: Callable[..., None]) -> None:
    llama.stop()
    llama.saves = False
    llama.start()

    async def story(agents: Agents) -> None:
        for name in "abcdabcd":
            await agents.turn(name)
        assert not agents.driver.seats.costs.saves

    run(story)


@pytest.mark.usefixtures("slow_prefill")
def test_a_server_that_starts_anew_has_forgotten_everything(llama: LlamaServer, run: Callable[..., None]) -> None:
    async def story(agents: Agents) -> None:
        for name in "abcd":
            await agents.turn(name)
        llama.kill()
        agents.driver.lost()
        assert await agents.driver.begin("u0/a", 1000) is None
        llama.slots = 2
        llama.start()
        for name in "abcd":
            assert await agents.turn(name) < 10  # Nothing is read that another model may have written.
        assert agents.driver.seats.slots == 2
        for name in "abcd":
            assert await agents.turn(name) >= PROMPT

    run(story)


def test_a_restart_that_nobody_noticed_is_found_out(
    llama: LlamaServer, run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_SEC", 0.0)

    async def story(agents: Agents) -> None:
        for name in "abc":
            await agents.turn(name)
        llama.kill()
        llama.slots = 1
        llama.start()
        assert await agents.turn("c") < 10
        assert agents.held == ["u0/c"]

    run(story)


def test_without_a_server_there_is_no_turn_and_no_error(llama: LlamaServer, run: Callable[..., None]) -> None:
    llama.kill()

    async def story(agents: Agents) -> None:
        assert await agents.driver.begin("u0/a", 1000) is None
        agents.driver.heard(KvEvent("began", "u0/a", "u0/a/c1"))
        assert agents.driver.capacity() is None
        assert agents.driver.report()[0] == []
        llama.start()
        assert await agents.turn("a") < 10

    run(story)


def test_two_turns_of_one_session_go_one_after_the_other_and_branches_side_by_side(run: Callable[..., None]) -> None:
    async def story(agents: Agents) -> None:
        first = await agents.driver.begin("u0/a", 100)
        second = asyncio.create_task(agents.driver.begin("u0/a", 100))
        other = await agents.driver.begin("u0/a", 100, branch=1)
        assert first is not None
        assert other is not None
        assert first.slot != other.slot
        await asyncio.sleep(0.1)
        assert not second.done()
        (said,) = agents.driver.report()[0]
        assert (said.session, said.turns) == ("u0/a", 3)
        first.end(Outcome(100))
        found = await second
        assert found is not None
        assert found.slot == first.slot
        found.end(Outcome(200))
        other.end(Outcome(50))
        (said,) = agents.driver.report()[0]
        assert (said.tokens, said.turns) == (250, 0)

    run(story)


def test_more_turns_than_slots_wait_and_are_all_served(run: Callable[..., None]) -> None:
    async def story(agents: Agents) -> None:
        for _ in range(3):
            await asyncio.gather(*(agents.turn(name) for name in "abcdefgh"))
        assert agents.driver.seats.waiting == 0

    run(story)


def test_who_gives_up_while_waiting_or_running_blocks_nobody(run: Callable[..., None]) -> None:
    async def story(agents: Agents) -> None:
        running = [await agents.driver.begin(f"u0/{name}", 100) for name in "abc"]
        waiting = asyncio.create_task(agents.driver.begin("u0/d", 100))
        gone = asyncio.create_task(agents.driver.begin("u0/e", 100))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.wait([gone])
        for turn in running:
            assert turn is not None
            turn.cancel()
            turn.cancel()  # Said twice.
            turn.end(Outcome(5))
        found = await waiting
        assert found is not None
        found.end(Outcome(None))
        assert agents.driver.seats.waiting == 0

    run(story)


@pytest.mark.parametrize("lie", [-1, 0, 10**15])
def test_token_counts_that_lie_stop_nobody(run: Callable[..., None], lie: int) -> None:
    async def story(agents: Agents) -> None:
        for name in "abcdabcd":
            await agents.turn(name, lie=lie)
        for said in agents.driver.report()[0]:
            assert 0 <= said.tokens <= 8192

    run(story)


def test_a_prefix_that_changes_is_computed_again_in_the_same_slot(run: Callable[..., None]) -> None:
    async def story(agents: Agents) -> None:
        await agents.turn("a")
        agents.prompts["a"] = "a summary " * 50
        assert await agents.turn("a") < 10
        assert agents.held == ["u0/a"]
        (said,) = agents.driver.report()[0]
        assert said.hit is False
        assert await agents.turn("a") > 400
        (said,) = agents.driver.report()[0]
        assert said.hit is True

    run(story)


def test_clocks_that_jump_stop_nobody(run: Callable[..., None]) -> None:
    jumps = iter([jump for jump in (0.0, 1e9, -5.0, 1e12, -1e3) for _ in range(20)] * 100)

    async def story(agents: Agents) -> None:
        for name in "abcdabcd":
            await agents.turn(name)

    run(story, clock=lambda: monotonic() + next(jumps))


def test_a_session_that_is_over_leaves_an_erased_slot(llama: LlamaServer, run: Callable[..., None]) -> None:
    async def story(agents: Agents) -> None:
        await agents.turn("a")
        agents.driver.heard(KvEvent("began", "u0/a", "u0/a/c1", KvForecast(1.0, 2.0, 3.0, 2.0)))
        agents.driver.heard(KvEvent("closed", "u0/a"))
        assert agents.held == []
        assert await agents.turn("b") < 10
        said = {each.session: each for each in agents.driver.report()[0]}
        assert set(said) == {"u0/b"}
        assert await agents.turn("a") == 0

    run(story)


def test_what_was_reported_and_is_gone_is_reported_once_more(run: Callable[..., None]) -> None:
    async def story(agents: Agents) -> None:
        await agents.turn("a")
        (said,), queue = agents.driver.report()
        capacity = agents.driver.capacity()
        assert capacity is not None
        assert capacity == (3 * 8192, 1)
        assert (queue.waiting, queue.freeBlocks) == (0, 2 * 8192)
        assert (said.bytes, said.pinnedSec) == (8192, 3.0)
        agents.driver.heard(KvEvent("closed", "u0/a"))
        (gone,), _ = agents.driver.report()
        assert (gone.session, gone.tokens, gone.bytes) == ("u0/a", 0, 0)
        assert agents.driver.report()[0] == []

    run(story)


class Broken(SoftPins):
    """It fails when it is asked about somebody else's cache."""

    def loss(self, *_: Any) -> Any:
        raise ZeroDivisionError("whose?")


def test_a_policy_that_fails_lets_everybody_pass(run: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POLICIES, "broken", Broken)

    async def story(agents: Agents) -> None:
        for name in "abc":
            await agents.turn(name)
        with pytest.raises(ZeroDivisionError):
            await agents.driver.begin("u0/d", 100)
        assert await agents.turn("b") >= PROMPT
        assert agents.driver.seats.waiting == 0

    run(story, policy="broken")
