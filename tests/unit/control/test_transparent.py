# SPDX-License-Identifier: Apache-2.0
"""Calls of transparent sessions, with real processes that stop themselves as the kernel's programs would stop them."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from agentcg.control import transparent
from agentcg.control.guard import WAITING_SEC
from agentcg.control.transparent import STATUS_SEC, Transparent, programs_of
from agentcg.errors import Unsupported
from agentcg.kernel.executions import Ended, Match, Stopped
from agentcg.kernel.process import start_time
from agentcg.model import CallRef, SessionRef
from agentcg.policy.schema import TransparentRules

REF = SessionRef("u0", "s1")
SECONDS = 20


def ended(process: "subprocess.Popen[bytes]", *, wait: bool = False) -> Any:
    """Look at the end of a process, and leave it as it is. None if it has not ended."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | (0 if wait else os.WNOHANG))


class FakeMap:
    fd = 0


class FakeExecutions:
    """Stands for Executions: the test says what the kernel tells."""

    def __init__(self, loop, told, *, programs, new_session, on_unmanaged):  # type: ignore[no-untyped-def]
        self.told, self.programs, self.new_session, self.on_unmanaged = told, programs, new_session, on_unmanaged
        self.stopped, self.agents = FakeMap(), FakeMap()
        self.standing: dict[int, int] = {}
        self.cgroups: set[int] = set()
        self.watched: list[int] = []
        self.untold: list[Ended] = []
        self.closed = False

    def add_agent(self, cgroup_id: int) -> None:
        self.cgroups.add(cgroup_id)

    def remove_agent(self, cgroup_id: int) -> None:
        self.cgroups.discard(cgroup_id)

    def is_stopped(self, event: Stopped) -> bool:
        return self.standing.get(event.pid) == event.time_ns

    def released(self, pid: int) -> None:
        self.standing.pop(pid, None)

    def watch(self, pid: int) -> None:
        self.watched.append(pid)

    def consume(self) -> None:
        while self.untold:
            self.told(self.untold.pop(0))

    def close(self) -> None:
        self.closed = True


class FakeGuard:
    """Stands for ProcessGuard: ``refuse`` says why it cannot be started."""

    refuse = ""

    def __init__(self, stopped, agents, *, on_ended):  # type: ignore[no-untyped-def]
        self.on_ended, self.pid, self.closed = on_ended, None, False

    def start(self) -> None:
        if FakeGuard.refuse:
            raise Unsupported(FakeGuard.refuse)
        self.pid = 1

    def close(self) -> None:
        self.closed = True


class Host:
    """A registry with a transparent session, and processes of its agent."""

    def __init__(self, registry: Any) -> None:
        self.registry = registry
        self.transparent = Transparent(registry)
        self.live = registry.open_session(REF, tenant="u0", owner_uid=0, transparent=True)[0]
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def executions(self) -> Any:
        return self.transparent._executions

    @property
    def guard(self) -> Any:
        return self.transparent._guard

    def spawn(self, *command: str, **environment: str) -> "subprocess.Popen[bytes]":
        """Start a process that stops itself, and then reads a line before it goes on."""
        environment |= {"PATH": os.environ["PATH"]}
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)
        self.processes.append(process)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        return process

    def stop(self, process: "subprocess.Popen[bytes]", *, standing: bool = True, since_sec: float = 0) -> None:
        """Have the kernel tell that a process is stopped."""
        since = time.monotonic_ns() - round(since_sec * 1e9)
        if standing:
            self.executions.standing[process.pid] = since
        self.executions.told(Stopped(process.pid, self.live.node.agent.id, since))

    async def wait(self, process: "subprocess.Popen[bytes]", *, told: bool = True) -> int:
        """Let it end, once it was let go on; the kernel tells of that before anybody can see it."""
        await asyncio.sleep(0.05)
        assert process.stdin is not None
        process.stdin.close()
        found = ended(process, wait=True)
        if told:
            status = found.si_status << 8 if found.si_code == os.CLD_EXITED else found.si_status
            self.executions.untold.append(Ended(process.pid, status, 6))
        await asyncio.sleep(0.05)
        await self.registry.settle()
        return process.wait()

    def unmanaged(self) -> list[str]:
        return [event.message for event in self.registry.bus.events if event.kind == "call_unmanaged"]

    def close(self) -> None:
        self.transparent.close()
        for process in self.processes:
            process.kill()
            process.wait(SECONDS)
            assert process.stdin is not None
            process.stdin.close()


@pytest.fixture
def run(new_registry, monkeypatch):  # type: ignore[no-untyped-def]
    """Return a function that runs ``work(host)`` on a loop."""
    monkeypatch.setattr(transparent, "Executions", FakeExecutions)
    monkeypatch.setattr(transparent, "ProcessGuard", FakeGuard)
    monkeypatch.setattr(FakeGuard, "refuse", "")

    def run(work: Callable[[Host], Any]) -> None:
        async def main() -> None:
            host = Host(new_registry())
            try:
                async with asyncio.timeout(SECONDS):
                    await work(host)
            finally:
                host.close()
                await host.registry.settle()

        asyncio.run(main())

    return run


def test_what_a_policy_says_is_a_call() -> None:
    rules = TransparentRules(shells=("sh", "make"), programs=("make", "pytest"))
    assert programs_of(rules) == {"sh": Match.WITH_COMMAND, "make": Match.ALWAYS, "pytest": Match.ALWAYS}
    assert programs_of(TransparentRules())["zsh"] is Match.WITH_COMMAND


def test_a_process_is_moved_and_let_go_on_and_its_end_is_the_calls(run, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(host: Host) -> None:
        assert host.executions.cgroups == {host.live.node.agent.id}
        process = host.spawn("sh", "-c", "kill -STOP $$; read line; exit 3", AGENT_RESOURCE_HINT="memory:64m")
        host.stop(process)
        await asyncio.sleep(0.01)
        (live,) = host.registry.calls.values()
        assert (live.call.tool, live.call.command) == ("transparent", "kill -STOP $$; read line; exit 3")
        assert live.call.limits.memory_max == 64 << 20
        assert live.process == (process.pid, start_time(process.pid))
        assert live.leaf.read_record()["process"] == list(live.process)
        assert cgroups.text(f"shared/{REF}/calls/{live.ref.call}", "cgroup.procs") == str(process.pid)
        assert await host.wait(process) == 3
        assert host.executions.standing == {}
        assert host.registry.calls == {}
        verdict, owner = host.registry.store.find(live.ref)
        assert (verdict.outcome, verdict.exit_code, owner) == ("exit_status", 3, 0)
        assert host.unmanaged() == []

    run(work)


def test_a_signal_and_a_status_that_was_lost(run) -> None:  # type: ignore[no-untyped-def]
    async def work(host: Host) -> None:
        first = host.spawn("sh", "-c", "kill -STOP $$; read line; kill -TERM $$")
        second = host.spawn("sh", "-c", "kill -STOP $$; read line")
        host.stop(first)
        host.stop(second)
        await asyncio.sleep(0.01)
        refs = list(host.registry.calls)
        await host.wait(first)
        await host.wait(second, told=False)
        await asyncio.sleep(STATUS_SEC + 0.1)
        await host.registry.settle()
        verdicts = [host.registry.store.find(ref)[0] for ref in refs]
        assert [(one.outcome, one.signal) for one in verdicts] == [("signal", 15), ("unknown", None)]

    run(work)


def test_a_status_that_is_told_late_is_waited_for(run) -> None:  # type: ignore[no-untyped-def]
    async def work(host: Host) -> None:
        process = host.spawn("sh", "-c", "kill -STOP $$; read line; exit 3")
        host.stop(process)
        await asyncio.sleep(0.01)
        (ref,) = host.registry.calls
        await host.wait(process, told=False)
        assert ref in host.registry.calls
        host.executions.untold.append(Ended(process.pid, 3 << 8, 6))
        await asyncio.sleep(0.1)
        await host.registry.settle()
        assert host.registry.store.find(ref)[0].exit_code == 3

    run(work)


def test_one_that_cannot_be_a_call_goes_on_where_it_is(run, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(host: Host) -> None:
        cgroups.refuse["memory.oom.group"] = OSError(16, "Device or resource busy")
        process = host.spawn("sh", "-c", "kill -STOP $$; read line; exit 3")
        host.stop(process)
        assert await host.wait(process) == 3
        (why,) = host.unmanaged()
        assert why.startswith(f"process {process.pid} ran in its agent's cgroup: ")
        assert "Device or resource busy" in why
        assert host.registry.begun == 0

    run(work)


def test_one_that_cannot_be_moved_is_no_call_for_long(run, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(host: Host) -> None:
        cgroups.refuse["cgroup.procs"] = OSError(16, "Device or resource busy")
        process = host.spawn("sh", "-c", "kill -STOP $$; read line; exit 3")
        host.stop(process)
        assert await host.wait(process) == 3
        assert len(host.unmanaged()) == 1
        assert host.registry.calls == {}

    run(work)


def test_whom_the_guard_has_let_go_on_is_left_alone(run) -> None:  # type: ignore[no-untyped-def]
    async def work(host: Host) -> None:
        process = host.spawn("sh", "-c", "kill -STOP $$; read line; exit 3")
        host.stop(process, standing=False, since_sec=WAITING_SEC)
        await asyncio.sleep(0.01)
        # Somebody else has stopped it, for all we know: it is not ours to let go on.
        assert ended(process) is None
        assert host.unmanaged() == [f"process {process.pid} ran in its agent's cgroup: it waited for more than 2 s"]
        assert host.registry.begun == 0

    run(work)


def test_one_that_died_while_it_was_stopped_is_no_call(run) -> None:  # type: ignore[no-untyped-def]
    async def work(host: Host) -> None:
        process = host.spawn("sh", "-c", "kill -STOP $$")
        process.kill()
        assert ended(process, wait=True)
        host.stop(process, standing=False)
        await asyncio.sleep(0.01)
        process.wait(SECONDS)
        host.stop(process, standing=False)
        await asyncio.sleep(0.01)
        assert host.unmanaged() == []
        assert host.registry.begun == 0

    run(work)


def test_one_that_dies_while_its_call_begins_is_not_said_to_run(run, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def die(pid: int) -> Any:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        raise FileNotFoundError(2, "No such file or directory")

    async def work(host: Host) -> None:
        monkeypatch.setattr(transparent, "read_command", die)
        host.stop(host.spawn("sh", "-c", "kill -STOP $$"))
        await asyncio.sleep(0.05)
        assert host.unmanaged() == []
        assert host.executions.standing == {}

    run(work)


def test_a_session_that_is_closing_begins_nothing_more(run) -> None:  # type: ignore[no-untyped-def]
    async def work(host: Host) -> None:
        process = host.spawn("sh", "-c", "kill -STOP $$; read line; exit 3")
        host.live.closing = True
        host.stop(process)
        assert await host.wait(process) == 3
        assert host.registry.begun == 0
        host.live.closing = False
        await host.registry.close_session(REF, "test")
        assert host.executions.cgroups == set()

    run(work)


def test_want_of_room_is_told(run) -> None:  # type: ignore[no-untyped-def]
    async def work(host: Host) -> None:
        host.executions.on_unmanaged(host.live.node.agent.id, 7)
        assert host.unmanaged() == ["7 commands were not stopped: too many wait already"]

    run(work)


def test_without_a_guard_nothing_is_stopped(run) -> None:  # type: ignore[no-untyped-def]
    async def work(host: Host) -> None:
        host.guard.pid = None
        host.guard.on_ended("it was killed by signal 9")
        assert host.guard.pid == 1
        assert host.executions.cgroups
        host.guard.pid, FakeGuard.refuse = None, "the guard ends as soon as it is started"
        host.guard.on_ended("it was killed by signal 9")
        assert host.executions.cgroups == set()
        assert host.unmanaged() == [f"nothing more that its agent executes becomes a call: {FakeGuard.refuse}"]

    run(work)


def test_a_host_that_cannot_have_them_says_so_and_opens_none(run, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(host: Host) -> None:
        host.guard.pid, FakeGuard.refuse = None, "there is no agentcg-guard"
        with pytest.raises(Unsupported, match="no agentcg-guard"):
            host.registry.open_session(SessionRef("u0", "s2"), tenant="u0", owner_uid=0, transparent=True)
        assert list(host.registry.sessions) == [REF]
        assert not (cgroups.top / "shared/u0/s2").exists()
        host.registry.open_session(SessionRef("u0", "s3"), tenant="u0", owner_uid=0)

    run(work)


def test_without_anybody_to_make_it_so_no_session_is_transparent(new_registry) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        with pytest.raises(Unsupported, match="makes no session transparent"):
            new_registry().open_session(REF, tenant="u0", owner_uid=0, transparent=True)

    asyncio.run(main())


def test_calls_of_a_daemon_before_are_followed_if_their_process_is_the_same(run) -> None:  # type: ignore[no-untyped-def]
    async def work(host: Host) -> None:
        process = host.spawn("sh", "-c", "kill -STOP $$; read line; exit 4")
        live, _ = host.registry.begin(host.live, owner_uid=0, name="c1", command="x")
        other, _ = host.registry.begin(host.live, owner_uid=0, name="c2", command="x")
        live.process, other.process = (process.pid, start_time(process.pid) or 0), (process.pid, 1)
        host.transparent.begun(other)
        host.transparent.begun(live)
        assert host.executions.watched == [process.pid]
        host.transparent.finished(other)
        os.kill(process.pid, signal.SIGCONT)
        await host.wait(process)
        verdict = host.registry.store.find(CallRef(REF, "c1"))[0]
        assert (verdict.exit_code, list(host.registry.calls)) == (4, [CallRef(REF, "c2")])

    run(work)
