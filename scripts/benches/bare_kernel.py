# SPDX-License-Identifier: Apache-2.0
"""A call without a daemon: the operations on files and processes that it consists of, one after the other.

The spawning process is as large and started in the same way as in :class:`agentcg.api.client.Call`, so that what is
left between the two is the daemon: its socket, its decisions, its records.
"""

from __future__ import annotations

import errno
import os
import secrets
import select
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from agentcg.api import types
from benches.harness import Stage

__all__ = ["COUNTERS", "BareCall", "leaf_of", "make_repetition"]

COUNTERS = (
    "cgroup.events",
    "cpu.stat",
    "memory.events",
    "pids.events",
    "memory.pressure",
    "io.stat",
    "memory.peak",
    "memory.swap.peak",
    "pids.peak",
)
"""What the daemon reads at the end of a call, in its order."""

RECORD = "user.agentcg"
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


def leaf_of(environment: Mapping[str, str]) -> str:
    """Return the directory of a call that has ``environment``."""
    return os.path.dirname(environment["MEMORY_PRESSURE_WATCH"])


@dataclass(frozen=True)
class BareCall:
    """What the daemon did for one call, to be done again by hand."""

    parent: str
    writes: tuple[tuple[str, bytes], ...]
    record: bytes
    environment: Mapping[str, str]
    oom_score_adj: int

    @classmethod
    def like(cls, leaf: str, limits: types.Limits, environment: Mapping[str, str], oom_score_adj: int) -> BareCall:
        """Return the same as the call of the daemon in ``leaf``: the same files, values and record, same parent."""
        written = {
            "memory.oom.group": 1,
            "memory.low": limits.memoryLow,
            "memory.high": limits.memoryHigh,
            "memory.max": limits.memoryMax,
            "memory.swap.max": limits.swapMax,
            "pids.max": limits.pidsMax,
        }
        writes = [(name, str(value).encode()) for name, value in written.items() if value is not None]
        if limits.cpuWeight != 100:
            writes.append(("cpu.weight", str(limits.cpuWeight).encode()))
        if limits.ioWeight != 100:
            writes.append(("io.weight", f"default {limits.ioWeight}".encode()))
        return cls(os.path.dirname(leaf), tuple(writes), os.getxattr(leaf, RECORD), environment, oom_score_adj)


def make_repetition(stage: Stage, bare: BareCall, program: str) -> Callable[[], tuple[float, float, float, float]]:
    """Return what makes one call that runs ``program``: when it started, was begun, had run, was removed."""
    parent = os.open(bare.parent, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
    stage.callback(os.close, parent)
    epoll = stage.enter_context(select.epoll())

    def repeat() -> tuple[float, float, float, float]:
        start = time.perf_counter()
        name = f"k-{secrets.token_hex(6)}"
        os.mkdir(name, 0o755, dir_fd=parent)
        try:
            leaf = os.open(name, os.O_RDONLY | os.O_DIRECTORY | _FLAGS, dir_fd=parent)
            try:
                return _call(start, bare, program, parent, name, leaf, epoll)
            finally:
                os.close(leaf)
        except BaseException:
            with suppress(OSError):
                os.rmdir(name, dir_fd=parent)
            raise

    return repeat


def _call(
    start: float, bare: BareCall, program: str, parent: int, name: str, leaf: int, epoll: select.epoll
) -> tuple[float, float, float, float]:
    os.fstat(leaf)
    for file, text in bare.writes:
        fd = os.open(file, os.O_WRONLY | _FLAGS, dir_fd=leaf)
        os.write(fd, text)
        os.close(fd)
    os.setxattr(leaf, RECORD, bare.record)
    watched = os.open("memory.events", os.O_RDONLY | _FLAGS, dir_fd=leaf)
    os.read(watched, 4096)
    epoll.register(watched, select.EPOLLPRI | select.EPOLLERR)
    procs = os.open("cgroup.procs", os.O_WRONLY | _FLAGS, dir_fd=leaf)
    begun = time.perf_counter()

    def place() -> None:
        os.write(procs, b"0")
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(bare.oom_score_adj))

    environment = dict(os.environ) | dict(bare.environment)
    with subprocess.Popen([program], env=environment, preexec_fn=place) as process:
        status = process.wait()
    ran = time.perf_counter()
    if status:
        raise OSError(f"{program} ended with status {status}")

    os.close(procs)
    epoll.unregister(watched)
    os.close(watched)
    for file in COUNTERS:
        _read(leaf, file)
    while not _rmdir(parent, name):
        time.sleep(0.001)
    return start, begun, ran, time.perf_counter()


def _read(leaf: int, name: str) -> None:
    try:
        fd = os.open(name, os.O_RDONLY | _FLAGS, dir_fd=leaf)
    except FileNotFoundError:  # Not in this kernel, or not without swap: the daemon asks for it all the same.
        return
    os.read(fd, 65_536)
    os.close(fd)


def _rmdir(parent: int, name: str) -> bool:
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno != errno.EBUSY:  # As while the last process is on its way out.
            raise
        return False
    return True
