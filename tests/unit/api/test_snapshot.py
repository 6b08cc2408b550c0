# SPDX-License-Identifier: Apache-2.0
"""GetSnapshot: all that a peer may see, and no more, in parts that hold nobody up."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from agentcg.api.service import SNAPSHOT_CALLS, Service, _Monitor
from agentcg.api.types import KvSession
from agentcg.control.containers import Containers
from agentcg.model import CallRef, SessionRef
from agentcg.sandbox.docker import Engine

M = 1 << 20


def test_it_has_what_the_lists_have(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        session = client.session("a", memory_max=1 << 30)
        session.call(["pytest"], id="one", tool="Bash")
        session.call(["make"], id="two").end(exit_code=2)
        found = client.snapshot()
        assert found.status == client.status()
        assert found.sessions == client.sessions()
        assert found.calls == client.calls()
        (verdict,) = found.verdicts
        assert (verdict.call, verdict.outcome, verdict.exitCode) == ("u0/a/two", "exit_status", 2)
        assert verdict.ended <= found.time


def test_it_comes_in_parts(served) -> None:  # type: ignore[no-untyped-def]
    count = 2 * SNAPSHOT_CALLS + 1
    with served.client() as client:
        session = client.session("a")
        for number in range(count):
            session.call(["x"], id=f"c{number}")
        replies = served.say({"method": "dev.agentcg.Monitor.GetSnapshot", "more": True}, expect=4)
        parts = [reply["parameters"]["part"] for reply in replies]
        assert [len(part["calls"]) for part in parts] == [0, SNAPSHOT_CALLS, SNAPSHOT_CALLS, 1]
        assert [bool(reply.get("continues")) for reply in replies] == [True, True, True, False]
        assert ["status" in part and part["status"] is not None for part in parts] == [True, False, False, False]
        assert len({part["time"] for part in parts}) == 1
        assert len(client.snapshot().calls) == count
        assert client.status().calls == count  # The connection goes on.


def test_a_call_that_ends_meanwhile_is_left_out(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        session = client.session("a")
        names = [session.call(["x"], id=f"c{number}").name for number in range(2 * SNAPSHOT_CALLS)]
        peer: Any = SimpleNamespace(may_speak_for=lambda ref, owner_uid: True)

        async def look() -> list[str]:
            service = Service(served.registry, Containers(served.registry, Engine()), served.coordinator, served.stops)
            parts = _Monitor(service, peer).snapshot()
            found = [await anext(parts), await anext(parts)]
            await served.registry.end(CallRef.parse("call", names[-1]), exit_code=0)
            found += [part async for part in parts]
            return [call.call for part in found for call in part.calls]

        assert asyncio.run_coroutine_threadsafe(look(), served.loop).result(10) == names[:-1]


def test_a_peer_sees_its_own_session_alone(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as outside:
        for name in ("a", "b"):
            session = outside.session(name)
            session.call(["x"], id="runs")
            session.call(["x"], id="over").end(exit_code=0)
        with served.client("/fake/shared/u0/a/agent") as inside:
            found = inside.snapshot()
            assert [one.session for one in found.sessions] == ["u0/a"]
            assert [one.call for one in found.calls] == ["u0/a/runs"]
            assert [one.call for one in found.verdicts] == ["u0/a/over"]


def test_only_the_last_verdicts_are_there(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        session = client.session("a")
        for number in range(12):
            session.call(["x"], id=f"c{number}").end(exit_code=0)
        assert [verdict.call for verdict in client.snapshot().verdicts] == [f"u0/a/c{n}" for n in range(11, 3, -1)]


def test_who_is_stopped_and_for_how_long(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        client.session("a").call(["x"], id="held")
        client.session("b").call(["x"], id="still")
        refs = CallRef(SessionRef("u0", "a"), "held"), SessionRef("u0", "b")
        served.on_loop(lambda: served.stops.apply(dict.fromkeys(refs, "no room")))
        found = client.snapshot()
        assert {session.session: session.state for session in found.sessions} == {"u0/a": "running", "u0/b": "frozen"}
        assert {call.call: call.state for call in found.calls} == {"u0/a/held": "held", "u0/b/still": "frozen"}
        assert all(call.stoppedSec is not None and 0 < call.stoppedSec < 60 for call in found.calls)
        assert not any(one.frozenByHand for one in (*found.sessions, *found.calls))


def test_how_long_a_call_is_expected_to_run(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        session = client.session("a")
        call = session.call(["pytest"], id="declared", duration_expected_sec=30.0)
        session.call(["pytest"], id="unknown")
        for number in range(5):
            session.call(["pytest"], id=f"p{number}").end(exit_code=0)
        session.call(["pytest"], id="known")
        expected = {one.call.rpartition("/")[2]: one.durationPredictedSec for one in client.calls()}
        assert expected["declared"] == 30.0
        assert expected["unknown"] is None
        assert 0 < (expected["known"] or 0) < 30
        call.amend(duration_expected_sec=40.0)
        assert {one.durationPredictedSec for one in client.calls()} >= {40.0}


@pytest.mark.parametrize("avg10", [0.0, 12.5])
def test_memory_that_is_short(served, avg10: float) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        client.session("a").call(["x"], id="c")
        line = f"some avg10={avg10:.2f} avg60=1.00 avg300=1.00 total=1\n"
        for path in ("shared/u0/a", "shared/u0/a/calls/c"):
            (served.cgroups.top / path / "memory.pressure").write_text(line)
        served.cgroups.set("shared/u0/a", "memory.high", str(100 * M))
        found = client.snapshot()
        (session,), (call,) = found.sessions, found.calls
        assert (session.memoryPressure, call.memoryPressure) == (avg10, avg10)
        assert session.memoryHigh == 100 * M


def test_what_is_set_aside_is_told(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        client.session("a", protected=True, memory_max=256 * M)
        (session,) = client.snapshot().sessions
        assert session.memoryReserved == 256 * M


def test_what_sessions_have_cached_at_engines(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client, served.client() as one, served.client() as two:
        for name in ("a", "b"):
            client.session(name, leased=False)
        assert client.snapshot().kvSessions is None
        one.kv_hello("one", total_blocks=100, block_bytes=M)
        assert client.snapshot().kvSessions == []
        one.kv_report([KvSession("u0/a", 10, 3 * M, pinnedSec=60.0), KvSession("u0/b", 20, 2 * M)])
        two.kv_hello("two", total_blocks=100, block_bytes=M)
        two.kv_report([KvSession("u0/a", 5, M)])
        found = client.snapshot().kvSessions or []
        assert [(held.session, held.bytes, held.pinnedSec is not None) for held in found] == [
            ("u0/a", 3 * M, True),
            ("u0/b", 2 * M, False),
            ("u0/a", M, False),
        ]
        with served.client("/fake/shared/u0/b/agent") as inside:
            assert [(held.session, held.tokens) for held in inside.snapshot().kvSessions or []] == [("u0/b", 20)]


def test_by_its_full_name_a_call_of_another_connection_is_amended(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client, served.client() as other:
        name = client.session("a").call(["x"], id="c", memory_max=64 * M).name
        limits, notes = other.amend(name, memory_max=128 * M)
        assert (limits.memoryMax, notes) == (128 * M, [])
