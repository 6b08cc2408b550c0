# SPDX-License-Identifier: Apache-2.0
"""Who may do what, decided by what the kernel says of the peer: its uid and its cgroup."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from agentcg.api.client import Client, RemoteError
from agentcg.api.interfaces import CallInterface, SessionInterface
from agentcg.launcher import launcher_path

NOBODY = 65534


def denied(request: Any, name: str = "Denied") -> None:
    try:
        request()
    except RemoteError as error:
        assert error.name == f"dev.agentcg.{name}", error  # noqa: PT017  the caller is no test
    else:
        raise AssertionError("it was not refused")


def test_an_agent_reaches_its_own_session_alone(daemon: Any, tools: Any) -> None:
    with daemon.client() as client, client.session("a"), client.session("ab") as other:
        call = other.call(["sleep", "1000"], id="c1")
        process = call.popen()

        def as_agent() -> None:
            with Client(daemon.socket) as inside:
                denied(lambda: inside.end(call.name, exit_code=0))
                denied(lambda: inside.kill(call.name, "mine"))
                denied(lambda: inside.call(["true"], session="ab"))
                denied(lambda: inside.call(["true"], session="nobody-has-it"))
                denied(lambda: inside.calls("ab"))
                denied(lambda: inside.close_session("ab"))
                denied(lambda: inside.close_session("a"))
                denied(lambda: inside.session("mine"))
                denied(lambda: next(inside.watch("ab")))
            with Client(daemon.socket) as inside:
                assert [item.session for item in inside.sessions()] == ["u0/a"]
                assert inside.calls() == []
                with inside.call(["true"]) as own:
                    assert own.name.startswith("u0/a/")
                    assert own.run() == 0

        assert tools.in_cgroup(daemon.top / "shared/u0/a/agent", as_agent) == 0
        assert process.poll() is None
        assert [item.call for item in client.calls()] == [call.name]
        call.end()
        process.wait(10)


def test_a_call_begins_none(daemon: Any, tools: Any) -> None:
    with daemon.client() as client, client.session("a") as session:
        call = session.call(["true"], id="c1")

        def as_call() -> None:
            with Client(daemon.socket) as inside:
                denied(lambda: inside.call(["true"]), "NestedCall")
                denied(lambda: inside.call(["true"], session="a"), "NestedCall")
                denied(lambda: inside.end(call.name, exit_code=0))
                denied(lambda: inside.session("mine"))

        leaf = daemon.top / "shared/u0/a/calls/c1"
        assert tools.in_cgroup(leaf, as_call) == 0
        (leaf / "below").mkdir()
        assert tools.in_cgroup(leaf / "below", as_call) == 0
        assert call.end(exit_code=0).outcome == "ok"


def test_other_users_see_their_own(daemon: Any, tools: Any) -> None:
    with daemon.client() as client, client.session("root") as session:
        call = session.call(["true"], id="c1")

        def as_nobody() -> None:
            with Client(daemon.socket) as other:
                assert other.sessions() == []
                assert other.calls() == []
                denied(lambda: other.end(call.name, exit_code=0))
                denied(lambda: other.close_session("u0/root"))
                denied(lambda: other.session("x", tenant="u0"))
                own = other.session("mine")
                assert own.name == f"u{NOBODY}/mine"
                with own.call(["sh", "-c", "cat /proc/self/cgroup"]) as running:
                    assert running.run(stdout=subprocess.DEVNULL) == 0
                own.close()

        assert tools.in_cgroup(daemon.top / "supervisor", as_nobody, uid=NOBODY) == 0
        call.end(exit_code=0)
        assert client.status().refused >= 2


def test_only_root_is_passed_a_descriptor(daemon: Any) -> None:
    """Its holder could move any process: the kernel judges a write to cgroup.procs by who opened it, which was the
    daemon (Linux commit 1756d7994ad8)."""
    with daemon.client() as client, client.session("a") as session:
        call = session.call(["true"])
        assert call.procs >= 0
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.read(call.procs, 1)
        call.end()


def test_others_are_moved_by_the_daemon_and_move_nobody_else(daemon: Any, tools: Any) -> None:
    def as_nobody() -> None:
        with Client(daemon.socket) as client, client.session("mine") as session:
            call = session.call(["sh", "-c", "cat /proc/self/cgroup; cat /proc/self/oom_score_adj"])
            assert call.procs == -1
            ran = call.popen(stdout=subprocess.PIPE, text=True)
            out = ran.communicate(timeout=20)[0].split()
            assert out == [f"0::/{daemon.name}/shared/{session.name}/calls/{call.name.split('/')[2]}", "975"]
            assert call.end(exit_code=ran.returncode).outcome == "ok"
            options = ["--socket", daemon.socket, "--session", session.name]
            command = [launcher_path(), *options, "cat", "/proc/self/cgroup"]
            launched = subprocess.run(command, capture_output=True, text=True, timeout=30)
            assert f"/shared/{session.name}/calls/" in launched.stdout, launched.stderr

    assert tools.in_cgroup(daemon.top / "supervisor", as_nobody, uid=NOBODY) == 0


def test_nobody_enters_what_is_not_theirs(daemon: Any, tools: Any) -> None:
    with daemon.client() as client, client.session("a") as session:
        call = session.call(["sleep", "1000"], id="c1")

        def as_nobody() -> None:
            with Client(daemon.socket) as other:
                denied(lambda: other.invoke(CallInterface, "Enter", call=call.name))
                denied(lambda: other.invoke(SessionInterface, "Enter", session=session.name))

        assert tools.in_cgroup(daemon.top / "supervisor", as_nobody, uid=NOBODY) == 0
        assert not call.end(exit_code=0).usage.pidsPeak


def test_a_connection_that_was_left_behind_in_a_session_allows_nothing(daemon: Any, tools: Any) -> None:
    """A process in a session connects and ends before the daemon looks; another one there goes on with its socket."""
    with daemon.client() as client, client.session("a"), client.session("b") as other:
        call = other.call(["sleep", "1000"], id="c1")
        process = call.popen()
        ours, theirs = socket.socketpair()
        top = daemon.top
        daemon.signal(signal.SIGSTOP)

        def connect() -> None:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(daemon.socket)
            socket.send_fds(theirs, [b"x"], [sock.fileno()])

        def as_agent() -> None:
            assert tools.in_cgroup(top / "shared/u0/a/agent", connect) == 0
            _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
            os.kill(daemon.process.pid, signal.SIGCONT)
            inherited = Client.__new__(Client)
            inherited.path, inherited._buffer, inherited._sock = daemon.socket, b"", socket.socket(fileno=fd)
            inherited._sock.settimeout(20)
            with pytest.raises(RemoteError):
                inherited.kill(call.name, "mine")
            with pytest.raises(RemoteError):
                inherited.session("outside-of-any")

        try:
            status = tools.in_cgroup(top / "shared/u0/a/agent", as_agent)
        finally:
            daemon.signal(signal.SIGCONT)
        ours.close()
        theirs.close()
        assert status == 0
        assert process.poll() is None
        call.end()
        process.wait(10)


def test_a_peer_in_a_cgroup_with_a_name_that_is_no_text(daemon: Any, tools: Any) -> None:
    odd = Path(os.fsdecode(b"/sys/fs/cgroup/\xff\xfe"))
    odd.mkdir()
    try:

        def ask() -> None:
            with Client(daemon.socket) as client:
                assert client.status().pid

        assert tools.in_cgroup(odd, ask) == 0
    finally:
        tools.wait_for(lambda: tools.remove_cgroup(odd))


def test_a_daemon_that_cannot_tell_where_its_peers_live_does_not_start(tools: Any, tmp_path: Path) -> None:
    """In a cgroup namespace that does not show the mounted hierarchy from its top, no path is what it seems."""
    outer, socket_path = Path("/sys/fs/cgroup/outer"), "/run/namespaced.sock"
    outer.mkdir()
    command = f"""
        echo 0 > {outer}/cgroup.procs
        exec unshare --cgroup agentcg daemon --root /sys/fs/cgroup/agentcg-ns --socket {socket_path} \
            --history {tmp_path}/history.sqlite
    """
    daemon = subprocess.Popen(["sh", "-c", command], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 30
        while daemon.poll() is None and not os.path.exists(socket_path) and time.monotonic() < deadline:
            time.sleep(0.1)
        if daemon.poll() is None:  # It did start: then it has to know an agent from an operator.
            with Client(socket_path) as client, client.session("a"):

                def as_agent() -> None:
                    with Client(socket_path) as inside:
                        denied(lambda: inside.session("mine"))

                assert tools.in_cgroup(Path("/sys/fs/cgroup/agentcg-ns/shared/u0/a/agent"), as_agent) == 0
        else:
            assert daemon.returncode == 1
            assert "Traceback" not in daemon.stderr.read()  # type: ignore[union-attr]
    finally:
        daemon.kill()
        daemon.wait()
        for path in (Path("/sys/fs/cgroup/agentcg-ns"), outer):
            tools.wait_for(lambda path=path: tools.remove_cgroup(path))
