# SPDX-License-Identifier: Apache-2.0
"""The co-ordinator between tool calls and the caches that their sessions have at LLM servers, the *engines*.

It tells engines of calls (:mod:`agentcg.control.signals`), hears what they hold, and from that favours sessions whose
cache is in the way: how much, is decided in :mod:`agentcg.kv.coordinate`. While no engine has said hello and nobody
listens, it does nothing at all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence

from agentcg.control.lease import Lease
from agentcg.control.live import LiveSession
from agentcg.control.registry import Registry
from agentcg.control.signals import News, Signals
from agentcg.errors import InvalidInput, Unsupported
from agentcg.journal import about
from agentcg.kv.coordinate import cpu_factor, urgencies
from agentcg.kv.reports import Engine, Queue, SessionReport
from agentcg.model import SessionRef
from agentcg.policy.schema import KvRules

__all__ = ["Coordinator"]

log = logging.getLogger(__name__)

ENGINES = 64
LOOK_SEC = 1.0
"""How often every call is looked at while there are engines."""
WEIGH_SEC = 0.1
"""The least time between two answers to reports."""


class Coordinator:
    """Listens to a registry's bus. Belongs to the loop it was made on.

    :param weighed: is told of sessions whose :attr:`LiveSession.cpu_weight` is another
    """

    def __init__(
        self, registry: Registry, rules: KvRules, weighed: Callable[[LiveSession], None] = lambda live: None
    ) -> None:
        self._registry, self._rules, self._weighed = registry, rules, weighed
        self._engines: dict[str, tuple[Lease, Engine]] = {}
        self._signals = Signals(registry)
        self._listening = 0
        self._hearing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._weighed_at = 0.0

    # What engines say

    def hello(self, lease: Lease, name: str, blocks: int, block_bytes: int) -> None:
        """An engine is there, or has started anew: whatever was said before, by it or under its name, is forgotten.

        :raises InvalidInput: for a cache that cannot be, or one engine too many
        """
        engine = Engine(name, blocks, block_bytes)
        if name not in self._engines and len(self._engines) >= ENGINES:
            raise InvalidInput("engine", f"there are {ENGINES} engines already", hint="let one of them hang up first")
        self._forget(lease)
        self._engines[name] = lease, engine
        log.info("the engine %s has said hello, with a cache of %d blocks", name, blocks)
        self._wake()
        self._weigh()

    def report(self, lease: Lease, sessions: Sequence[SessionReport], queue: Queue | None) -> list[SessionRef]:
        """Hear a report; return the sessions that are not known here.

        :raises InvalidInput: naming what cannot be, or if the connection is no engine's
        """
        engine = next((engine for holder, engine in self._engines.values() if holder is lease), None)
        if engine is None:
            hint = "call Hello first; once more if another connection has said it under the same name"
            raise InvalidInput("engine", "this connection is no engine's", hint=hint)
        now = time.monotonic()
        unknown = engine.report(sessions, queue, self._registry.sessions, now)
        if now - self._weighed_at >= WEIGH_SEC:
            self._weigh()
        return unknown

    def dropped(self, lease: Lease) -> None:
        """A connection is gone: if it was an engine's, forget all that it has said."""
        if self._forget(lease):
            self._weigh()
            self._rest()

    def _forget(self, lease: Lease) -> bool:
        names = [name for name, (holder, _) in self._engines.items() if holder is lease]
        for name in names:
            del self._engines[name]
            log.info("the engine %s is gone", name)
        return bool(names)

    def _forget_closed(self) -> None:
        for engine in self.engines():
            for ref in engine.holdings.keys() - self._registry.sessions.keys():
                del engine.holdings[ref]

    def engines(self) -> list[Engine]:
        """Return the engines that have said hello."""
        return [engine for _, engine in self._engines.values()]

    # What they hear

    async def listen(self) -> AsyncIterator[News]:
        """Yield the calls that are there, and then what happens. :raises Unsupported: if the policy does not want it"""
        if not self._rules.signals:
            raise Unsupported("engines are not told of calls here", hint="set signals = true in [kv] of the policy")
        self._listening += 1
        try:
            self._wake()
            await asyncio.sleep(0)  # Until we hear of everything ourselves.
            async for news in self._signals.listen():
                yield news
        finally:
            self._listening -= 1
            self._rest()

    async def _hear(self) -> None:
        async for event in self._registry.bus.listen():
            if event.kind == "session_closed":
                self._forget_closed()
            self._signals.heard(event)

    # Its life

    def _wake(self) -> None:
        if self._hearing is None:
            self._hearing = asyncio.create_task(self._hear())
            self._hearing.add_done_callback(_log_error)
            self._signals.start()
            self._timer = asyncio.get_running_loop().call_later(LOOK_SEC, self._tick)

    def _rest(self) -> None:
        if not self._engines and not self._listening:
            self._stop()

    def _stop(self) -> None:
        if self._hearing is not None:
            self._hearing.cancel()
            self._hearing = None
            self._signals.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Forget all engines: every session has the share that the policy gives it."""
        self._engines.clear()
        self._weigh()
        self._stop()

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_SEC, self._tick)
        self._forget_closed()
        self._signals.look()
        self._weigh()

    # What it changes

    def _weigh(self) -> None:
        """Give every session the share and the place that it is to have now."""
        now = self._weighed_at = time.monotonic()
        engines = self.engines()
        urgent: dict[SessionRef, float] = {}
        if any(engine.pressure(now) for engine in engines):
            urgent = urgencies(engines, self._signals.remaining(now), now)
        running = self._signals.running() if urgent else set()
        for ref, live in self._registry.sessions.items():
            if live.closing or live.session.container:
                continue
            urgency = urgent.get(ref, 0.0)
            live.urgency = urgency if self._rules.order else 0.0
            factor = cpu_factor(urgency) if self._rules.weights and ref in running else 1.0
            if factor != live.cpu_factor:
                self._set_factor(live, factor)

    def _set_factor(self, live: LiveSession, factor: float) -> None:
        live.cpu_factor = factor
        try:
            self._registry.tree.weigh_session(live.node, live.cpu_weight)
        except OSError as error:
            log.warning("the share of %s cannot be changed: %s", live.session.ref, error, extra=about(live.session.ref))
        self._weighed(live)


def _log_error(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("engines hear of calls late from now on", exc_info=error)
