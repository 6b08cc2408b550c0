# SPDX-License-Identifier: Apache-2.0
"""One simulated session: the same schedule as in a live replay, with simulated processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from agentcg.errors import AgentcgError
from agentcg.replay.arms import Verdict
from agentcg.replay.events import CallBegan, CallEnded, Killed, SessionBegan, SessionEnded, Tell
from agentcg.replay.plan import PlannedCall, SessionPlan, points
from agentcg.replay.result import CallResult, SessionResult, State, result_of
from agentcg.replay.schedule import FollowPiece, Schedule, StartCall
from agentcg.replay.simulation.clock import Timer
from agentcg.replay.simulation.machine import Machine
from agentcg.replay.simulation.place import SimulatedArm, SimulatedCall, SimulatedPlace
from agentcg.replay.simulation.process import Process
from agentcg.replay.simulation.worker import Worker

__all__ = ["Run", "SimulatedSession"]


@dataclass(frozen=True, slots=True)
class Run:
    """What all sessions of a simulation have in common."""

    machine: Machine
    arm: SimulatedArm
    starter: Worker
    """Who starts the processes."""
    random: Random
    speed: float
    tell: Tell

    def start_process(self, then: Callable[[], None]) -> None:
        """Have a process started."""
        host = self.machine.host
        factor = self.random.uniform(1 - host.jitter, 1 + host.jitter) if host.jitter else 1.0
        self.starter.ask(host.start_sec * factor, then)


@dataclass(slots=True, eq=False)
class _Call:
    planned: PlannedCall
    began: float
    placed: SimulatedCall | None = None
    boundary_sec: float = 0.0
    process: Process | None = None


class SimulatedSession:
    """The replay of one session."""

    def __init__(self, plan: SessionPlan, run: Run) -> None:
        self.plan, self._run = plan, run
        self._clock = run.machine.clock
        self.place: SimulatedPlace | None = None
        self._state: State | None = None
        self._reason = ""
        self._began = 0.0
        self.ended = 0.0
        """When it came to its end."""
        self._schedule: Schedule | None = None
        self._agent: Process | None = None
        self._due: Timer | None = None
        self._calls: dict[str, _Call] = {}
        self._started_calls = self._oom_agent = self._oom_call = 0
        self._failed: list[CallResult] = []
        self._growth: list[tuple[int, float]] = []
        self._boundaries: list[float] = []
        self._advancing = self._again = False

    def start(self) -> None:
        """Let it begin now."""
        self._began = self._clock.now
        self._run.tell(SessionBegan(self._began, self.plan.name))
        try:
            self._run.arm.open(self.plan, self._opened)
        except AgentcgError as error:
            self._finish("refused", str(error))

    def _opened(self, place: SimulatedPlace) -> None:
        self.place = place
        self._run.start_process(partial(self._start_agent, place))

    def _start_agent(self, place: SimulatedPlace) -> None:
        if self._state is not None:
            return
        self._schedule = Schedule(self.plan, self._run.speed, self._clock.now)
        self._agent = Process(
            self._run.machine,
            place.agent,
            name=(self.plan.name, None),
            on_done=partial(self._piece_done, self._schedule),
            on_end=self._agent_ended,
        )
        self._advance()

    def _advance(self) -> None:
        """Start what is due, until nothing is."""
        schedule, agent = self._schedule, self._agent
        if schedule is None or agent is None or self._state is not None:
            return
        self._again = True
        if self._advancing:
            return
        self._advancing = True
        while self._again and self._state is None:
            self._again = False
            for action in schedule.advance(self._clock.now):
                if isinstance(action, FollowPiece):
                    agent.follow([(0.0, action.piece.memory, action.piece.cpu_sec / self._run.speed)])
                elif isinstance(action, StartCall):
                    self._start_call(action.call)
        self._advancing = False
        if self._due is not None:
            self._due.cancel()
        if schedule.done:
            self._finish("finished", "")
        elif (due := schedule.next_sec()) is not None and self._state is None:
            self._due = self._clock.at(due, self._advance)

    def _piece_done(self, schedule: Schedule) -> None:
        schedule.piece_done(self._clock.now)
        self._advance()

    def _agent_ended(self, signal: int) -> None:
        if signal and self._state is None:
            self._oom_agent += 1
            self._run.tell(Killed(self._clock.now, self.plan.name, None, "the OOM killer ended its agent"))
            self._finish("died", "the OOM killer ended its agent")

    # Calls

    def _start_call(self, planned: PlannedCall) -> None:
        self._started_calls += 1
        call = self._calls[planned.id] = _Call(planned, self._clock.now)
        self._run.tell(CallBegan(call.began, self.plan.name, planned.id, planned.tool, planned.command))
        try:
            if self.place is not None:
                self.place.begin(planned, partial(self._begun, call))
        except AgentcgError as error:
            self._judged(call, Verdict("refused", str(error)))

    def _begun(self, call: _Call, placed: SimulatedCall) -> None:
        call.placed, call.boundary_sec = placed, self._clock.now - call.began
        if self._state is None:
            self._run.start_process(partial(self._enter, call, placed))

    def _enter(self, call: _Call, placed: SimulatedCall) -> None:
        if self._state is not None:
            return
        call.process = Process(
            self._run.machine,
            placed.group,
            name=(self.plan.name, call.planned.id),
            oom_score_adj=placed.oom_score_adj,
            on_end=partial(self._call_ended, call, placed),
        )
        placed.entered(call.process)
        call.process.follow(points(call.planned, self._run.speed), last=True)

    def _call_ended(self, call: _Call, placed: SimulatedCall, signal: int) -> None:
        if call.process is not None:
            self._growth += call.process.growth
        ended = self._clock.now

        def judged(verdict: Verdict) -> None:
            call.boundary_sec += self._clock.now - ended
            if self._state is None:
                self._boundaries.append(call.boundary_sec)
                self._judged(call, verdict)

        placed.end(signal, judged)

    def _judged(self, call: _Call, verdict: Verdict) -> None:
        planned = call.planned
        del self._calls[planned.id]
        self._oom_call += bool(verdict.oom_kills)
        if verdict.outcome != "ok":
            self._failed.append(CallResult(planned.id, planned.command, verdict.outcome, verdict.advice))
        self._tell_end(call, verdict)
        if self._schedule is not None:
            self._schedule.call_ended(planned.id, self._clock.now, killed=verdict.outcome != "ok")
        self._advance()

    def _tell_end(self, call: _Call, verdict: Verdict) -> None:
        now, name, process = self._clock.now, self.plan.name, call.process
        if verdict.oom_kills:
            self._run.tell(Killed(now, name, call.planned.id, "the OOM killer ended it"))
        peak = None if process is None else round(process.peak)
        cpu_sec = None if process is None else process.cpu_sec
        ended = CallEnded(
            now, name, call.planned.id, verdict.outcome, verdict.advice, peak, cpu_sec, verdict.frozen_sec
        )
        self._run.tell(ended)

    # The end

    @property
    def over(self) -> bool:
        """It has come to its end, whichever."""
        return self._state is not None

    def stop(self) -> None:
        """The replay's own time is up."""
        if self._state is None:
            self._finish("timed_out", "the replay was stopped before it had ended")

    def _finish(self, state: State, reason: str) -> None:
        self._state, self._reason, self.ended = state, reason, self._clock.now
        for call in list(self._calls.values()):
            self._judged(call, Verdict("lost"))
        if self._due is not None:
            self._due.cancel()
        if self._agent is not None:
            self._growth += self._agent.growth
        if self.place is not None:
            for process in list(self.place.group.all_processes()):
                self._run.machine.kill(process)
            self.place.close()
        self._run.tell(SessionEnded(self.ended, self.plan.name, state, reason))

    def result(self) -> SessionResult:
        """Return how it went."""
        return result_of(
            self.plan,
            self._run.speed,
            state=self._state,
            completion_sec=self.ended - self._began,
            calls_started=self._started_calls,
            failed=self._failed,
            growth=self._growth,
            boundaries=self._boundaries,
            oom_kills_agent=self._oom_agent,
            oom_kills_call=self._oom_call,
            reason=self._reason,
        )
