# SPDX-License-Identifier: Apache-2.0
"""``agentcg replay``: recorded sessions again, with real memory and CPU time."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from agentcg.errors import AgentcgError, InvalidInput
from agentcg.replay.live import Options, Progress
from agentcg.replay.live import replay as run_live
from agentcg.replay.plan import SessionPlan, make_plan, name_for, protect, unique_names
from agentcg.replay.result import ArmName, to_json
from agentcg.replay.table import render
from agentcg.trace.agentcgroup import import_attempt
from agentcg.trace.format import read
from agentcg.trace.model import Recording
from agentcg.units import parse_duration, parse_size

__all__ = ["replay"]


@click.group()
def replay() -> None:
    """Replay recorded sessions."""


@replay.command()
@click.option("--arm", "arms", multiple=True, type=click.Choice(["none", "agentcg"]), help="Only this one. [both]")
@click.option("--speed", type=click.FloatRange(0.01, 1000), default=20.0, show_default=True, help="Times the pace.")
@click.option("--memory-max", metavar="SIZE", default="1100M", show_default=True, help="What all have together.")
@click.option("--agent-memory", metavar="SIZE", help="What each agent holds besides what was recorded.")
@click.option("--policy", default="default", show_default=True, help="The policy of the agentcg arm.")
@click.option("--protect", "protected", multiple=True, metavar="NAME[:SIZE]", help="Reserve this session's memory.")
@click.option("--timeout", metavar="DURATION", default="10m", show_default=True, help="For each arm.")
@click.option("--warm-up", is_flag=True, help="Touch all memory of this virtual machine once before measuring.")
@click.option("--json", "json_file", metavar="FILE", type=click.Path(path_type=Path), help="Write the result there.")
@click.argument("recordings", metavar="[NAME=]RECORDING...", nargs=-1, required=True)
def live(
    arms: tuple[ArmName, ...],
    speed: float,
    memory_max: str,
    agent_memory: str | None,
    policy: str,
    protected: tuple[str, ...],
    timeout: str,
    warm_up: bool,
    json_file: Path | None,
    recordings: tuple[str, ...],
) -> None:
    """Replay sessions side by side under one memory limit, without agentcg and with it.

    RECORDING is a recording file or an attempt directory of the AgentCgroup data set; the same one may be given twice.
    Every tool call is a process that holds what was recorded, and so is every agent. Takes root and cgroup v2.
    """
    options = Options(
        memory_max=parse_size("--memory-max", memory_max),
        arms=tuple(dict.fromkeys(arms)) or ("none", "agentcg"),
        speed=speed,
        policy=policy,
        timeout_sec=parse_duration("--timeout", timeout),
        warm_up=warm_up,
    )
    extra = parse_size("--agent-memory", agent_memory) if agent_memory else 0
    plans = _protect(_plans(recordings, extra), protected)
    results = run_live(plans, options, _progress())
    Console(highlight=False).print(render(results))
    if json_file is not None:
        kernel = os.uname().release
        run = {"kernel": kernel, "cpus": os.cpu_count(), "policy": policy, "agent_memory": extra}
        _write(json_file, json.dumps(to_json(results, **run), indent=2) + "\n")


def _plans(arguments: Sequence[str], agent_memory: int) -> list[SessionPlan]:
    loaded: dict[str, Recording] = {}
    names, chosen = [], []
    for argument in arguments:
        name, equals, path = argument.partition("=")
        # A path may hold "=" itself, and then needs no name.
        if not equals or "/" in name:
            name, path = "", argument
        if path not in loaded:
            loaded[path] = import_attempt(path) if os.path.isdir(path) else read(path)
        names.append(name or name_for(loaded[path].name))
        chosen.append(loaded[path])
    return [
        make_plan(recording, name, agent_memory=agent_memory)
        for recording, name in zip(chosen, unique_names(names), strict=True)
    ]


def _protect(plans: list[SessionPlan], protected: Sequence[str]) -> list[SessionPlan]:
    sizes: dict[str, int | None] = {}
    for text in protected:
        name, colon, size = text.partition(":")
        sizes[name] = parse_size(f"--protect {name}", size) if colon else None
        if name not in (plan.name for plan in plans):
            known = ", ".join(plan.name for plan in plans)
            raise InvalidInput("--protect", f"there is no session {name[:80]!r}", hint=f"there are {known}")
    return [protect(plan, sizes[plan.name]) if plan.name in sizes else plan for plan in plans]


def _progress() -> Progress:
    """One line on a terminal, written over; elsewhere one for each new thing. Nothing in the first second."""
    began, told = time.monotonic(), ""

    def tell(text: str, share: float) -> None:
        nonlocal told
        if time.monotonic() - began < 1:
            return
        if sys.stderr.isatty():
            click.echo(f"\r\033[K{text}: {share:.0%}", nl=False, err=True)
            if share >= 1:
                click.echo("\r\033[K", nl=False, err=True)
        elif text != told:
            click.echo(f"agentcg: {text} …", err=True)
        told = text

    return tell


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise AgentcgError(f"{path}: cannot be written: {error.strerror}", hint="choose another --json") from None
