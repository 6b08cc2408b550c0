# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end, and what that allows."""

import os
import socket

import pytest

from agentcg.api import peer as module
from agentcg.api.interfaces import Denied
from agentcg.api.peer import Peer, Places, identify
from agentcg.control.lease import Lease
from agentcg.model import CallRef, SessionRef

S1 = SessionRef("u7", "s1")


@pytest.mark.parametrize(
    ("cgroup", "session", "call"),
    [
        ("/a/shared/u7/s1/agent", S1, None),
        ("/a/shared/u7/s1", S1, None),
        ("/a/reserved/u7/s1/calls", S1, None),
        ("/a/shared/u7/s1/calls/c1", S1, CallRef(S1, "c1")),
        ("/a/shared/u7/s1/calls/c1/nested/deeper", S1, CallRef(S1, "c1")),
        ("/a/supervisor", None, None),
        ("/a/shared/u7", None, None),
        ("/a", None, None),
        ("/", None, None),
        ("/ab/shared/u7/s1/agent", None, None),
        ("/user.slice/a/shared/u7/s1", None, None),
        (None, None, None),
    ],
)
def test_where_a_cgroup_lies(cgroup: str | None, session: SessionRef | None, call: CallRef | None) -> None:
    assert Places("/a").locate(cgroup) == (session, call)


@pytest.mark.parametrize("root", ["/", ""])
def test_a_tree_at_the_top(root: str) -> None:
    assert Places(root).locate("/shared/u7/s1/agent") == (S1, None)


@pytest.mark.parametrize(
    ("cgroup", "session", "call"),
    [
        ("/docker/0a1b/init", S1, None),
        ("/docker/0a1b", S1, None),
        ("/docker/0a1b/calls/c1", S1, CallRef(S1, "c1")),
        ("/docker/0a1b/calls/c1/nested", S1, CallRef(S1, "c1")),
        ("/docker/0a1b/calls/no.name", None, None),
        ("/docker/0a1b2/init", None, None),
        ("/docker", None, None),
    ],
)
def test_where_a_containers_cgroup_lies(cgroup: str, session: SessionRef | None, call: CallRef | None) -> None:
    assert Places("/a", {"/docker/0a1b": S1}).locate(cgroup) == (session, call)


def peer(uid: int = 7, *, session: SessionRef | None = None, operator: bool = False) -> Peer:
    return Peer(1, uid, operator, session, None, Lease(0))


def test_a_process_in_a_session_speaks_for_that_one_alone() -> None:
    inside = peer(session=S1)
    assert inside.may_speak_for(S1, 0)
    assert not inside.may_speak_for(SessionRef("u7", "s2"), 7)
    assert not inside.may_speak_for(SessionRef("u7", "s10"), 7)
    assert inside.tenant == "u7"
    with pytest.raises(Denied) as caught:
        inside.require_outside()
    assert "outside" in caught.value.parameters["hint"]


def test_a_process_outside_speaks_for_its_own_uid() -> None:
    outside = peer()
    assert outside.may_speak_for(S1, 7)
    assert not outside.may_speak_for(S1, 8)
    assert outside.tenant == "u7"
    with pytest.raises(Denied) as caught:
        outside.require(S1, 8)
    assert "process 1 (uid 7, outside any session) may not speak for" in caught.value.parameters["message"]


def test_an_operator_speaks_for_all() -> None:
    assert peer(operator=True).may_speak_for(S1, 8)


@pytest.fixture
def ends():  # type: ignore[no-untyped-def]
    with_us, theirs = socket.socketpair()
    yield with_us
    with_us.close()
    theirs.close()


def test_our_own_uid_outside_the_tree_is_an_operator(ends, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(module, "cgroup_of", lambda pid: "/elsewhere")
    found = identify(ends, Places("/a"), "agentcg-nobody-has-it")
    assert (found.pid, found.uid, found.operator) == (os.getpid(), os.getuid(), True)


def test_no_uid_makes_an_operator_of_an_agent(ends, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(module, "cgroup_of", lambda pid: "/a/shared/u7/s1/agent")
    found = identify(ends, Places("/a"), "agentcg-nobody-has-it")
    assert (found.session, found.operator) == (S1, False)


@pytest.mark.parametrize("gone", [None, "/a/shared/u7/s1/calls/c1 (deleted)"], ids=["reaped", "zombie"])
def test_a_peer_whose_place_is_not_known_may_nothing(ends, monkeypatch: pytest.MonkeyPatch, gone: str | None) -> None:  # type: ignore[no-untyped-def]
    # It may have been in a session, and have left its connection to another process there when it ended.
    monkeypatch.setattr(module, "cgroup_of", lambda pid: gone)
    try:
        found = identify(ends, Places("/a"), "agentcg-nobody-has-it")
    except OSError:
        return  # The server hangs up on it.
    assert not found.operator
    assert not found.may_speak_for(SessionRef(f"u{os.getuid()}", "s1"), os.getuid())
