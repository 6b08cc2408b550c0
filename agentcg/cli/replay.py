# SPDX-License-Identifier: Apache-2.0
"""``agentcg replay``: recorded sessions again."""

from __future__ import annotations

import os
from pathlib import Path

import click

from agentcg.cli.replay_inputs import arms_of, describe, open_folder, plans_of, protected_of, replay_options
from agentcg.cli.replay_outputs import progress, show
from agentcg.cli.replay_server import describe_server, server_of, server_options
from agentcg.cli.replay_simulated import simulated
from agentcg.cli.replay_sweep import sweep
from agentcg.replay.live import Options
from agentcg.replay.live import replay as run_live
from agentcg.replay.served.options import ServerEngine
from agentcg.units import parse_duration, parse_size

__all__ = ["replay"]


@click.group()
def replay() -> None:
    """Replay recorded sessions."""


replay.add_command(simulated)
replay.add_command(sweep)


@replay.command()
@replay_options
@server_options
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
    server: str | None,
    model: str | None,
    engine: ServerEngine | None,
    server_tokens: int | None,
    server_timeout: str | None,
    warm_up: bool,
) -> None:
    """Replay sessions side by side under one memory limit, without agentcg and with it.

    RECORDING is a recording file, an attempt directory of the AgentCgroup data set, or a directory of such ones; the
    same one may be given twice. Every tool call is a process that holds what was recorded, and so is every agent.
    ARM is none, static, high-only, psi-loop, agentcg or agentcg=POLICY. Takes root and cgroup v2.

    With --server an OpenAI-compatible server is asked wherever the recorded agent asked its model, for contexts of the
    recorded length; --server-tokens scales them down. With --engine llamacpp the arm agentcg has a gateway before it.
    """
    extra = parse_size("--agent-memory", agent_memory) if agent_memory else 0
    plans = protected_of(plans_of(recordings, extra), protected)
    options = Options(
        memory_max=parse_size("--memory-max", memory_max),
        arms=arms_of(arms, policy),
        rounds=rounds,
        seed=seed,
        speed=speed,
        timeout_sec=parse_duration("--timeout", timeout),
        warm_up=warm_up,
        server=server_of(plans, server, model, engine, server_tokens, server_timeout),
    )
    cpus = os.cpu_count() or 1
    description = describe(
        "live" if options.server is None else "served",
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
        **describe_server(options.server),
    )
    folder = open_folder(output, description, resume=resume)
    with progress() as tell:
        run_live(plans, options, folder, tell)
    show(folder.results, options.arms, json_file, cpus=cpus, policy=policy, agent_memory=extra)
