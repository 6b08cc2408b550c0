# SPDX-License-Identifier: Apache-2.0
"""The folder of a sweep: ``sweep.json`` says what it is, and each configuration has the folder of a run in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import msgspec

from agentcg import __version__
from agentcg.replay.arm_spec import ArmSpec
from agentcg.replay.run_description import RunDescription, SessionDescription, require_same
from agentcg.replay.run_folder import RunFolder, open_run, write_description
from agentcg.replay.simulated import SimulatedOptions
from agentcg.replay.simulation import SimulatedHost
from agentcg.replay.sweep.plan import VERSION, Configuration, Sweep
from agentcg.replay.sweep.work import Done, Job, Outcome
from agentcg.trace.source import load

__all__ = ["SweepFolder", "folder_of", "options_of"]

_DESCRIPTION = "sweep.json"


class _Configuration(msgspec.Struct, frozen=True, rename="camel"):
    folder: str
    arms: list[str]
    memory_max: int
    cpus: float
    agent_memory: int


class _Description(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="agentcg.sweep"):
    """What a sweep is: everything that its results depend on."""

    version: int = VERSION
    created: str = msgspec.field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    agentcg: str = __version__
    sessions: list[SessionDescription]
    """Those that take part in each round, or of which each round draws its own."""
    policies: dict[str, str]
    """The SHA-256 of each policy file, by its path."""
    draw: int | None
    rounds: int
    seed: int
    speed: float
    configurations: list[_Configuration]


def folder_of(number: int) -> str:
    """Return the name of a configuration's folder."""
    return f"{number:04}"


def options_of(sweep: Sweep, configuration: Configuration) -> SimulatedOptions:
    """Return how the replays of a configuration run."""
    return SimulatedOptions(
        host=SimulatedHost(configuration.memory_max, configuration.cpus),
        arms=configuration.arms,
        rounds=sweep.rounds,
        seed=sweep.seed,
        speed=sweep.speed,
        draw=sweep.draw,
    )


class SweepFolder:
    """A sweep that is being done: begun in ``path``, or gone on with if the same one is there.

    :param sessions: what takes part, or what is drawn of
    :param policies: the policy files, by their paths
    :param runs: the description of each configuration's run
    :raises InvalidInput: if another sweep is there, naming what differs
    """

    def __init__(
        self,
        path: Path,
        sweep: Sweep,
        sessions: Sequence[SessionDescription],
        policies: Mapping[str, bytes],
        runs: Sequence[RunDescription],
    ) -> None:
        self.path = path
        self._sweep, self._runs = sweep, runs
        self._open: dict[int, RunFolder] = {}
        _begin(path / _DESCRIPTION, _describe(sweep, sessions, policies))
        self._left = [self._missing(number) for number in range(len(runs))]
        self.total = sum(len(configuration.arms) * sweep.rounds for configuration in sweep.configurations)
        """How many jobs there are in all."""

    @property
    def left(self) -> int:
        """How many of them are still to be done."""
        return sum(map(len, self._left))

    def jobs(self) -> Iterator[Job]:
        """Yield what is to be done, configuration by configuration."""
        for number, configuration in enumerate(self._sweep.configurations):
            options = options_of(self._sweep, configuration)
            for at, spec in list(self._left[number]):
                yield Job(number, at, spec, configuration.agent_memory, options)

    def settle(self, outcome: Outcome) -> None:
        """Keep what a job came to; it is on disk afterwards. With the last one of a configuration all are put in order:
        what is there then does not depend on who finished first."""
        job = outcome.job
        left = self._left[job.configuration]
        left.remove((job.round, job.arm))
        if isinstance(outcome, Done):
            if job.configuration not in self._open:
                self._open[job.configuration] = self._folder(job.configuration)
            self._open[job.configuration].append_lines(outcome.finished, outcome.events)
        if not left and (folder := self._open.pop(job.configuration, None)):
            folder.sort(self._runs[job.configuration].arms)

    def _folder(self, number: int) -> RunFolder:
        return open_run(self.path / folder_of(number), self._runs[number], resume=True)

    def _missing(self, number: int) -> list[tuple[int, ArmSpec]]:
        folder = self._folder(number)
        folder.sort(self._runs[number].arms)
        arms, rounds = self._sweep.configurations[number].arms, range(self._sweep.rounds)
        return [(at, spec) for at in rounds for spec in arms if not folder.has(at, spec.name)]


def _begin(file: Path, description: _Description) -> None:
    if file.exists():
        require_same(str(file), load(file, _Description), description)
    else:
        write_description(file, description)


def _describe(sweep: Sweep, sessions: Sequence[SessionDescription], policies: Mapping[str, bytes]) -> _Description:
    return _Description(
        sessions=list(sessions),
        policies={path: sha256(text).hexdigest() for path, text in policies.items()},
        draw=sweep.draw,
        rounds=sweep.rounds,
        seed=sweep.seed,
        speed=sweep.speed,
        configurations=[
            _Configuration(folder_of(at), [spec.name for spec in one.arms], one.memory_max, one.cpus, one.agent_memory)
            for at, one in enumerate(sweep.configurations)
        ],
    )
