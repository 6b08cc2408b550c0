# SPDX-License-Identifier: Apache-2.0
"""What a call used, from the counters of its cgroup."""

import math

from agentcg.cgroup import files
from agentcg.cgroup.node import Node
from agentcg.model import Usage

__all__ = ["cpu_sec", "memory_current", "memory_high", "memory_peak", "memory_pressure", "pids_current", "read_cpu"]
__all__ += ["read_usage"]


def read_usage(node: Node, duration_sec: float) -> Usage:
    """Return the counters of ``node`` and all below it. A counter that this kernel does not keep is None."""
    cpu = files.read_flat_keyed(node.fd, "cpu.stat")
    memory = files.read_flat_keyed(node.fd, "memory.events")
    pids = files.read_flat_keyed(node.fd, "pids.events")
    stall = files.read_pressure(node.fd, "memory.pressure")
    io = files.read_nested_keyed(node.fd, "io.stat")
    return Usage(
        duration_sec=duration_sec,
        cpu_sec=_seconds(cpu.get("usage_usec")),
        cpu_user_sec=_seconds(cpu.get("user_usec")),
        cpu_system_sec=_seconds(cpu.get("system_usec")),
        cpu_throttled_sec=_seconds(cpu.get("throttled_usec")),
        memory_peak=_count(node, "memory.peak"),
        swap_peak=_count(node, "memory.swap.peak"),
        memory_high_events=memory.get("high"),
        memory_max_events=memory.get("max"),
        memory_oom_events=memory.get("oom"),
        memory_stall_sec=None if stall is None else stall.some.total_sec,
        oom_kills=memory.get("oom_kill"),
        oom_group_kills=memory.get("oom_group_kill"),
        pids_peak=_count(node, "pids.peak"),
        pids_limit_events=pids.get("max"),
        io_read_bytes=sum(device.get("rbytes", 0) for device in io.values()) if io else None,
        io_written_bytes=sum(device.get("wbytes", 0) for device in io.values()) if io else None,
    )


def memory_current(node: Node) -> int | None:
    """Return the memory charged to ``node`` now, in bytes."""
    return _count(node, "memory.current")


def memory_peak(node: Node) -> int | None:
    """Return the most memory that was ever charged to ``node``, in bytes."""
    return _count(node, "memory.peak")


def memory_high(node: Node) -> int | None:
    """Return where ``node`` is slowed down, in bytes; None if nowhere."""
    return _count(node, "memory.high")


def memory_pressure(node: Node) -> float | None:
    """Return the share of the last 10 s, in percent, in which some task of ``node`` waited for memory."""
    pressure = files.read_pressure(node.fd, "memory.pressure")
    return None if pressure is None else pressure.some.avg10


def pids_current(node: Node) -> int | None:
    """Return the number of tasks in ``node`` now."""
    return _count(node, "pids.current")


def cpu_sec(node: Node) -> float | None:
    """Return the CPU time that ``node`` has used so far, in seconds."""
    return _seconds(files.read_flat_keyed(node.fd, "cpu.stat").get("usage_usec"))


def read_cpu(node: Node) -> tuple[float | None, float | None]:
    """Return the CPU time that ``node`` has used so far, and for how long cpu.max has held it back, in seconds."""
    stat = files.read_flat_keyed(node.fd, "cpu.stat")
    return _seconds(stat.get("usage_usec")), _seconds(stat.get("throttled_usec"))


def _count(node: Node, name: str) -> int | None:
    value = files.read_int(node.fd, name)
    return None if value is None or value == math.inf else int(value)


def _seconds(usec: int | None) -> float | None:
    return None if usec is None else usec / 1e6
