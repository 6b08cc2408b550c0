# SPDX-License-Identifier: Apache-2.0
"""The controller, with real memory that runs short: who is stopped, who goes on, and that nobody dies of it."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentcg.api.client import Client
from agentcg.replay.load import load_path

MIB = 1 << 20
# No budgets: what is asked here is what happens at the limit of all.
POLICY = 'version = 1\nextends = "default"\n[tenant]\nmemory = "unlimited"\n[session]\nmemory = "unlimited"\n'
FILE = Path("/run/agentcg-control.toml")
LIMIT = ("--memory-max", "400M", "--policy", str(FILE))


@pytest.fixture(scope="module", autouse=True)
def _policy() -> Iterator[None]:
    FILE.write_text(POLICY)
    yield
    FILE.unlink()


def hold(mib: int, seconds: float, *, start: float = 0) -> list[str]:
    """Return a command that fills ``mib`` MiB, a MiB at a time, and holds them for a while."""
    line = f"{start * 1e6:.0f} 0 0\\n{start * 1e6:.0f} {mib * MIB} 0\\n{(start + seconds) * 1e6:.0f} {mib * MIB} 0\\n"
    return ["sh", "-c", f"printf '{line}' | {load_path()} >/dev/null"]


class Listener:
    """Events of one kind or another, as they come."""

    def __init__(self, daemon: Any) -> None:
        self._log: Path = daemon.log
        self._start = self._log.stat().st_size

    def all(self) -> list[str]:
        lines = self._log.read_text()[self._start :].splitlines()
        return [line.partition("agentcg.events: ")[2] for line in lines if "agentcg.events: " in line]

    def kinds(self, subject: str) -> list[str]:
        return [event.split()[0] for event in self.all() if event.split()[1] == f"{subject}:"]


def frozen(path: Path) -> bool:
    return "frozen 1" in (path / "cgroup.events").read_text()


@pytest.mark.parametrize("own_daemon", [LIMIT], indirect=True)
def test_two_that_do_not_fit_take_turns(own_daemon: Any, tools: Any) -> None:
    events = Listener(own_daemon)
    with own_daemon.client() as client:
        commands = {"first": hold(180, 8), "second": hold(240, 0.5)}
        calls = [client.session(name).call(command, id="c1") for name, command in commands.items()]
        processes = [calls[0].popen()]
        # Of two that grow at the same time and have said nothing, it may be the first who needs what the second has.
        tools.wait_for(lambda: int(tools.text(own_daemon.top / "shared/u0/first", "memory.current")) > 180 * MIB, 60)
        processes.append(calls[1].popen())
        assert [process.wait(90) for process in processes] == [0, 0]
        verdicts = [call.end(exit_code=0) for call in calls]
        assert [verdict.outcome for verdict in verdicts] == ["ok", "ok"]
        assert verdicts[0].usage.frozenSec is None
        assert verdicts[1].usage.frozenSec
        assert "call_frozen" in events.kinds("u0/second/c1") or "session_frozen" in events.kinds("u0/second")
        assert tools.keyed(own_daemon.top / "shared", "memory.events")["oom_kill"] == 0
        for name in ("first", "second"):
            client.close_session(name)


@pytest.mark.parametrize("own_daemon", [LIMIT], indirect=True)
def test_a_call_that_does_not_fit_is_held_before_it_starts(own_daemon: Any, tools: Any) -> None:
    events = Listener(own_daemon)
    with own_daemon.client() as client, own_daemon.client() as other:
        client.session("protected", protected=True, memory_max=280 * MIB)
        other.session("s1")
        call = other.call(["sh", "-c", "echo ran"], session="s1", id="c1", memory_expected=200 * MIB)
        leaf = own_daemon.top / "shared/u0/s1/calls/c1"
        assert tools.text(leaf, "cgroup.freeze") == "1"
        begun = time.monotonic()
        process = call.popen(stdout=subprocess.PIPE)  # Returns, though what it started has to wait.
        assert time.monotonic() - begun < 5
        tools.wait_for(lambda: frozen(leaf))
        small = other.call(["true"], session="s1", memory_expected=8 * MIB)
        assert small.run() == 0  # It fits in what is left.
        small.end()
        time.sleep(0.5)
        assert process.poll() is None
        client.close_session("protected")
        assert process.communicate(timeout=30)[0] == b"ran\n"
        verdict = call.end(exit_code=0)
        assert (verdict.outcome, (verdict.usage.frozenSec or 0) > 0.5) == ("ok", True)
        assert events.kinds("u0/s1/c1")[:2] == ["call_begun", "call_held"]
        assert "place 1 in the queue" in "\n".join(events.all())
        other.close_session("s1")


@pytest.mark.parametrize("own_daemon", [(*LIMIT, "--without", "reclaim")], indirect=True)
def test_the_call_that_is_cheapest_to_lose_is_ended_when_nothing_else_helps(own_daemon: Any, tools: Any) -> None:
    with own_daemon.client() as client:
        first, second = client.session("first"), client.session("second")
        idle = second.call(hold(180, 120), id="idle", priority=10)
        holding = idle.popen()
        tools.wait_for(lambda: int(tools.text(own_daemon.top / "shared/u0/second", "memory.current")) > 180 * MIB, 60)
        big = first.call(hold(300, 0.5), id="big", priority=60)
        assert big.run() == 0
        assert big.end().outcome == "ok"
        assert holding.wait(30) == -9
        verdict = idle.end()
        assert verdict.outcome == "killed"
        assert "memory ran out, and of all calls it was the cheapest to lose: priority 10" in verdict.reason
        for session in (first, second):
            session.close()


@pytest.mark.parametrize("own_daemon", [(*LIMIT, "--dry-run")], indirect=True)
def test_a_dry_run_says_what_it_would_do(own_daemon: Any, tools: Any) -> None:
    with own_daemon.client() as client:
        client.session("protected", protected=True, memory_max=280 * MIB)
        with client.session("s1") as session:
            call = session.call(["true"], id="c1", memory_expected=200 * MIB)
            assert tools.text(own_daemon.top / "shared/u0/s1/calls/c1", "cgroup.freeze") == "0"
            assert call.run() == 0
            call.end()
        client.close_session("protected")
        assert "Traceback" not in own_daemon.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
@pytest.mark.parametrize("own_daemon", [LIMIT], indirect=True)
def test_nothing_stays_frozen_without_the_daemon(own_daemon: Any, tools: Any, number: int) -> None:
    with own_daemon.client() as client:
        client.session("protected", protected=True, memory_max=280 * MIB, leased=False)
        client.session("s1", leased=False)
        call = client.call(["sleep", "60"], session="s1", id="c1", memory_expected=200 * MIB, leased=False)
        process = call.popen()
        client.session("by-hand", leased=False)
        client.freeze("u0/by-hand")
    leaf, by_hand = own_daemon.top / "shared/u0/s1/calls/c1", own_daemon.top / "shared/u0/by-hand"
    session = leaf.parent.parent
    tools.wait_for(lambda: frozen(leaf) and frozen(by_hand))
    own_daemon.signal(number)
    tools.wait_for(lambda: not (frozen(leaf) or frozen(by_hand)), 2 if number != signal.SIGSTOP else 4)
    assert (session / "memory.high").read_text() == "max\n"
    if number == signal.SIGSTOP:
        own_daemon.signal(signal.SIGCONT)
        tools.wait_for(lambda: frozen(by_hand))  # An order stands, whoever was late.
    else:
        own_daemon.start()
    with own_daemon.client() as client:
        client.kill("u0/s1/c1", "the test is over")
        process.wait(10)
        client.close_session("s1")
        client.close_session("by-hand")
        client.close_session("protected")


@pytest.mark.parametrize("own_daemon", [LIMIT], indirect=True)
def test_what_an_undeclared_session_is_to_have_follows_it_and_is_remembered(own_daemon: Any, tools: Any) -> None:
    def wall() -> int:
        return int(tools.text(own_daemon.top / "shared", "memory.max"))

    with own_daemon.client() as client:
        session = client.session("mine", protected=True)
        before = wall()
        call = session.call(hold(150, 2))
        process = call.popen()
        tools.wait_for(lambda: wall() < before - 100 * MIB, 60)
        assert process.wait(60) == 0
        call.end(exit_code=0)
        session.close()
        tools.wait_for(lambda: wall() == 400 * MIB)
        again = client.session("mine", protected=True)
        assert wall() < 250 * MIB  # From the first moment now.
        again.close()


@pytest.mark.parametrize("own_daemon", [LIMIT], indirect=True)
def test_the_others_stand_still_while_a_protected_session_grows(own_daemon: Any, tools: Any) -> None:
    shared = own_daemon.top / "shared"
    with own_daemon.client() as client:
        client.session("mine", protected=True, memory_max=300 * MIB)
        client.session("s1")
        busy = client.call(["sh", "-c", "while :; do :; done"], session="s1", id="busy")
        spinning = busy.popen()
        growing = client.call(hold(200, 0.2), session="mine").popen()
        tools.wait_for(lambda: (shared / "cgroup.freeze").read_text() == "1\n", 60, pause=0.001)
        assert tools.text(shared, "cpu.idle") == "1"
        assert growing.wait(60) == 0
        tools.wait_for(lambda: (shared / "cgroup.freeze").read_text() == "0\n", 5)
        assert spinning.poll() is None
        # The kernel's own count, where it has one (cgroup-v2.rst, "cgroup.stat.local"), lies within the daemon's.
        counts = shared / "u0/s1/calls/busy/cgroup.stat.local"
        stopped_usec = tools.keyed(counts.parent, counts.name)["frozen_usec"] if counts.exists() else 1
        assert busy.end(signal=9).usage.frozenSec >= stopped_usec / 1e6
        client.close_session("s1")
        client.close_session("mine")
        tools.wait_for(lambda: tools.text(shared, "cpu.idle") == "0")
        assert spinning.wait(10) == -9


def test_a_program_that_is_not_there_is_an_error_of_the_runtimes_own(daemon: Any) -> None:
    with Client(daemon.socket) as client, client.session("s1") as session:
        call = session.call(["no-such-program"])
        with pytest.raises(FileNotFoundError):
            call.run()
        other = session.call(["true"])
        assert other.run(stdin=subprocess.DEVNULL, cwd="/", env={"PATH": os.environ["PATH"]}) == 0
