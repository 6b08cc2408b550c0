# SPDX-License-Identifier: Apache-2.0
"""Who has which part of the simulated CPUs."""

from __future__ import annotations

from collections.abc import Iterator

from agentcg.kv.simulation.cores import share_out
from agentcg.replay.simulation.group import Group
from agentcg.replay.simulation.process import Process

__all__ = ["share_cpus"]


def share_cpus(group: Group, cpus: float) -> None:
    """Divide ``cpus`` among the running processes in a group and below it, by weight from the top down."""
    if group.runnable <= cpus:
        for process in _running(group):
            process.share = 1.0
        return
    below = list(group.active)
    most = [(float(one.runnable) if isinstance(one, Group) else 1.0, float(one.weight)) for one in below]
    for one, share in zip(below, share_out(cpus, most), strict=True):
        if isinstance(one, Group):
            share_cpus(one, share)
        else:
            one.share = share


def _running(group: Group) -> Iterator[Process]:
    for one in group.active:
        if isinstance(one, Group):
            yield from _running(one)
        else:
            yield one
