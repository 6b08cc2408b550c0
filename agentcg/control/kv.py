# SPDX-License-Identifier: Apache-2.0
"""The co-ordinator between tool calls and the caches that their sessions have at LLM servers, the *engines*.

It tells engines of calls, hears what they hold, and from that favours sessions whose cache is in the way: how much, is
decided in :mod:`agentcg.kv.coordinate`. While no engine has said hello and nobody listens, it does nothing at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import msgspec

from agentcg.control.bus import Event, Listeners
from agentcg.control.lease import Lease
from agentcg.control.live import LiveCall, LiveSession
from agentcg.control.prediction import Prediction
from agentcg.control.registry import Registry
from agentcg.errors import InvalidInput, Unsupported
from agentcg.kv.coordinate import Forecast, cpu_factor, differs, urgencies
from agentcg.kv.reports import Engine, Queue, SessionReport
from agentcg.model import CallRef, SessionRef, Verdict
from agentcg.policy.schema import KvRules
from agentcg.predict.duration import Predictor
from agentcg.predict.learn import learn_verdict

__all__ = ["Coordinator", "News", "NewsKind"]

log = logging.getLogger(__name__)

ENGINES = 64
LOOK_SEC = 1.0
"""How often every call is looked at while there are engines."""
WEIGH_SEC = 0.1
"""The least time between two answers to reports."""
HISTORY = 512
"""Verdicts that it learns from when the first engine comes."""

NewsKind = Literal["began", "revised", "frozen", "thawed", "ended", "closed", "lost"]


@dataclass(frozen=True, slots=True)
class News:
    """What engines are told: of a call, or, for ``closed``, of a session."""

    kind: NewsKind
    session: SessionRef | None = None
    call: CallRef | None = None
    forecast: Forecast | None = None
    missed: int | None = None


@dataclass(slots=True, eq=False)
class _Followed:
    """A call, and what was told of it."""

    live: LiveCall
    prediction: Prediction
    entered: bool
    watch: int | None = None
    state: Literal["runs", "frozen", "ended"] = "ended"
    told: Forecast | None = None
    told_at: float = 0.0

    def look(self) -> Literal["runs", "frozen", "ended"]:
        """Return how it is now. It has ended when nothing is left in it, whatever its runtime says later."""
        populated = self.live.leaf.populated
        self.entered = self.entered or populated
        if self.entered and not populated:
            return "ended"
        return "runs" if self.live.still_since is None else "frozen"

    def elapsed(self, now: float) -> float:
        """For how long it has run since it was told of, in seconds."""
        return max(0.0, (now if self.live.still_since is None else self.live.still_since) - self.told_at)


class Coordinator:
    """Listens to a registry's bus. Belongs to the loop it was made on.

    :param weighed: is told of sessions whose :attr:`LiveSession.cpu_weight` is another
    """

    def __init__(
        self, registry: Registry, rules: KvRules, weighed: Callable[[LiveSession], None] = lambda live: None
    ) -> None:
        self._registry, self._rules, self._weighed = registry, rules, weighed
        self._engines: dict[str, tuple[Lease, Engine]] = {}
        self._listening = 0
        self._news = Listeners[News](lambda count: News("lost", missed=count))
        self._predictor = Predictor()
        self._followed: dict[CallRef, _Followed] = {}
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
            async for news in self._news.listen(first=lambda: self._running(time.monotonic())):
                yield news
        finally:
            self._listening -= 1
            self._rest()

    def _running(self, now: float) -> Iterator[News]:
        for ref, followed in self._followed.items():
            if followed.state != "ended" and followed.told is not None:
                left = Forecast(*(max(0.0, sec - followed.elapsed(now)) for sec in followed.told))
                yield News("began", ref.session, ref, left)
                if followed.state == "frozen":
                    yield News("frozen", ref.session, ref)

    # Its life

    def _wake(self) -> None:
        if self._hearing is not None:
            return
        self._predictor = Predictor()
        for record in reversed(list(self._registry.store.recent(HISTORY))):
            with contextlib.suppress(msgspec.ValidationError):  # Of a version that wrote others.
                learn_verdict(self._predictor, msgspec.convert(record, Verdict))
        self._hearing = asyncio.create_task(self._hear())
        self._hearing.add_done_callback(_log_error)
        self._tick()

    def _rest(self) -> None:
        if self._engines or self._listening or self._hearing is None:
            return
        self._hearing.cancel()
        self._hearing = None
        if self._timer is not None:
            self._timer.cancel()
        for ref in list(self._followed):
            self._unfollow(ref)

    def close(self) -> None:
        """Forget all engines: every session has the share that the policy gives it."""
        self._engines.clear()
        self._weigh()
        self._listening = 0
        self._rest()

    def _tick(self) -> None:
        for ref in [ref for ref, one in self._followed.items() if self._registry.calls.get(ref) is not one.live]:
            self._over(ref)
        for ref in list(self._registry.calls):
            self._look(ref)
        self._forget_closed()
        self._weigh()
        self._timer = asyncio.get_running_loop().call_later(LOOK_SEC, self._tick)

    # Calls

    async def _hear(self) -> None:
        async for event in self._registry.bus.listen():
            self._heard(event)

    def _heard(self, event: Event) -> None:
        if event.verdict is not None:
            learn_verdict(self._predictor, event.verdict)
            self._over(event.verdict.ref)
        elif event.kind == "session_closed":
            self._forget_closed()
            self._news.tell(News("closed", SessionRef.parse("subject", event.subject, tenant="")))
        elif event.kind in ("session_frozen", "session_thawed"):
            for call in [call for call in self._followed if str(call.session) == event.subject]:
                self._look(call)
        elif event.kind.startswith("call_"):
            self._look(CallRef.parse("subject", event.subject))

    def _look(self, ref: CallRef) -> None:
        """See how a call is, and tell if it is not as it was told."""
        live = self._registry.calls.get(ref)
        if live is None:
            return
        now = time.monotonic()
        followed = self._followed.get(ref)
        if followed is None or followed.live is not live:
            self._over(ref)
            followed = self._followed[ref] = _Followed(live, Prediction(live, now), live.entered)
            followed.watch = self._registry.poll.watch_file(live.leaf.fd, "cgroup.events", partial(self._changed, ref))
        before, followed.state = followed.state, followed.look()
        if followed.state == before:
            if before == "runs" and now >= followed.prediction.due:
                self._revise(followed, now)
            return
        if before == "ended":
            self._tell(followed, "began", followed.prediction.make(self._predictor, now), now)
        if followed.state != "runs":
            self._tell(followed, followed.state)
        elif before == "frozen":
            self._tell(followed, "thawed", followed.prediction.make(self._predictor, now), now)

    def _changed(self, ref: CallRef) -> None:
        self._look(ref)
        followed = self._followed.get(ref)
        if followed is not None and followed.state == "ended" and followed.live.finishing is not None:
            # Its cgroup goes, and nothing can change any more.
            self._registry.poll.unwatch(followed.watch)
            followed.watch = None

    def _revise(self, followed: _Followed, now: float) -> None:
        new = followed.prediction.make(self._predictor, now)
        if followed.told is None or differs(new, followed.told, followed.elapsed(now)):
            self._tell(followed, "revised", new, now)

    def _tell(self, followed: _Followed, kind: NewsKind, forecast: Forecast | None = None, now: float = 0.0) -> None:
        if forecast is not None:
            followed.told, followed.told_at = forecast, now
        ref = followed.live.ref
        self._news.tell(News(kind, ref.session, ref, forecast))

    def _over(self, ref: CallRef) -> None:
        followed = self._unfollow(ref)
        if followed is not None and followed.state != "ended":
            self._tell(followed, "ended")

    def _unfollow(self, ref: CallRef) -> _Followed | None:
        followed = self._followed.pop(ref, None)
        if followed is not None:
            self._registry.poll.unwatch(followed.watch)
        return followed

    # What it changes

    def _weigh(self) -> None:
        """Give every session the share and the place that it is to have now."""
        now = self._weighed_at = time.monotonic()
        engines = self.engines()
        urgent: dict[SessionRef, float] = {}
        if any(engine.pressure(now) for engine in engines):
            urgent = urgencies(engines, self._remaining(now), now)
        running = {ref.session for ref, followed in self._followed.items() if followed.state == "runs"}
        for ref, live in self._registry.sessions.items():
            if live.closing or live.session.container:
                continue
            urgency = urgent.get(ref, 0.0)
            live.urgency = urgency if self._rules.order else 0.0
            factor = cpu_factor(urgency) if self._rules.weights and ref in running else 1.0
            if factor != live.cpu_factor:
                self._set_factor(live, factor)

    def _remaining(self, now: float) -> dict[SessionRef, float]:
        """Return how much progress each session's calls still need, that of the longest, in seconds."""
        longest: dict[SessionRef, float] = {}
        for ref, followed in self._followed.items():
            if followed.state != "ended":
                longest[ref.session] = max(longest.get(ref.session, 0.0), followed.prediction.mean(now))
        return longest

    def _set_factor(self, live: LiveSession, factor: float) -> None:
        live.cpu_factor = factor
        try:
            self._registry.tree.weigh_session(live.node, live.cpu_weight)
        except OSError as error:
            log.warning("the share of %s cannot be changed: %s", live.session.ref, error)
        self._weighed(live)


def _log_error(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("engines hear of calls late from now on", exc_info=error)
