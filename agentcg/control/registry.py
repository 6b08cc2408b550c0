# SPDX-License-Identifier: Apache-2.0
"""Every live session and call of this host: opened, begun, amended, ended.

All methods run on the daemon's event loop. Who may call them is decided before, in :mod:`agentcg.api`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from agentcg.cgroup.container import budget_of, leave
from agentcg.cgroup.events import EventPoll
from agentcg.cgroup.tree import SessionNode, Tree, write_limits
from agentcg.cgroup.usage import memory_current, memory_peak
from agentcg.control import background
from agentcg.control.bus import Bus
from agentcg.control.finish import finish
from agentcg.control.lease import Lease
from agentcg.control.live import LiveCall, LiveSession
from agentcg.control.network import Network
from agentcg.control.observer import Observer
from agentcg.control.reserves import Reserves
from agentcg.control.standstill import Pauses
from agentcg.control.watch import unwatch_call, watch_call, watch_duration, watch_session
from agentcg.errors import AgentcgError, InvalidInput, Unsupported
from agentcg.journal import about
from agentcg.model import Budget, CallRef, History, Intent, Session, SessionRef, ToolCall, Verdict
from agentcg.policy.budget import budget_for
from agentcg.policy.decide import Decision, decide
from agentcg.policy.intent import merge
from agentcg.policy.match import command_key
from agentcg.policy.schema import Policy
from agentcg.predict.history import Store
from agentcg.units import format_size

__all__ = ["NoSuchCall", "NoSuchSession", "Registry"]

log = logging.getLogger(__name__)

CLAIM_MARGIN = 1.05  # From the peak of sessions past to what the next one is expected to come to.
RECENT = 8  # Verdicts at hand.
IDLE_SEC = 10.0  # To make a session costs more than a short call: keep it for the next one.
_UNUSED = "it is not used"


class NoSuchSession(AgentcgError):
    """There is no session of that name."""

    def __init__(self, ref: SessionRef) -> None:
        super().__init__(f"there is no session {ref}", hint="open it, or see `agentcg session list`")
        self.ref = ref


class NoSuchCall(AgentcgError):
    """There is no call of that name, or it has ended."""

    def __init__(self, ref: CallRef) -> None:
        super().__init__(f"there is no call {ref}", hint="it may have ended: see `agentcg status`")
        self.ref = ref


class Registry:
    """The live state.

    :param capacity: the memory that all sessions have together, in bytes
    :param limited: it is theirs alone, so that they may be held to it together even while nothing is reserved
    """

    def __init__(
        self,
        tree: Tree,
        policy: Policy,
        store: Store,
        poll: EventPoll,
        bus: Bus,
        *,
        capacity: int | None,
        limited: bool = False,
    ) -> None:
        self.tree, self.policy, self.store, self.poll, self.bus = tree, policy, store, poll, bus
        self.capacity = capacity
        self.sessions: dict[SessionRef, LiveSession] = {}
        self.network = Network()
        self.reserves = Reserves(tree, self.sessions, capacity, limited=limited)
        self.calls: dict[CallRef, LiveCall] = {}
        self.pauses = Pauses()
        """For how long all sessions that are not protected were stopped together."""
        self.begun = self.ended = self.adopted = self.refused = 0
        self.recent: deque[tuple[int, Verdict]] = deque(maxlen=RECENT)
        """The last verdicts, the newest last, and whose calls these were."""
        self.observers: list[Observer] = []
        self.kernel_tells = False
        """Throttling and OOM kills are told by the kernel as they happen; no need to watch the files for them."""
        self.refused_in_kernel: Callable[[LiveCall], int] = lambda live: 0
        """How often a call, whose processes are gone, was refused something by the kernel's programs."""
        self.require_transparent: Callable[[], None] = _opaque
        """Sees to it that sessions can be transparent, or raises Unsupported."""
        self._tasks: set[asyncio.Task[Any]] = set()

    # Sessions

    def open_session(
        self,
        ref: SessionRef | None,
        *,
        tenant: str,
        owner_uid: int,
        budget: Budget | None = None,
        protected: bool = False,
        lease: Lease | None = None,
        implicit: bool = False,
        transparent: bool = False,
    ) -> tuple[LiveSession, list[str]]:
        """Open a session and return it with notes on where its budget differs from what was asked.

        :raises InvalidInput: if the name is taken, or what it wants to reserve is not there
        :raises Unsupported: if it is to be transparent, and cannot be
        """
        ref = ref or SessionRef(tenant, f"s-{secrets.token_hex(4)}")
        if ref in self.sessions:
            raise InvalidInput("session", f"{ref} is open already", hint="choose another name, or close it first")
        tenant_budget, _ = budget_for(self.policy.tenant, None, self.capacity)
        granted, notes = budget_for(self.policy.session, budget, tenant_budget)
        declared = None if budget is None else budget.memory_expected or budget.memory_max
        if protected and declared is not None:
            self.reserves.check(declared, granted)
        if transparent:
            self.require_transparent()
        session = Session(ref, owner_uid, time.time(), granted, protected, lease is not None, transparent=transparent)
        node = self.tree.open_session("reserved" if protected else "shared", ref, tenant_budget, granted)
        live = self.sessions[ref] = LiveSession(session, node, lease, self.pauses_of(node), implicit=implicit)
        live.claim = _capped(declared or self._predicted(ref), granted.memory_max)
        self._opened(live)
        return live, notes

    def open_container(self, ref: SessionRef, node: SessionNode, *, container: str, owner_uid: int) -> LiveSession:
        """Open a session that is a container; ``node`` is its cgroup, prepared."""
        session = Session(ref, owner_uid, time.time(), budget_of(node.top), container=container)
        live = self.sessions[ref] = LiveSession(session, node, None)
        self._opened(live)
        return live

    def pauses_of(self, node: SessionNode) -> Pauses:
        """Return the pauses of a session's group. Nobody stops the protected together, nor containers."""
        return self.pauses if node.group == "shared" else Pauses()

    def _opened(self, live: LiveSession) -> None:
        live.write()
        watch_session(self, live)
        self.told_of(live)
        memory = live.session.budget.memory_max
        given = "without a limit" if memory is None else f"with {format_size(memory)} of memory"
        self.bus.publish("session_opened", live.session.ref, given)

    def told_of(self, live: LiveSession) -> None:
        """A session is there, opened or adopted: reserve what it is to have, and tell the observers."""
        if live.session.protected:
            self.reserves.protect(live)
        for observer in self.observers_of(live):
            observer.opened(live)

    def observers_of(self, live: LiveSession) -> Sequence[Observer]:
        """Who decides about a session: nobody here about a container, which its engine bounds."""
        return () if live.session.container else self.observers

    def _predicted(self, ref: SessionRef) -> int | None:
        """What a session will come to, if it is like those of its name before."""
        past = self.store.session_peak(ref)
        return None if past is None else round(past * CLAIM_MARGIN)

    def session(self, ref: SessionRef) -> LiveSession:
        """Return a live session. :raises NoSuchSession: if there is none of that name"""
        live = self.sessions.get(ref)
        if live is None or live.closing:
            raise NoSuchSession(ref)
        return live

    async def close_session(self, ref: SessionRef, reason: str) -> list[Verdict]:
        """End all that runs in a session and remove it. Returns the verdicts on its calls."""
        return await self._start_closing(self.session(ref), reason)

    def _start_closing(self, live: LiveSession, reason: str) -> asyncio.Task[list[Verdict]]:
        live.closing = True  # From now on no call begins in it.
        task = asyncio.create_task(self._close(live, reason))
        self._keep(task)
        return task

    async def _close(self, live: LiveSession, reason: str) -> list[Verdict]:
        ref = live.session.ref
        ended = [self.finish(call, reason=reason) for call in list(live.calls.values())]
        verdicts = list(await asyncio.gather(*ended))
        background.forget(self, live)
        self._keep_peak(live)
        if live.node.group is None:
            gone = await asyncio.to_thread(leave, live.node.top)
        else:
            live.node.top.kill()
            gone = await self.tree.remove_session(live.node.group, ref)
        self.poll.unwatch(live.pressure)
        # Told while it is still there: who may hear of it is looked up.
        self.bus.publish("session_closed", ref, reason if gone else f"{reason}; its cgroup is still busy")
        del self.sessions[ref]
        for observer in self.observers_of(live):
            observer.closed(live)
        live.node.close()
        if live.session.protected:
            self.reserves.released(ref.tenant)
        return verdicts

    def _keep_peak(self, live: LiveSession) -> None:
        if not live.implicit and (peak := memory_peak(live.node.top)):
            try:
                self.store.add_session(live.session.ref, live.session.opened, peak)
            except AgentcgError as error:
                log.error("%s", error, extra=about(live.session.ref))

    # Calls

    def begin(
        self,
        live: LiveSession,
        *,
        owner_uid: int,
        name: str | None = None,
        tool: str = "",
        command: str = "",
        intent: Intent = Intent(),  # noqa: B008  frozen
        hint: Intent = Intent(),  # noqa: B008
        lease: Lease | None = None,
    ) -> tuple[LiveCall, Decision]:
        """Make a call's cgroup, with its limits in place. Nothing runs in it yet.

        :param intent: what the call declares
        :param hint: what its environment says; the intent wins over it
        :raises InvalidInput: naming what is wrong with the request
        :raises OSError: what the kernel refused; nothing is left behind
        """
        if live.session.container:
            self._see_container(live)
        history = self.history_of(tool, command)
        decision = self._decide(live, tool, command, intent, hint, history)
        name = name or f"c-{secrets.token_hex(6)}"
        ref, declared = CallRef(live.session.ref, name), merge(intent, hint)
        try:
            leaf = self.tree.make_call(live.node, name, decision.limits)
        except FileExistsError as error:
            raise InvalidInput("id", f"the call {ref} is there already", hint="choose another id") from error
        call = ToolCall(
            ref,
            owner_uid,
            time.time(),
            tool,
            command,
            decision.call_class,
            declared,
            decision.limits,
            lease is not None,
        )
        made = LiveCall(call, leaf, live, lease, time.monotonic())
        try:
            self.network.limit(leaf, decision.limits)
            made.write()
        except OSError:
            self.tree.discard_call(live.node, leaf)
            raise
        live.calls[name] = self.calls[ref] = made
        live.used = made.started
        self.expect(made, history)
        watch_call(self, made)
        self.begun += 1
        self.bus.publish("call_begun", ref, f"{decision.call_class}: {command[:200]!r}")
        for observer in self.observers_of(live):
            observer.begun(made)
        return made, decision

    def _see_container(self, live: LiveSession) -> None:
        """See what the engine has made of a container meanwhile. :raises InvalidInput: if it is paused"""
        if live.node.top.frozen:
            raise InvalidInput("session", f"the container of {live.session.ref} is paused", hint="unpause it first")
        live.session = replace(live.session, budget=budget_of(live.node.top))

    def history_of(self, tool: str, command: str) -> History:
        """Return what calls like this one came to."""
        return self.store.summary(command_key(tool, command))

    def expect(self, live: LiveCall, history: History) -> None:
        """See what a call will come to: as declared, or as calls like it did."""
        live.claim = self.claim_of(live.call, history)
        live.expected_sec = live.call.intent.duration_expected_sec
        if live.expected_sec is None and history.n >= self.policy.history.min_calls:
            live.expected_sec = history.duration_p95_sec

    def claim_of(self, call: ToolCall, history: History) -> int | None:
        """Return what a call will come to: as declared, or as calls like it did; None if nothing is known."""
        size = call.intent.memory_claim
        if size is None and history.n >= self.policy.history.min_calls:
            size = history.memory_peak_p95
        return _capped(size, call.limits.memory_max)

    def _decide(
        self, live: LiveSession, tool: str, command: str, intent: Intent, hint: Intent, history: History
    ) -> Decision:
        decision = decide(
            self.policy,
            tool=tool,
            command=command,
            intent=intent,
            hint=hint,
            history=history,
            budget=live.session.budget,
            capacity=self.capacity,
            protected=live.session.protected,
        )
        return self.network.possible(decision)

    def call(self, ref: CallRef) -> LiveCall:
        """Return a live call. :raises NoSuchCall: if there is none of that name"""
        live = self.calls.get(ref)
        if live is None or live.finishing is not None:
            raise NoSuchCall(ref)
        return live

    def amend(self, ref: CallRef, intent: Intent) -> Decision:
        """Change what a running call may use. Fields left out stay as they were declared.

        :raises InvalidInput: naming what is wrong with the intent
        """
        live = self.call(ref)
        declared = merge(intent.validate(), live.call.intent)
        tool, command = live.call.tool, live.call.command
        history = self.history_of(tool, command)
        decision = self._decide(live.session, tool, command, declared, Intent(), history)
        using = memory_current(live.leaf) or 0
        if decision.limits.memory_max is not None and decision.limits.memory_max < using:
            raise InvalidInput(
                "intent.memoryMax",
                f"the call uses {format_size(using)} already, above {format_size(decision.limits.memory_max)}",
                hint="a limit below what is in use would end the call at once; ask for more, or end it",
            )
        self.network.limit(live.leaf, decision.limits, live.call.limits)
        write_limits(live.leaf, decision.limits, live.call.limits)
        live.call = replace(live.call, intent=declared, limits=decision.limits)
        live.write()
        self.expect(live, history)
        watch_duration(self, live)
        for observer in self.observers_of(live.session):
            observer.amended(live)
        self.bus.publish("call_amended", ref, f"memory {format_size(decision.limits.memory_max)}")
        return decision

    async def end(self, ref: CallRef, *, exit_code: int | None = None, signal: int | None = None) -> Verdict:
        """A call is over, its runtime says. Returns the verdict, also when somebody else ended it before.

        :raises NoSuchCall: if nothing is known of it
        """
        live = self.calls.get(ref)
        if live is not None:
            return await self.finish(live, exit_code=exit_code, signal=signal)
        known = self.store.find(ref)
        if known is None:
            raise NoSuchCall(ref)
        return known[0]

    async def kill(self, ref: CallRef, reason: str) -> Verdict:
        """End a call from outside; its verdict gives the reason."""
        live = self.call(ref)
        self.bus.publish("call_killed", ref, reason)
        return await self.finish(live, reason=reason)

    def finish(
        self,
        live: LiveCall,
        *,
        exit_code: int | None = None,
        signal: int | None = None,
        reason: str = "",
        timed_out: bool = False,
    ) -> asyncio.Task[Verdict]:
        """Start the end of a call, once: whoever comes later gets the same verdict."""
        if live.finishing is None:
            unwatch_call(self, live)
            live.finishing = asyncio.create_task(
                finish(self, live, exit_code=exit_code, signal=signal, reason=reason, timed_out=timed_out)
            )
            self._keep(live.finishing)
        return live.finishing

    def finish_if_empty(self, live: LiveCall) -> None:
        """End a call in which nothing runs any more, and whose exit status nobody reported."""
        if live.finishing is None and not live.leaf.populated:
            self.finish(live)

    def keep_verdict(self, live: LiveCall, verdict: Verdict) -> None:
        """Put a verdict into the history."""
        try:
            self.store.add(command_key(verdict.tool, verdict.command), live.call.owner_uid, verdict)
        except AgentcgError as error:
            log.error("%s", error, extra=about(live.ref))  # The runtime gets its verdict all the same.

    def finished(self, live: LiveCall, verdict: Verdict) -> None:
        """Forget a call that is over."""
        ref = live.ref
        self.calls.pop(ref, None)
        live.session.calls.pop(ref.call, None)
        for observer in self.observers_of(live.session):
            observer.finished(live)
        live.leaf.close()
        self.ended += 1
        self.recent.append((live.call.owner_uid, verdict))
        self.bus.publish("call_ended", ref, verdict.advice or verdict.outcome, verdict)
        self.close_when_idle(live.session)

    def ended_owner(self, ref: CallRef) -> int | None:
        """Return the uid of a call that has ended, or None if there was none of that name."""
        known = self.store.find(ref)
        return known[1] if known else None

    def adhoc_session(self, tenant: str, owner_uid: int) -> LiveSession:
        """Return the session of a user's calls that name none; it is opened when needed and closed when idle."""
        ref = SessionRef(tenant, "adhoc")
        live = self.sessions.get(ref)
        if live is None:
            return self.open_session(ref, tenant=tenant, owner_uid=owner_uid, implicit=True)[0]
        if live.implicit and not live.closing and live.session.owner_uid == owner_uid:
            return live
        return self.open_session(None, tenant=tenant, owner_uid=owner_uid, implicit=True)[0]

    def close_when_idle(self, live: LiveSession) -> None:
        """Close an implicit session: at once if no call came about in it, else in a while, unless another comes."""
        if not live.implicit or live.calls or live.closing:
            return
        if not live.used:
            self._start_closing(live, _UNUSED)
            return
        live.used = time.monotonic()
        asyncio.get_running_loop().call_later(IDLE_SEC, self._close_if_unused, live, live.used)

    def _close_if_unused(self, live: LiveSession, since: float) -> None:
        if live.used == since and not live.calls and not live.closing:
            self._start_closing(live, _UNUSED)

    async def doom(self, path: str) -> bool:
        """The host's own killer is about to kill the cgroup ``path``: the verdicts on the calls in it say so.

        :param path: from the top of the hierarchy
        :return: whether there is any
        """
        doomed = [live for live in self.calls.values() if f"{live.path}/".startswith(f"{path}/")]
        for live in doomed:
            live.doom = f"the host ran out of memory, and systemd-oomd chose {path}"
            self.bus.publish("call_killed", live.ref, live.doom)
        return bool(doomed)

    # Leases

    def drop_lease(self, lease: Lease) -> None:
        """The holder is gone: end what stood under its name."""
        for call in [call for call in self.calls.values() if call.lease is lease]:
            self.finish(call, reason="the runtime that began it has gone away")
        for live in [live for live in self.sessions.values() if live.lease is lease and not live.closing]:
            self._start_closing(live, "its runtime has gone away")

    def _keep(self, task: asyncio.Task[Any]) -> None:
        # The loop holds tasks weakly; an error in one must reach the log.
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a call or session could not be ended", exc_info=error)

    async def settle(self) -> None:
        """Wait until nothing is being ended any more."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)


def _opaque() -> None:
    raise Unsupported("this daemon makes no session transparent", hint="ask for one that is not")


def _capped(claim: int | None, limit: int | None) -> int | None:
    return claim if claim is None or limit is None else min(claim, limit)
