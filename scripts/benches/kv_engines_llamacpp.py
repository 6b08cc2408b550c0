# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's own server for the bench ``kv_engines``, and who gets which slot, decided as the gateway does."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from math import inf
from queue import Empty, SimpleQueue
from typing import Any

from agentcg.errors import AgentcgError
from agentcg.kv.engines.llamacpp.seats import Seats
from agentcg.kv.policies import POLICIES
from agentcg.kv.reload import Reload
from benches.daemons import folder
from benches.harness import Stage
from benches.kv_engines_work import Answer, Ask, Scale
from benches.kv_llamacpp import find_model
from benches.llamacpp import LlamaServer, free_port, start_server

__all__ = ["BATCH_TOKENS", "SCALE", "SLOTS", "LlamaEngine"]

SLOTS, BATCH_TOKENS = 3, 128
SCALE = Scale(tokens=1 / 160, answers=1 / 24, sec=1.0, context=480, many=4)
SPARE_TOKENS = 32
"""The server wants some room in a slot beyond the longest context."""
POLL_SEC = 0.002
LIMIT_SEC = 300.0
"""For a request, on a busy machine."""


class LlamaEngine:
    """A server with one thread, and the seats beside it. Its clock counts the processor time of the whole server.

    Nothing is saved to files. A slot of a session that is over is not erased: no prompt begins with what it holds.
    """

    def __init__(self, stage: Stage, policy: str) -> None:
        self._policy = policy
        room = SLOTS * (SCALE.context + SPARE_TOKENS)
        self._server = LlamaServer(
            find_model(), folder(stage), SLOTS, room, free_port(), saves=False, batch=BATCH_TOKENS
        )
        start_server(stage, self._server)
        if self._server.process is None:
            raise AgentcgError("the server has gone")
        # CPUCLOCK_SCHED of a process, as clock_getcpuclockid(3) makes it.
        self._clock = ~self._server.process.pid << 3 | 2
        self._skipped = -time.clock_gettime(self._clock)
        self._threads = stage.enter_context(ThreadPoolExecutor(SLOTS))
        self._replies: SimpleQueue[tuple[str, Any, float]] = SimpleQueue()
        self._open: dict[str, Ask] = {}
        """Asked for and not answered, whether seated or not."""
        self._seated: set[str] = set()
        self.begin_anew(None)

    def begin_anew(self, reload: Reload | None) -> None:
        """Forget all sessions. :param reload: what it costs to have a context back; learned, if left out"""
        self._seats = Seats(POLICIES[self._policy](), SLOTS, SCALE.context, files=0)
        if reload is not None:
            self._seats.retention.state.reload = reload

    @property
    def now(self) -> float:
        return time.clock_gettime(self._clock) + self._skipped

    def ask(self, asked: Ask) -> None:
        self._open[asked.name] = asked
        self._seats.arrive(asked.name, asked.session, len(asked.prompt) + asked.output - 1, self.now)
        self._seat()

    def work(self, until: float) -> list[Answer]:
        while True:
            self._seat()
            if not self._seated:
                at = min(until, self._seats.ask_again_at)
                if at == inf:
                    return []
                self._skipped += max(0.0, at - self.now)
                if at == until:
                    return []
                continue
            try:
                name, reply, at = self._replies.get(timeout=POLL_SEC)
            except Empty:
                if self.now >= until:
                    return []
                continue
            return [self._answered(name, reply, at)]

    def _seat(self) -> None:
        while (seat := self._seats.next(self.now)) is not None:
            self._seated.add(seat.request)
            self._threads.submit(self._complete, self._open[seat.request], seat.slot)

    def _complete(self, asked: Ask, slot: int) -> None:
        body = {"prompt": list(asked.prompt), "n_predict": asked.output, "id_slot": slot, "return_tokens": True}
        body |= {"cache_prompt": True, "ignore_eos": True, "temperature": 0}
        try:
            reply: Any = self._server.post("/completion", body, LIMIT_SEC)
        except Exception as error:
            reply = error
        self._replies.put((asked.name, reply, self.now))

    def _answered(self, name: str, reply: Any, at: float) -> Answer:
        if isinstance(reply, Exception):
            raise AgentcgError(f"the server did not answer: {reply}") from reply
        asked = self._open.pop(name)
        self._seated.discard(name)
        tokens, cached = reply["tokens"], reply["timings"]["cache_n"]
        if len(tokens) != asked.output or cached + reply["timings"]["prompt_n"] != len(asked.prompt):
            raise AgentcgError(f"the server answered something else than it was asked: {reply['timings']}")
        self._seats.ended(name, len(asked.prompt) + asked.output - 1, at)
        if asked.last:
            for slot in self._seats.close(asked.session, at):
                self._seats.erased(slot)
        return Answer(name, tokens, cached, at)
