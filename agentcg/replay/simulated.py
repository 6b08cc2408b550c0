# SPDX-License-Identifier: Apache-2.0
"""Rounds of simulated replays."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from agentcg.errors import AgentcgError
from agentcg.replay.arm_spec import ArmSpec, title_of
from agentcg.replay.events import Event, Sample
from agentcg.replay.plan import SessionPlan, protect
from agentcg.replay.rounds import Progress, round_of, turns
from agentcg.replay.run_folder import FinishedArm, RunFolder
from agentcg.replay.sampler import Samples
from agentcg.replay.simulation.host import SimulatedHost
from agentcg.replay.simulation.simulate import simulate

__all__ = ["SimulatedOptions", "drawn", "replay", "take_turn"]


@dataclass(frozen=True, slots=True)
class SimulatedOptions:
    """How simulated replays run."""

    host: SimulatedHost
    arms: tuple[ArmSpec, ...]
    rounds: int = 1
    seed: int = 0
    speed: float = 20.0
    """Recorded seconds, and CPU seconds, per second."""
    timeout_sec: float = 600.0
    """For each arm, in the time of the replay."""
    draw: int | None = None
    """How many sessions take part in a round; None: all, in each."""


def replay(plans: Sequence[SessionPlan], options: SimulatedOptions, folder: RunFolder, progress: Progress) -> None:
    """Simulate each arm in each round, except what has finished already, and put how that went into ``folder``.

    :raises AgentcgError: if an arm cannot be simulated, or it was interrupted
    """
    due = turns(options.arms, options.rounds, options.seed)
    try:
        for at, (number, spec) in enumerate(due):
            progress(round_of(number, options.rounds) + title_of(spec.name), at / len(due))
            if not folder.has(number, spec.name):
                folder.append(*take_turn(number, spec, plans, options))
    except KeyboardInterrupt:
        raise AgentcgError("the simulation was interrupted", hint=folder.resume_hint) from None


def take_turn(
    number: int, spec: ArmSpec, plans: Sequence[SessionPlan], options: SimulatedOptions
) -> tuple[FinishedArm, list[Event]]:
    """Simulate one arm in the round ``number``, and return what it came to and what happened in it.

    :raises AgentcgError: if it cannot be simulated
    """
    began = time.monotonic()
    events: list[Event] = []
    samples = Samples()

    def tell(event: Event) -> None:
        if isinstance(event, Sample):
            samples.add(event)
        else:
            events.append(event)

    chance = _chance(options.seed, number)
    result = simulate(
        drawn(plans, options.draw, chance),
        spec,
        options.host,
        speed=options.speed,
        seed=chance.getrandbits(32),
        timeout_sec=options.timeout_sec,
        tell=tell,
    )
    return FinishedArm(number, spec.name, result, time.monotonic() - began), [*events, *samples.kept]


def _chance(seed: int, number: int) -> Random:
    """What is left to chance in a round is the same for all of its arms."""
    return Random(f"{seed} {number}")  # noqa: S311  no secret is made of it


def drawn(plans: Sequence[SessionPlan], count: int | None, chance: Random) -> list[SessionPlan]:
    """Return the sessions of a round: all, or ``count`` of them that are drawn, of which the first is protected."""
    if count is None:
        return list(plans)
    first, *others = chance.sample(plans, count)
    return [protect(first, None), *others]
