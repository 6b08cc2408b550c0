# SPDX-License-Identifier: Apache-2.0
"""Calls from begin to verdict, through the clients and the launcher."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agentcg.api.aclient import aconnect
from agentcg.api.client import RemoteError
from agentcg.launcher import launcher_path

MIB = 1 << 20
CALLS = int(os.environ.get("AGENTCG_CALLS", "150"))
"""How many of them leave nothing behind: more in a campaign."""


def launch(daemon: Any, *command: str, session: str | None = None, **intent: Any) -> list[str]:
    options = ["--session", session] if session else []
    options += ["--timeout", "120"]  # Many at once on a slow machine: what is asked here is whether they are served.
    return [
        *(launcher_path(), "--socket", daemon.socket, "--verdict", "json", "--without-daemon", "fail"),
        *("--intent", json.dumps(intent), *options, "--", *command),
    ]


def test_a_session_as_the_documentation_has_it(daemon: Any, tmp_path: Path) -> None:
    command = ["sh", "-c", "cat /proc/self/cgroup; exit 3"]
    with (
        (tmp_path / "out").open("w") as out,
        daemon.client() as client,
        client.session("fix", memory_max=512 * MIB) as session,
        session.call(command, tool="Bash", memory_max=64 * MIB) as call,
    ):
        assert call.run(stdout=out) == 3
    assert (tmp_path / "out").read_text() == f"0::/agentcg-shared/shared/u0/fix/calls/{call.name.split('/')[-1]}\n"
    assert call.verdict is not None
    assert (call.verdict.outcome, call.verdict.exitCode, call.verdict.advice) == ("exit_status", 3, "")
    assert call.verdict.usage.memoryPeak
    assert call.verdict.usage.cpuSec
    assert call.verdict.usage.pidsPeak
    assert daemon.left() == []


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("no-such-command", FileNotFoundError),
        ("/no/such/command", FileNotFoundError),
        ("/etc/passwd", PermissionError),
        ("./passwd", PermissionError),
        ("/etc", PermissionError),
    ],
)
def test_what_cannot_be_executed_is_the_error_that_it_is_without_a_call(daemon: Any, command: str, error: Any) -> None:
    with daemon.client() as client, client.session("fix") as session, session.call([command]) as call:
        with pytest.raises(error) as without:
            subprocess.Popen([command], cwd="/etc")
        with pytest.raises(error) as within:
            call.popen(cwd="/etc")
    assert str(within.value) == str(without.value)


def test_a_command_may_be_longer_than_a_message_to_the_daemon(daemon: Any) -> None:
    command = ["printf", "%s", *["x" * 100_000] * 10]
    with daemon.client() as client, client.session("fix") as session, session.call(command) as call:
        assert len(call.popen(stdout=subprocess.PIPE).communicate(timeout=60)[0]) == 1_000_000
        assert client.calls()[0].command.startswith("printf %s 'xxx")


def test_the_same_for_asyncio(daemon: Any) -> None:
    async def run() -> None:
        async with await aconnect(daemon.socket) as client, await client.session("fix") as session:
            async with await session.call(["sh", "-c", "kill -9 $$"]) as call:
                assert await call.run() == -9
            assert call.verdict is not None
            assert (call.verdict.outcome, call.verdict.signal) == ("signal", 9)

    asyncio.run(run())


def test_what_a_call_left_behind_ends_with_it(daemon: Any, tools: Any) -> None:
    with daemon.client() as client, client.session("s1") as session:
        call = session.call(["sh", "-c", "setsid sleep 1000 & setsid sleep 1000 & exit 0"], id="c1")
        leaf = daemon.top / "shared/u0/s1/calls/c1"
        assert call.run() == 0
        pids = [int(pid) for pid in tools.text(leaf, "cgroup.procs").split()]
        assert len(pids) == 2
        assert call.end().outcome == "ok"
        assert not leaf.exists()
        tools.wait_for(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in pids))


def test_cgroups_that_a_call_made_itself_are_removed_with_it(daemon: Any, tools: Any) -> None:
    with daemon.client() as client, client.session("s1") as session:
        leaf = daemon.top / "shared/u0/s1/calls/c1"
        script = f"mkdir -p {leaf}/own/deeper && echo 0 > {leaf}/own/deeper/cgroup.procs; exec sleep 1000"
        call = session.call(["sh", "-c", script], id="c1")
        process = call.popen()
        tools.wait_for(lambda: (leaf / "own/deeper").is_dir() and tools.text(leaf / "own/deeper", "cgroup.procs"))
        assert call.end().outcome == "unknown"
        assert process.wait(10) == -9
        assert not leaf.exists()


def test_a_frozen_call_can_be_ended(daemon: Any, tools: Any) -> None:
    with daemon.client() as client, client.session("s1") as session:
        call = session.call(["sleep", "1000"], id="c1")
        process = call.popen()
        leaf = daemon.top / "shared/u0/s1/calls/c1"
        (leaf / "cgroup.freeze").write_text("1")
        tools.wait_for(lambda: tools.keyed(leaf, "cgroup.events")["frozen"])
        verdict = client.kill(call.name, "it was not needed any more")
        assert (verdict.outcome, verdict.reason) == ("killed", "it was not needed any more")
        assert verdict.advice == "`sleep 1000` was ended: it was not needed any more."
        assert process.wait(10) == -9


def test_a_call_that_takes_too_long_is_ended(daemon: Any) -> None:
    done = subprocess.run(
        launch(daemon, "sleep", "1000", durationMaxSec=1.0), stderr=subprocess.PIPE, text=True, timeout=30
    )
    verdict = json.loads(done.stderr)
    assert verdict["outcome"] == "timed_out"
    assert 1.0 <= verdict["usage"]["durationSec"] < 10
    assert verdict["advice"].startswith("`sleep 1000` was stopped after 1.0 s, its longest allowed duration")


def test_names_are_taken_once(daemon: Any) -> None:
    with daemon.client() as client, client.session("s1") as session:
        with pytest.raises(RemoteError, match="is open already"):
            client.session("s1")
        call = session.call(["true"], id="c1")
        with pytest.raises(RemoteError, match="c1"):
            session.call(["true"], id="c1")
        call.end(exit_code=0)
        session.call(["true"], id="c1").end(exit_code=0)


def test_the_connection_is_the_lease(daemon: Any, tools: Any) -> None:
    with daemon.client() as watcher:
        holder = daemon.client()
        holder.session("gone")
        call = holder.call(["sleep", "1000"], session="gone")
        process = call.popen()
        holder.close()
        assert process.wait(20) == -9
        tools.wait_for(lambda: not watcher.sessions())
        assert watcher.end(call.name).reason in ("the runtime that began it has gone away", "its runtime has gone away")


def test_without_a_lease_a_call_ends_itself(daemon: Any, tools: Any) -> None:
    with daemon.client() as watcher, watcher.session("kept"):
        with daemon.client() as runtime:
            call = runtime.call(["sleep", "2"], session="kept", leased=False)
            process = call.popen()
        time.sleep(0.5)
        assert [item.call for item in watcher.calls()] == [call.name]
        assert process.wait(20) == 0
        tools.wait_for(lambda: not watcher.calls(), 20)
        assert watcher.end(call.name).outcome == "unknown"


def test_an_agent_lives_beside_its_calls(daemon: Any, tools: Any) -> None:
    async def run() -> None:
        async with await aconnect(daemon.socket) as client:
            session = await client.session("s1", agent=True)
            agent = subprocess.Popen(  # noqa: ASYNC220
                ["sleep", "1000"], preexec_fn=lambda: os.write(session.procs, b"0") and None
            )
            top = daemon.top / "shared/u0/s1"
            assert tools.text(top / "agent", "cgroup.procs") == str(agent.pid)
            call = await session.call(["true"])
            await call.run()
            await call.end()
            assert agent.poll() is None
            await session.close()
            assert agent.wait(10) == -9

    asyncio.run(run())


def test_the_launcher_gives_the_same_verdict(daemon: Any) -> None:
    done = subprocess.run(launch(daemon, "sh", "-c", "exit 7"), stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 7
    verdict = json.loads(done.stderr)
    assert (verdict["outcome"], verdict["exitCode"], verdict["command"]) == ("exit_status", 7, "sh -c 'exit 7'")


def many(daemon: Any, count: int, at_once: int, *command: str) -> Counter[tuple[str, Any]]:
    """Run calls in parallel; return how often each outcome and exit status was reported."""
    numbers = "\n".join(map(str, range(count)))
    done = subprocess.run(
        ["xargs", "-P", str(at_once), "-n", "1", *launch(daemon, *command, session="many")],
        input=numbers,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen: Counter[tuple[str, Any]] = Counter()
    for line in done.stderr.splitlines():
        try:
            verdict = json.loads(line)
            seen[verdict["outcome"], verdict.get("exitCode")] += 1
        except ValueError:
            seen["no verdict", line[:200]] += 1
    return seen


@pytest.mark.timeout(600)
def test_many_calls_fifty_at_a_time_leave_nothing(daemon: Any) -> None:
    with daemon.client() as client, client.session("many"):
        before = client.status()
        descriptors = len(os.listdir(f"/proc/{before.pid}/fd"))
        assert many(daemon, CALLS, 50, "true") == {("ok", 0): CALLS}
        assert daemon.left() == ["shared/u0", "shared/u0/many", "shared/u0/many/agent", "shared/u0/many/calls"]
        after = client.status()
        assert after.callsBegun - before.callsBegun == after.callsEnded - before.callsEnded == CALLS
        assert (after.calls, after.sessions) == (0, 1)
        assert len(os.listdir(f"/proc/{before.pid}/fd")) <= descriptors + 2


def test_more_than_a_thousand_descriptors(daemon: Any) -> None:
    code = (
        "import sys\nfrom agentcg.api.client import Client\n"
        "held = [Client(sys.argv[1]) for _ in range(1100)]\n"
        "assert held[-1].status().pid\n"
    )
    done = subprocess.run(
        ["prlimit", "--nofile=4096", sys.executable, "-c", code, daemon.socket],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
