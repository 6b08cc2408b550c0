# SPDX-License-Identifier: Apache-2.0
"""What a simulated kernel does with a task that is charged above memory.high."""

from __future__ import annotations

from agentcg.replay.simulation.group import PAGE

__all__ = ["BATCH", "TOLERATED", "slow_down_sec"]

BATCH = 64 * PAGE
"""What a task is charged at a time, bytes (MEMCG_CHARGE_BATCH in mm/memcontrol.c)."""
DELAY_MAX_SEC = 2.0
"""MEMCG_MAX_HIGH_DELAY_JIFFIES."""
DELAY_LEAST_SEC = 0.01
"""A shorter delay is none: mem_cgroup_handle_over_high() leaves it out."""
_FACTOR_SEC = 64.0
TOLERATED = (DELAY_LEAST_SEC / _FACTOR_SEC) ** 0.5
"""The part of memory.high by which it may be exceeded before there is a delay."""


def slow_down_sec(usage: float, high: int | None) -> float:
    """Return how long the kernel makes a task wait for a batch charged above memory.high, in seconds.

    The delay is the square of the part by which ``high`` is exceeded, times 64 s (calculate_high_delay() in
    mm/memcontrol.c, with MEMCG_DELAY_PRECISION_SHIFT 20 and MEMCG_DELAY_SCALING_SHIFT 14).
    """
    if high is None or usage <= high:
        return 0.0
    delay = min(_FACTOR_SEC * ((usage - high) / max(high, 1)) ** 2, DELAY_MAX_SEC)
    return delay if delay > DELAY_LEAST_SEC else 0.0
