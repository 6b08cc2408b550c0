# SPDX-License-Identifier: Apache-2.0
"""``agentcg replay``: recorded sessions again."""

from __future__ import annotations

import os
from pathlib import Path

import click

from agentcg.cli.replay_inputs import arms_of, describe, open_folder, plans_of, protected_of, replay_options
from agentcg.cli.replay_outputs import progress, show
from agentcg.cli.replay_simulated import simulated
from agentcg.cli.replay_sweep import sweep
from agentcg.replay.live import Options
from agentcg.replay.live import replay as run_live
from agentcg.units import parse_duration, parse_size

__all__ = ["replay"]


@click.group()
def replay() -> None:
    """Replay recorded sessions."""


replay.add_command(simulated)
replay.add_command(sweep)


@replay.command()
@replay_options
@click.option("--warm-up", is_flag=True, help="Touch all memory of this virtual machine once before measuring.")
def live(
    arms: tuple[str, ...],
    rounds: int,
    seed: int,
    speed: float,
    memory_max: str,
    agent_memory: str | None,
    policy: str,
    protected: tuple[str, ...],
    timeout: str,
    output: Path | None,
    resume: bool,
    json_file: Path | None,
    recordings: tuple[str, ...],
    warm_up: bool,
) -> None:
    """Replay sessions side by side under one memory limit, without agentcg and with it.

    RECORDING is a recording file, an attempt directory of the AgentCgroup data set, or a directory of such ones; the
    same one may be given twice. Every tool call is a process that holds what was recorded, and so is every agent.
    ARM is none, static, high-only, psi-loop, agentcg or agentcg=POLICY. Takes root and cgroup v2.
    """
    options = Options(
        memory_max=parse_size("--memory-max", memory_max),
        arms=arms_of(arms, policy),
        rounds=rounds,
        seed=seed,
        speed=speed,
        timeout_sec=parse_duration("--timeout", timeout),
        warm_up=warm_up,
    )
    extra = parse_size("--agent-memory", agent_memory) if agent_memory else 0
    plans = protected_of(plans_of(recordings, extra), protected)
    cpus = os.cpu_count() or 1
    description = describe(
        "live",
        plans,
        options.arms,
        cpus=cpus,
        memory_max=options.memory_max,
        speed=speed,
        seed=seed,
        rounds=rounds,
        policy=policy,
        agentMemory=extra,
        timeoutSec=options.timeout_sec,
        warmUp=warm_up,
    )
    folder = open_folder(output, description, resume=resume)
    with progress() as tell:
        run_live(plans, options, folder, tell)
    show(folder.results, options.arms, json_file, cpus=cpus, policy=policy, agent_memory=extra)
