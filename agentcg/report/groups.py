# SPDX-License-Identifier: Apache-2.0
"""Runs that may be looked at as one: the same sessions under the same limits on the same machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agentcg.errors import InvalidInput
from agentcg.replay.events import Event
from agentcg.replay.run_description import RunDescription
from agentcg.replay.run_folder import FinishedArm, Run
from agentcg.report.compare import Round
from agentcg.units import format_size

__all__ = ["Group", "differences", "group_runs"]

_MAY_DIFFER = {"created", "rounds", "arms", "seed"}


@dataclass(slots=True)
class Group:
    """Runs whose rounds count as those of one."""

    runs: list[Run]
    results: list[dict[str, FinishedArm]] = field(init=False)
    """By arm, of each round that finished at least one."""
    _where: list[tuple[Run, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.results, self._where = [], []
        for run in self.runs:
            rounds: dict[int, dict[str, FinishedArm]] = {}
            for done in run.results:
                rounds.setdefault(done.round, {})[done.arm] = done
            for number, finished in sorted(rounds.items()):
                self.results.append(finished)
                self._where.append((run, number))

    @property
    def title(self) -> str:
        return " + ".join(run.path.resolve().name for run in self.runs)

    @property
    def description(self) -> RunDescription:
        return self.runs[0].description

    @property
    def arms(self) -> list[str]:
        """In the order in which they were asked for, those of a later run behind."""
        asked = [arm for run in self.runs for arm in run.description.arms]
        return list(dict.fromkeys(asked + [arm for each in self.results for arm in each]))

    @property
    def rounds(self) -> list[Round]:
        return [{arm: done.result for arm, done in each.items()} for each in self.results]

    def name(self, at: int) -> str:
        """Return the name of the round at an index: its number, from 1, and of which run where there are more."""
        run, number = self._where[at]
        return f"round {number + 1}" + (f" of {run.path.name}" if len(self.runs) > 1 else "")

    def events(self, at: int, arm: str) -> Iterator[Event]:
        """Yield the events of an arm in the round at an index. :raises InvalidInput: if they cannot be read"""
        run, number = self._where[at]
        return run.events(number, arm)


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Return the runs, those together that may be looked at as one.

    Runs of the same seed are the same rounds twice, and stay apart.

    :raises InvalidInput: if one of them has finished nothing, or is given twice
    """
    groups: list[list[Run]] = []
    for at, run in enumerate(runs):
        if not run.results:
            raise InvalidInput(
                str(run.path),
                "the run has no finished arm yet",
                hint="wait for its first, or go on with it by --resume",
            )
        if run.path.resolve() in (other.path.resolve() for other in runs[:at]):
            raise InvalidInput(str(run.path), "the run is given twice")
        alike = (
            group for group in groups if not any(differences(other.description, run.description) for other in group)
        )
        fitting = next(alike, None)
        if fitting is None:
            groups.append([run])
        else:
            fitting.append(run)
    return [Group(group) for group in groups]


def differences(one: RunDescription, other: RunDescription) -> list[str]:
    """Return why two runs cannot be looked at as one, a phrase each; none if they can."""
    left, right = (msgspec.to_builtins(value) for value in (one, other))
    found = [_phrase(key, left[key], right[key]) for key in left if key not in _MAY_DIFFER and left[key] != right[key]]
    if not found and one.seed == other.seed:
        found = [f"both have the seed {one.seed}: they are the same rounds twice"]
    return found


def _phrase(key: str, left: Any, right: Any) -> str:
    if key == "sessions" and left and right:
        left, right = (", ".join(session["name"] for session in sessions) for sessions in (left, right))
        if left == right:
            return "sessions of the same names differ in their recordings or reserves"
    if key == "memoryMax":
        return f"{format_size(left)} and {format_size(right)} for all"
    if isinstance(left, (dict, list)) or isinstance(right, (dict, list)):
        return f"{key} differ"
    return f"{key}: {left} and {right}"
