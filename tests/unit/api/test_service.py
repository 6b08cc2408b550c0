# SPDX-License-Identifier: Apache-2.0
"""Requests against a fake hierarchy, through the real client: who may do what, and what is told to whom."""

import dataclasses
import json
import threading
import time
from typing import Any

import pytest

from agentcg.api.client import RemoteError
from agentcg.api.interfaces import SessionInterface
from agentcg.api.peer import identify
from agentcg.errors import AgentcgError
from agentcg.model import SessionRef

IN_A, IN_CALL = "/fake/shared/u0/a/agent", "/fake/shared/u0/a/calls/c1"


def test_a_session_by_hand(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        session = client.session("a", memory_max=1 << 30)
        assert session.name == "u0/a"
        call = session.call(["pytest", "-x"], id="c1", memory_max=512 << 20)
        assert call.name == "u0/a/c1"
        assert served.cgroups.text("shared/u0/a/calls/c1", "memory.max") == str(512 << 20)
        assert served.cgroups.text("shared/u0/a/calls/c1", "memory.oom.group") == "1"
        assert served.cgroups.text("shared/u0/a", "memory.max") == str(1 << 30)
        assert call.environment["AGENTCG_CALL"] == "u0/a/c1"
        assert call.environment["MEMORY_PRESSURE_WATCH"].endswith("shared/u0/a/calls/c1/memory.pressure")
        (listed,) = client.calls()
        assert (listed.call, listed.command, listed.callClass) == ("u0/a/c1", "pytest -x", "test")
        assert call.end(exit_code=0).outcome == "ok"
        assert not (served.cgroups.top / "shared/u0/a/calls/c1").exists()
        assert session.close() == []
        assert not (served.cgroups.top / "shared/u0").exists()


def test_ending_twice_gives_the_same_verdict(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        call = client.session("a").call(["x"])
        first = client.end(call.name, exit_code=3)
        assert first.outcome == "exit_status"
        assert client.end(call.name, exit_code=0) == first


def test_names_are_taken_once(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        session = client.session("a")
        with pytest.raises(RemoteError, match="u0/a is open already"):
            client.session("a")
        session.call(["x"], id="c1")
        with pytest.raises(RemoteError, match="the call u0/a/c1 is there already"):
            session.call(["x"], id="c1")
        assert len(client.calls()) == 1


def test_a_peer_of_one_session_reaches_no_other(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as outside:
        outside.session("a")
        other = outside.session("b").call(["x"], id="c1").name
        with served.client(IN_A) as inside:
            for request in (
                lambda: inside.end(other, exit_code=0),
                lambda: inside.kill(other, "mine"),
                lambda: inside.call(["x"], session="b"),
                lambda: inside.calls("b"),
                lambda: inside.close_session("b"),
                lambda: inside.end("u0/b/unknown", exit_code=0),
                lambda: inside.call(["x"], session="unknown"),
            ):
                with pytest.raises(RemoteError, match="may not speak for the session u0/") as caught:
                    request()
                assert caught.value.name == "dev.agentcg.Denied"
            for request in (lambda: inside.session("mine"), lambda: inside.close_session("a")):
                with pytest.raises(RemoteError, match="may not open or close sessions"):
                    request()
            own = inside.call(["x"])
            assert own.name.startswith("u0/a/")
            assert [session.session for session in inside.sessions()] == ["u0/a"]
            assert [call.call for call in inside.calls()] == [own.name]
            own.end(exit_code=0)
        assert [call.call for call in outside.calls()] == [other]
        assert outside.status().refused >= 7


def test_from_inside_a_call_nothing_is_begun_or_changed(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as outside:
        outside.session("a").call(["x"], id="c1")
        with served.client(IN_CALL) as inside:
            with pytest.raises(RemoteError) as caught:
                inside.call(["y"])
            assert caught.value.name == "dev.agentcg.NestedCall"
            assert "u0/a/c1" in str(caught.value)
            for request in (lambda: inside.end("u0/a/c1"), lambda: inside.kill("u0/a/c1", "x")):
                with pytest.raises(RemoteError, match="may not change calls from inside one"):
                    request()
        assert len(outside.calls()) == 1


def test_what_a_call_asks_for_in_vain_is_in_its_verdict(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as outside:
        outside.session("a").call(["x"], id="c1")
        other = outside.session("b").call(["x"], id="c1").name
        requests = [
            ("Denied", lambda inside: inside.end(other)),
            ("Denied", lambda inside: inside.call(["y"], session="b")),
            ("Denied", lambda inside: inside.call(["y"], session="unknown")),
            ("Denied", lambda inside: inside.calls("b")),
            ("Denied", lambda inside: inside.session("mine")),
            ("Denied", lambda inside: inside.close_session("a")),
            ("Denied", lambda inside: inside.kill("u0/a/c1", "x")),
            ("NestedCall", lambda inside: inside.invoke(SessionInterface, "Enter", session="a")),
        ]
        with served.client(IN_CALL) as inside:
            for name, request in requests:
                with pytest.raises(RemoteError) as caught:
                    request(inside)
                assert caught.value.name == f"dev.agentcg.{name}"
            for session in (None, "a"):  # A launcher in a launcher's call: that is no attempt at anything.
                with pytest.raises(RemoteError) as caught:
                    inside.call(["y"], session=session)
                assert caught.value.name == "dev.agentcg.NestedCall"
        with served.client(IN_A) as agent, pytest.raises(RemoteError):
            agent.end(other)
        assert outside.status().refused == len(requests) + 1
        verdict = outside.end("u0/a/c1", exit_code=0)
        assert (verdict.outcome, verdict.usage.refusals) == ("ok", len(requests))
        assert "was refused 8 attempts" in verdict.advice
        assert outside.end(other, exit_code=0).usage.refusals is None


def test_the_connection_is_the_lease(served) -> None:  # type: ignore[no-untyped-def]
    outside = served.client()
    outside.session("kept", leased=False)
    with served.client() as holder:
        holder.session("gone")
        holder.call(["x"], session="kept", id="leased")
        holder.call(["x"], session="kept", id="free", leased=False)
        holder.call(["x"])  # In the session adhoc.
    deadline = time.monotonic() + 5
    while outside.status().calls > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [call.call for call in outside.calls()] == ["u0/kept/free"]
    assert [session.session for session in outside.sessions()] == ["u0/kept", "u0/adhoc"]
    assert outside.end("u0/kept/leased").reason == "the runtime that began it has gone away"
    outside.close()


def watching(served: Any, session: str | None) -> tuple[list[Any], Any]:
    client = served.client()
    seen: list[Any] = []

    def watch() -> None:
        try:
            seen.extend(client.watch(session))
        except RemoteError:
            pass

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    time.sleep(0.2)
    return seen, client


def until(seen: list[Any], kind: str) -> list[tuple[str, str]]:
    deadline = time.monotonic() + 3
    while not any(event.kind == kind for event in seen) and time.monotonic() < deadline:
        time.sleep(0.01)
    return [(event.kind, event.subject) for event in seen]


def test_events_of_one_session_are_of_that_one(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        first, longer = client.session("a"), client.session("ab")
        seen, _ = watching(served, "a")
        longer.call(["x"], id="c1").end(exit_code=0)
        first.call(["x"], id="c2").end(exit_code=0)
        found = until(seen, "call_ended")
    assert found == [("call_begun", "u0/a/c2"), ("call_ended", "u0/a/c2")]


def test_a_slow_watcher_of_one_session_is_told_that_it_lost_events(served, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("agentcg.control.bus.QUEUE", 2)
    with served.client() as client:
        client.session("a")
        seen, _ = watching(served, "a")

        def burst() -> None:
            for number in range(5):
                served.registry.bus.publish("call_begun", f"u0/a/c{number}", "")

        served.on_loop(burst)
        assert "lost" in [kind for kind, _ in until(seen, "lost")]


def test_the_owner_is_told_that_its_session_was_closed(served, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def unprivileged(*given: Any) -> Any:
        peer = identify(*given)
        peer.operator = False
        return peer

    monkeypatch.setattr("agentcg.api.server.identify", unprivileged)
    with served.client() as client:
        session = client.session("a")
        seen, _ = watching(served, None)
        session.close()
        assert ("session_closed", "u0/a") in until(seen, "session_closed")


def test_killing_what_has_ended_is_no_event(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        call = client.session("a").call(["x"], id="c1")
        call.end(exit_code=0)
        with pytest.raises(RemoteError):
            client.kill(call.name, "late")
    assert "call_killed" not in served.registry.bus.kinds()


def test_a_reason_is_shown_without_control_characters(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        call = client.session("a").call(["x"], id="c1")
        verdict = client.kill(call.name, "a\x1b[2Jb\n\tc" + "x" * 1000)
    assert verdict.outcome == "killed"
    assert verdict.advice.isprintable()
    assert len(verdict.reason) <= 500


def test_a_budget_without_swap_leaves_swap_to_the_policy(served) -> None:  # type: ignore[no-untyped-def]
    policy = served.registry.policy
    served.registry.policy = dataclasses.replace(
        policy,
        session=dataclasses.replace(policy.session, swap=1 << 30),
        tenant=dataclasses.replace(policy.tenant, swap=1 << 30),
    )
    reply = served.say(
        {"method": "dev.agentcg.Sessions.Open", "parameters": {"session": "a"}},
        {
            "method": "dev.agentcg.Sessions.Open",
            "parameters": {"session": "b", "budget": {"memoryMax": 1 << 30}},
        },
        expect=2,
    )
    swaps = [item["parameters"]["session"]["budget"]["swapMax"] for item in reply]
    assert swaps == [1 << 30, 1 << 30], json.dumps(reply)


def test_a_session_is_transparent_where_the_host_can_and_refused_with_the_reason_elsewhere(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        with pytest.raises(RemoteError, match="makes no session transparent"):
            client.session("a", transparent=True)
        assert client.sessions() == []
        served.registry.require_transparent = lambda: None
        client.session("a", transparent=True)
        client.session("b")
        assert [one.transparent for one in client.sessions()] == [True, False]


def test_amend_goes_both_ways_but_not_below_what_is_used(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        call = client.session("a", memory_max=1 << 30).call(["x"], id="c1", memory_max=256 << 20)
        assert call.amend(memory_max=512 << 20).memoryMax == 512 << 20
        assert call.amend(pids_max=7).memoryMax == 512 << 20
        assert served.cgroups.text("shared/u0/a/calls/c1", "pids.max") == "7"
        assert call.amend(memory_max=4 << 30).memoryMax == 1 << 30
        assert any("memory" in note for note in call.notes)
        served.cgroups.set("shared/u0/a/calls/c1", "memory.current", str(300 << 20))
        with pytest.raises(RemoteError, match="the call uses 300 MiB already"):
            call.amend(memory_max=200 << 20)
        assert served.cgroups.text("shared/u0/a/calls/c1", "memory.max") == str(1 << 30)


def test_a_limit_that_the_kernel_refuses_leaves_nothing_behind(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        session = client.session("a")
        served.cgroups.refuse["pids.max"] = OSError(22, "writing '7' to pids.max: Invalid argument")
        with pytest.raises(RemoteError, match=r"pids\.max") as caught:
            session.call(["x"], id="c1")
        assert caught.value.name == "dev.agentcg.Failed"
        served.cgroups.refuse.clear()
        assert client.calls() == []
        session.call(["x"], id="c1").end(exit_code=0)


def test_a_record_that_cannot_be_kept_leaves_no_call_behind(served, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        session = client.session("a")
        with monkeypatch.context() as patch:

            def full(*_: Any) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr("agentcg.cgroup.node.os.setxattr", full)
            with pytest.raises(RemoteError, match="No space left"):
                session.call(["x"], id="c1")
        assert not (served.cgroups.top / "shared/u0/a/calls/c1").exists()
        session.call(["x"], id="c1").end(exit_code=0)


def test_a_full_disk_takes_no_verdict_away(served, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def full(*_: Any) -> None:
        raise AgentcgError("cannot write to the history: database or disk is full")

    monkeypatch.setattr("agentcg.control.registry.IDLE_SEC", 0.05)
    with served.client() as client:
        monkeypatch.setattr(served.registry.store, "add", full)
        call = client.call(["x"])
        assert call.end(exit_code=0).outcome == "ok"
        deadline = time.monotonic() + 2
        while client.status().sessions and time.monotonic() < deadline:
            time.sleep(0.01)
        assert client.status().sessions == 0
    assert "call_ended" in served.registry.bus.kinds()


def test_calls_of_no_session_share_one_until_it_is_idle(served, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("agentcg.control.registry.IDLE_SEC", 0.2)
    with served.client() as client:
        for _ in range(3):
            call = client.call(["x"])
            assert call.name.startswith("u0/adhoc/")
            call.end(exit_code=0)
            time.sleep(0.1)
        assert [session.session for session in client.sessions()] == ["u0/adhoc"]
        time.sleep(0.3)
        assert client.sessions() == []
        assert not (served.cgroups.top / "shared/u0").exists()


def test_a_call_that_was_refused_leaves_no_session(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        with pytest.raises(RemoteError):
            client.call(["x"], pids_max=0)
        assert client.sessions() == []


@pytest.mark.parametrize("reason", ["\udcff", "x\ud800y", "\0"], ids=ascii)
def test_a_reason_that_is_no_text_is_no_trouble(served, reason: str) -> None:  # type: ignore[no-untyped-def]
    kill = {"method": "dev.agentcg.Calls.Kill", "parameters": {"call": "u0/a/c1", "reason": reason}}
    with served.client() as client:
        client.session("a").call(["x"], id="c1")
        (reply,) = served.say(kill)
        assert reply.get("parameters", {}).get("verdict", {}).get("outcome") == "killed", reply
        assert client.calls() == []


def test_by_hand_a_call_or_a_session_is_frozen_and_thawed(served) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        session = client.session("a")
        call = session.call(["x"], id="c1")
        seen, _ = watching(served, "a")
        for name, path in ((call.name, "shared/u0/a/calls/c1"), (session.name, "shared/u0/a")):
            assert client.freeze(name) == client.freeze(name) == "frozen"
            assert served.cgroups.text(path, "cgroup.freeze") == "1"
            by_hand = [one.session for one in client.sessions() if one.frozenByHand]
            assert by_hand + [one.call for one in client.calls() if one.frozenByHand] == [name]
            assert client.thaw(name) == client.thaw(name) == "running"
            assert served.cgroups.text(path, "cgroup.freeze") == "0"
        served.on_loop(lambda: served.stops.apply({SessionRef("u0", "a"): "no room"}))
        assert client.freeze(call.name) == client.thaw(call.name) == "frozen"  # As its session is.
        assert until(seen, "call_thawed")[:2] == [("call_frozen", call.name), ("call_thawed", call.name)]
        assert seen[0].message.startswith("by hand: process ")
        call.end(exit_code=0)
        for name in (call.name, "u0/b", "u0/b/c1"):
            with pytest.raises(RemoteError, match=name):
                client.freeze(name)


def test_nobody_freezes_or_thaws_from_inside_a_session(served) -> None:  # type: ignore[no-untyped-def]
    """Or an agent would undo what was done to stop it."""
    with served.client() as outside:
        call = outside.session("a").call(["x"], id="c1").name
        other = outside.session("b").name
        outside.freeze(call)
        for place in (IN_A, IN_CALL):
            with served.client(place) as inside:
                for name in (call, "u0/a"):
                    for request in (inside.freeze, inside.thaw):
                        with pytest.raises(RemoteError, match="may not freeze or thaw"):
                            request(name)
                with pytest.raises(RemoteError, match="may not speak for the session u0/b"):
                    inside.freeze(other)
        assert outside.status().refused == 10
        assert [one.frozenByHand for one in outside.calls()] == [True]
        outside.thaw(call)


def test_a_user_freezes_its_own_sessions_and_no_others(served, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    uid = 0

    def unprivileged(*given: Any) -> Any:
        peer = identify(*given)
        peer.operator, peer.uid = False, uid
        return peer

    monkeypatch.setattr("agentcg.api.server.identify", unprivileged)
    with served.client() as owner:
        name = owner.session("a").name
        uid = 1
        with served.client() as other, pytest.raises(RemoteError, match="may not speak for the session u0/a"):
            other.freeze(name)
        assert owner.freeze(name) == "frozen"
