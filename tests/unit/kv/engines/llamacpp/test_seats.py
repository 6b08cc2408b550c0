# SPDX-License-Identifier: Apache-2.0
"""Whose slot is taken: cases by hand, and what holds whatever is said."""

from collections.abc import Callable, Sequence
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from agentcg.kv.engines.llamacpp.seats import PATIENCE_SEC, Holding, Seat, Seats
from agentcg.kv.policies import POLICIES
from agentcg.kv.state import CallEvent
from agentcg.predict.distribution import Distribution

CONTEXT = 8192


class Server:
    """Slots, and short hand for turns in them."""

    def __init__(self, slots: int = 2, *, policy: str = "lru", files: int = 4, saves: bool = False) -> None:
        self.seats = Seats(POLICIES[policy](), slots, CONTEXT, files)
        self.seats.costs.saves = saves
        self.seats.costs.computed(1000, 10.0)
        self.number = 0

    def ask(self, session: str, at: float, tokens: int = 1000) -> str:
        self.number += 1
        self.seats.arrive(f"{session}{self.number}", session, tokens, at)
        return f"{session}{self.number}"

    def sit(self, session: str, at: float, tokens: int = 1000) -> Seat:
        request = self.ask(session, at, tokens)
        seat = self.seats.next(at)
        assert seat is not None
        assert seat.request == request
        return seat

    def turn(self, session: str, begin: float, end: float, tokens: int = 1000, tool: str = "bash") -> Seat:
        seat = self.sit(session, begin, tokens)
        self.seats.ended(seat.request, tokens, end, tool=tool)
        return seat


def test_everybody_keeps_its_slot_while_there_are_enough() -> None:
    server = Server(policy="soft_pins")
    assert [server.turn(name, at, at + 1).slot for at, name in enumerate("abab")] == [0, 1, 0, 1]
    assert [held.protected for held in server.seats.holdings(4)] == [True, True]
    assert server.seats.free_slots(4) == 0


def test_while_nothing_runs_a_slot_is_taken_after_what_it_costs_to_have_it_back() -> None:
    server = Server(policy="soft_pins")
    server.turn("a", 0, 1)
    server.turn("b", 0, 1)
    new = server.ask("c", 2)
    assert server.seats.next(2) is None
    assert server.seats.ask_again_at == 2 + 10  # B is 10 s.
    back = server.ask("a", 3)
    assert server.seats.next(3) == Seat(back, 0, "a", None, None)
    server.seats.ended(back, 1000, 4)
    assert server.seats.next(4) is None
    assert server.seats.ask_again_at == 4 + 10
    assert server.seats.next(11.9) is None
    assert server.seats.next(12.1) == Seat(new, 1, "b", None, None)  # What it would have paid for, it has paid.


def test_what_is_not_protected_is_taken_at_once() -> None:
    server = Server()
    for name in "ab":
        server.turn(name, 0, 1)
    assert server.sit("c", 1).victim == "a"
    assert server.seats.ask_again_at == inf


def test_who_is_expected_back_soon_keeps_its_slot_while_others_run() -> None:
    server = Server(policy="soft_pins")
    server.turn("a", 0, 1)
    busy = server.sit("b", 1)
    server.seats.call("a", CallEvent("c", "began", Distribution((2.0,), (1.0,), 0.0, 1.0)), 1)
    new = server.ask("d", 1)
    assert server.seats.next(1) is None
    assert server.seats.waiting == 1
    back = server.ask("a", 3)
    assert server.seats.next(3) == Seat(back, 0, "a", None, None)
    server.seats.close("b", 4)
    server.seats.ended(busy.request, 500, 4)
    assert server.seats.next(4) == Seat(new, 1, "", None, None)


def test_a_call_without_a_return_gives_up_its_slot_in_the_end() -> None:
    server = Server(policy="soft_pins")
    server.turn("a", 0, 1)
    server.seats.call("a", CallEvent("c", "began"), 1)
    server.sit("b", 1)
    new = server.ask("d", 1)
    assert server.seats.next(10.9) is None
    assert server.seats.next(11.1) == Seat(new, 0, "a", None, None)  # B is 10 s.


def test_calls_of_which_nobody_tells_any_more_are_taken_to_be_over() -> None:
    server = Server(policy="soft_pins")
    server.turn("a", 0, 1)
    server.seats.call("a", CallEvent("c", "began", Distribution((60.0,), (1.0,), 0.0, 1.0)), 1)
    server.sit("b", 1)
    new = server.ask("d", 1)
    server.seats.end_calls(2)
    assert server.seats.next(11.9) is None
    assert server.seats.next(12.1) == Seat(new, 0, "a", None, None)


def test_nobody_waits_beside_an_idle_slot_for_ever_whatever_the_policy_says() -> None:
    server = Server(policy="evict_latest")  # It protects everybody from those that came later.
    server.turn("a", 0, 1)
    server.sit("b", 1)
    new = server.ask("d", 1)
    assert server.seats.next(PATIENCE_SEC) is None
    assert server.seats.next(1 + PATIENCE_SEC) == Seat(new, 0, "a", None, None)


def test_a_return_without_a_call_and_events_of_nobody_change_nothing() -> None:
    server = Server()
    server.seats.call("nobody", CallEvent("c", "began"), 0)
    server.seats.ended("nothing", 5, 0)
    server.seats.cancelled("nothing", 0)
    server.seats.erased(7)
    assert server.seats.close("nobody", 0) == []
    assert list(server.seats.holdings(0)) == []
    server.turn("a", 0, 1, tool="")
    assert server.turn("a", 5, 6).slot == 0


def test_a_sessions_second_turn_waits_for_its_first_and_holds_nobody_up() -> None:
    server = Server()
    first = server.sit("a", 0)
    second = server.ask("a", 0)
    assert server.seats.next(0) is None
    assert server.sit("b", 1).slot == 1
    server.seats.ended(first.request, 1000, 2)
    assert server.seats.next(2) == Seat(second, 0, "a", None, None)


def test_a_clock_that_runs_backwards_stands_still() -> None:
    server = Server()
    server.turn("a", 100, 101)
    server.turn("b", 50, 51)
    seat = server.turn("c", 0, 1)
    assert seat.victim in ("a", "b")
    assert [held.session for held in server.seats.holdings(-1e9)] == sorted({"a", "b", "c"} - {seat.victim})


@pytest.mark.parametrize("tokens", [-5, 0, 10**12])
def test_token_counts_that_lie_are_cut_to_what_a_slot_holds(tokens: int) -> None:
    server = Server(1)
    server.turn("a", 0, 1, tokens)
    (held,) = server.seats.holdings(1)
    assert 1 <= held.tokens <= CONTEXT
    assert server.turn("b", 2, 3).victim == "a"


def test_what_is_taken_is_saved_and_read_when_its_session_is_back() -> None:
    server = Server(1, saves=True)
    server.turn("a", 0, 1)
    seat = server.turn("b", 2, 3)
    assert (seat.victim, seat.restore) == ("a", None)
    assert seat.save is not None
    server.seats.written("a", seat.save, good=True)
    back = server.turn("a", 4, 5)
    assert back.restore == seat.save
    assert back.save not in (None, seat.save)  # Still being read.
    server.seats.read(back.restore)


def test_what_could_not_be_saved_is_not_read() -> None:
    server = Server(1, saves=True, files=1)
    server.turn("a", 0, 1)
    seat = server.turn("b", 2, 3)
    assert seat.save == 0
    server.seats.written("a", 0, good=False)
    assert server.turn("a", 4, 5).restore is None


def test_there_are_no_more_files_than_allowed_and_the_oldest_goes() -> None:
    server = Server(1, saves=True, files=2)
    for at, name in enumerate("abcd"):
        seat = server.turn(name, at, at + 0.5)
        if seat.save is not None:
            server.seats.written(seat.victim, seat.save, good=True)
    assert server.seats.named("") == ["b", "c", "d"]
    assert server.turn("a", 9, 10).restore is None


def test_a_closed_session_leaves_a_slot_that_is_erased_first() -> None:
    server = Server(1)
    server.turn("a", 0, 1)
    assert server.seats.close("a", 2) == [0]
    request = server.ask("b", 2)
    assert server.seats.next(2) is None
    server.seats.erased(0)
    assert server.seats.next(2) == Seat(request, 0, "", None, None)


def test_a_session_that_is_closed_in_a_turn_leaves_its_slot_after_it() -> None:
    server = Server(1)
    seat = server.sit("a", 0)
    assert server.seats.close("a", 1) == []
    assert server.seats.next(1) is None
    server.seats.ended(seat.request, 1000, 2)
    assert list(server.seats.holdings(2)) == []
    assert server.turn("b", 3, 4).victim == ""


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_server_that_starts_anew_has_other_slots_and_nothing_in_them(slots: int) -> None:
    server = Server(2, saves=True)
    for at, name in enumerate("abc"):
        seat = server.turn(name, at, at + 0.5)
    assert seat.save is not None
    server.seats.written(seat.victim, seat.save, good=True)
    running = server.sit("a", 3)
    server.seats.forget(slots, 4096, 4)
    assert (server.seats.slots, server.seats.context) == (slots, 4096)
    server.seats.cancelled(running.request, 5)
    for at, name in enumerate("abc", 6):
        assert server.turn(name, at, at + 0.5).restore is None


def test_a_turn_that_is_given_up_leaves_its_slot_to_others() -> None:
    server = Server(1)
    seat = server.sit("a", 0)
    waits = server.ask("b", 0)
    server.seats.cancelled(seat.request, 1)
    assert server.seats.next(1) == Seat(waits, 0, "a", None, None)
    gone = server.ask("c", 2)
    server.seats.cancelled(gone, 2)
    assert server.seats.waiting == 0


def test_holdings_tell_who_waits() -> None:
    server = Server(1)
    server.sit("a", 0)
    server.ask("b", 0)
    assert list(server.seats.holdings(0)) == [Holding("a", 0, True, 1, False), Holding("b", 0, False, 1, False)]
    assert server.seats.free_slots(0) == 0


Act = Callable[["Story"], None]


class Story(Server):
    """Three slots whose turns end when they are told to, and files that are written and read at any later time."""

    def __init__(self, policy: str) -> None:
        super().__init__(3, policy=policy, files=2, saves=True)
        self.now = 0.0
        self.seated: dict[str, Seat] = {}
        self.writing: list[Seat] = []
        self.erasing: list[int] = []
        self.lost: list[str] = []

    def serve(self) -> None:
        while (seat := self.seats.next(self.now)) is not None:
            assert seat.slot not in {other.slot for other in self.seated.values()} | set(self.erasing)
            assert seat.restore is None or seat.restore not in self.files_written()
            if seat.save is not None:
                assert 0 <= seat.save < 2
                assert seat.save not in self.files_written()
                assert seat.save != seat.restore
                self.writing.append(seat)
            if seat.restore is not None:
                self.seats.read(seat.restore)
            self.seated[seat.request] = seat
        holdings = list(self.seats.holdings(self.now))
        assert sum(held.seated for held in holdings) <= self.seats.slots
        waits = self.seats.waiting and self.seats.ask_again_at == inf
        assert self.seated or self.lost or self.erasing or not waits, "somebody waits and nobody runs"

    def files_written(self) -> set[int | None]:
        return {seat.save for seat in self.writing}

    def finish(self, which: int, tokens: int) -> None:
        if self.lost:
            self.seats.cancelled(self.lost.pop(), self.now)
        elif self.seated:
            seat = self.seated.pop(sorted(self.seated)[which % len(self.seated)])
            if tokens < 0:
                self.seats.cancelled(seat.request, self.now)
            else:
                self.seats.ended(seat.request, tokens, self.now, tool="bash")

    def copied(self, good: bool) -> None:
        if self.writing:
            seat = self.writing.pop(0)
            assert seat.save is not None
            self.seats.written(seat.victim, seat.save, good=good)

    def close(self, session: str) -> None:
        self.erasing += self.seats.close(session, self.now)

    def restart(self, slots: int) -> None:
        self.seats.forget(slots, CONTEXT, self.now)
        self.lost += [name for name, seat in self.seated.items() if seat.slot >= slots]
        self.seated = {name: seat for name, seat in self.seated.items() if seat.slot < slots}
        self.erasing = []

    def erased(self) -> None:
        if self.erasing:
            self.seats.erased(self.erasing.pop(0))


SESSION = some.sampled_from("abcdef")
ACT: some.SearchStrategy[Act] = some.one_of(
    some.builds(lambda name: lambda story: story.ask(name, story.now), SESSION),
    some.builds(
        lambda which, tokens: lambda story: story.finish(which, tokens), some.integers(0, 9), some.integers(-1, 9999)
    ),
    some.builds(lambda good: lambda story: story.copied(good), some.booleans()),
    some.builds(lambda name: lambda story: story.close(name), SESSION),
    some.builds(lambda slots: lambda story: story.restart(slots), some.integers(1, 4)),
    some.builds(
        lambda name, kind: lambda story: story.seats.call(name, CallEvent("c", kind), story.now),
        SESSION,
        some.sampled_from(["began", "revised", "frozen", "thawed", "ended"]),
    ),
    some.just(lambda story: story.erased()),
)
STORIES = some.lists(some.tuples(ACT, some.sampled_from([0.0, 0.1, 1.0, 30.0, -20.0])), max_size=60)


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=20, deadline=None)
@given(story=STORIES)
def test_a_slot_serves_one_turn_and_everybody_is_served(name: str, story: Sequence[tuple[Act, float]]) -> None:
    server = Story(name)
    for act, sec in story:
        server.now += sec
        act(server)
        server.serve()
    for _ in range(200):
        if not server.seats.waiting and not server.seated:
            break
        server.now += PATIENCE_SEC
        server.erased()
        server.finish(0, 100)
        server.serve()
    assert server.seats.waiting == 0
