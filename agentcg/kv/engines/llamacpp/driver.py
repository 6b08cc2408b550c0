# SPDX-License-Identifier: Apache-2.0
"""Says which slot of a llama.cpp server a turn is to use, and saves and restores slots where that is worth it.

::

    driver = Driver(SlotServer(http, "http://127.0.0.1:8080"), POLICIES["soft_pins"]())
    turn = await driver.begin("u0/fix-123", tokens=4096)
    # … ask the server, with id_slot=turn.slot …
    turn.end(Outcome(4200, tool="Bash"))

Whoever asks the server past the driver makes it misjudge what a slot holds; nothing worse.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from itertools import count
from time import monotonic
from typing import Any

from agentcg.api.types import KvEvent, KvQueue, KvSession
from agentcg.kv.engines.clock import SteadyClock
from agentcg.kv.engines.llamacpp.seats import Seat, Seats
from agentcg.kv.engines.llamacpp.server import Copied, EngineError, SlotServer
from agentcg.kv.engines.llamacpp.told import BRANCH, Told
from agentcg.kv.engines.llamacpp.turn import Outcome, Turn
from agentcg.kv.engines.signals import call_event
from agentcg.kv.policies.base import Policy

__all__ = ["FILES", "Driver"]

log = logging.getLogger(__name__)

FILES = 16
"""Contexts that are saved at a time."""
_LOOK_SEC = 1.0
"""For so long it is believed that the server is the one that it was."""
_SOON_SEC, _AGAIN_SEC = 0.001, 0.25
"""While somebody waits the policy is asked so often: what is worth keeping changes with time."""
_SESSIONS = 16384


class Driver:
    """The slots of one server. :param files: how many contexts are saved at a time, in the server's own folder"""

    def __init__(
        self, server: SlotServer, policy: Policy, *, files: int = FILES, clock: Callable[[], float] = monotonic
    ) -> None:
        self._server, self._clock = server, SteadyClock(clock)
        self.seats = Seats(policy, 0, 0, files)
        """Without slots until the server was reached."""
        self._identity = ""
        self._looked = -_LOOK_SEC
        self._looking = asyncio.Lock()
        self._numbers = count(1)
        self._futures: dict[str, asyncio.Future[Turn]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._latest: OrderedDict[str, str] = OrderedDict()
        self._told = Told()
        self._complained = ""

    async def begin(self, session: str, tokens: int, *, branch: int = 0) -> Turn | None:
        """Wait until a turn of a session may run, and return it; None if the server cannot be reached.

        :param tokens: of its whole prompt, about
        :param branch: another number for each conversation that a session has
        :raises Exception: whatever went wrong in here; the request is to be made all the same
        """
        if not await self._look():
            return None
        key = f"{session}{BRANCH}{branch}" if branch else session
        self._latest[session] = key
        self._latest.move_to_end(session)
        if len(self._latest) > _SESSIONS:
            self._latest.popitem(last=False)
        request = str(next(self._numbers))
        future: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        self._futures[request] = future
        try:
            self.seats.arrive(request, key, tokens, self._clock.now())
            self._seat()
            return await future
        except BaseException:
            self._cancelled(request)
            raise
        finally:
            self._futures.pop(request, None)

    async def close(self) -> None:
        """Finish what is being copied, and do nothing any more."""
        if self._again is not None:
            self._again.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def lost(self) -> None:
        """The server did not answer, or hung up: look at it before anything else is believed."""
        self._looked = self._clock.now() - _LOOK_SEC
        self._identity = ""

    def heard(self, event: KvEvent) -> None:
        """The co-ordinator tells of a call, or that a session is over."""
        if event.session is None:
            return
        key = self._latest.get(event.session, event.session)
        if event.kind == "closed":
            self._latest.pop(event.session, None)
            for each in {event.session, key, *self.seats.named(event.session + BRANCH)}:
                for slot in self.seats.close(each, self._clock.now()):
                    self._spawn(self._erase(slot))
        elif (found := call_event(event)) is not None:
            self.seats.call(key, found, self._clock.now())
        self._seat()

    def unheard(self) -> None:
        """The co-ordinator is gone: what runs now is taken to be over, since nobody would say so."""
        self.seats.end_calls(self._clock.now())

    def capacity(self) -> tuple[int, int] | None:
        """Return how many blocks the cache has, and their bytes; None until that is known."""
        return self._told.capacity(self.seats)

    def report(self) -> tuple[list[KvSession], KvQueue]:
        """Return what the co-ordinator is told, for all sessions whose state it has to know."""
        return self._told.report(self.seats, self._clock.now())

    async def _look(self) -> bool:
        """Make sure that the server is there, and the one that it was. Return whether it is there."""
        async with self._looking:
            if self.seats.slots and self._clock.now() - self._looked < _LOOK_SEC:
                return True
            try:
                if await self._server.identity() != self._identity:
                    await self._meet()
            except EngineError as error:
                self._complain(f"requests are passed on as they are: {error.line}")
                return False
            self._looked = self._clock.now()
            return True

    async def _meet(self) -> None:
        described = await self._server.describe()
        self._identity, self._complained = described.identity, ""
        if self.seats.slots:
            log.warning("the server has started anew, and forgotten everything")
        self.seats.costs.saves = True
        self.seats.forget(described.slots, described.context, self._clock.now())

    def _seat(self) -> None:
        """Let those run who may; ask again later while others wait."""
        try:
            while (seat := self.seats.next(self._clock.now())) is not None:
                self._spawn(self._prepare(seat, self._identity))
        except Exception as error:
            # Whoever waits must not wait for ever for what cannot be decided.
            for future in self._futures.values():
                if not future.done():
                    future.set_exception(error)
        if self.seats.waiting:
            if self._again is not None:
                self._again.cancel()
            sec = max(_SOON_SEC, min(_AGAIN_SEC, self.seats.ask_again_at - self._clock.now()))
            self._again = asyncio.get_running_loop().call_later(sec, self._ask_again)

    def _ask_again(self) -> None:
        self._again = None
        self._seat()

    async def _prepare(self, seat: Seat, identity: str) -> None:
        """Copy what is to be copied, and let the turn go on, whatever comes of it."""
        expected = 0
        try:
            expected = await self._copy_all(seat, identity)
        finally:
            future = self._futures.get(seat.request)
            if future is None or future.done():
                self._cancelled(seat.request)
            else:
                found = self.seats.retention.state.requests.get(seat.request)
                session = "" if found is None else found.session.name
                ended = partial(self._ended, seat.request, session)
                future.set_result(Turn(seat.slot, expected, ended, partial(self._cancelled, seat.request)))

    async def _copy_all(self, seat: Seat, identity: str) -> int:
        """Return how many tokens the slot is believed to hold then."""
        seats = self.seats
        state = seats.retention.state
        expected = state.requests[seat.request].session.resident if seat.request in state.requests else 0
        if seat.save is not None:
            copied = await self._copy(self._server.save(seat.slot, _file(seat.save)))
            if copied is not None:
                seats.costs.saved(copied.tokens, copied.bytes, copied.sec)
            seats.written(seat.victim, seat.save, good=copied is not None and identity == self._identity)
        if seat.restore is not None:
            copied = await self._copy(self._server.restore(seat.slot, _file(seat.restore)))
            if copied is not None:
                seats.costs.restored(copied.tokens, copied.sec)
                expected = copied.tokens
            seats.read(seat.restore)
        return expected

    async def _copy(self, copying: Awaitable[Copied]) -> Copied | None:
        try:
            return await copying
        except EngineError as error:
            self.seats.costs.saves = False
            self._complain(f"slots are not saved any more: {error.line}")
            return None

    async def _erase(self, slot: int) -> None:
        try:
            await self._server.erase(slot)
        except EngineError as error:
            self._complain(f"a slot was not erased: {error.line}")
        self.seats.erased(slot)
        self._seat()

    def _ended(self, request: str, session: str, said: Outcome) -> None:
        if said.computed is not None:
            self.seats.costs.computed(*said.computed)
        found = self.seats.retention.state.requests.get(request)
        if found is None:
            self._cancelled(request)
            return
        if said.cached is not None and found.session.turns:
            self._told.came_back(session, hit=2 * said.cached >= found.session.tokens)
        tokens = found.tokens if said.tokens is None else said.tokens
        self.seats.ended(request, tokens, self._clock.now(), tool=said.tool)
        self._seat()

    def _cancelled(self, request: str) -> None:
        self.seats.cancelled(request, self._clock.now())
        self._seat()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _complain(self, what: str) -> None:
        """Say something once, until all is well again."""
        if what != self._complained:
            self._complained = what
            log.warning("%s", what)


def _file(number: int) -> str:
    return f"agentcg-{number}.slot"
