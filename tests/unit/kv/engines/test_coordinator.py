# SPDX-License-Identifier: Apache-2.0
"""An engine and a real daemon's socket: what is heard, what is said, and what happens when one of them is not there."""

import time
from collections.abc import Callable, Iterator

import pytest

from agentcg.api.types import KvEvent, KvForecast, KvQueue, KvSession
from agentcg.kv.engines import coordinator as module
from agentcg.kv.engines.coordinator import Coordinator, describe, hear
from agentcg.kv.engines.signals import remaining

M = 1 << 20
FORECAST = KvForecast(1.0, 4.0, 20.0, 9.0)


@pytest.fixture(autouse=True)
def soon(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    for name in ("REPORT_SEC", "_AGAIN_SEC", "_AGAIN_MAX_SEC"):
        monkeypatch.setattr(module, name, 0.02)


@pytest.fixture
def new_coordinator() -> Iterator[Callable[[str], Coordinator]]:
    made: list[Coordinator] = []

    def new(path: str) -> Coordinator:
        made.append(Coordinator("vllm-0", total_blocks=100, block_bytes=M, path=path))
        made[-1].start()
        return made[-1]

    yield new
    for each in made:
        each.stop()


def until(true: Callable[[], object]) -> None:
    ends = time.monotonic() + 20
    while not true():
        assert time.monotonic() < ends, "it has not happened"
        time.sleep(0.01)


def test_what_is_said_arrives_and_is_said_again_to_another_daemon(served, new_coordinator) -> None:
    with served.client() as operator, operator.session("a"):
        made = new_coordinator(served.path)
        made.queue = KvQueue(3, 40)
        made.say(KvSession("u0/a", 4096, 50 * M, pinnedSec=10.0, hit=True))
        until(lambda: any(each.sessions for each in operator.kv_engines()))
        (engine,) = operator.kv_engines()
        assert (engine.engine, engine.queue, engine.hits) == ("vllm-0", KvQueue(3, 40), 1)
        assert [(one.session, one.bytes) for one in engine.sessions] == [("u0/a", 50 * M)]
        for client in list(made._clients):
            client.interrupt()
        until(lambda: not operator.kv_engines())
        until(lambda: any(each.sessions for each in operator.kv_engines()))
        assert operator.kv_engines()[0].hits == 0  # It was told before.
        made.say(KvSession("u0/a", 0, 0))  # And what is gone is said as long as there is somebody.
        until(lambda: not operator.kv_engines()[0].sessions)


def test_calls_are_heard_of_and_forgotten_when_the_daemon_goes(served, new_coordinator) -> None:
    made, heard = new_coordinator(served.path), []
    with served.client() as operator, operator.session("a") as session:
        until(lambda: len(made._clients) == 2)
        before = time.monotonic()
        call = session.call(["sleep", "1"], id="c1", leased=False)
        until(lambda: heard.extend(made.heard()) or heard)
        began, event = heard[0]
        assert before <= began <= time.monotonic()
        assert (event.kind, event.call) == ("began", "u0/a/c1")
        for client in list(made._clients):
            client.interrupt()
        until(lambda: heard.extend(made.heard()) or len(heard) >= 3)
        assert heard[1][1] is None
        assert (heard[2][1].kind, heard[2][1].call) == ("began", "u0/a/c1")  # As it runs still.
        call.end(exit_code=0)


def test_one_that_nobody_answers_holds_nobody_up(tmp_path, new_coordinator) -> None:
    made = new_coordinator(str(tmp_path / "nobody"))
    began = time.monotonic()
    for number in range(1000):
        made.say(KvSession(f"u0/{number}", 1, 1))
        assert list(made.heard()) == []
    assert time.monotonic() - began < 5
    assert len(made._unsaid) == 1000
    for number in range(1000):
        made.say(KvSession(f"u0/{number}", 0, 0))
    assert not made._unsaid  # Nobody will ask for who is gone.


def test_what_nobody_takes_is_forgotten_as_a_whole(monkeypatch) -> None:
    class Client:
        def kv_listen(self) -> Iterator[KvEvent]:
            yield from (KvEvent("began", "u0/a", f"u0/a/c{number}") for number in range(10))
            raise AssertionError("ended")

    monkeypatch.setattr(module, "_HEARD_MAX", 8)
    made = Coordinator("e", total_blocks=1, block_bytes=1)
    with pytest.raises(AssertionError, match="ended"):
        made._listen(Client())  # type: ignore[arg-type]
    heard = [event for _, event in made.heard()]
    assert heard[0] is None
    assert [event.call for event in heard[1:-1]] == ["u0/a/c8", "u0/a/c9"]
    assert heard[-1] is None


def test_what_is_heard_is_told(new_engine) -> None:
    engine = new_engine()
    engine.turn("u0/a")
    session = engine.keeper.retention.state.sessions["u0/a"]
    engine.now = 100.0
    hear(engine.keeper, KvEvent("began", "u0/a", "u0/a/c1", FORECAST), 50.0)  # Nothing has been served since.
    assert session.left(53.0) == remaining(FORECAST).after(3.0)
    hear(engine.keeper, KvEvent("frozen", "u0/a", "u0/a/c1"), 53.0)
    assert session.left(100.0) == remaining(FORECAST).after(3.0)
    hear(engine.keeper, None, 100.0)
    assert session.left(100.0) is None
    assert session.over_from is None
    for event in (KvEvent("lost", missed=4), KvEvent("new", "u0/a", "u0/a/c2"), KvEvent("began", "u0/x", "u0/x/c1")):
        hear(engine.keeper, event, 100.0)
    assert not session.calls
    hear(engine.keeper, KvEvent("closed", "u0/a"), 100.0)
    assert not engine.keeper.pins


def test_how_a_session_is(new_engine) -> None:
    engine = new_engine()
    blocks = engine.turn("u0/a")
    assert describe(engine.keeper, "u0/a", M) == KvSession("u0/a", 300, 3 * M, None, 10.0)
    assert engine.start(engine.ask("u0/a"), 3, found=blocks)
    engine.ask("u0/a")
    assert describe(engine.keeper, "u0/a", M) == KvSession("u0/a", 0, 0, 2, hit=True)
    assert describe(engine.keeper, "u0/nobody", M) == KvSession("u0/nobody", 0, 0)


@pytest.mark.parametrize("name", ["fix-123", "u0/a/c1", "u0/", "a b/c"])
def test_what_is_no_session_of_the_daemon_is_not_said(new_engine, name) -> None:
    assert describe(new_engine().keeper, name, M) is None
