# SPDX-License-Identifier: Apache-2.0
"""Where the time of real calls goes, as bcc programs see it on this kernel."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentcg.explain.result import Explanation, Kind
from agentcg.explain.task_time import TaskTime

MIB = 1 << 20
BUSY = "sleep 600 & while :; do :; done"


def begin(client: Any, name: str, command: str, **options: Any) -> Any:
    call = client.call(["sh", "-c", command], session="s1", id=name, leased=False, **options)
    return call, call.popen(stdin=subprocess.PIPE)


def programs() -> list[Any]:
    """Return what the kernel has of BPF programs."""
    listed = json.loads(subprocess.run(["bpftool", "-j", "prog"], capture_output=True, check=True).stdout)
    return [one["id"] for one in listed]


@pytest.fixture
def watch() -> Iterator[Callable[[Path], TaskTime]]:
    """Return a function that looks at a cgroup until the test is over."""
    watched: list[TaskTime] = []

    def start(cgroup: Path) -> TaskTime:
        watched.append(TaskTime("it", str(cgroup)))
        return watched[-1]

    yield start
    for one in watched:
        one.close()


def since(before: Explanation, now: Explanation) -> dict[Kind, float]:
    """Return the tasks' seconds for each second that has passed."""
    return {kind: (now.spent[kind] - before.spent[kind]) / (now.seconds - before.seconds) for kind in Kind}


@pytest.mark.long
def test_the_command_tells_a_busy_loop_from_a_sleeper(daemon: Any) -> None:
    with daemon.client() as client, client.session("s1"):
        _, process = begin(client, "busy", BUSY, cpu_cores=0.4)
        asked = ["agentcg", "explain", "--socket", daemon.socket, "--for", "3s", "--json", "busy"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        client.kill("u0/s1/busy", "enough")
        process.wait(20)
    seen = json.loads(done.stdout)
    spent = seen["taskSeconds"]
    assert (seen["call"], seen["ended"], seen["tasks"]) == ("u0/s1/busy", False, 2)
    assert seen["seconds"] >= 3
    assert spent["sleep"] == pytest.approx(seen["seconds"], abs=0.5)
    assert spent["run"] + spent["queue"] == pytest.approx(seen["seconds"], abs=0.5)
    assert 0.1 < spent["run"] / seen["seconds"] < 0.6
    assert seen["cpuMaxSeconds"] > 0.3
    assert sum(spent[name] for name in ("reclaim", "throttled", "io", "frozen")) < 0.2
    sleeper = next(stack for stack in seen["stacks"] if stack["seconds"] > 2)
    assert sleeper["kind"] == "sleep"
    assert any("nanosleep" in frame for frame in sleeper["frames"]), sleeper


def test_freezing_and_throttling_are_seen_and_nothing_of_it_stays_in_the_kernel(
    daemon: Any, tools: Any, watch: Any
) -> None:
    with daemon.client() as client, client.session("s1"):
        _, process = begin(client, "c1", "read line; while :; do /bin/true; done")
        greedy, eater = begin(
            client, "c2", "read line; exec dd if=/dev/zero of=/dev/null bs=200M count=1", memory_max=32 * MIB
        )
        leaf = daemon.top / "shared/u0/s1/calls"
        without = programs()
        watched = watch(leaf)
        assert len(programs()) > len(without)

        before = watched.look()
        assert before.tasks == 2
        time.sleep(1)
        asleep = since(before, watched.look())
        assert asleep[Kind.SLEEP] == pytest.approx(2, abs=0.4)

        process.stdin.write(b"\n")
        process.stdin.flush()
        before = watched.look()
        time.sleep(0.5)
        busy = since(before, watched.look())
        assert busy[Kind.RUN] + busy[Kind.QUEUE] > 0.5
        assert busy[Kind.FROZEN] == 0  # A shell waits for a child of vfork(2) as one that may be frozen there.
        (leaf / "c1/cgroup.freeze").write_text("1")
        tools.wait_for(lambda: tools.keyed(leaf / "c1", "cgroup.events")["frozen"])
        before = watched.look()
        time.sleep(1)
        frozen = since(before, watched.look())
        assert 0.7 < frozen[Kind.FROZEN] < 2.1
        assert frozen[Kind.RUN] < 0.1
        (leaf / "c1/cgroup.freeze").write_text("0")
        client.kill("u0/s1/c1", "enough")
        process.wait(20)

        before = watched.look()
        eater.communicate(b"\n", timeout=60)
        assert greedy.end(signal=9).outcome == "memory_limit"
        after = watched.look(20)
        held_up = since(before, after)
        assert held_up[Kind.THROTTLED] > 0.3, held_up
        assert after.tasks == 0
        assert any(
            one.kind == Kind.THROTTLED and any("mem_cgroup_handle_over_high" in frame for frame in one.frames)
            for one in after.stacks
        ), after.stacks
        watched.close()
        assert programs() == without
