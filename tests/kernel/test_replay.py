# SPDX-License-Identifier: Apache-2.0
"""A small made-up pair of sessions, replayed live with and without agentcg; and a session recorded, then replayed."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from agentcg.replay.events import CallEnded, Limits
from agentcg.replay.events import Sample as SampleEvent
from agentcg.replay.run_folder import read_run
from agentcg.trace.demand import demand
from agentcg.trace.format import read, write
from agentcg.trace.model import RecordedCall, Recording, Sample
from tests.unit.replay.served.llm import serve

MB = 1_000_000
CGROUPS = Path("/sys/fs/cgroup")


def recording(path: Path, agent: int, call: int) -> Path:
    """An agent that makes three calls, the one in the middle large."""
    calls = (
        RecordedCall("c1", "Bash", "ls", 1.0, 1.2),
        RecordedCall("c2", "Bash", "pytest -q", 2.0, 6.0),
        RecordedCall("c3", "Read", "notes.md", 7.0, 7.1),
    )
    held = [(0.0, agent), (2.0, agent), (3.0, agent + call), (5.9, agent + call), (6.1, agent), (8.0, agent)]
    samples = tuple(Sample(at, size, 0.01 * at) for at, size in held)
    write(Recording(path.stem, 0.0, calls, samples), path)
    return path


def replay(*arguments: object, **options: object) -> "subprocess.Popen[str]":
    command = ["agentcg", "replay", "live", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)  # type: ignore[call-overload, no-any-return]


def left() -> list[Path]:
    return list(CGROUPS.glob("**/agentcg-replay-*"))


def test_who_dies_without_agentcg_and_with_it(tmp_path: Path) -> None:
    high = recording(tmp_path / "high.jsonl", 60 * MB, 20 * MB)
    low = recording(tmp_path / "low.jsonl", 30 * MB, 50 * MB)
    # Together they need 160 MB at their peak. 80 MB and a margin are reserved; 53 MB are left for the other.
    arguments = ["--memory-max", "150000000", "--speed", "2", "--protect", "high", "--json", tmp_path / "out.json"]
    done = replay(*arguments, high, low)
    output, _ = done.communicate(timeout=100)
    assert done.returncode == 0, output
    print(output)

    arms = {arm["arm"]: arm for arm in json.loads((tmp_path / "out.json").read_text())["arms"]}
    without = {session["name"]: session for session in arms["none"]["sessions"]}
    # The OOM killer takes the largest process of all, and that is an agent.
    assert "died" in [session["state"] for session in without.values()]
    assert arms["none"]["oomKills"] >= 1

    managed = {session["name"]: session for session in arms["agentcg"]["sessions"]}
    assert [managed[name]["state"] for name in ("high", "low")] == ["finished", "finished"]
    assert managed["high"]["failed"] == []
    assert managed["high"]["growth"]["n"] == 2
    # Its large call waited until the other session had ended.
    assert (managed["low"]["failed"], managed["low"]["callsStarted"]) == ([], 3)
    assert arms["agentcg"]["oomKills"] == 0
    assert managed["low"]["completionSec"] > managed["high"]["completionSec"]
    for arm in arms.values():
        assert arm["memoryPeak"] <= 150 * MB
    assert managed["high"]["completionSec"] >= 4.0
    assert left() == []


@pytest.mark.timeout(300)
def test_every_arm_sets_its_limits_and_its_events_are_kept(tmp_path: Path) -> None:
    high = recording(tmp_path / "high.jsonl", 60 * MB, 20 * MB)
    low = recording(tmp_path / "low.jsonl", 30 * MB, 10 * MB)
    arms = ["none", "static", "high-only", "agentcg"]
    arms += ["psi-loop"] if Path("/proc/pressure/memory").exists() else []
    chosen = [word for arm in arms for word in ("--arm", arm)]
    arguments = ["--memory-max", "400M", "--speed", "4", "--protect", "high:100M", "-o", tmp_path / "run", high, low]
    done = replay(*chosen, *arguments)
    output, _ = done.communicate(timeout=200)
    assert done.returncode == 0, output

    run = read_run(tmp_path / "run")
    assert [done.arm for done in run.results] == arms
    limits: dict[str, list[Limits]] = {}
    for done_arm in run.results:
        assert [session.state for session in done_arm.result.sessions] == ["finished", "finished"]
        events = list(run.events(0, done_arm.arm))
        assert [event.t for event in events] == sorted(event.t for event in events)
        assert max(event.memory.get("high", 0) for event in events if isinstance(event, SampleEvent)) >= 60 * MB
        ended = [event for event in events if isinstance(event, CallEnded)]
        assert [event.outcome for event in ended] == ["ok"] * 6
        assert all((event.peak_bytes is not None) == (done_arm.arm == "agentcg") for event in ended)
        limits[done_arm.arm] = [event for event in events if isinstance(event, Limits)]
    both = {"high", "low"}
    assert next(one.max for one in limits["static"] if one.max.keys() == both) == dict.fromkeys(both, 200 << 20)
    assert next(one.high for one in limits["high-only"] if one.high.keys() == both) == {"high": None, "low": 300 << 20}
    assert any(one.reserved == 100 << 20 for one in limits["agentcg"])
    assert left() == []


@pytest.mark.long
def test_an_llm_server_in_the_loop_is_told_the_sessions_full_name(tmp_path: Path) -> None:
    samples = [{"epoch": 1e9 + at, "mem_usage": "20MB / 4GB", "cpu_percent": "1.00%"} for at in range(4)]
    call = {
        "id": "c1",
        "tool": "Bash",
        "timestamp": at_sec(1.0),
        "end_timestamp": at_sec(2.0),
        "input": {"command": "ls"},
    }
    turns = [
        {"first_at": at_sec(0.5), "last_at": at_sec(1.0), "prompt_tokens": 100, "output_tokens": 4}
        | {"results": [{"id": "c1", "at": at_sec(2.0)}]},
        {"first_at": at_sec(2.5), "last_at": at_sec(2.9), "prompt_tokens": 160, "output_tokens": 2},
    ]
    for name, value in (("resources", {"samples": samples}), ("tool_calls", [call]), ("turns", turns)):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    with serve() as llm:
        arguments = ["--arm", "agentcg", "--server", llm.url, "--engine", "llamacpp", "--json", tmp_path / "out"]
        done = replay(*arguments, f"low={tmp_path}")
        output, _ = done.communicate(timeout=60)
        assert done.returncode == 0, output
    (low,) = json.loads((tmp_path / "out").read_text())["arms"][0]["sessions"]
    assert (low["state"], low["failed"], low["turns"]["n"], low["turns"]["promptTokens"]) == ("finished", [], 2, 260)
    assert len(llm.of("u0/low")) == 2
    assert left() == []


def at_sec(sec: float) -> str:
    """A time of the recording, which began at 10**9 s since the epoch."""
    return f"2001-09-09T01:46:{40 + sec:06.3f}Z"


def test_interrupted_it_leaves_nothing(tmp_path: Path) -> None:
    low = recording(tmp_path / "low.jsonl", 20 * MB, 10 * MB)
    for number in (signal.SIGINT, signal.SIGTERM):
        running = replay("--arm", "agentcg", "--speed", "0.1", low, start_new_session=True)
        deadline = time.monotonic() + 40
        while not list(CGROUPS.glob("**/agentcg-replay-*/agentcg/shared/*/low")):
            assert time.monotonic() < deadline
            assert running.poll() is None
            time.sleep(0.05)
        os.killpg(running.pid, number)  # As a terminal does it: all that belong to it.
        output, _ = running.communicate(timeout=40)
        assert running.returncode == 1, output
        assert "interrupted" in output
        assert left() == []


def test_a_session_that_cannot_have_its_memory_is_refused_and_the_other_goes_on(tmp_path: Path) -> None:
    low = recording(tmp_path / "low.jsonl", 20 * MB, 1 * MB)
    arguments = ["--arm", "agentcg", "--memory-max", "200000000", "--speed", "20", "--protect", "big:190M"]
    done = replay(*arguments, "--json", tmp_path / "out.json", f"big={low}", f"low={low}")
    output, _ = done.communicate(timeout=60)
    assert done.returncode == 0, output
    big, other = json.loads((tmp_path / "out.json").read_text())["arms"][0]["sessions"]
    assert (big["state"], other["state"]) == ("refused", "finished")
    assert "cannot be reserved" in big["reason"]


@pytest.mark.timeout(200)
def test_a_session_is_recorded_and_its_recording_can_be_replayed(daemon, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    hold = "import time; x = bytearray(40_000_000); time.sleep(2)"
    agent = f"""
        agentcg/bin/agentcg-exec --tool Bash -- true
        agentcg/bin/agentcg-exec --tool Bash --id large --intent '{{"memoryExpected": 60000000}}' -- python3 -c '{hold}'
        agentcg/bin/agentcg-exec --tool Bash --id fails -- sh -c 'exit 3' &
        wait
        exit 7"""
    out = tmp_path / "out.jsonl"
    command = ["agentcg", "record", "--socket", daemon.socket, "--name", "rec", "-o", str(out), "--", "sh", "-c", agent]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 7, done.stderr

    found = read(out)
    assert found.name == "rec"
    assert [call.exit_code for call in found.calls] == [0, 0, 3]
    large = next(call for call in found.calls if call.id == "large")
    assert large.intent is not None
    assert large.intent.memory_expected == 60_000_000
    assert "bytearray" in large.command
    needs = {call.call.id: call for call in demand(found).calls}
    assert 40 * MB < needs["large"].memory.peak < 80 * MB
    assert found.memory_peak is not None
    assert found.memory_peak >= 40 * MB

    done = replay("--arm", "none", "--speed", "5", out)
    output, _ = done.communicate(timeout=60)
    assert done.returncode == 0, output
    assert "3 of 3 ok" in output
