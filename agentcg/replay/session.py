# SPDX-License-Identifier: Apache-2.0
"""One session's replay: keeps its schedule, starts its processes, and takes down how they fared."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence

from agentcg.errors import AgentcgError
from agentcg.replay.arms import Arm, Place, Verdict
from agentcg.replay.event_log import EventLog
from agentcg.replay.events import CallBegan, CallEnded, Killed, SessionBegan, SessionEnded, Turn
from agentcg.replay.follower import Follower, Growth
from agentcg.replay.plan import PlannedCall, SessionPlan, points
from agentcg.replay.result import CallResult, SessionResult, State, result_of, turns_of
from agentcg.replay.schedule import FollowPiece, Schedule, StartCall
from agentcg.replay.served.conversation import Answer, Conversation, NoAnswer

__all__ = ["SessionReplay"]


class SessionReplay:
    """The replay of one session.

    :param program: the path of ``agentcg-load``
    :param log: is told what happens
    :param options: more options of the program
    :param talk: begins the conversation with the language model; without it, its turns are pauses
    """

    def __init__(
        self,
        plan: SessionPlan,
        *,
        speed: float,
        program: str,
        log: EventLog,
        options: Sequence[str] = (),
        talk: Callable[[], Conversation] | None = None,
    ) -> None:
        self.plan, self._speed, self._program, self._log, self._options = plan, speed, program, log, options
        self._talk = talk
        self._conversation: Conversation | None = None
        self._turn: asyncio.Task[Answer] | None = None
        self.started_calls = 0
        self.failed: list[CallResult] = []
        self.state: State | None = None
        self._reason = ""
        self._growth: list[Growth] = []
        self._boundaries: list[float] = []
        self._oom_agent = self._oom_call = 0
        self._began = self._ended = 0.0
        self._calls: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._schedule: Schedule | None = None

    def shown(self) -> float:
        """How far it has come, from 0 to 1."""
        if self.state is not None or not self.plan.duration_sec:
            return 1.0
        now = asyncio.get_running_loop().time()
        return self._schedule.shown(now) / self.plan.duration_sec if self._schedule else 0.0

    async def run(self, arm: Arm) -> None:
        """Replay it to its end, or until its agent dies. When cancelled it ends what it started."""
        self._began = asyncio.get_running_loop().time()
        self._log.tell(SessionBegan(self._log.now(), self.plan.name))
        try:
            await self._run_in(arm)
        finally:
            # One that was cancelled before it had a place has no state yet.
            self._log.tell(SessionEnded(self._log.now(), self.plan.name, self.state or "timed_out", self._reason))

    async def _run_in(self, arm: Arm) -> None:
        try:
            place = await arm.open(self.plan)
        except AgentcgError as error:
            self._finish("refused", str(error))
            return
        self._conversation = None if self._talk is None else self._talk()
        try:
            agent = await Follower.start(self._program, place.agent, self._piece_done, options=self._options)
            try:
                await self._run(place, agent)
            finally:
                tasks = [*self._calls, *([] if self._turn is None else [self._turn])]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await agent.stop()
                self._growth += agent.growth
                if self.state is None:
                    self._finish("timed_out", "the replay was stopped before it had ended")
        finally:
            await place.close()

    async def _run(self, place: Place, agent: Follower) -> None:
        loop = asyncio.get_running_loop()
        turns = () if self._conversation is None else self.plan.turns
        schedule = self._schedule = Schedule(self.plan, self._speed, loop.time(), turns=turns)
        ended = asyncio.create_task(agent.wait())
        ended.add_done_callback(lambda _: self._wake.set())
        try:
            while not schedule.done:
                self._wake.clear()
                for action in schedule.advance(loop.time()):
                    if isinstance(action, FollowPiece):
                        agent.follow([(0.0, action.piece.memory, action.piece.cpu_sec / self._speed)])
                    elif isinstance(action, StartCall):
                        self._start(place, action.call)
                    elif self._conversation is not None:
                        self._turn = asyncio.create_task(self._conversation.take_turn())
                        self._turn.add_done_callback(lambda _: self._wake.set())
                if ended.done():
                    self._agent_died(ended.result(), agent)
                    return
                if self._turn is not None and self._turn.done() and not self._turn_over(self._turn, schedule):
                    return
                if schedule.done:
                    break
                due = schedule.next_sec()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), None if due is None else max(0.0, due - loop.time()))
            self._finish("finished", "")
        finally:
            ended.cancel()

    def _turn_over(self, turn: asyncio.Task[Answer], schedule: Schedule) -> bool:
        """Go on behind a turn, if it was answered."""
        try:
            answer = turn.result()
        except NoAnswer as error:
            self._finish("unanswered", str(error))
            return False
        self._turn = None
        known = (answer.first_sec, answer.prompt_tokens, answer.cached_tokens, answer.output_tokens)
        self._log.tell(Turn(self._log.now(), self.plan.name, answer.sec, *known))
        schedule.turn_ended(asyncio.get_running_loop().time())
        self._wake.set()
        return True

    def _agent_died(self, status: int, agent: Follower) -> None:
        if status == -signal.SIGKILL:
            self._oom_agent += 1
            self._log.tell(Killed(self._log.now(), self.plan.name, None, "the OOM killer ended its agent"))
            self._finish("died", "the OOM killer ended its agent")
        else:
            self._finish("died", f"its agent ended with status {status}: {agent.trouble or 'unexpectedly'}")

    def _finish(self, state: State, reason: str) -> None:
        self.state, self._reason = state, reason
        self._ended = asyncio.get_running_loop().time()

    def _piece_done(self) -> None:
        if self._schedule is not None:
            self._schedule.piece_done(asyncio.get_running_loop().time())
            self._wake.set()

    def _start(self, place: Place, call: PlannedCall) -> None:
        self.started_calls += 1
        self._log.tell(CallBegan(self._log.now(), self.plan.name, call.id, call.tool, call.command))
        task = asyncio.create_task(self._call(place, call))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _call(self, place: Place, call: PlannedCall) -> None:
        verdict = Verdict("lost")
        try:
            verdict = await self._live(place, call)
        except AgentcgError as error:
            verdict = Verdict("refused", str(error))
        finally:
            self._oom_call += bool(verdict.oom_kills)
            self._tell_end(call, verdict)
            if verdict.outcome != "ok":
                self.failed.append(CallResult(call.id, call.command, verdict.outcome, verdict.advice))
            if self._schedule is not None:
                self._schedule.call_ended(call.id, asyncio.get_running_loop().time(), killed=verdict.outcome != "ok")
            self._wake.set()

    def _tell_end(self, call: PlannedCall, verdict: Verdict) -> None:
        now, name = self._log.now(), self.plan.name
        if verdict.oom_kills:
            self._log.tell(Killed(now, name, call.id, "the OOM killer ended it"))
        known = (verdict.peak, verdict.cpu_sec, verdict.frozen_sec)
        self._log.tell(CallEnded(now, name, call.id, verdict.outcome, verdict.advice, *known))

    async def _live(self, place: Place, call: PlannedCall) -> Verdict:
        loop = asyncio.get_running_loop()
        began = loop.time()
        placed = await place.begin(call)
        boundaries = loop.time() - began
        follower = await Follower.start(self._program, placed.placement, options=self._options)
        try:
            follower.follow(points(call, self._speed), last=True)
            status = await follower.wait()
            ended = loop.time()
            verdict = await placed.end(status)
            self._boundaries.append(boundaries + loop.time() - ended)
            return verdict
        finally:
            await follower.stop()
            self._growth += follower.growth

    def result(self) -> SessionResult:
        """Return how it went."""
        return result_of(
            self.plan,
            self._speed,
            state=self.state,
            completion_sec=self._ended - self._began,
            calls_started=self.started_calls,
            failed=self.failed,
            growth=[(step.size, step.latency_sec) for step in self._growth],
            boundaries=self._boundaries,
            oom_kills_agent=self._oom_agent,
            oom_kills_call=self._oom_call,
            reason=self._reason,
            turns=None if self._conversation is None else turns_of(self._conversation.answers),
        )
