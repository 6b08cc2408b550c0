# SPDX-License-Identifier: Apache-2.0
"""Sessions on one LLM server whose cache is ruled by a policy, with their tool calls beside it.

Time passes in steps of the engine. Between two steps arrivals and the ends of calls are heard, in the order they
happened, and waiting requests are let in: the first in the policy's order, then the next, until one does not fit; the
others wait behind it, as in vLLM. A request takes blocks for its prompt and all of its output when it is let in, so
none is put back later. A request that does not fit is asked about again after every step that matters, and each
``ask_sec``: what may be taken changes with time alone.

A machine with slots has its requests let in by :class:`agentcg.kv.engines.llamacpp.seats.Seats`, which is what decides
beside llama.cpp's own server, too.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from typing import TypeVar

from agentcg.errors import InvalidInput
from agentcg.kv.engines.llamacpp.seats import Seats
from agentcg.kv.policies.base import Policy
from agentcg.kv.reload import Reload
from agentcg.kv.retention import Retention, Take
from agentcg.kv.simulation.batch import Batch, Sequence
from agentcg.kv.simulation.cores import Cores
from agentcg.kv.simulation.machine import Machine, Outcome, Served
from agentcg.kv.simulation.pool import HostMemory, Pool
from agentcg.kv.simulation.script import Arrival, Script, ToolCall, Turn
from agentcg.kv.simulation.shares import CpuShares, Predicts
from agentcg.kv.state import CallEvent, Load

__all__ = ["simulate"]

_Item = TypeVar("_Item")
_WEIGH_SEC = 0.5  # The least time between two weighings, as an engine's reports come.


@dataclass(slots=True, eq=False)
class _Run:
    """A session on its way."""

    name: str
    script: Script
    arrived: float
    next: int = 0
    asked: float = 0.0
    """When its next turn, or the one that is served, did arrive."""
    cached: int = 0
    """What was cached of the prompt of the one that is served."""
    ended: float = 0.0
    """When its last turn did."""
    open_calls: int = 0

    @property
    def turn(self) -> Turn:
        return self.script.turns[self.next]


def simulate(
    sessions: Seq[Arrival],
    machine: Machine,
    policy: Policy,
    predictor: Predicts | None = None,
    *,
    knows_last: bool = True,
    signals: bool = True,
    shares: CpuShares | None = None,
) -> Outcome:
    """Serve sessions until all are over.

    :param predictor: tells the policy how long a call will take when it begins, and learns how long it took
    :param knows_last: the server is told when a session is over; otherwise what is left of it is taken like the rest
    :param signals: the policy is told when calls begin and end; otherwise it sees requests alone
    :param shares: how calls share CPUs that are scarce; by the weights of their scripts, if left out
    :raises InvalidInput: if a session does not fit into the pool even alone
    """
    return _Simulator(sessions, machine, policy, predictor, knows_last, signals, shares).run()


class _Simulator:
    def __init__(
        self,
        sessions: Seq[Arrival],
        machine: Machine,
        policy: Policy,
        predictor: Predicts | None,
        knows_last: bool,
        signals: bool,
        shares: CpuShares | None,
    ) -> None:
        self._machine, self._predictor, self._knows_last = machine, predictor, knows_last
        self._signals, self._shares, self._weighed = signals, shares, -inf
        reload: Reload = machine.cost.reload(machine.chunk_tokens, machine.shared_tokens)
        if machine.host:
            reload = machine.host.transfer
        self._seats: Seats | None = None
        if machine.slots:
            if machine.host or machine.shared_tokens or machine.block_tokens != 1:
                raise InvalidInput("slots", "they have blocks of one token, nothing is shared, and no host's memory")
            self._seats = Seats(policy, machine.slots, machine.pool_tokens // machine.slots, files=0)
            self._seats.retention.state.reload = reload
        self._retention = self._seats.retention if self._seats else Retention(policy, reload)
        self._batch = Batch(machine.cost, machine.chunk_tokens)
        self._pool = Pool(machine.pool_tokens, machine.block_tokens)
        self._host = HostMemory(machine.host) if machine.host else None
        self._cores: Cores[tuple[_Run, int]] = Cores(machine.cpus, holds=machine.holds_calls)
        self._runs: dict[str, _Run] = {}
        """By session; its request has the same name, for it has one at a time."""
        self._over: set[str] = set()
        """Sessions that are over and have cache, which nobody was told."""
        self._coming: list[tuple[float, int, _Run]] = []
        self._loading: list[tuple[float, int, Sequence]] = []
        self._number = 0
        self._used = 0
        """Tokens of the pool that requests hold which run."""
        self._now = 0.0
        self._outcome = Outcome()
        for each in sessions:
            needed = max(map(self._needed, each.script.turns))
            most = self._seats.context if self._seats else self._pool.tokens
            if needed > most:
                what = f"its context takes {needed} tokens, the {'slot' if self._seats else 'pool'} has {most}"
                raise InvalidInput(each.session, what, hint="leave it out, or take a larger pool")
            self._push(self._coming, each.at_sec, _Run(each.session, each.script, each.at_sec))

    def run(self) -> Outcome:
        outcome = self._outcome
        while True:
            outcome.events += 1
            self._hear(self._now)
            blocked = not self._let_in()
            self._weigh()
            if self._batch:
                until = min(self._next_request(), self._now + self._machine.ask_sec if blocked else inf)
                took, done = self._batch.advance(until - self._now)
                self._now += took
                outcome.busy_sec += took
                self._hear(self._now)
                for sequence in done:
                    self._finish(self._runs[sequence.request])
            elif (until := self._next_request()) < inf:
                self._now = max(self._now, until)
            else:
                break
        outcome.prefilled_tokens, outcome.end_sec = self._batch.prefilled_tokens, self._now
        outcome.loaded_tokens = self._host.loaded_tokens if self._host else 0
        return outcome

    def _next_request(self) -> float:
        """When the next request may be there to be served, at the earliest."""
        heads = (heap[0][0] for heap in (self._coming, self._loading) if heap)
        slot_at = self._seats.ask_again_at if self._seats else inf
        return min(self._cores.next_end + self._machine.lag_sec, slot_at, *heads, inf)

    def _hear(self, until: float) -> None:
        """Let happen what is due, in its order."""
        while True:
            coming, loaded = (heap[0][0] if heap else inf for heap in (self._coming, self._loading))
            at = min(self._cores.next_end, coming, loaded)
            if at > until:
                break
            self._outcome.events += 1
            if at == self._cores.next_end:
                for run, index in self._cores.advance(at):
                    self._call_ended(run, index, at)
            elif at == coming:
                run = heappop(self._coming)[2]
                self._runs[run.name], run.asked = run, at
                if self._seats:
                    self._seats.arrive(run.name, run.name, self._needed(run.turn), at)
                else:
                    self._retention.arrive(run.name, run.name, self._needed(run.turn), at)
            else:
                self._batch.add(heappop(self._loading)[2])

    def _let_in(self) -> bool:
        """Start whoever is next for as long as it fits; return whether nobody is left who waits."""
        now, pool = self._now, self._pool
        self._retention.loaded(Load(self._cores.wanted / self._cores.cpus, 0.0, self._used / pool.tokens), now)
        if self._seats:
            while seat := self._seats.next(now):
                if seat.victim not in ("", seat.request):
                    self._lose(seat.victim)
                self._start(self._runs[seat.request], seat.slot)
            return not self._seats.waiting
        while order := self._retention.order(now):
            run = self._runs[order[0]]
            missing = self._needed(run.turn) - pool.held.get(run.name, 0) - pool.free
            if missing > 0:
                if not (takes := self._retention.give_up(run.name, missing, now)):
                    return False
                for take in takes:
                    self._take(take)
            self._start(run)
        return not self._retention.state.waiting

    def _weigh(self) -> None:
        """Give the calls that run their shares of the CPUs anew, where there are too few of them."""
        now, cores, state = self._now, self._cores, self._retention.state
        if not self._shares or now < self._weighed + _WEIGH_SEC or cores.wanted <= cores.cpus:
            return
        self._weighed = now
        policy, total = self._retention.policy, self._pool.tokens
        kept = {
            each.name: each.resident / total
            for each in state.sessions.values()
            if each.paused and each.resident and policy.protected(state, each, now)
        }
        pressure = self._used / total + sum(kept.values()) if state.waiting else 0.0
        progress = cores.progress(now)
        done = (((run.name, index), sec) for (run, index), sec in progress.items())
        factors = self._shares.factors(done, kept, pressure)
        cores.reweigh({(run, index): run.script.weight * factors[run.name] for run, index in progress}, now)

    def _take(self, take: Take) -> None:
        held = self._pool.held[take.session]
        if self._host:
            self._host.put(take.session, held - take.tokens, held)
        self._pool.resize(take.session, held - take.tokens)
        self._retention.taken(take.session, take.tokens, self._now)
        if held == take.tokens:
            self._lose(take.session)

    def _lose(self, session: str) -> None:
        """Nothing of a session is cached any more."""
        self._pool.resize(session, 0)
        if session in self._over:
            self._over.discard(session)
            self._close(session)

    def _start(self, run: _Run, slot: int = 0) -> None:
        turn, pool, now = run.turn, self._pool, self._now
        own = self._own(turn.prompt_tokens)
        # One token at least has to be computed, or there is nothing to decode from.
        prefix = min(turn.prefix_tokens, run.script.turns[run.next - 1].computed_tokens if run.next else 0)
        known = pool.full(max(0, min(prefix - self._machine.shared_tokens, own - 1)))
        cached, there = min(known, pool.held.get(run.name, 0)), now
        self._outcome.ideal_tokens += own - known
        if self._host:
            loaded, there = self._host.load(run.name, cached, known, now)
            cached += loaded
        self._retention.start(run.name, now)
        pool.resize(run.name, self._needed(turn))
        self._used += self._needed(turn)
        run.cached = turn.prompt_tokens - own + cached
        sequence = Sequence(run.name, run.cached, own - cached, turn.output_tokens, slot)
        if there > now:
            self._push(self._loading, there, sequence)
        else:
            self._batch.add(sequence)

    def _finish(self, run: _Run) -> None:
        """A turn is over: its calls begin, or the session is over."""
        turn, now = run.turn, self._now
        self._used -= self._needed(turn)
        kept = self._pool.full(self._own(turn.computed_tokens))
        self._pool.resize(run.name, kept)
        self._outcome.served.append(Served(run.name, run.next, run.asked, now, run.cached))
        run.next, run.ended = run.next + 1, now
        last = run.next == len(run.script.turns)
        tool = turn.calls[0].tool if turn.calls else ""
        if self._seats:
            self._seats.ended(run.name, kept, now, tool=tool)
        else:
            self._retention.end(run.name, kept, now, tool=tool, last=last and self._knows_last)
        if last:
            self._outcome.completion_sec[run.name] = now - run.arrived
            if self._knows_last or not kept:
                self._close(run.name)
            else:
                self._over.add(run.name)
            return
        run.open_calls = len(turn.calls)
        pause = max((call.wall_sec for call in turn.calls), default=0.0) + self._machine.lag_sec
        self._retention.foretell(run.name, now + pause)
        for index, call in enumerate(turn.calls):
            left = self._predictor.remaining(_path(run, call)) if self._predictor else None
            self._tell(run, CallEvent(str(index), "began", left), now)
            if self._shares:
                self._shares.began(run.name, index, _path(run, call))
            self._cores.begin((run, index), call.wall_sec, call.cpu_sec, run.script.weight, now)
        if not turn.calls:
            self._push(self._coming, now + pause, run)

    def _call_ended(self, run: _Run, index: int, at: float) -> None:
        call = run.script.turns[run.next - 1].calls[index]
        if self._predictor:
            self._predictor.observe(_path(run, call), at - run.ended)
        if self._shares:
            self._shares.ended(run.name, index, _path(run, call), call.wall_sec)
        self._tell(run, CallEvent(str(index), "ended"), at)
        run.open_calls -= 1
        if not run.open_calls:
            self._push(self._coming, at + self._machine.lag_sec, run)

    def _tell(self, run: _Run, event: CallEvent, now: float) -> None:
        if self._signals:
            self._retention.call(run.name, event, now)

    def _close(self, session: str) -> None:
        """Nothing of a session is left."""
        self._pool.resize(session, 0)
        if self._seats:
            for slot in self._seats.close(session, self._now):
                self._seats.erased(slot)
        else:
            self._retention.close(session, self._now)
        if self._host:
            self._host.forget(session)

    def _own(self, tokens: int) -> int:
        """What a context holds besides what all have."""
        return max(1, tokens - self._machine.shared_tokens)

    def _needed(self, turn: Turn) -> int:
        """What a turn takes in the pool."""
        return self._pool.whole(self._own(turn.computed_tokens))

    def _push(self, heap: list[tuple[float, int, _Item]], at: float, item: _Item) -> None:
        self._number += 1
        heappush(heap, (at, self._number, item))


def _path(run: _Run, call: ToolCall) -> tuple[str, ...]:
    return call.tool, call.words, run.name
