# SPDX-License-Identifier: Apache-2.0
"""What a limit does: to the call that hits it, and to nobody else."""

import asyncio
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agentcg.api.aclient import aconnect
from agentcg.api.client import RemoteError

MIB = 1 << 20
# Two seconds of work beside the one that is ended.
SIBLING = ["sh", "-c", "sleep 2; exit 0"]


def allocate(mib: int, *, then: str = ":") -> list[str]:
    """Return a command that fills ``mib`` MiB of anonymous memory."""
    return ["sh", "-c", f"dd if=/dev/zero of=/dev/null bs={mib}M count=1 2>/dev/null; {then}"]


def test_a_call_over_its_limit_dies_alone(daemon: Any, tools: Any) -> None:
    async def run() -> None:
        async with await aconnect(daemon.socket) as client:
            session = await client.session("s1", agent=True, memory_max=512 * MIB)
            agent = subprocess.Popen(SIBLING, preexec_fn=lambda: os.write(session.procs, b"0") and None)  # noqa: ASYNC220
            sibling = await session.call(SIBLING)
            running = await sibling.start()
            # The shell is a child of the call's first process and does not survive it: the whole call ends.
            greedy = await session.call(allocate(200, then="exit 0"), memory_max=64 * MIB)
            assert await greedy.run() == -9
            verdict = await greedy.end()
            assert verdict.outcome == "memory_limit"
            assert verdict.usage.memoryOomEvents
            assert verdict.usage.oomKills
            assert verdict.usage.memoryPeak == 64 * MIB
            assert "was stopped at its memory limit of 64.0 MiB" in verdict.advice
            assert "or ask for 128 MiB" in verdict.advice
            assert await running.wait() == 0
            assert (await sibling.end(exit_code=0)).outcome == "ok"
            assert agent.wait(10) == 0
            await session.close()

    asyncio.run(run())


def test_the_history_remembers_what_a_call_needed(daemon: Any) -> None:
    with daemon.client() as client, client.session("s1", memory_max=512 * MIB) as session:
        with session.call(["dd", "bs=200M"], id="c1", memory_max=64 * MIB) as call:
            call.popen(allocate(200)).wait(20)
        with session.call(["dd", "bs=200M"], id="c2") as again:
            assert again.limits.memoryMax is not None
            assert again.limits.memoryMax > 64 * MIB


def test_a_fork_bomb_stops_at_its_limit(daemon: Any, tools: Any) -> None:
    with daemon.client() as client, client.session("s1") as session:
        bomb = session.call(["sh", "-c", "bomb() { bomb | bomb & }; bomb; sleep 1000"], id="c1", pids_max=40)
        process = bomb.popen(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        leaf = daemon.top / "shared/u0/s1/calls/c1"
        tools.wait_for(lambda: tools.keyed(leaf, "pids.events")["max"] > 5)
        begun = time.monotonic()
        with session.call(["true"]) as other:
            assert other.run() == 0
        assert time.monotonic() - begun < 20
        verdict = bomb.end()
        process.wait(10)
        assert verdict.outcome == "pids_limit"
        assert verdict.usage.pidsPeak == 40
        assert "at its limit of 40; run fewer workers or ask for more pids" in verdict.advice
        assert not leaf.exists()


def test_slow_down_at_memory_high_is_told(daemon: Any) -> None:
    with daemon.client() as client, client.session("s1") as session:
        events, kinds = daemon.client(), list[str]()

        def watch() -> None:
            for event in events.watch():
                kinds.append(event.kind)
                if event.kind == "call_ended":
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        time.sleep(0.5)
        call = session.call(["x"], id="c1", memory_max=100 * MIB)
        leaf = daemon.top / "shared/u0/s1/calls/c1"
        (leaf / "memory.high").write_text(str(24 * MIB))
        # 64 MiB of anonymous memory and no swap: nothing can be reclaimed, so every page above is slowed.
        process = call.popen(allocate(64))
        try:
            process.wait(6)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        verdict = call.end()
        assert verdict.outcome in ("ok", "unknown", "signal")
        assert verdict.usage.memoryHighEvents
        assert verdict.throttled
        assert "was slowed down for" in verdict.advice
        watcher.join(10)
        assert "call_throttled" in kinds
        events.close()


def test_cpu_cores_hold_a_call_back(daemon: Any) -> None:
    with daemon.client() as client, client.session("s1") as session:
        call = session.call(["sh", "-c", "while :; do :; done"], cpu_cores=0.2, duration_max_sec=3)
        assert call.run() == -9
        verdict = call.end()
        assert verdict.outcome == "timed_out"
        assert verdict.throttled
        assert verdict.usage.cpuSec is not None
        assert verdict.usage.cpuSec < 1.5


def test_amend_while_it_runs(daemon: Any, tools: Any) -> None:
    with daemon.client() as client, client.session("s1", memory_max=256 * MIB) as session:
        marker = daemon.directory / "go"
        marker.unlink(missing_ok=True)
        script = f"until test -e {marker}; do sleep 0.1; done; dd if=/dev/zero of=/dev/null bs=100M count=1"
        call = session.call(["sh", "-c", script], id="c1", memory_max=32 * MIB)
        process = call.popen(stderr=subprocess.DEVNULL)
        leaf = daemon.top / "shared/u0/s1/calls/c1"
        assert call.amend(memory_max=160 * MIB).memoryMax == 160 * MIB
        assert tools.text(leaf, "memory.max") == str(160 * MIB)
        assert call.amend(memory_max=1024 * MIB).memoryMax == 256 * MIB
        assert any("256 MiB given" in note for note in call.notes)
        marker.touch()
        assert process.wait(30) == 0
        with pytest.raises(RemoteError, match=r"is not between 1"):
            call.amend(memory_max=0)
        call.amend(memory_max=64 * MIB)
        assert tools.text(leaf, "memory.max") == str(64 * MIB)
        assert call.end(exit_code=0).outcome == "ok"


def test_a_limit_below_what_is_used_is_refused(daemon: Any, tools: Any) -> None:
    with daemon.client() as client, client.session("s1") as session:
        call = session.call(["sleep", "1000"], id="c1", memory_max=128 * MIB)
        leaf = daemon.top / "shared/u0/s1/calls/c1"
        fill = "import mmap, time; m = mmap.mmap(-1, 64 << 20); m.write(bytes(64 << 20)); time.sleep(1000)"
        process = call.popen(["python", "-S", "-c", fill])
        tools.wait_for(lambda: int(tools.text(leaf, "memory.current")) > 64 * MIB, 30)
        with pytest.raises(RemoteError, match=r"the call uses .* already") as caught:
            call.amend(memory_max=32 * MIB)
        assert "intent.memoryMax" in str(caught.value)
        assert process.poll() is None
        assert tools.text(leaf, "memory.max") == str(128 * MIB)
        call.end()
        process.wait(10)


def test_an_agent_outlives_a_session_that_is_out_of_memory(daemon: Any, tools: Any) -> None:
    async def run() -> None:
        async with await aconnect(daemon.socket) as client:
            session = await client.session("s1", agent=True, memory_max=128 * MIB)
            # The agent is the largest single process; a call goes first all the same.
            agent = subprocess.Popen(  # noqa: ASYNC220
                ["python", "-S", "-c", "import time; x = bytearray(b'x') * (55 << 20); time.sleep(1000)"],
                preexec_fn=lambda: os.write(session.procs, b"0") and None,
            )
            current = daemon.top / "shared/u0/s1/agent/memory.current"
            tools.wait_for(lambda: int(current.read_text()) > 55 * MIB)
            holding = "import time; x = bytearray(b'x') * (35 << 20); time.sleep(1000)"
            calls = [await session.call(["python", "-S", "-c", holding], memory_max=100 * MIB) for _ in range(2)]
            running = [await call.start() for call in calls]
            done, _ = await asyncio.wait(
                [asyncio.create_task(process.wait()) for process in running],
                return_when=asyncio.FIRST_COMPLETED,
                timeout=60,
            )
            assert done
            assert agent.poll() is None
            verdicts = [await call.end() for call in calls]
            ended = [verdict for verdict in verdicts if verdict.usage.oomKills]
            assert {verdict.outcome for verdict in ended} == {"oom_killed"}
            assert "memory ran out above it, in its session" in ended[0].advice
            await session.close()
            agent.wait(10)

    asyncio.run(run())


@pytest.mark.parametrize("own_daemon", [("--memory-max", "400M")], indirect=True)
def test_what_is_reserved_cannot_be_taken(own_daemon: Any, tools: Any) -> None:
    with own_daemon.client() as client:
        shared = own_daemon.top / "shared"
        with pytest.raises(RemoteError, match="cannot be reserved"):
            client.session("large", protected=True, memory_max=396 * MIB)
        assert own_daemon.left() == []
        safe = client.session("safe", protected=True, memory_max=200 * MIB)
        assert tools.text(shared, "memory.max") == str(200 * MIB)
        assert tools.text(own_daemon.top / "reserved/u0/safe", "memory.low") == str(200 * MIB)
        with pytest.raises(RemoteError, match="cannot be reserved"):
            client.session("more", protected=True, memory_max=201 * MIB)
        holder = safe.call(["x"], memory_max=180 * MIB)
        kept = holder.popen(["python", "-S", "-c", "import time; x = bytearray(b'x') * (120 << 20); time.sleep(1000)"])
        current = own_daemon.top / "reserved/u0/safe/memory.current"
        tools.wait_for(lambda: int(current.read_text()) > 120 * MIB, 30)
        others = client.session("others")
        greedy = others.call(["x"], memory_max=300 * MIB)
        process = greedy.popen(allocate(280))
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        verdict = greedy.end(signal=9)
        process.wait(10)
        assert verdict.usage.memoryPeak is not None
        assert verdict.usage.memoryPeak <= 202 * MIB  # A leaf's peak counts what an ancestor then refused.
        assert kept.poll() is None
        assert tools.keyed(own_daemon.top / "reserved", "memory.events")["oom_kill"] == 0
        holder.end()
        kept.wait(10)
        safe.close()
        assert tools.text(shared, "memory.max") == str(400 * MIB)
        others.close()


def test_limits_are_in_place_before_anything_enters(daemon: Any, tools: Any) -> None:
    with daemon.client() as client, client.session("s1") as session:
        call = session.call(["x"], id="c1", memory_max=64 * MIB, pids_max=9, cpu_cores=0.5)
        leaf: Path = daemon.top / "shared/u0/s1/calls/c1"
        found = {name: tools.text(leaf, name) for name in ("memory.max", "pids.max", "cpu.max", "memory.swap.max")}
        expected = {"memory.max": str(64 * MIB), "pids.max": "9", "cpu.max": "50000 100000", "memory.swap.max": "0"}
        assert {**expected, **found} == {**found, **{k: v for k, v in expected.items() if k in found}}
        assert 0 < int(tools.text(leaf, "memory.high")) < 64 * MIB
        assert tools.text(leaf, "memory.oom.group") == "1"
        call.end(exit_code=0)
