# SPDX-License-Identifier: Apache-2.0
"""``agentcg replay simulated``."""

from __future__ import annotations

from pathlib import Path

import click

from agentcg.cli.replay_inputs import (
    arms_of,
    check_draw,
    describe_simulated,
    open_folder,
    plans_of,
    protected_of,
    replay_options,
)
from agentcg.cli.replay_outputs import progress, show
from agentcg.errors import InvalidInput
from agentcg.replay.simulated import SimulatedOptions
from agentcg.replay.simulated import replay as run_simulated
from agentcg.replay.simulation.host import SimulatedHost
from agentcg.units import parse_duration, parse_size

__all__ = ["simulated"]


@click.command()
@replay_options
@click.option("--cpus", type=click.FloatRange(0.1, 4096), default=2.0, show_default=True, help="Of the host.")
@click.option("--draw", metavar="K", type=click.IntRange(1), help="Each round draws K of the recordings.")
def simulated(
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
    cpus: float,
    draw: int | None,
) -> None:
    """Simulate what 'agentcg replay live' does, on a model of a host: no processes, no root, and much faster.

    RECORDING is a recording file, an attempt directory of the AgentCgroup data set, or a directory of such ones. With
    --draw each round draws K of all, none twice, and the first that is drawn is protected; without it all take part in
    each round, and --protect says who is. ARM is none, static, high-only, psi-loop, agentcg or agentcg=POLICY.
    """
    extra = parse_size("--agent-memory", agent_memory) if agent_memory else 0
    plans = plans_of(recordings, extra)
    if draw is None:
        plans = protected_of(plans, protected)
    elif protected:
        raise InvalidInput("--protect", "with --draw the first session that is drawn is protected", hint="leave it out")
    check_draw("--draw", draw, plans)
    options = SimulatedOptions(
        host=SimulatedHost(parse_size("--memory-max", memory_max), cpus),
        arms=arms_of(arms, policy),
        rounds=rounds,
        seed=seed,
        speed=speed,
        timeout_sec=parse_duration("--timeout", timeout),
        draw=draw,
    )
    description = describe_simulated(plans, options, agent_memory=extra, policy=policy)
    folder = open_folder(output, description, resume=resume)
    with progress() as tell:
        run_simulated(plans, options, folder, tell)
    show(folder.results, options.arms, json_file, cpus=cpus, policy=policy, agent_memory=extra)
