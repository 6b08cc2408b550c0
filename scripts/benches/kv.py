# SPDX-License-Identifier: Apache-2.0
"""Which policy keeps the right caches: simulated servers, the sessions of recordings, the same arrivals for every arm.

The tasks of the AgentCgroup recordings are divided in two by their names, as in the bench ``predict``: one half is for
choosing (the fixed time-to-live of each cell, the predictor's history), the other is reported. A part is a load, a
round is one seed in one cell: a set of recordings on a pool. Loads are shares of what the cell can do: how many
sessions a second the clairvoyant finishes in the middle of a burst.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from math import inf
from pathlib import Path
from statistics import fmean
from zlib import crc32

from agentcg.errors import InvalidInput
from agentcg.kv.policies import POLICIES
from agentcg.kv.policies.base import Policy
from agentcg.kv.policies.pins import FixedTtl
from agentcg.kv.policies.soft import Clairvoyant
from agentcg.kv.simulation.recordings import import_script
from agentcg.kv.simulation.script import Script, arrivals
from agentcg.kv.simulation.simulator import Machine, Outcome, simulate
from agentcg.predict.duration import Predictor
from agentcg.trace.agentcgroup import find_attempts
from benches.harness import Arm, Bench, Part, Ratio, Repetition, Stage
from benches.place import CHECKOUT

__all__ = ["BENCH", "UNITS", "Cell", "capacity", "measure_run"]

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
TTLS_SEC = (2.0, 8.0, 30.0, 60.0)
PATIENCE = (1.0, 4.0)
CONTENDED, UNCONTENDED = 3.0, 1.05
"""Stock computes the tokens so many times, or more; or fewer."""
FINE = 2.0
"""A load is within the capacity while sessions take so many times as long as alone, or less."""
UNITS = {
    "mean_jct_sec": "s",
    "p95_jct_sec": "s",
    "prefilled_tokens": "",
    "prefill_factor": "",
    "contended_jct_sec": "s",
    "contended_prefilled_tokens": "",
    "uncontended_jct_sec": "s",
    "capacity_share": "",
}


@dataclass(frozen=True)
class Cell:
    """A set of recordings on a pool."""

    data_set: str
    pool_tokens: int
    reported: bool = True

    @property
    def scripts(self) -> Sequence[Script]:
        """The half of the sessions that this cell is about, as far as they fit."""
        own = self.pool_tokens + SHARED_TOKENS
        return [script for script in _scripts(self.data_set)[self.reported] if script.context_tokens <= own]

    def run(
        self, policy: Policy, per_sec: float, seed: int, predictor: Predictor | None = None, *, knows_last: bool = True
    ) -> Outcome:
        """Let sessions come, and serve them all."""
        sessions = arrivals(self.scripts, SESSIONS, per_sec, seed)
        return simulate(sessions, _machine(self.pool_tokens), policy, predictor, knows_last=knows_last)


def _machine(pool_tokens: int) -> Machine:
    return Machine(pool_tokens, shared_tokens=SHARED_TOKENS)


CELLS = [Cell(data_set, pool) for data_set in SETS for pool in POOLS]


@cache
def _scripts(data_set: str) -> tuple[list[Script], list[Script]]:
    """Those to choose on, and those that are reported."""
    traces = Path(os.environ.get("AGENTCG_TRACES") or CHECKOUT.parent / "shared/traces/agentcgroup")
    traces /= f"all_images_{data_set}"
    if not traces.is_dir():
        hint = "set it to a copy of the AgentCgroup data set: the folder that all_images_haiku is in"
        raise InvalidInput("AGENTCG_TRACES", f"there is no {traces}", hint=hint)
    found: tuple[list[Script], list[Script]] = ([], [])
    for attempt in find_attempts(traces):
        if (attempt / "turns.json").is_file():
            script = (
                import_script(attempt, output_tokens=HAIKU_OUTPUT_TOKENS)
                if data_set == "haiku"
                else import_script(attempt, wait_sec=LOCAL_WAIT_SEC)
            )
            found[crc32(attempt.parent.name.encode()) % 2].append(script)
    return found


def _taught(data_set: str) -> Predictor:
    """A predictor that knows the other half's calls."""
    predictor = Predictor()
    for script in _scripts(data_set)[0]:
        for turn in script.turns:
            for call in turn.calls:
                predictor.observe((call.tool, call.words, script.name), call.wall_sec)
    return predictor


@cache
def capacity(cell: Cell) -> float:
    """Return how many sessions a second come to their end in the middle of a burst."""
    count = 3 * SESSIONS
    burst = simulate(arrivals(cell.scripts, count, inf, 0), _machine(cell.pool_tokens), Clairvoyant(PATIENCE[-1]))
    ends = sorted(burst.completion_sec.values())
    first, last = count // 5, 4 * count // 5
    return (last - first) / (ends[last] - ends[first])


@cache
def _best_ttl(cell: Cell, load: str) -> float:
    """The time-to-live that serves the other half best."""
    other = replace(cell, reported=False)
    rate = LOADS[load] * capacity(other)
    return min(TTLS_SEC, key=lambda ttl: _mean(other.run(FixedTtl(ttl), rate, seed=0)))


def _mean(outcome: Outcome) -> float:
    return fmean(outcome.completion_sec.values())


def _factor(outcome: Outcome) -> float:
    return outcome.prefilled_tokens / outcome.ideal_tokens


Runs = Callable[[Cell, str, float, int], Outcome]
"""An arm: serves a cell at a load, by its name and in sessions a second, with a seed."""


def _policy(name: str) -> Runs:
    # A stock engine is not told that a session is over.
    knows_last = name not in ("lru", "plas")
    return lambda cell, load, per_sec, seed: cell.run(POLICIES[name](), per_sec, seed, knows_last=knows_last)


def _predicted(cell: Cell, load: str, per_sec: float, seed: int) -> Outcome:
    return cell.run(POLICIES["soft_pins"](), per_sec, seed, _taught(cell.data_set))


def _best_fixed_ttl(cell: Cell, load: str, per_sec: float, seed: int) -> Outcome:
    return cell.run(FixedTtl(_best_ttl(cell, load)), per_sec, seed)


def _clairvoyant(cell: Cell, load: str, per_sec: float, seed: int) -> Outcome:
    return min((cell.run(Clairvoyant(patience), per_sec, seed) for patience in PATIENCE), key=_mean)


ARMS: dict[str, Runs] = {name: _policy(name) for name in POLICIES if name not in ("fixed_ttl", "clairvoyant")} | {
    "soft_pins_predicted": _predicted,
    "best_fixed_ttl": _best_fixed_ttl,
    "clairvoyant": _clairvoyant,
}
CAPACITY_ARMS = ("lru", "ski_rental", "continuum", "evict_latest", "soft_pins", "clairvoyant")


@cache
def measure_run(arm: str, load: str, cell: Cell, seed: int) -> Outcome:
    """Return what an arm makes of a load."""
    return ARMS[arm](cell, load, LOADS[load] * capacity(cell), seed)


def _at_load(arm: str, load: str, cell: Cell, seed: int) -> dict[str, float | None]:
    outcome = measure_run(arm, load, cell, seed)
    stock = _factor(measure_run("lru", load, cell, seed))
    times = sorted(outcome.completion_sec.values())
    return {
        "mean_jct_sec": fmean(times),
        "p95_jct_sec": times[round(0.95 * (len(times) - 1))],
        "prefilled_tokens": outcome.prefilled_tokens,
        "prefill_factor": _factor(outcome),
        "contended_jct_sec": fmean(times) if stock >= CONTENDED else None,
        "contended_prefilled_tokens": outcome.prefilled_tokens if stock >= CONTENDED else None,
        "uncontended_jct_sec": fmean(times) if stock < UNCONTENDED else None,
    }


@cache
def _alone_sec(cell: Cell, seed: int) -> float:
    return _mean(cell.run(POLICIES["lru"](), 1e-6, seed))


def _capacity_share(arm: str, cell: Cell, seed: int) -> dict[str, float | None]:
    """The highest load at which sessions take no more than twice as long as alone, by halving."""
    low, high = 0.0, 2.0
    for _ in range(6):
        load = (low + high) / 2
        fine = _mean(ARMS[arm](cell, "knee", load * capacity(cell), seed)) <= FINE * _alone_sec(cell, seed)
        low, high = (load, high) if fine else (low, load)
    return {"capacity_share": low}


def _prepare(measure: Callable[[Cell, int], dict[str, float | None]], stage: Stage) -> Repetition:
    rounds = iter([(cell, seed) for seed in range(1, SEEDS + 1) for cell in CELLS])

    def repeat() -> Mapping[str, float | None]:
        return measure(*next(rounds))

    return repeat


def _arms(load: str) -> Sequence[Arm]:
    # The first round finds out what the cell can do, on anybody's time.
    return [Arm(f"{name}.{load}", partial(_prepare, partial(_at_load, name, load)), limit_sec=180) for name in ARMS]


def _capacity_arms() -> Sequence[Arm]:
    return [
        Arm(f"{name}.capacity", partial(_prepare, partial(_capacity_share, name)), limit_sec=180)
        for name in CAPACITY_ARMS
    ]


def _ratios(load: str) -> list[Ratio]:
    ours, prefill, jct = f"soft_pins.{load}", "prefilled_tokens", "mean_jct_sec"
    contended = load != "low"

    def over(name: str, to: str, goal: float | None, metric: str = jct, of: str = ours) -> Ratio:
        return Ratio(f"{name}.{load}", of, f"{to}.{load}", metric=metric, goal=goal, summary="geometric")

    goals = {"knee": (0.90, 1.00, 1.05), "overload": (0.80, 0.85, 1.10)}
    continuum, fixed_ttl, clairvoyant = goals.get(load, (1.02, 1.02, 1.02))
    return [
        over("prefill_over_stock", "lru", 0.25 if contended else None, "contended_prefilled_tokens"),
        over("prefill_over_clairvoyant", "clairvoyant", 1.10, prefill),
        over("ours_over_continuum_mean_jct", "continuum", continuum),
        Ratio(f"worst_ours_over_continuum_mean_jct.{load}", ours, f"continuum.{load}", jct, 1.02, summary="max"),
        over("ours_over_continuum_p95_jct", "continuum", continuum, "p95_jct_sec"),
        over("ours_over_continuum_contended_jct", "continuum", continuum, "contended_jct_sec"),
        over("ours_over_best_fixed_ttl_contended_jct", "best_fixed_ttl", fixed_ttl, "contended_jct_sec"),
        over("ours_over_ski_rental_contended_jct", "ski_rental", 1.02, "contended_jct_sec"),
        over(
            "predicted_over_ours_contended_jct", "soft_pins", None, "contended_jct_sec", f"soft_pins_predicted.{load}"
        ),
        over("ours_over_continuum_literal_mean_jct", "continuum_literal", None),
        over("ours_over_continuum_code_mean_jct", "continuum_code", None),
        over("ours_over_best_fixed_ttl", "best_fixed_ttl", fixed_ttl),
        over("ours_over_clairvoyant_mean_jct", "clairvoyant", clairvoyant),
        over("ours_over_ski_rental", "ski_rental", 1.02),
        over("ours_over_evict_latest", "evict_latest", 1.02),
        over("predicted_over_ours", "soft_pins", None, of=f"soft_pins_predicted.{load}"),
        over("ours_over_stock_mean_jct", "lru", None),
        over("uncontended_over_stock", "lru", 1.01, "uncontended_jct_sec"),
    ]


BENCH = Bench(
    name="kv",
    summary="which sessions' caches are kept: policies on simulated servers",
    parts=(
        Part("low", partial(_arms, "low"), vm=None, quick_sec=8, full_sec=120),
        Part("knee", partial(_arms, "knee"), vm=None, quick_sec=15, full_sec=200),
        Part("overload", partial(_arms, "overload"), vm=None, quick_sec=15, full_sec=200),
        Part("capacity", _capacity_arms, vm=None, quick_sec=0, full_sec=150),
    ),
    units=UNITS,
    ratios=(
        *(ratio for load in LOADS for ratio in _ratios(load)),
        *(
            Ratio(
                f"capacity_over_{to}",
                "soft_pins.capacity",
                f"{to}.capacity",
                "capacity_share",
                goal,
                "higher",
                summary="geometric",
            )
            for to, goal in (("lru", 1.5), ("continuum", None), ("clairvoyant", None))
        ),
    ),
    n=SEEDS * len(CELLS),
    warm_up=0,
)
