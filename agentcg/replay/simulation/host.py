# SPDX-License-Identifier: Apache-2.0
"""What the simulated host is like."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SimulatedHost"]


@dataclass(frozen=True, slots=True)
class SimulatedHost:
    """A host, and the rates of its kernel.

    The defaults are those of a virtual machine with two emulated CPUs, which did nothing else, from the medians of
    ten rounds of ``scripts/bench isolation`` (bench/results/isolation-1100-threads.json): docs/replay.md has how near
    the model comes with them. They are not those of a real processor, nor of a busy one.
    """

    memory_max: int
    """What all sessions have together, without swap, bytes."""
    cpus: float = 2.0
    growth_rate: float = 376e6
    """Bytes that one CPU hands out in a second, page by page, zeroed. Fitted to the growth in the arm ``alone``."""
    start_sec: float = 0.08
    """CPU seconds that whoever replays takes to start a process, one after another. Fitted to the completion times in
    the arms ``alone`` and ``others_alone``."""
    boundary_sec: float = 0.05
    """CPU seconds that the daemon takes to begin and end a call, both together, and to open a session. Of the 56 ms
    that a call's boundaries took in the arm ``agentcg``."""
    look_sec: float = 0.0075
    """CPU seconds that the daemon takes for a look at everybody. What is left of its CPU time in that arm."""
    freeze_sec: float = 0.011
    """From the order to freeze until all tasks stand still, seconds. As the daemon logged it there."""
    kill_sec: float = 0.15
    """From a SIGKILL until the memory is back, seconds. Set by hand, with the next: in the arm ``none`` two or more
    agents die within 0.2 s of each other, as if the OOM killer did not wait for the first."""
    oom_wait_sec: float = 0.1
    """After this the OOM killer chooses the next, if memory is still short, seconds."""
    jitter: float = 0.2
    """By which part the start of a process may take longer or shorter; the seed decides. Set by hand."""
