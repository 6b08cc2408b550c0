# SPDX-License-Identifier: Apache-2.0
"""What one call's boundaries cost: a call that runs /bin/true, from before it begins until its cgroup is gone.

What each arm contains is said in docs/benchmarks.md.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from agentcg.api.client import Call, Client, Session
from agentcg.cgroup.delegate import find_mounts
from agentcg.errors import AgentcgError, Unsupported
from agentcg.launcher import launcher_path
from benches.bare_kernel import BareCall, leaf_of, make_repetition
from benches.containers import start_container
from benches.daemons import start_daemon
from benches.harness import Arm, Bench, Part, Ratio, Repetition, Stage

__all__ = ["BENCH"]

MEMORY = 256 << 20
TRUE = "/bin/true"
SETTLE_SEC = 0.5
"""systemd and dockerd go on for a while after their client has ended."""


@dataclass(frozen=True)
class _Rig:
    """A daemon, a connection to it, and one session open on that."""

    client: Client
    session: Session

    def call(self) -> Call:
        """Begin the call that every arm makes in its own way."""
        return self.session.call([TRUE], tool="bench", memory_max=MEMORY)


def _enforcing(stage: Stage) -> _Rig:
    if "rig" not in stage.shared:
        stage.shared["rig"] = _connect(stage, start_daemon(stage))
    rig: _Rig = stage.shared["rig"]
    return rig


def _observing(stage: Stage) -> _Rig:
    if "rig" not in stage.shared:
        unified = find_mounts(Path("/proc/self/mountinfo").read_text()).unified
        if unified is None or os.geteuid() != 0:
            raise Unsupported("the host part needs root and a cgroup v2 mount", hint="run it as root")
        socket = start_daemon(stage, root=f"{unified}/agentcg-bench", observe=True)
        stage.shared["rig"] = rig = _connect(stage, socket)
        if missing := rig.client.status().missing:
            stage.notes.append(
                f"on the host the daemon only observes: there is no {', '.join(missing)} controller in its cgroup v2, "
                "so that these limits are not written and their counters not read there"
            )
    found: _Rig = stage.shared["rig"]
    return found


def _connect(stage: Stage, socket: str) -> _Rig:
    # Closing the connection ends the session and what runs in it.
    client = stage.enter_context(Client(socket))
    return _Rig(client, client.session("bench", memory_max=1 << 30))


def _milliseconds(*points: float) -> dict[str, float]:
    begin, spawn, end = (1000 * (after - before) for before, after in pairwise(points))
    return {
        "begin_ms": begin,
        "spawn_ms": spawn,
        "end_ms": end,
        "boundary_ms": begin + end,
        "total_ms": begin + spawn + end,
    }


def _prepare_kernel(stage: Stage) -> Repetition:
    call = _enforcing(stage).call()
    try:
        bare = BareCall.like(leaf_of(call.environment), call.limits, call.environment, call.oom_score_adj)
    finally:
        call.end()
    repeat = make_repetition(stage, bare, TRUE)
    return lambda: _milliseconds(*repeat())


def _prepare_daemon(stage: Stage) -> Repetition:
    rig = _enforcing(stage)

    def repeat() -> Mapping[str, float]:
        start = time.perf_counter()
        call = rig.call()
        begun = time.perf_counter()
        call.run()
        ran = time.perf_counter()
        verdict = call.end()
        ended = time.perf_counter()
        if verdict.outcome != "ok":
            raise AgentcgError(f"the call ended with {verdict.outcome}")
        return _milliseconds(start, begun, ran, ended)

    return repeat


def _run(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Mapping[str, float]:
    start = time.perf_counter()
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        status = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    ended = time.perf_counter()
    if status:
        raise AgentcgError(f"{argv[0]} ended with status {status}")
    return {"total_ms": 1000 * (ended - start)}


def _check(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """:raises AgentcgError: with what the command says, if it fails"""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=60)
    if done.returncode or done.stderr:
        raise AgentcgError(f"{argv[0]} ended with status {done.returncode}: {done.stderr.strip()[-300:]}")


def _prepare_true(stage: Stage) -> Repetition:
    return lambda: _run(["true"])


def _prepare_launcher(stage: Stage, rig: _Rig) -> Repetition:
    argv = [launcher_path(), "true"]
    # Left to itself it would run the command without a call when something is wrong.
    environment = os.environ | {"AGENTCG_SOCKET": rig.client.path, "AGENTCG_WITHOUT_DAEMON": "fail"}
    environment.pop("AGENTCG_SESSION", None)
    _check(argv, environment)
    return lambda: _run(argv, environment)


def _prepare_systemd(stage: Stage) -> Repetition:
    if not os.path.isdir("/run/systemd/system"):
        raise Unsupported("systemd does not run here", hint="boot with it")
    argv = ["systemd-run", "--scope", "--quiet", "--collect", "-p", f"MemoryMax={MEMORY}", "true"]
    _check(argv)
    return lambda: _run(argv)


def _prepare_docker(stage: Stage) -> Repetition:
    argv = [*start_container(stage), "true"]
    _check(argv)
    return lambda: _run(argv)


def _enforcing_arms() -> Sequence[Arm]:
    return (
        Arm("kernel", _prepare_kernel),
        Arm("daemon", _prepare_daemon),
        Arm("true", _prepare_true),
        Arm("launcher", lambda stage: _prepare_launcher(stage, _enforcing(stage))),
        Arm("systemd-run", _prepare_systemd, settle_sec=SETTLE_SEC),
        Arm("docker-exec", _prepare_docker, settle_sec=SETTLE_SEC),
    )


def _host_arms() -> Sequence[Arm]:
    return (
        Arm("host-true", _prepare_true),
        Arm("host-launcher", lambda stage: _prepare_launcher(stage, _observing(stage))),
    )


BENCH = Bench(
    name="calls",
    summary="what one call's boundaries cost: begin, placed, end, removed",
    parts=(
        Part("enforcing", _enforcing_arms, vm=("--systemd", "--memory", "2G"), quick_sec=40),
        Part("host", _host_arms, vm=None, quick_sec=10),
    ),
    units=dict.fromkeys(("begin_ms", "spawn_ms", "end_ms", "boundary_ms", "total_ms"), "ms"),
    ratios=(
        Ratio("daemon_over_kernel", "daemon", "kernel", goal=3.0),
        Ratio("daemon_over_kernel_boundary", "daemon", "kernel", metric="boundary_ms"),
        Ratio("systemd_run_over_daemon", "systemd-run", "daemon", better="higher"),
        Ratio("docker_exec_over_daemon", "docker-exec", "daemon", better="higher"),
        Ratio("launcher_added_ms", "host-launcher", "host-true", goal=3.0, difference=True),
        Ratio("launcher_added_enforcing_ms", "launcher", "true", difference=True),
    ),
    n=100,
)
