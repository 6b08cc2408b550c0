# SPDX-License-Identifier: Apache-2.0
"""What the commands of ``agentcg replay`` share: their options, their sessions, and what describes a run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from agentcg import __version__
from agentcg.cli.trace_sources import with_progress
from agentcg.errors import InvalidInput
from agentcg.jsonkeys import camel_keys
from agentcg.model import validate_name
from agentcg.replay.arm_spec import ArmSpec, parse_arm
from agentcg.replay.host import describe_machine
from agentcg.replay.plan import SessionPlan, make_plan, name_for, protect, unique_names
from agentcg.replay.run_description import Mode, RunDescription, SessionDescription
from agentcg.replay.run_folder import RunFolder, open_run
from agentcg.replay.simulated import SimulatedOptions
from agentcg.trace.importer import Importer, Source
from agentcg.trace.model import Recording
from agentcg.trace.registry import IMPORTERS, RECORDINGS, find_sources
from agentcg.units import parse_size

__all__ = ["arms_of", "check_draw", "describe", "describe_session", "describe_simulated", "open_folder", "plans_of"]
__all__ += ["protected_of", "replay_options"]

_F = TypeVar("_F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path)

_OPTIONS = (
    click.option("--arm", "arms", multiple=True, metavar="ARM", help="This one; may be repeated. [none and agentcg]"),
    click.option("--rounds", type=click.IntRange(1, 100_000), default=1, show_default=True, help="Of all arms."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all that is drawn."),
    click.option("--speed", type=click.FloatRange(0.01, 1000), default=20.0, show_default=True, help="Times the pace."),
    click.option("--memory-max", metavar="SIZE", default="1100M", show_default=True, help="What all have together."),
    click.option("--agent-memory", metavar="SIZE", help="What each agent holds besides what was recorded."),
    click.option("--policy", default="default", show_default=True, help="The policy of the arm agentcg."),
    click.option("--protect", "protected", multiple=True, metavar="NAME[:SIZE]", help="Reserve this session's memory."),
    click.option("--timeout", metavar="DURATION", default="10m", show_default=True, help="For each arm."),
    click.option("-o", "--output", metavar="RUN", type=_FILE, help="Keep results and events in this folder."),
    click.option("--resume", is_flag=True, help="Go on with the run in this folder."),
    click.option("--json", "json_file", metavar="FILE", type=_FILE, help="Write the result there."),
    click.argument("recordings", metavar="[NAME=]RECORDING...", nargs=-1, required=True),
)


def replay_options(command: _F) -> _F:
    """Give a command the options of every replay."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def arms_of(names: Sequence[str], policy: str) -> tuple[ArmSpec, ...]:
    """Return the arms by their names, each once; ``policy`` is that of the arm ``agentcg``."""
    specs = [parse_arm(name) for name in dict.fromkeys(names or ("none", "agentcg"))]
    return tuple(replace(spec, policy=policy) if spec.name == "agentcg" else spec for spec in specs)


def plans_of(arguments: Sequence[str], agent_memory: int) -> list[SessionPlan]:
    """Return the sessions of all recordings that are named, or lie below a directory that is named.

    :param agent_memory: what each agent holds besides what was recorded, bytes
    :raises InvalidInput: if one that is named cannot be replayed. Of several in a directory it is left out, and said
    """
    read: dict[Path, list[Recording]] = {}
    made: list[SessionPlan] = []
    for name, alone, importer, source in with_progress(_find(arguments), "reading"):
        try:
            if source.path not in read:
                read[source.path] = importer.read(source)
            made += [
                make_plan(recording, name or name_for(recording.name), agent_memory=agent_memory)
                for recording in read[source.path]
            ]
        except InvalidInput as error:
            if alone:
                raise
            click.echo(f"agentcg: left out: {error}", err=True)
    names = unique_names([plan.name for plan in made])
    return [replace(plan, name=validate_name("session", name)) for name, plan in zip(names, made, strict=True)]


def _find(arguments: Sequence[str]) -> list[tuple[str, bool, Importer, Source]]:
    """The name that was given, whether the source is all that it was given to, and how to read it."""
    found = []
    for argument in arguments:
        name, equals, path = argument.partition("=")
        # A path may hold "=" itself, and then needs no name.
        if not equals or "/" in name:
            name, path = "", argument
        sources = find_sources(Path(path), (RECORDINGS, *IMPORTERS))
        found += [(name, len(sources) == 1, importer, source) for importer, source in sources]
    return found


def protected_of(plans: Sequence[SessionPlan], protected: Sequence[str]) -> list[SessionPlan]:
    """Return the sessions, some of them protected. :raises InvalidInput: if one that is to be is not there"""
    sizes: dict[str, int | None] = {}
    for text in protected:
        name, colon, size = text.partition(":")
        sizes[name] = parse_size(f"--protect {name}", size) if colon else None
        if name not in (plan.name for plan in plans):
            known = ", ".join(plan.name for plan in plans)
            raise InvalidInput("--protect", f"there is no session {name[:80]!r}", hint=f"there are {known}")
    return [protect(plan, sizes[plan.name]) if plan.name in sizes else plan for plan in plans]


def describe(
    mode: Mode,
    plans: Sequence[SessionPlan] | None,
    arms: Sequence[ArmSpec],
    *,
    cpus: float,
    memory_max: int,
    speed: float,
    seed: int,
    rounds: int,
    **options: Any,
) -> RunDescription:
    """Return the description of a run.

    :param plans: None if each round draws its own
    :param options: what else its results depend on, under the names of the socket
    """
    return RunDescription(
        mode=mode,
        agentcg=__version__,
        kernel=os.uname().release,
        cpus=cpus,
        machine=describe_machine(),
        memory_max=memory_max,
        speed=speed,
        seed=seed,
        rounds=rounds,
        arms=[arm.name for arm in arms],
        sessions=None if plans is None else [describe_session(plan) for plan in plans],
        options=options,
    )


def describe_simulated(
    plans: Sequence[SessionPlan], options: SimulatedOptions, *, agent_memory: int, policy: str = "default"
) -> RunDescription:
    """Return the description of simulated replays.

    :param agent_memory: what each agent holds besides what was recorded, in bytes; in ``plans`` it is
    :param policy: that of the arm ``agentcg``
    """
    return describe(
        "simulated",
        plans if options.draw is None else None,
        options.arms,
        cpus=options.host.cpus,
        memory_max=options.host.memory_max,
        speed=options.speed,
        seed=options.seed,
        rounds=options.rounds,
        policy=policy,
        agentMemory=agent_memory,
        timeoutSec=options.timeout_sec,
        draw=options.draw,
        recordings=[plan.name for plan in plans],
        host=camel_keys(dataclasses.asdict(options.host)),
    )


def check_draw(place: str, draw: int | None, plans: Sequence[SessionPlan]) -> None:
    """:raises InvalidInput: if there are not so many sessions"""
    if draw is not None and draw > len(plans):
        raise InvalidInput(place, f"{draw} cannot be drawn of {len(plans)} recordings", hint="name more of them")


def describe_session(plan: SessionPlan) -> SessionDescription:
    """Return the description of a session."""
    return SessionDescription(
        name=plan.name,
        recording=plan.recording,
        protected=plan.reserve is not None,
        reserve=plan.reserve,
        peak=plan.peak,
        recorded_sec=plan.duration_sec,
        calls=len(plan.calls),
    )


def open_folder(path: Path | None, description: RunDescription, *, resume: bool) -> RunFolder:
    """Return where the run is kept: nowhere without a path. :raises InvalidInput: if it cannot be gone on with"""
    if path is not None:
        return open_run(path, description, resume=resume)
    if resume:
        raise InvalidInput("--resume", "there is no folder to go on with", hint="name the one that -o named")
    return RunFolder()
