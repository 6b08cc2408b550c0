# SPDX-License-Identifier: Apache-2.0
"""Containers of a real Docker engine as sessions."""

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from agentcg.api.client import RemoteError
from agentcg.api.interfaces import CallInterface
from agentcg.api.types import Intent
from agentcg.launcher import launcher_path

EXECS = int(os.environ.get("AGENTCG_EXECS", "8"))
"""300 in a campaign by hand."""

pytestmark = pytest.mark.timeout(900)


def tree(top: Path) -> set[str]:
    return {path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_dir()}


def test_a_call_runs_in_its_leaf_dies_of_its_limit_and_leaves_nothing(containers: Any) -> None:
    top = containers.start("one", hostname="inside", mem_limit="400m", memswap_limit="400m")
    first = containers.state("one")["Pid"]
    handed_down = (top / "cgroup.subtree_control").read_text()
    opened = containers.attach("one")
    assert (opened.session, opened.budget.memoryMax) == ("docker/one", 400 << 20)
    assert tree(top) == {"init", "calls"}

    ran = containers.run("one", "sh", "-c", "cat /proc/self/cgroup; hostname; id -u; exit 3", user="7", workdir="/bin")
    assert ran.cgroup == "/" + ran.verdict.call.replace("docker/one", "calls")
    assert ran.output.split()[1:] == ["inside", "7"]
    assert (ran.status, ran.verdict.outcome, ran.verdict.exitCode) == (3, "exit_status", 3)
    assert containers.run("one", "no-such-program").status == 127

    ran = containers.run("one", "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1", hint="memory:32m")
    assert ran.verdict.outcome == "memory_limit"
    assert "32.0 MiB" in ran.verdict.advice
    assert (containers.state("one")["Running"], containers.state("one")["Pid"]) == (True, first)

    # What the engine does goes on as before: its exec is beside the calls, its counters and limits are of the whole.
    assert containers.get("one").exec_run(["cat", "/proc/self/cgroup"]).output == b"0::/init\n"
    current = int((top / "memory.current").read_text())
    assert containers.get("one").stats(stream=False)["memory_stats"]["usage"] == pytest.approx(current, rel=0.5)
    containers.get("one").update(mem_limit="300m", memswap_limit="300m")
    with containers.daemon.client() as client, client.call(["true"], session="docker/one", memory_max=1 << 30) as call:
        assert call.limits.memoryMax == 300 << 20

    # Detached, it is as it was found.
    thread, found = containers.begin("one", "sleep", "1000")
    while not containers.calls():
        time.sleep(0.1)
    containers.detach("one")
    thread.join(60)
    assert found[0].verdict.reason == "its container was detached"
    assert tree(top) == set()
    assert (top / "cgroup.subtree_control").read_text() == handed_down
    assert str(first) in (top / "cgroup.procs").read_text().split()
    assert "user.agentcg" not in os.listxattr(top)
    assert containers.get("one").exec_run(["cat", "/proc/self/cgroup"]).output == b"0::/\n"
    assert containers.sessions() == set()


def test_input_and_output_are_the_commands(containers: Any) -> None:
    containers.start("one")
    containers.attach("one")
    ran = subprocess.run(
        ["agentcg", "exec", "-i", "-e", "WORD=said", "one", "sh", "-c", "cat; echo $WORD; echo wrong >&2; exit 5"],
        env=os.environ | {"AGENTCG_SOCKET": containers.daemon.socket},
        input="line\n" * 30_000,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (5, "line\n" * 30_000 + "said\n", "wrong\n")


def test_a_container_that_stops_takes_its_session_along_and_comes_back(containers: Any, tools: Any) -> None:
    containers.start("plain")
    top = containers.start("one")
    containers.attach("one")
    thread, found = containers.begin("one", "sleep", "1000")
    tools.wait_for(containers.calls, 60)
    took = {}
    for name in ("plain", "one"):
        began = time.monotonic()
        containers.get(name).stop(timeout=60)
        took[name] = time.monotonic() - began
    print(f"to stop took {took['plain']:.2f} s, and {took['one']:.2f} s of an attached container")
    assert took["one"] < 60  # It does not run into the time-out.
    thread.join(60)
    assert found
    tools.wait_for(lambda: not containers.sessions())
    assert not top.exists()
    containers.get("one").start()
    tools.wait_for(containers.sessions, 60)
    assert containers.run("one", "true").status == 0
    # Removed in the middle of a call.
    thread, found = containers.begin("one", "sleep", "1000")
    tools.wait_for(containers.calls, 60)
    containers.get("one").remove(force=True)
    thread.join(60)
    assert found
    tools.wait_for(lambda: not containers.sessions())
    assert not top.exists()


def test_a_paused_container_has_no_new_calls_and_no_time(containers: Any, tools: Any) -> None:
    containers.start("one")
    containers.attach("one")
    thread, found = containers.begin("one", "sleep", "2")
    (running,) = tools.wait_for(containers.calls, 60)
    with containers.daemon.client() as client:
        containers.get("one").pause()
        # Its time would be up in four seconds.
        client.invoke(
            CallInterface, "Amend", call=running.call, intent=Intent(durationMaxSec=time.time() - running.started + 4)
        )
        with pytest.raises(RemoteError, match="paused"):
            client.call(["true"], session="docker/one")
        with pytest.raises(RemoteError, match="is paused"):
            client.attach("one")
    time.sleep(6)
    containers.get("one").unpause()
    thread.join(60)
    assert found[0].verdict.outcome == "ok"
    assert found[0].verdict.usage.frozenSec > 5


@pytest.mark.parametrize("own_daemon", [("--containers", "agent-*", "--containers", "label=agent=yes")], indirect=True)
def test_a_killed_daemon_finds_again_what_it_attached_by_itself(own_containers: Any, tools: Any) -> None:
    containers = own_containers
    top = containers.start("agent-1")
    containers.start("other")
    containers.start("third", labels={"agent": "yes"})
    both = {"docker/agent-1", "docker/third"}
    tools.wait_for(lambda: containers.sessions() == both, 60)
    with containers.daemon.client() as client:
        call = client.call(["sleep", "1000"], session="docker/agent-1", leased=False)
        process = call.popen()
        containers.daemon.signal(SIGKILL)
        containers.daemon.start()
    assert containers.sessions() == both
    with containers.daemon.client() as client:
        assert [one.call for one in client.calls()] == [call.name]
        assert client.kill(call.name, "enough").reason == "enough"
    process.wait(20)
    assert tree(top) == {"init", "calls"}
    containers.detach("agent-1")
    assert tree(top) == set()


def test_many_execs_leak_nothing(containers: Any) -> None:
    top = containers.start("one")
    containers.attach("one")
    with ThreadPoolExecutor(min(EXECS, 30)) as pool:
        ran = list(pool.map(lambda number: containers.run("one", "sh", "-c", f"exit {number % 7}"), range(EXECS)))
    assert [one.status for one in ran] == [number % 7 for number in range(EXECS)]
    assert containers.calls() == []
    assert tree(top) == {"init", "calls"}
    assert len((top / "init/cgroup.procs").read_text().split()) <= 2


def test_a_shell_in_a_container_is_replaced_by_a_mount(containers: Any) -> None:
    here = {launcher_path(): "/usr/bin/sh", containers.daemon.socket: "/run/agentcg.sock"}
    containers.start(
        "one",
        environment={"AGENTCG_SOCKET": "/run/agentcg.sock", "AGENTCG_SHELL": "/bin/sh"},
        volumes={source: {"bind": target, "mode": "ro"} for source, target in here.items()},
    )
    containers.attach("one")
    for user in ("0", "7"):
        ran = containers.get("one").exec_run(["/usr/bin/sh", "-c", "cat /proc/self/cgroup; exit 3"], user=user)
        assert (ran.exit_code, ran.output.startswith(b"0::/calls/")) == (3, True), ran
    # It speaks for its own session, whoever it is in there.
    ran = containers.get("one").exec_run(["/usr/bin/sh", "-c", "true"], environment={"AGENTCG_SESSION": "u0/other"})
    assert b"may not speak for" in ran.output, ran


def test_what_cannot_be_attached_is_said(containers: Any) -> None:
    top = containers.start("one")
    (top / "cgroup.max.descendants").write_text("1")
    containers.client.containers.create(containers.image, name="stopped", command=["true"])
    for name, said in (("no-such", "no container"), ("stopped", "does not run"), ("one", "no cgroup can be made")):
        with pytest.raises(RemoteError, match=said):
            containers.attach(name)
    assert tree(top) == set()
    assert str(containers.state("one")["Pid"]) in (top / "cgroup.procs").read_text().split()
    assert containers.sessions() == set()
