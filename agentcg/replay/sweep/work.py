# SPDX-License-Identifier: Apache-2.0
"""One job of a sweep: plain values in, plain values out, and the same out for the same in wherever it is done."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from agentcg.errors import AgentcgError
from agentcg.policy.load import find, presets
from agentcg.replay.arm_spec import ArmSpec
from agentcg.replay.events import encode_all
from agentcg.replay.plan import SessionPlan
from agentcg.replay.run_folder import FinishedArm
from agentcg.replay.simulated import SimulatedOptions, take_turn
from agentcg.replay.simulation import SimulatedHost, simulate

__all__ = ["ATTEMPTS", "Done", "Failed", "Job", "Outcome", "Workload", "policies_of"]

ATTEMPTS = 3
"""So many workers may die of a job before it is given up."""


@dataclass(frozen=True, slots=True)
class Job:
    """One arm in one round of one configuration."""

    configuration: int
    """Its number, from 0."""
    round: int
    arm: ArmSpec
    agent_memory: int
    """What each agent holds besides what was recorded, bytes."""
    options: SimulatedOptions


@dataclass(frozen=True, slots=True)
class Done:
    """A job, and what it came to."""

    job: Job
    finished: FinishedArm
    events: bytes
    """Their lines."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A job that came to nothing."""

    job: Job
    reason: str


Outcome = Done | Failed


@dataclass(frozen=True, slots=True)
class Workload:
    """What all jobs share. A worker is given it once."""

    plans: Mapping[int, Sequence[SessionPlan]]
    """The sessions, by what each agent holds besides what was recorded, bytes."""
    policies: Mapping[str, bytes]
    """The policy files of the arms, by their paths: another machine has not got them."""

    def do(self, job: Job) -> Outcome:
        """Do a job. Whatever goes wrong in it is its own fault, and an outcome."""
        try:
            with self._with_policy(job.arm) as spec:
                finished, events = take_turn(job.round, spec, self.plans[job.agent_memory], job.options)
        except AgentcgError as error:
            return Failed(job, str(error))
        except Exception as error:
            return Failed(job, f"{type(error).__name__}: {error}")
        return Done(job, finished, encode_all(events))

    @contextmanager
    def _with_policy(self, spec: ArmSpec) -> Iterator[ArmSpec]:
        """The arm with its policy in a file that has no name: nothing is left of it, however the worker ends."""
        with open(os.memfd_create("agentcg-policy"), "wb") as file:
            file.write(self.policies.get(spec.policy, b""))
            file.flush()
            copy = replace(spec, policy=f"/proc/self/fd/{file.fileno()}")
            yield copy if spec.policy in self.policies else spec


def policies_of(specs: Iterable[ArmSpec]) -> dict[str, bytes]:
    """Return the policy files of arms, by their paths. Presets come with agentcg.

    :raises AgentcgError: if one of them is no policy, or one of the arms cannot be simulated
    """
    found = {}
    for spec in set(specs):
        simulate([], spec, SimulatedHost(1 << 30))
        if spec.kind == "agentcg" and spec.policy not in presets():
            found[spec.policy] = find(spec.policy).read_bytes()
    return found
