# SPDX-License-Identifier: Apache-2.0
"""What holds for every policy, whatever happens: somebody can always run, and a bounded price for a wrong guess."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from agentcg.kv.policies import POLICIES, Policy
from agentcg.kv.policies.pins import SkiRental
from agentcg.kv.policies.soft import Clairvoyant, SoftPins
from agentcg.kv.reload import Prefill
from agentcg.kv.retention import Retention
from agentcg.kv.state import CallEvent, Load
from agentcg.predict.distribution import Distribution

CAPACITY = 10


class Pool:
    """A cache of ten tokens, whose turns end when they are told to."""

    def __init__(self, policy: Policy) -> None:
        self.retention = Retention(policy, Prefill(0.0, 1.0))
        self.state = self.retention.state
        self.now = 0.0
        self.number = 0

    @property
    def used(self) -> int:
        kept = sum(session.resident for session in self.state.sessions.values() if not session.running)
        return kept + sum(request.tokens for request in self.state.running)

    def arrive(self, session: int, tokens: int) -> None:
        self.number += 1
        self.retention.arrive(f"r{self.number}", f"s{session}", tokens, self.now)

    def serve(self) -> None:
        """Start whoever is next for as long as it fits; the others wait behind it."""
        while order := self.retention.order(self.now):
            request = self.state.requests[order[0]]
            session = request.session
            cached = 0 if session.running else session.resident
            missing = self.used - cached + request.tokens - CAPACITY
            if missing > 0:
                takes = self.retention.give_up(request.id, missing, self.now)
                for take in takes:
                    victim = self.state.sessions[take.session]
                    assert 0 < take.tokens <= victim.resident
                    assert victim is not session
                    assert not victim.running
                    self.retention.taken(take.session, take.tokens, self.now)
                if not takes:
                    break
                assert self.used - cached + request.tokens == CAPACITY
            self.retention.start(request.id, self.now)
        assert self.used <= CAPACITY
        assert self.state.running or not self.state.waiting, "somebody waits and nobody runs"

    def finish(self, which: int, last: bool) -> None:
        if running := self.state.running:
            request = running[which % len(running)]
            self.retention.end(request.id, request.tokens, self.now, tool=("bash", "web", "")[which % 3], last=last)

    def preempt(self, which: int) -> None:
        if running := self.state.running:
            request = running[which % len(running)]
            self.retention.preempt(request.id, min(which, request.tokens), self.now)


REMAINING = some.one_of(
    some.none(),
    some.builds(lambda sec: Distribution((sec,), (1.0,), 0.0, 1.0), some.floats(0, 100)),
    some.builds(
        lambda sec, tail: Distribution((sec,), (1 - tail,), tail, 1.0), some.floats(0.01, 100), some.floats(0.1, 1)
    ),
)
EVENT = some.builds(
    CallEvent,
    some.sampled_from("ab"),
    some.sampled_from(["began", "revised", "frozen", "thawed", "ended"]),
    REMAINING,
)
SESSION = some.integers(0, 5)
ACTION: some.SearchStrategy[Callable[[Pool], None]] = some.one_of(
    some.builds(lambda session, tokens: lambda pool: pool.arrive(session, tokens), SESSION, some.integers(1, CAPACITY)),
    some.builds(lambda which, last: lambda pool: pool.finish(which, last), some.integers(0, 9), some.booleans()),
    some.builds(lambda which: lambda pool: pool.preempt(which), some.integers(0, 9)),
    some.builds(
        lambda session, event: lambda pool: pool.retention.call(f"s{session}", event, pool.now), SESSION, EVENT
    ),
    some.builds(lambda session: lambda pool: pool.retention.close(f"s{session}", pool.now), SESSION),
    some.builds(
        lambda session, sec: lambda pool: pool.retention.foretell(f"s{session}", pool.now + sec),
        SESSION,
        some.floats(-5, 50),
    ),
    some.builds(
        lambda backlog, used: lambda pool: pool.retention.loaded(Load(backlog, 0.0, used), pool.now),
        some.floats(0, 9),
        some.floats(0, 1),
    ),
)
STORY = some.lists(some.tuples(ACTION, some.sampled_from([0.0, 0.1, 1.0, 3.0, 30.0, -20.0])), max_size=60)


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=60, deadline=None)
@given(story=STORY)
def test_somebody_can_always_run_and_everybody_runs_in_the_end(
    name: str, story: Sequence[tuple[Callable[[Pool], None], float]]
) -> None:
    pool = Pool(POLICIES[name]())
    for act, sec in story:
        pool.now += sec  # Clocks jump, and sessions are lost without a word.
        act(pool)
        pool.serve()
    for _ in range(len(pool.state.requests)):
        pool.finish(0, last=False)
        pool.serve()
    assert not pool.state.waiting


def paid(policy: Policy, benefit: float, pause: float, events: Sequence[tuple[float, CallEvent]] = ()) -> float:
    """What a pause costs while somebody waits all the time: a second a second while it is kept, the benefit if not."""
    retention = Retention(policy, Prefill(0.0, 1e-6))
    for name, tokens in (("s", round(benefit * 1e6)), ("w", 1)):
        retention.arrive(name, name, tokens, 0.0)
    retention.start("s", 0.0)
    retention.end("s", round(benefit * 1e6), 0.0, tool="bash")
    retention.foretell("s", pause)
    session, told = retention.state.sessions["s"], sorted(events, key=lambda event: event[0])
    for step in range(round(pause / STEP_SEC)):
        now = step * STEP_SEC
        while told and told[0][0] <= now:
            retention.call("s", told.pop(0)[1], now)
        if not policy.protected(retention.state, session, now):
            return now + benefit
    return pause


STEP_SEC = 0.25
SEC = some.integers(1, 100).map(lambda quarters: quarters * STEP_SEC)
EVENTS = some.lists(some.tuples(some.floats(0, 25), EVENT), max_size=12)


@settings(max_examples=200, deadline=None)
@given(benefit=SEC, pause=SEC, events=EVENTS)
def test_ski_rental_pays_at_most_twice_what_is_possible(
    benefit: float, pause: float, events: list[tuple[float, CallEvent]]
) -> None:
    least = paid(Clairvoyant(), benefit, pause)
    assert least == min(benefit, pause)
    assert paid(SkiRental(), benefit, pause, events) <= 2 * least


@settings(max_examples=300, deadline=None)
@given(benefit=SEC, pause=SEC, events=EVENTS)
def test_no_prediction_makes_soft_pins_pay_more_than_four_times_what_is_possible(
    benefit: float, pause: float, events: list[tuple[float, CallEvent]]
) -> None:
    # It is looked at every quarter of a second, and may be given up one look late.
    assert paid(SoftPins(), benefit, pause, events) <= 4 * min(benefit, pause) + STEP_SEC


@settings(max_examples=100, deadline=None)
@given(benefit=SEC, pause=SEC)
def test_what_is_known_exactly_costs_at_most_half_as_much_again(benefit: float, pause: float) -> None:
    known = CallEvent("c", "began", Distribution((pause,), (1.0,), 0.0, 1.0))
    assert paid(SoftPins(), benefit, pause, [(0.0, known)]) <= 1.5 * min(benefit, pause) + STEP_SEC


def test_the_bounds_are_reached() -> None:
    assert paid(SkiRental(), 5.0, 25.0) == 10
    # Given up at half of its price, a moment before it is back.
    late = Distribution((100.0,), (1.0,), 0.0, 1.0)
    assert paid(SoftPins(), 10.0, 5.25, [(0.0, CallEvent("c", "began", late))]) == 15
    # Kept for twice its price by promises, and once more by an end.
    soon = CallEvent("c", "revised", Distribution((0.01,), (1.0,), 0.0, 1.0))
    promises = [(step * STEP_SEC, soon) for step in range(40)]
    assert paid(SoftPins(), 5.0, 25.0, [*promises, (9.75, CallEvent("c", "ended"))]) == 19.75
