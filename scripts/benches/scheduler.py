# SPDX-License-Identifier: Apache-2.0
"""The scheduler for calls against the kernel's own, with the same weights: short calls beside hogs, bulk work, shares.

Both have the same cgroups and cpu.weight. Times of all phases come from one repetition, in which the arm's scheduler is
loaded first and unloaded last.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agentcg.cgroup.delegate import find_mounts
from agentcg.errors import AgentcgError, Unsupported
from agentcg.kernel.sched import Latency
from agentcg.kernel.sys import clone_into_cgroup
from benches.harness import Arm, Bench, Part, Ratio, Repetition, Stage
from benches.place import CHECKOUT

__all__ = ["BENCH", "compile_work"]

HOGS = 8
CALLS = 20
"""Short calls of one repetition."""
BULK_SEC = 3.0
SHARES_SEC = 4.0
SETTLE_SEC = 0.5
WAIT_SEC = 20.0
LIMIT_SEC = 180.0
INTERACTIVE_WEIGHT = 400
"""What the policy gives to the class: the same under both."""

# One program for all: `work 0` computes until SIGTERM and then says how often it went round; `work N` has N short
# turns, each after a sleep of 1 ms, as a command has that reads files.
_WORK = r"""
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
static volatile sig_atomic_t over;
static volatile unsigned long sink;
static void end(int number) { over = 1; }
static void turn(void) { for (int i = 0; i < 30000; i++) sink += i; }
int main(int argc, char **argv)
{
	struct timespec nap = { .tv_nsec = 1000000 };
	unsigned long rounds = 0;
	int turns = atoi(argv[1]);
	signal(SIGTERM, end);
	for (int i = 0; i < turns; i++) { nanosleep(&nap, NULL); turn(); }
	if (turns) return 0;
	while (!over) { turn(); rounds++; }
	printf("%lu\n", rounds);
	return 0;
}
"""
TURNS = 5

# Tenant weight, and its sessions: weight and hogs. A share of one CPU at most for each hog on two CPUs.
_TREE: Mapping[str, tuple[int, Mapping[str, tuple[int, int]]]] = {
    "a": (100, {"a1": (100, 2), "a2": (200, 2)}),
    "b": (300, {"b1": (100, 3)}),
}

_PATH = {"PYTHONPATH": str(CHECKOUT)}

_Tell = Callable[..., None]
"""Makes a call known: :meth:`Scheduler.set_call`."""


class _Host:
    """A process that has the scheduler, as the daemon would."""

    def __init__(self, *, full: bool) -> None:
        command = [sys.executable, str(Path(__file__).with_name("scheduler_host.py")), *(["full"] if full else [])]
        self._command = command

    def __enter__(self) -> _Host:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | _PATH
        )
        self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        with self._process as process:
            said, _error = process.communicate(timeout=WAIT_SEC)
        if process.returncode:
            raise AgentcgError(f"the scheduler's process ended with status {process.returncode}: {said.strip()}")

    def _answer(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line != "ok\n":
            raise AgentcgError(line.strip() or "the scheduler's process has ended")

    def tell(self, cgroup_id: int, **options: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"cgroup_id": cgroup_id, **options}) + "\n")
        self._process.stdin.flush()
        self._answer()


def _silent(*_: int, **__: int) -> None:
    """The kernel's own scheduler reads cpu.weight."""


@contextmanager
def _cgroup(parent: Path, name: str, weight: int = 100) -> Iterator[Path]:
    (parent / "cgroup.subtree_control").write_text("+cpu")
    path = parent / name
    path.mkdir()
    try:
        (path / "cpu.weight").write_text(str(weight))
        yield path
    finally:
        (path / "cgroup.kill").write_text("1")
        deadline = time.monotonic() + WAIT_SEC
        while "populated 1" in (path / "cgroup.events").read_text() and time.monotonic() < deadline:
            time.sleep(0.005)
        path.rmdir()


def _start(call: Path, program: str, turns: int, out: int = -1) -> int:
    """Run the program in a call; return its pid."""
    fd = os.open(call, os.O_RDONLY)
    try:
        pid, pidfd = clone_into_cgroup(fd)
        if not pid:
            if out >= 0:
                os.dup2(out, 1)
            os.execv(program, ["work", str(turns)])
        os.close(pidfd)
        return pid
    finally:
        os.close(fd)


def _usage(call: Path) -> float:
    return int((call / "cpu.stat").read_text().split()[1]) / 1e6


class _Hogs:
    """Busy processes and what they did."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._pids: list[int] = []
        self._read, self._write = os.pipe()

    def __enter__(self) -> _Hogs:
        return self

    def add(self, call: Path, number: int = 1) -> None:
        self._pids += [_start(call, self._program, 0, self._write) for _ in range(number)]

    def stop(self) -> int:
        """End them all; return how often they went round."""
        for pid in self._pids:
            os.kill(pid, signal.SIGTERM)
        for pid in self._pids:
            os.waitpid(pid, 0)
        os.close(self._write)
        self._write = -1
        self._pids = []
        with os.fdopen(self._read) as told:
            return sum(int(line) for line in told)

    def __exit__(self, *_: object) -> None:
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if self._write >= 0:
            os.close(self._write)
            os.close(self._read)


def _beside_hogs(root: Path, program: str, tell: _Tell) -> dict[str, float]:
    """Short calls of one session alone, and beside the hogs of another; then the hogs alone."""
    with ExitStack() as stack:
        tenant = stack.enter_context(_cgroup(root, "tenant"))
        busy = stack.enter_context(_cgroup(tenant, "busy"))
        quick = stack.enter_context(_cgroup(tenant, "quick"))
        calls = [stack.enter_context(_cgroup(busy, f"hog-{number}")) for number in range(HOGS)]
        short = stack.enter_context(_cgroup(quick, "short", INTERACTIVE_WEIGHT))
        key = tenant.stat().st_ino
        tell(
            short.stat().st_ino,
            session=quick.stat().st_ino,
            tenant=key,
            weight=INTERACTIVE_WEIGHT,
            latency=Latency.INTERACTIVE,
        )
        for call in calls:
            tell(call.stat().st_ino, session=busy.stat().st_ino, tenant=key)
        undisturbed = sorted(_short_call(short, program) for _ in range(CALLS))
        with _Hogs(program) as hogs:
            for call in calls:
                hogs.add(call)
            time.sleep(SETTLE_SEC)
            taken = sorted(_short_call(short, program) for _ in range(CALLS))
        with _Hogs(program) as hogs:
            began = time.perf_counter()
            for call in calls:
                hogs.add(call)
            time.sleep(BULK_SEC)
            rounds = hogs.stop()
            rate = rounds / (time.perf_counter() - began)
    return {
        "undisturbed_p50_ms": undisturbed[CALLS // 2],
        "undisturbed_p95_ms": undisturbed[CALLS * 95 // 100],
        "interactive_p50_ms": taken[CALLS // 2],
        "interactive_p95_ms": taken[CALLS * 95 // 100],
        "bulk_rounds_per_sec": rate,
    }


def _short_call(call: Path, program: str) -> float:
    time.sleep(0.05)
    began = time.perf_counter()
    pid = _start(call, program, TURNS)
    _, status = os.waitpid(pid, 0)
    taken = 1000 * (time.perf_counter() - began)
    if status:
        raise AgentcgError(f"a short call ended with status {status}")
    return taken


def _shares(root: Path, program: str, tell: _Tell) -> dict[str, float]:
    """Two tenants, three sessions, a call each: how far their shares are from their weights."""
    wanted: dict[Path, float] = {}
    with ExitStack() as stack:
        hogs = stack.enter_context(_Hogs(program))
        for tenant_name, (tenant_weight, sessions) in _TREE.items():
            tenant = stack.enter_context(_cgroup(root, tenant_name, tenant_weight))
            for name, (weight, number) in sessions.items():
                session = stack.enter_context(_cgroup(tenant, name, weight))
                call = stack.enter_context(_cgroup(session, "call"))
                keys = {"session": session.stat().st_ino, "tenant": tenant.stat().st_ino}
                tell(call.stat().st_ino, session_weight=weight, tenant_weight=tenant_weight, **keys)
                of_tenant = tenant_weight / sum(each for each, _ in _TREE.values())
                wanted[call] = of_tenant * weight / sum(each for each, _ in sessions.values())
                hogs.add(call, number)
        time.sleep(SETTLE_SEC)
        before = [_usage(call) for call in wanted]
        time.sleep(SHARES_SEC)
        used = [_usage(call) - first for call, first in zip(wanted, before, strict=True)]
    total = sum(used)
    errors = [abs(one / total - share) for one, share in zip(used, wanted.values(), strict=True)]
    return {"weight_error_points": 100 * max(errors)}


def compile_work(stage: Stage) -> str:
    """Return the program that computes (``work 0``) or has N short turns (``work N``)."""
    if "work" not in stage.shared:
        folder = stage.enter_context(tempfile.TemporaryDirectory(prefix="agentcg-bench-"))
        program = f"{folder}/work"
        command = ["gcc", "-O1", "-x", "c", "-", "-o", program]
        done = subprocess.run(command, input=_WORK, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise AgentcgError(f"gcc failed: {done.stderr[-300:]}")
        stage.shared["work"] = program
    found: str = stage.shared["work"]
    return found


def _prepare(stage: Stage, *, full: bool | None) -> Repetition:
    """:param full: the switch of all tasks; None for the kernel's own scheduler"""
    unified = find_mounts(Path("/proc/self/mountinfo").read_text()).unified
    if unified is None:
        raise Unsupported("there is no cgroup v2 here")
    program = compile_work(stage)

    def repeat() -> Mapping[str, float]:
        with ExitStack() as stack:
            root = stack.enter_context(_cgroup(Path(unified), f"agentcg-bench-{os.getpid()}"))
            tell: _Tell = _silent if full is None else stack.enter_context(_Host(full=full)).tell
            return {**_beside_hogs(root, program, tell), **_shares(root, program, tell)}

    return repeat


def _arms() -> Sequence[Arm]:
    return (
        Arm("eevdf", lambda stage: _prepare(stage, full=None), limit_sec=LIMIT_SEC, expected_sec=20),
        Arm("agentcg_sched", lambda stage: _prepare(stage, full=False), limit_sec=LIMIT_SEC, expected_sec=22),
        Arm("agentcg_sched_full", lambda stage: _prepare(stage, full=True), limit_sec=LIMIT_SEC, expected_sec=22),
    )


BENCH = Bench(
    name="scheduler",
    summary="the scheduler for calls against the kernel's own: short calls beside hogs, bulk work, shares",
    parts=(
        Part(
            "scheduler",
            _arms,
            vm=("--memory", "2G", "--cpus", "2", "--one-thread"),
            quick_sec=45,
            quick_arms=("eevdf", "agentcg_sched"),
        ),
    ),
    units={
        "undisturbed_p50_ms": "ms",
        "undisturbed_p95_ms": "ms",
        "interactive_p50_ms": "ms",
        "interactive_p95_ms": "ms",
        "bulk_rounds_per_sec": "1/s",
        "weight_error_points": "points",
    },
    ratios=(
        Ratio("interactive_p95_over_eevdf", "agentcg_sched", "eevdf", metric="interactive_p95_ms", goal=0.7),
        Ratio("interactive_p50_over_eevdf", "agentcg_sched", "eevdf", metric="interactive_p50_ms"),
        Ratio("bulk_over_eevdf", "agentcg_sched", "eevdf", metric="bulk_rounds_per_sec", goal=0.97, better="higher"),
        Ratio("weight_error_points", "agentcg_sched", metric="weight_error_points", goal=2.0),
        Ratio("eevdf_weight_error_points", "eevdf", metric="weight_error_points"),
        Ratio("full_interactive_p95_over_eevdf", "agentcg_sched_full", "eevdf", metric="interactive_p95_ms"),
        Ratio("full_bulk_over_eevdf", "agentcg_sched_full", "eevdf", metric="bulk_rounds_per_sec", better="higher"),
        Ratio("full_weight_error_points", "agentcg_sched_full", metric="weight_error_points"),
    ),
    n=15,
    quick_n=2,
    warm_up=1,
)
