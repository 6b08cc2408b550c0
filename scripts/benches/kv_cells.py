# SPDX-License-Identifier: Apache-2.0
"""What the bench ``kv`` runs policies on: recorded sessions that come to simulated servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any
from zlib import crc32

from agentcg.kv.policies.base import Policy
from agentcg.kv.policies.soft import Clairvoyant
from agentcg.kv.reload import Transfer
from agentcg.kv.simulation.machine import Machine, Outcome
from agentcg.kv.simulation.pool import Host
from agentcg.kv.simulation.recordings import import_script
from agentcg.kv.simulation.script import Script, arrivals
from agentcg.kv.simulation.simulator import simulate
from agentcg.predict.duration import Predictor
from agentcg.trace.agentcgroup import find_attempts
from benches.place import recordings

__all__ = [
    "CELLS",
    "LOADS",
    "LOCAL_WAIT_SEC",
    "PATIENCE",
    "POOLS",
    "SEEDS",
    "Cell",
    "capacity",
    "factor",
    "mean",
    "recorded",
    "taught",
]

SESSIONS = 40
"""How many come in a run."""
SEEDS = 5
LOADS = {"low": 0.25, "knee": 0.85, "overload": 1.2}
POOLS = (130_000, 200_000, 400_000)
"""Tokens: about 4, 6 and 12 sessions."""
SETS = ("haiku", "local")
SHARED_TOKENS = 12_000
"""System prompt and tools, which all sessions of a set begin with; the shortest prompts have a thousand more."""
HAIKU_OUTPUT_TOKENS = 150
"""Its recordings do not have the counts: the median answer of the other set."""
LOCAL_WAIT_SEC = 7.0
"""Its Bash calls waited so long for a check by a language model before the command ran."""
PATIENCE = (1.0, 4.0)
HOST = Host(488_000, Transfer(131_072, 20e9))
"""64 GB of a host's memory behind a link of 20 GB/s, with the cache of Llama 3.1 8B in it."""


@dataclass(frozen=True)
class Cell:
    """A set of recordings on a server.

    :param cpu_load: what the sessions' tool calls need of the CPUs that there are for them; None: there are enough
    :param host: what is taken from the pool goes to the host's memory
    :param holds_calls: calls are held while CPUs are scarce
    """

    data_set: str
    pool_tokens: int
    reported: bool = True
    cpu_load: float | None = None
    host: bool = False
    holds_calls: bool = False

    @property
    def scripts(self) -> Sequence[Script]:
        """The half of the sessions that this cell is about, as far as they fit."""
        own = self.pool_tokens + SHARED_TOKENS
        return [script for script in _scripts(self.data_set)[self.reported] if script.context_tokens <= own]

    def machine(self, per_sec: float) -> Machine:
        """The server, and CPUs for as many sessions a second."""
        machine = Machine(self.pool_tokens, shared_tokens=SHARED_TOKENS, host=HOST if self.host else None)
        if self.cpu_load is None:
            return machine
        needed = fmean(sum(call.cpu_sec for turn in one.turns for call in turn.calls) for one in self.scripts)
        return replace(machine, cpus=per_sec * needed / self.cpu_load, holds_calls=self.holds_calls)

    def run(
        self, policy: Policy, per_sec: float, seed: int, predictor: Predictor | None = None, **options: Any
    ) -> Outcome:
        """Let sessions come, and serve them all. ``options`` are those of :func:`simulate`."""
        sessions = arrivals(self.scripts, SESSIONS, per_sec, seed)
        return simulate(sessions, self.machine(per_sec), policy, predictor, **options)


CELLS = [Cell(data_set, pool) for data_set in SETS for pool in POOLS]


def recorded(data_set: str) -> list[Path]:
    """Return the recordings of a set that have turns. :raises InvalidInput: if the set is not there"""
    attempts = find_attempts(recordings(f"all_images_{data_set}"))
    return [attempt for attempt in attempts if (attempt / "turns.json").is_file()]


@cache
def _scripts(data_set: str) -> tuple[list[Script], list[Script]]:
    """Those to choose on, and those that are reported."""
    found: tuple[list[Script], list[Script]] = ([], [])
    for attempt in recorded(data_set):
        script = (
            import_script(attempt, output_tokens=HAIKU_OUTPUT_TOKENS)
            if data_set == "haiku"
            else import_script(attempt, wait_sec=LOCAL_WAIT_SEC)
        )
        found[crc32(attempt.parent.name.encode()) % 2].append(script)
    return found


def taught(data_set: str) -> Predictor:
    """A predictor that knows the other half's calls."""
    predictor = Predictor()
    for script in _scripts(data_set)[0]:
        for turn in script.turns:
            for call in turn.calls:
                predictor.observe((call.tool, call.words, script.name), call.wall_sec)
    return predictor


@cache
def capacity(cell: Cell) -> float:
    """Return how many sessions a second come to their end in the middle of a burst, where nothing else is scarce."""
    if cell.cpu_load is not None or cell.host:
        return capacity(replace(cell, cpu_load=None, host=False, holds_calls=False))
    count = 3 * SESSIONS
    burst = simulate(arrivals(cell.scripts, count, inf, 0), cell.machine(inf), Clairvoyant(PATIENCE[-1]))
    ends = sorted(burst.completion_sec.values())
    first, last = count // 5, 4 * count // 5
    return (last - first) / (ends[last] - ends[first])


def mean(outcome: Outcome) -> float:
    """Return the mean time of a session, in seconds."""
    return fmean(outcome.completion_sec.values())


def factor(outcome: Outcome) -> float:
    """Return how often each token was prefilled that had to be."""
    return outcome.prefilled_tokens / outcome.ideal_tokens
