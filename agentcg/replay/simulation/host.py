# SPDX-License-Identifier: Apache-2.0
"""What the simulated host is like."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SimulatedHost"]


@dataclass(frozen=True, slots=True)
class SimulatedHost:
    """A host, and the rates of its kernel. The defaults are those of a machine with two emulated CPUs: docs/replay.md
    says how they were found, and how near the model comes with them."""

    memory_max: int
    """What all sessions have together, without swap, bytes."""
    cpus: float = 2.0
    growth_rate: float = 340e6
    """Bytes that one CPU hands out in a second, page by page, zeroed."""
    start_sec: float = 0.1
    """CPU seconds that starting a process takes whoever replays, one after another."""
    boundary_sec: float = 0.06
    """CPU seconds that the daemon takes for beginning and ending a call, both together; also for opening a session."""
    look_sec: float = 0.002
    """CPU seconds that the daemon takes for a look."""
    freeze_sec: float = 0.009
    """From the order to freeze until all tasks stand still, seconds."""
    kill_sec: float = 0.15
    """From a SIGKILL until the memory is back, seconds."""
    oom_wait_sec: float = 0.1
    """After this the OOM killer chooses the next, if memory is still short, seconds."""
    jitter: float = 0.2
    """By which part the start of a process may take longer or shorter; the seed decides."""
