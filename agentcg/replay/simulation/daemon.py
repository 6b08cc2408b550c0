# SPDX-License-Identifier: Apache-2.0
"""A simulated host with agentcg: limits as the policy gives them, reserves, and the controller.

What is decided is decided by the daemon's own code; here stands only what it is decided about.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from agentcg.cgroup.delegate import SUPERVISOR_MEMORY_MIN
from agentcg.cgroup.tree import PLAIN_WEIGHT, WEIGHT_MAX
from agentcg.control.live import oom_score_adj
from agentcg.control.reserve import check
from agentcg.control.standstill import Pauses
from agentcg.model import Budget, CallRef, Intent, SessionRef, ToolCall, validate_command
from agentcg.policy.budget import budget_for
from agentcg.policy.decide import decide
from agentcg.policy.schema import Policy
from agentcg.replay.arms import Verdict
from agentcg.replay.events import Limits, Tell
from agentcg.replay.plan import PlannedCall, SessionPlan, with_margin
from agentcg.replay.simulation.controller import SimulatedController
from agentcg.replay.simulation.group import Group
from agentcg.replay.simulation.machine import Machine
from agentcg.replay.simulation.managed import LiveCall, LiveSession
from agentcg.replay.simulation.place import SimulatedCall, SimulatedPlace
from agentcg.replay.simulation.process import Process
from agentcg.replay.simulation.reserves import SimulatedReserves
from agentcg.replay.simulation.worker import Worker
from agentcg.verdict import Ending, judge

__all__ = ["AgentcgArm"]

TENANT = "replay"


class AgentcgArm:
    """The tree of a daemon, and the daemon. Sessions and calls declare their peaks, as in a live replay."""

    def __init__(self, machine: Machine, policy: Policy, tell: Tell) -> None:
        self.machine, self.policy = machine, policy
        self.capacity = machine.host.memory_max
        self.node = Group("agentcg", machine.root, maximum=self.capacity + SUPERVISOR_MEMORY_MIN)
        self.worker = Worker(machine, Group("supervisor", self.node, weight=WEIGHT_MAX))
        self._shared, self._reserved = Group("shared", self.node), Group("reserved", self.node)
        self._tenant, _ = budget_for(policy.tenant, None, self.capacity)
        self._tenants = {
            group: Group(TENANT, group, weight=self._tenant.cpu_weight, maximum=self._tenant.memory_max)
            for group in (self._shared, self._reserved)
        }
        self._sessions: dict[SessionRef, LiveSession] = {}
        self.reserves = SimulatedReserves(machine, self._shared, self._sessions)
        self._pauses = Pauses()
        self.controller = SimulatedController(
            machine,
            self.worker,
            self._shared,
            self._reserved,
            self._sessions,
            self.reserves,
            self._tenant.memory_max,
            self._pauses,
            tell,
        )

    def limits(self) -> Limits:
        lives = [live for live in self._sessions.values() if not live.closing]
        return Limits(
            self.machine.clock.now,
            self._shared.maximum,
            {live.ref.session: live.top.high for live in lives},
            {live.ref.session: live.top.maximum for live in lives},
            sum(live.reserve for live in lives),
        )

    def open(self, plan: SessionPlan, opened: Callable[[SimulatedPlace], None]) -> None:
        ref, protected = SessionRef(TENANT, plan.name), plan.reserve is not None
        size = plan.reserve or with_margin(plan.peak)
        budget, _ = budget_for(self.policy.session, Budget(memory_expected=size, swap_max=None), self._tenant)
        if protected:
            check(size, budget.memory_max, self.reserves.left())
        top = Group(
            plan.name,
            self._tenants[self._reserved if protected else self._shared],
            weight=budget.cpu_weight,
            maximum=budget.memory_max,
        )
        claim = size if budget.memory_max is None else min(size, budget.memory_max)
        pauses = Pauses() if protected else self._pauses
        live = LiveSession(
            plan, ref, self.machine.clock.now, budget, claim, top, Group("agent", top), Group("calls", top), pauses
        )
        self._sessions[ref] = live
        if protected:
            self.reserves.protect(live)
        self.controller.opened(live)
        place = ManagedPlace(self, live)
        self.worker.ask(self.machine.host.boundary_sec, lambda: opened(place))

    def begin(self, live: LiveSession, planned: PlannedCall, begun: Callable[[SimulatedCall], None]) -> None:
        """Begin a call. :raises InvalidInput: if the policy refuses it"""
        intent = Intent(memory_expected=planned.declared)
        command = validate_command("command", [planned.command])
        limits = decide(
            self.policy,
            tool=planned.tool,
            command=command,
            intent=intent,
            history=None,
            budget=live.budget,
            capacity=self.capacity,
            protected=live.protected,
        )
        ref = CallRef(live.ref, planned.id)
        call = ToolCall(ref, 0, 0.0, planned.tool, command, limits.call_class, intent, limits.limits)
        self.machine.clock.after(0.0, partial(self._begin, live, call, begun))

    def _begin(self, live: LiveSession, call: ToolCall, begun: Callable[[SimulatedCall], None]) -> None:
        if live.closing:
            return
        limits, now = call.limits, self.machine.clock.now
        group = Group(
            call.ref.call,
            live.calls_group,
            weight=limits.cpu_weight or PLAIN_WEIGHT,
            maximum=limits.memory_max,
            high=limits.memory_high,
            oom_group=True,
        )
        claim = call.intent.memory_expected
        if claim is not None and limits.memory_max is not None:
            claim = min(claim, limits.memory_max)
        made = LiveCall(call, live, group, oom_score_adj(live.protected, call.intent.priority), now, claim)
        live.calls[call.ref.call] = made
        self.controller.begun(made)
        self.worker.ask(self.machine.host.boundary_sec / 2, lambda: begun(ManagedCall(self, made)))

    def end(self, live: LiveCall, signal: int, judged: Callable[[Verdict], None]) -> None:
        """A call's process has ended."""
        live.finishing = True
        now = self.machine.clock.now
        usage = live.usage(now)
        code = None if signal else 0
        verdict = judge(live.call, usage, Ending(now, exit_code=code, signal=signal or None, reason=live.reason))

        def ended() -> None:
            self._forget(live)
            judged(
                Verdict(
                    verdict.outcome,
                    verdict.advice,
                    usage.oom_kills or 0,
                    usage.memory_peak,
                    usage.cpu_sec,
                    usage.frozen_sec,
                )
            )

        self.worker.ask(self.machine.host.boundary_sec / 2, ended)

    def _forget(self, live: LiveCall) -> None:
        if live.session.calls.pop(live.ref.call, None) is not None:
            self.controller.finished(live)
            live.group.remove()

    def close(self, live: LiveSession) -> None:
        """A session is over. What still runs in it is gone when a killed process is."""
        live.closing = True
        self.controller.poke()
        self.machine.clock.after(self.machine.host.kill_sec, partial(self._close, live))

    def _close(self, live: LiveSession) -> None:
        for call in list(live.calls.values()):
            call.finishing = True
            self._forget(call)
        for group in (live.agent, live.calls_group, live.top):
            group.remove()
        del self._sessions[live.ref]
        self.controller.closed(live)
        if live.protected:
            self.reserves.rebalance()


class ManagedPlace:
    """A session that the daemon has opened."""

    def __init__(self, arm: AgentcgArm, live: LiveSession) -> None:
        self._arm, self._live = arm, live
        self.group, self.agent = live.top, live.agent

    def begin(self, call: PlannedCall, begun: Callable[[SimulatedCall], None]) -> None:
        self._arm.begin(self._live, call, begun)

    def close(self) -> None:
        self._arm.close(self._live)


class ManagedCall:
    """A call in a cgroup of its own."""

    def __init__(self, arm: AgentcgArm, live: LiveCall) -> None:
        self._arm, self._live = arm, live
        self.group, self.oom_score_adj = live.group, live.oom_score_adj

    def entered(self, process: Process) -> None:
        self._live.entered = True

    def end(self, signal: int, judged: Callable[[Verdict], None]) -> None:
        self._arm.end(self._live, signal, judged)
