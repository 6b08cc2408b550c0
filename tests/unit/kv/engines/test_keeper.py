# SPDX-License-Identifier: Apache-2.0
"""Whose blocks are held, on a cache of ten."""

import random

import pytest

from agentcg.kv.policies import POLICIES
from agentcg.kv.state import CallEvent


def test_a_turns_blocks_are_held_until_the_next_one_has_them(new_engine) -> None:
    engine = new_engine()
    blocks = engine.turn("a")
    assert engine.keeper.pins == {"a": blocks}
    assert engine.blocks.free_blocks() == 7
    again = engine.ask("a", 5)
    assert engine.start(again, 5, found=blocks)
    assert not engine.keeper.pins
    assert [engine.blocks.holders[block] for block in blocks] == [1, 1, 1]
    assert engine.keeper.found == {"a": True}


def test_one_without_a_session_is_not_held_and_not_remembered(new_engine) -> None:
    engine = new_engine()
    engine.turn(None)
    assert engine.blocks.free_blocks() == 10
    assert not engine.keeper.retention.state.sessions
    assert not engine.keeper.changed
    assert engine.keeper.retention.state.turns.eta == 1


@pytest.mark.parametrize("end", ["last", "close", "reset", "silence"])
def test_what_ends_a_pin(new_engine, end) -> None:
    engine = new_engine(pin_max_sec=60.0)
    engine.turn("a", last=end == "last")
    assert bool(engine.keeper.pins) is (end != "last")
    if end == "close":
        engine.keeper.close("a")
    elif end == "reset":
        engine.keeper.forget()
    elif end == "silence":
        engine.now = 60.0
        assert engine.keeper.look()
        assert engine.keeper.pins
        engine.now = 61.1
        assert engine.keeper.look()
    assert not engine.keeper.pins
    assert engine.blocks.free_blocks() == 10


def test_a_hard_pin_ends_with_its_time(new_engine) -> None:
    engine = new_engine("fixed_ttl")
    engine.turn("a")
    engine.now = 8.0
    assert engine.keeper.look()
    assert engine.keeper.pins
    engine.now = 8.5
    assert not engine.keeper.look()  # It is looked for once a second.
    assert engine.keeper.pins
    engine.now = 9.1
    assert engine.keeper.look()
    assert not engine.keeper.pins


def test_the_least_loss_goes_first_and_no_more_than_is_lacking(new_engine) -> None:
    engine = new_engine()
    first, second = engine.turn("a"), engine.turn("b")
    running = engine.ask("c", 3)
    assert engine.start(running, 3)
    new = engine.ask("d", 3)
    assert not engine.start(new, 3)
    engine.now += 3.5  # As long as three blocks are worth.
    assert engine.start(new, 3)
    assert engine.keeper.pins == {"a": first, "b": second[:1]}


def test_who_was_refused_is_not_asked_for_in_every_step(new_engine, monkeypatch) -> None:
    engine = new_engine("fixed_ttl")
    engine.turn("a", 5)
    running = engine.ask("b", 3)
    assert engine.start(running, 3)
    asked = []
    give_up = engine.keeper.retention.give_up
    monkeypatch.setattr(engine.keeper.retention, "give_up", lambda *given: (asked.append(given), give_up(*given))[1])
    new = engine.ask("c", 4)
    for _ in range(3):
        assert not engine.start(new, 4)
    assert len(asked) == 1
    engine.now += 0.06
    assert not engine.start(new, 4)
    assert len(asked) == 2
    engine.end(running)
    engine.now += 0.01
    assert engine.start(new, 4)


def test_while_nothing_runs_everything_is_given_up(new_engine) -> None:
    engine = new_engine("evict_latest")
    engine.turn("a", 5)
    engine.turn("b", 5)
    assert engine.start(engine.ask("c", 10), 10)
    assert not engine.keeper.pins


def test_a_request_that_the_retention_does_not_know_is_let_in_as_well(new_engine) -> None:
    engine = new_engine("evict_latest")
    engine.turn("a", 8)
    name = engine.ask("b", 8)
    engine.keeper.close("b")
    assert engine.start(name, 8)
    engine.end(name)
    assert engine.blocks.free_blocks() == 10


def test_a_context_that_begins_in_another_way_gives_up_the_rest(new_engine) -> None:
    engine = new_engine()
    blocks = engine.turn("a", 8)
    again = engine.ask("a", 6)
    assert engine.start(again, 6, found=blocks[:2])
    assert not engine.keeper.pins
    engine.end(again)
    assert len(engine.keeper.pins["a"]) == 6


def test_of_branches_the_latest_is_held(new_engine) -> None:
    engine = new_engine()
    one, two = engine.ask("a", 2), engine.ask("a", 3)
    assert engine.start(one, 2)
    assert engine.start(two, 3)
    engine.end(one)
    assert len(engine.keeper.pins["a"]) == 2
    engine.end(two)
    assert len(engine.keeper.pins["a"]) == 3
    assert engine.blocks.free_blocks() == 7


def test_one_that_was_put_back_or_given_up_has_nothing(new_engine) -> None:
    engine = new_engine()
    name = engine.ask("a")
    assert engine.start(name)
    engine.keeper.preempt(name)
    engine.blocks.release(engine.holds.pop(name))
    assert engine.keeper.order() == [name]
    engine.keeper.cancel(name)
    assert not engine.keeper.pins
    assert engine.keeper.retention.state.sessions["a"].resident == 0
    assert engine.keeper.order() is None


def test_the_order_is_asked_for_when_something_has_happened(new_engine) -> None:
    engine = new_engine()
    engine.turn("b")
    engine.now = 1.0
    late, early = engine.ask("c"), engine.ask("b")
    assert engine.keeper.order() == [early, late]
    engine.now += 0.05
    assert engine.keeper.order() is None
    engine.ask("d")
    assert engine.keeper.order() is not None
    engine.now += 0.2
    assert engine.keeper.order() is not None


def test_who_may_not_run_yet_is_barred(new_engine) -> None:
    engine = new_engine("mars_admission")
    engine.keeper.retention.policy.window = 1.0
    engine.turn("a")
    engine.now = 1.0
    back, new = engine.ask("a"), engine.ask("b")
    assert engine.keeper.order() == [back]
    assert engine.keeper.barred == {new}


def test_what_is_not_known_changes_nothing(new_engine) -> None:
    engine = new_engine()
    keeper = engine.keeper
    keeper.start("r9", 100)
    keeper.preempt("r9")
    keeper.end("r9", [1, 2])
    keeper.cancel("r9")
    keeper.close("nobody")
    assert not keeper.make_room("r9", 1, found=(), alone=False)
    assert not keeper.pins
    assert engine.blocks.free_blocks() == 10


@pytest.mark.parametrize("policy", sorted(POLICIES.keys() - {"clairvoyant"}))
@pytest.mark.parametrize("seed", range(5))
def test_random_stories_never_block_and_never_lose_a_block(new_engine, policy, seed) -> None:
    draw = random.Random(seed)
    engine = new_engine(policy, pin_max_sec=20.0)
    known: dict[str, list[int]] = {}
    waiting: dict[str, tuple[str | None, int]] = {}
    for _ in range(400):
        engine.now += draw.choice([0.0, 0.02, 0.2, 3.0, -1.0])
        engine.keeper.look()
        what = draw.random()
        if what < 0.4 and len(waiting) < 5:
            session = draw.choice([None, "a", "b", "c", "d"])
            blocks = draw.randint(1, 10)
            waiting[engine.ask(session, blocks, last=draw.random() < 0.1)] = session, blocks
        elif what < 0.5 and engine.holds:
            name = draw.choice(list(engine.holds))
            if draw.random() < 0.5:
                engine.keeper.preempt(name)
                waiting[name] = None, draw.randint(1, 10)
            else:
                engine.keeper.cancel(name)
            engine.blocks.release(engine.holds.pop(name))
        elif what < 0.6:
            kind = draw.choice(["began", "frozen", "thawed", "ended"])
            session = draw.choice("abcd")
            engine.keeper.retention.call(session, CallEvent("c", kind), engine.now)  # type: ignore[arg-type]
        elif what < 0.62:
            engine.keeper.forget()
        elif what < 0.64:
            engine.keeper.close(draw.choice("abcd"))
        elif what < 0.8 and engine.holds:
            name = draw.choice(list(engine.holds))
            known[name] = engine.holds[name]
            engine.end(name)
        elif waiting:
            name = (engine.keeper.order() or list(waiting))[0]
            session, blocks = waiting.get(name, (None, 1))
            pin = engine.keeper.pins.get(session or "", [])[:blocks]
            found = pin[: draw.randint(0, len(pin))]
            alone = not engine.holds
            if engine.start(name, blocks, found):
                waiting.pop(name, None)
            else:
                assert not alone
        held = [block for blocks in [*engine.holds.values(), *engine.keeper.pins.values()] for block in blocks]
        assert +engine.blocks.holders == {block: held.count(block) for block in held}
        assert sorted([*engine.blocks.queue, *set(held)]) == list(range(10))
