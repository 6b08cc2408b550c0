# SPDX-License-Identifier: Apache-2.0
"""``agentcg replay sweep``."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import get_args

import click
from rich.console import Console

from agentcg.cli.replay_inputs import check_draw, describe_session, describe_simulated, plans_of
from agentcg.cli.replay_outputs import progress, write_json
from agentcg.errors import AgentcgError, InvalidInput
from agentcg.jsonkeys import camel_keys
from agentcg.replay.plan import with_agent_memory
from agentcg.replay.sweep import cluster, processes
from agentcg.replay.sweep.folder import SweepFolder, options_of
from agentcg.replay.sweep.plan import read_sweep
from agentcg.replay.sweep.table import Metric, render, rows_of
from agentcg.replay.sweep.work import Failed, Workload, policies_of
from agentcg.units import format_duration

__all__ = ["sweep"]

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("file", metavar="SWEEP.toml", type=_FILE)
@click.option("-o", "--output", metavar="DIR", type=_FILE, required=True, help="Keep it there, or go on with it.")
@click.option("--processes", metavar="N", type=click.IntRange(1, 4096), help="At a time. [one for each CPU]")
@click.option("--ray", "address", metavar="ADDRESS", help="On the Ray cluster there: auto, or HOST:PORT.")
@click.option("--by", type=click.Choice(get_args(Metric)), default="completion", show_default=True, help="The order.")
@click.option("--json", "json_file", metavar="FILE", type=_FILE, help="Write all rows of the table there.")
def sweep(
    file: Path, output: Path, processes: int | None, address: str | None, by: Metric, json_file: Path | None
) -> None:
    """Simulate replays of many configurations, in parallel: on this machine, or on many by Ray.

    SWEEP.toml names recordings and a grid of arms, memory limits, CPUs and agents' memory; docs/sweeps.md describes it.
    Each configuration is a run in DIR that 'agentcg report' reads. What is interrupted goes on by the same command.
    """
    if address and processes:
        raise InvalidInput("--processes", "with --ray the cluster has its own", hint="leave one of them out")
    wanted = read_sweep(file)
    plans = plans_of(wanted.recordings, 0)
    check_draw(f"{file}: draw", wanted.draw, plans)
    policies = policies_of([spec for one in wanted.configurations for spec in one.arms])
    agents = {one.agent_memory for one in wanted.configurations}
    sessions = {size: [with_agent_memory(plan, size) for plan in plans] for size in agents}
    runs = [
        describe_simulated(sessions[one.agent_memory], options_of(wanted, one), agent_memory=one.agent_memory)
        for one in wanted.configurations
    ]
    folder = SweepFolder(output, wanted, [describe_session(plan) for plan in plans], policies, runs)
    workload = Workload(sessions, policies)
    failed = _run(folder, workload, processes or len(os.sched_getaffinity(0)), address)
    rows = rows_of(output, wanted.configurations, failed, by)
    Console(highlight=False).print(render(rows, by))
    if json_file is not None:
        values = [camel_keys(dataclasses.asdict(row)) for row in rows]
        write_json(json_file, {"type": "agentcg.sweep-table", "version": 1, "by": by, "rows": values})
    if failed:
        sys.exit(1)


def _run(folder: SweepFolder, workload: Workload, count: int, address: str | None) -> list[Failed]:
    """Do what is left to do, and return what failed of it."""
    if not folder.left:
        return []
    jobs = folder.jobs()
    outcomes = cluster.run_jobs(jobs, workload, address) if address else processes.run_jobs(jobs, workload, count)
    failed = []
    began, due = time.monotonic(), folder.left
    try:
        # What goes wrong in a cluster Ray prints on the standard output, where only the table is wanted.
        with redirect_stdout(sys.stderr), closing(outcomes), progress() as tell:
            for outcome in outcomes:
                folder.settle(outcome)
                if isinstance(outcome, Failed):
                    failed.append(outcome)
                rate = (due - folder.left) / (time.monotonic() - began)
                done = f"{folder.total - folder.left} of {folder.total} jobs"
                left = format_duration(folder.left / rate)
                tell(f"{done}, {rate:.1f} a second, {left} left", 1 - folder.left / folder.total)
    except KeyboardInterrupt:
        message = f"the sweep was interrupted with {folder.left} of {folder.total} jobs left"
        raise AgentcgError(message, hint="the same command goes on with it") from None
    return failed
