# SPDX-License-Identifier: Apache-2.0
"""Whom a simulated OOM killer chooses."""

from __future__ import annotations

from agentcg.replay.simulation.group import Group
from agentcg.replay.simulation.process import Process

__all__ = ["choose"]


def choose(group: Group) -> list[Process]:
    """Return whom the OOM killer ends when a group's limit has run out: the worst of those that it has not chosen yet
    (oom_badness() in mm/oom_kill.c), and all of its call with it (memory.oom.group). Nobody if all are chosen."""
    processes = [process for process in group.all_processes() if not process.chosen]
    if not processes:
        return []
    limit = group.maximum or 0
    worst = max(processes, key=lambda process: process.held + process.oom_score_adj * limit / 1000)
    whole = [above for above in worst.group.above if above.oom_group and group in above.above]
    return list(whole[-1].all_processes()) if whole else [worst]
