# SPDX-License-Identifier: Apache-2.0
"""Engines at the real server, through the real client and by hand."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentcg.api.client import Client, RemoteError
from agentcg.api.peer import identify
from agentcg.api.types import KvEvent, KvQueue, KvSession

M = 1 << 20
PATH = "shared/u0/a/calls/c1"
IN_A = "/fake/shared/u0/a/agent"
FULL = KvQueue(waiting=1, freeBlocks=0)
OF_A = KvSession("u0/a", tokens=4096, bytes=50 * M, pinnedSec=30.0)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentcg.control.kv.WEIGH_SEC", 0.0)
    monkeypatch.setattr("agentcg.control.kv.LOOK_SEC", 0.02)


@pytest.fixture
def listen(served) -> Iterator[Callable[[], Callable[[], KvEvent]]]:  # type: ignore[no-untyped-def]
    """Return a function that connects a listener and returns what gives its next event."""
    clients: list[Client] = []

    def connect() -> Callable[[], KvEvent]:
        client, heard = served.client(), queue.Queue[KvEvent]()
        clients.append(client)
        before = served.coordinator._listening

        def read() -> None:
            try:
                for event in client.kv_listen():
                    heard.put(event)
            except RemoteError:
                pass  # The server is gone.

        threading.Thread(target=read, daemon=True).start()
        until(
            served,
            lambda: served.coordinator._listening > before and bool(served.coordinator._signals._news._listeners),
        )
        return lambda: heard.get(timeout=5)

    yield connect
    for client in clients:
        client._sock.shutdown(2)
        client.close()


def until(served: Any, holds: Callable[[], bool]) -> None:
    """Wait until something holds on the server's loop."""
    stop = threading.Event()
    for _ in range(500):
        if served.on_loop(holds):
            return
        stop.wait(0.01)
    pytest.fail("it never came to hold")


def weight(served: Any) -> str:
    found: str = served.cgroups.text("shared/u0/a", "cpu.weight")
    return found


def begin(served: Any, client: Client) -> Any:
    call = client.session("a").call(["make"], id="c1", tool="Bash")
    served.on_loop(lambda: served.cgroups.enter(PATH))
    return call


def test_an_engine_hears_of_a_call_and_is_heard(served, listen) -> None:  # type: ignore[no-untyped-def]
    following = listen()
    with served.client() as agent, served.client() as engine:
        call = begin(served, agent)
        began = following()
        assert (began.kind, began.session, began.call) == ("began", "u0/a", "u0/a/c1")
        assert 0 < began.forecast.p10Sec < began.forecast.p50Sec < began.forecast.p90Sec
        assert began.forecast.meanSec > 0
        engine.kv_hello("vllm-0", total_blocks=100, block_bytes=M)
        assert weight(served) == "100"
        assert engine.kv_report([OF_A, KvSession("u0/gone", 1, 1)], FULL) == ["u0/gone"]
        assert weight(served) == "400"
        (listed,) = engine.kv_engines()
        assert (listed.engine, listed.totalBlocks, listed.blockBytes, listed.pressure) == ("vllm-0", 100, M, 1.0)
        (held,) = listed.sessions
        assert (held.session, held.tokens, held.bytes) == ("u0/a", 4096, 50 * M)
        assert 29 < held.pinnedSec <= 30
        served.on_loop(lambda: served.cgroups.leave(PATH))
        assert (following().kind, served.registry.ended) == ("ended", 0)
        call.end(exit_code=0)
        assert engine.kv_report([KvSession("a", 4200, 51 * M, turns=1, hit=True)]) == []
        assert [(one.hits, one.misses) for one in engine.kv_engines()] == [(1, 0)]
        assert weight(served) == "100"
        agent.close_session("a")
        closed = following()
        assert (closed.kind, closed.session, closed.call) == ("closed", "u0/a", None)


def test_an_engine_that_hangs_up_is_forgotten_and_calls_go_on(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as agent:
        call = begin(served, agent)
        with served.client() as engine:
            engine.kv_hello("e", total_blocks=100, block_bytes=M)
            engine.kv_report([OF_A], FULL)
            assert weight(served) == "400"
        until(served, lambda: weight(served) == "100")
        assert agent.kv_engines() == []
        assert served.registry.calls
        assert call.end(exit_code=0).outcome == "ok"


def test_an_engine_that_starts_anew_is_another(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as agent, served.client() as old, served.client() as new:
        begin(served, agent)
        old.kv_hello("e", total_blocks=100, block_bytes=M)
        old.kv_report([OF_A], FULL)
        new.kv_hello("e", total_blocks=50, block_bytes=M)
        assert weight(served) == "100"
        (engine,) = new.kv_engines()
        assert (engine.totalBlocks, engine.sessions) == (50, [])
        with pytest.raises(RemoteError, match="this connection is no engine's") as caught:
            old.kv_report([OF_A], FULL)
        assert caught.value.name == "dev.agentcg.Invalid"


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({"sessions": [{"session": "u0/a", "tokens": -1, "bytes": 1}]}, "sessions[0].tokens"),
        ({"sessions": [{"session": "u0/a", "tokens": 1, "bytes": 10**30}]}, "sessions[0].bytes"),
        (
            {"sessions": [{"session": "u0/a", "tokens": 1, "bytes": 1, "pinnedSec": float("nan")}]},
            "sessions[0].pinnedSec",
        ),
        ({"sessions": [{"session": "u0/a/c1", "tokens": 1, "bytes": 1}]}, "sessions[0].session"),  # A call's name.
        ({"sessions": [{"session": "../a", "tokens": 1, "bytes": 1}]}, "sessions[0].session"),
        ({"sessions": [{"session": name, "tokens": 1, "bytes": 1} for name in ("a", "u0/a")]}, "sessions[1].session"),
        ({"queue": {"waiting": 1, "freeBlocks": 101}}, "queue.freeBlocks"),
        ({"sessions": [{"session": "u0/a", "tokens": True, "bytes": 1}]}, "sessions[0].tokens"),
        ({"sessions": [{"session": "u0/a", "tokens": 1}]}, "sessions.0"),
        ({"session": []}, "session"),
    ],
)
def test_a_lie_is_refused_at_its_place_and_changes_nothing(served, parameters: dict[str, Any], place: str) -> None:  # type: ignore[no-untyped-def]
    hello = {"engine": "e", "totalBlocks": 100, "blockBytes": M}
    with served.client() as agent:
        begin(served, agent)
        answers = served.say(
            {"method": "dev.agentcg.Kv.Hello", "parameters": hello},
            {"method": "dev.agentcg.Kv.Report", "parameters": parameters},
            {"method": "dev.agentcg.Kv.List"},
        )
        assert (answers[1].get("error"), answers[1]["parameters"].get("place")) == ("dev.agentcg.Invalid", place)
        assert [engine["sessions"] for engine in answers[2]["parameters"]["engines"]] == [[]]
        assert weight(served) == "100"


def test_a_report_by_hand_may_leave_out_what_there_is_not(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as agent:
        begin(served, agent)
        answers = served.say(
            {"method": "dev.agentcg.Kv.Hello", "parameters": {"engine": "e", "totalBlocks": 100, "blockBytes": M}},
            {
                "method": "dev.agentcg.Kv.Report",
                "parameters": {"sessions": [{"session": "u0/a", "tokens": 9, "bytes": 9, "pinnedSec": 30}]},
            },
            {"method": "dev.agentcg.Kv.Report", "parameters": {}},
            {"method": "dev.agentcg.Kv.List"},
        )
        assert answers[:3] == [{}, {"parameters": {"unknown": []}}, {"parameters": {"unknown": []}}]
        (engine,) = answers[3]["parameters"]["engines"]
        assert [held["tokens"] for held in engine["sessions"]] == [9]


def test_only_operators_speak_or_listen(served, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def unprivileged(*given: Any) -> Any:
        peer = identify(*given)
        peer.operator = False
        return peer

    def refuses(client: Client) -> None:
        for request in (
            lambda: client.kv_hello("e", total_blocks=1, block_bytes=1),
            lambda: client.kv_report([OF_A]),
            lambda: client.kv_engines(),
            lambda: next(client.kv_listen()),
        ):
            with pytest.raises(RemoteError, match="may not speak or listen as an engine") as caught:
                request()
            assert caught.value.name == "dev.agentcg.Denied"

    with served.client() as outside:
        outside.session("a")
        with served.client(IN_A) as inside:
            refuses(inside)
        monkeypatch.setattr("agentcg.api.server.identify", unprivileged)
        with served.client() as user:
            refuses(user)
        assert outside.kv_engines() == []


def test_who_says_no_hello_is_no_engine(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client, pytest.raises(RemoteError, match="call Hello first"):
        client.kv_report([OF_A])


def test_a_listener_that_is_gone_costs_nothing(served) -> None:  # type: ignore[no-untyped-def]
    before = served.on_loop(lambda: len(served.registry.bus._listeners))
    with served.client() as client:

        def read() -> None:
            with pytest.raises(RemoteError):
                list(client.kv_listen())

        thread = threading.Thread(target=read)
        thread.start()
        until(served, lambda: len(served.registry.bus._listeners) == before + 1)
        client._sock.shutdown(2)
        thread.join(5)
    until(served, lambda: len(served.registry.bus._listeners) == before)
    assert served.on_loop(lambda: len(served.coordinator._signals._news._listeners)) == 0
