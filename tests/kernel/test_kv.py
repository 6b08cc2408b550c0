# SPDX-License-Identifier: Apache-2.0
"""An engine and a real daemon: what it hears of calls, and what its reports do to their share of the CPUs."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentcg.api.types import KvEvent, KvQueue, KvSession

MIB = 1 << 20
BLOCKS = 100
Heard = Callable[..., KvEvent]


@contextlib.contextmanager
def listening(daemon: Any) -> Iterator[Heard]:
    """Listen as an engine; yield what waits for the next event of a session, of one of these kinds."""
    events: queue.Queue[KvEvent] = queue.Queue()

    def listen() -> None:
        with daemon.client() as client:
            for event in client.kv_listen():
                events.put(event)
                if event.kind == "closed" and event.session == "u0/last":
                    return

    def next_of(session: str, *kinds: str) -> KvEvent:
        deadline = time.monotonic() + 30
        with contextlib.suppress(queue.Empty):
            while (left := deadline - time.monotonic()) > 0:
                event = events.get(timeout=left)
                if event.session == session and event.kind in kinds:
                    return event
        pytest.fail(f"none of {kinds} was told of {session}")

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    yield next_of
    # Its last word, so that it hangs up by itself.
    with daemon.client() as other:
        other.session("last").close()
    listener.join(30)
    assert not listener.is_alive()


def test_an_engine_hears_of_a_call_before_its_runtime_says_anything(daemon: Any, tools: Any) -> None:
    with listening(daemon) as heard, daemon.client() as client:
        session = client.session("kv-a")
        call = session.call(["sleep", "2"], id="c1")
        process = call.popen()
        began = heard("u0/kv-a", "began")
        assert began.call == "u0/kv-a/c1"
        assert began.forecast is not None
        # Somebody stops it by hand.
        assert client.freeze(call.name) == "frozen"
        assert heard("u0/kv-a", "frozen").call == call.name
        tools.wait_for(lambda: tools.keyed(daemon.top / "shared/u0/kv-a/calls/c1", "cgroup.events")["frozen"])
        time.sleep(2.5)
        assert process.poll() is None
        assert client.thaw(call.name) == "running"
        assert heard("u0/kv-a", "thawed").call == call.name
        process.wait(30)
        # Nobody has ended it yet.
        assert heard("u0/kv-a", "ended").call == "u0/kv-a/c1"
        verdict = call.end(exit_code=0)
        assert (verdict.outcome, (verdict.usage.frozenSec or 0) > 1) == ("ok", True)
        session.close()
        assert heard("u0/kv-a", "closed").call is None


@pytest.mark.parametrize("own_daemon", [("--memory-max", "400M")], indirect=True)
def test_an_engine_hears_that_a_call_is_held_and_that_it_goes_on(own_daemon: Any) -> None:
    with listening(own_daemon) as heard, own_daemon.client() as client:
        protected = client.session("protected", protected=True, memory_max=280 * MIB)
        session = client.session("kv-b")
        call = session.call(["true"], id="c1", memory_expected=200 * MIB)
        process = call.popen()
        assert heard("u0/kv-b", "frozen").call == "u0/kv-b/c1"
        protected.close()
        assert heard("u0/kv-b", "thawed", "ended").call == "u0/kv-b/c1"
        assert process.wait(30) == 0
        assert call.end(exit_code=0).outcome == "ok"
        session.close()


def test_a_call_whose_cache_is_in_the_way_has_a_larger_share_until_the_engine_is_gone(daemon: Any, tools: Any) -> None:
    def weight(name: str) -> int:
        return int(tools.text(daemon.top / f"shared/u0/{name}", "cpu.weight"))

    with daemon.client() as client, daemon.client() as engine:
        sessions = [client.session(name) for name in ("kv-c", "kv-d")]
        calls = [session.call(["sleep", "600"]) for session in sessions]
        processes = [call.popen() for call in calls]
        engine.kv_hello("e1", total_blocks=BLOCKS, block_bytes=MIB)
        before = weight("kv-c")
        held = KvSession("u0/kv-c", tokens=4096, bytes=80 * MIB, turns=0, pinnedSec=60.0)
        unknown = KvSession("u0/nobody", tokens=1, bytes=MIB)
        # Nobody waits: nothing is in anybody's way.
        assert engine.kv_report([held, unknown], KvQueue(waiting=0, freeBlocks=20)) == ["u0/nobody"]
        time.sleep(0.5)
        assert weight("kv-c") == before
        engine.kv_report([], KvQueue(waiting=3, freeBlocks=0))
        tools.wait_for(lambda: weight("kv-c") > before)
        assert weight("kv-d") == before
        (listed,) = client.kv_engines()
        assert (listed.engine, [each.session for each in listed.sessions]) == ("e1", ["u0/kv-c"])
        engine.close()
        tools.wait_for(lambda: weight("kv-c") == before)
        assert client.kv_engines() == []
        for call, process in zip(calls, processes, strict=True):
            process.kill()
            process.wait(30)
            call.end(signal=9)
        for session in sessions:
            session.close()
