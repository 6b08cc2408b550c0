# SPDX-License-Identifier: Apache-2.0
"""Which policy keeps the right caches: simulated servers, the sessions of recordings, the same arrivals for every arm.

The tasks of the AgentCgroup recordings are divided in two by their names, as in the bench ``predict``: one half is for
choosing (the fixed time-to-live of each cell, the predictor's history), the other is reported. A part is a load, a
round is one seed in one cell: a set of recordings on a pool. Loads are shares of what the cell can do: how many
sessions a second the clairvoyant finishes in the middle of a burst.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import count
from statistics import fmean
from typing import Literal

from agentcg.kv.policies import POLICIES
from agentcg.kv.policies.pins import FixedTtl
from agentcg.kv.policies.soft import Clairvoyant
from agentcg.kv.simulation.machine import Outcome
from agentcg.kv.simulation.shares import CpuShares, Rule, by_cache, shortest_first
from benches.harness import Arm, Bench, Part, Ratio, Repetition, Stage
from benches.kv_cells import CELLS, LOADS, PATIENCE, POOLS, SEEDS, Cell, capacity, factor, mean, taught

__all__ = ["BENCH", "UNITS", "measure_run"]

TTLS_SEC = (2.0, 8.0, 30.0, 60.0)
CONTENDED, UNCONTENDED = 3.0, 1.05
"""Stock computes the tokens so many times, or more; or fewer."""
FINE = 2.0
"""A load is within the capacity while sessions take so many times as long as alone, or less."""
CAPACITIES = {
    "capacity": ([cell for cell in CELLS if cell.pool_tokens < max(POOLS)], 1.5),
    "capacity-12": ([cell for cell in CELLS if cell.pool_tokens == max(POOLS)], 1.05),
}
"""Of pools of 4 to 6 sessions, and of 12; what it is to be over stock's."""
CPU_LOADS = {0.9: 0.97, 1.2: 0.92}
"""What is asked of the CPUs, and what weights are to make of the mean time of a session."""
LIMIT_SEC, FULL_SEC = 3600.0, 4 * 3600.0
"""Nothing here is a time of this machine, so it may take long."""
UNITS = {
    "mean_jct_sec": "s",
    "p95_jct_sec": "s",
    "prefilled_tokens": "",
    "prefill_factor": "",
    "contended_jct_sec": "s",
    "contended_p95_jct_sec": "s",
    "contended_prefilled_tokens": "",
    "uncontended_jct_sec": "s",
    "capacity_share": "",
}


@cache
def _best_ttl(cell: Cell, load: str) -> float:
    """The time-to-live that serves the other half best."""
    other = replace(cell, reported=False)
    rate = LOADS[load] * capacity(other)
    return min(TTLS_SEC, key=lambda ttl: mean(other.run(FixedTtl(ttl), rate, seed=0)))


Runs = Callable[[Cell, str, float, int], Outcome]
"""An arm: serves a cell at a load, by its name and in sessions a second, with a seed."""


def _policy(name: str) -> Runs:
    # A stock engine is not told that a session is over.
    knows_last = name not in ("lru", "plas")
    return lambda cell, load, per_sec, seed: cell.run(POLICIES[name](), per_sec, seed, knows_last=knows_last)


def _predicted(cell: Cell, load: str, per_sec: float, seed: int) -> Outcome:
    return cell.run(POLICIES["soft_pins"](), per_sec, seed, taught(cell.data_set))


def _best_fixed_ttl(cell: Cell, load: str, per_sec: float, seed: int) -> Outcome:
    return cell.run(FixedTtl(_best_ttl(cell, load)), per_sec, seed)


def _clairvoyant(cell: Cell, load: str, per_sec: float, seed: int) -> Outcome:
    return min((cell.run(Clairvoyant(patience), per_sec, seed) for patience in PATIENCE), key=mean)


ARMS: dict[str, Runs] = {name: _policy(name) for name in POLICIES if name not in ("fixed_ttl", "clairvoyant")} | {
    "soft_pins_predicted": _predicted,
    "best_fixed_ttl": _best_fixed_ttl,
    "clairvoyant": _clairvoyant,
}


def _ours(rule: Rule | None = None, *, signals: bool = True) -> Runs:
    """:param rule: how calls share the CPUs"""

    def run(cell: Cell, load: str, per_sec: float, seed: int) -> Outcome:
        shares = CpuShares(rule, taught(cell.data_set)) if rule else None
        return cell.run(POLICIES["soft_pins"](), per_sec, seed, signals=signals, shares=shares)

    return run


CPU_ARMS: dict[str, Runs] = {
    "lru": ARMS["lru"],
    "unsignalled": _ours(signals=False),
    "equal": _ours(),
    "weights": _ours(by_cache),
    "shortest": _ours(shortest_first),
}
ORDER_ARMS: dict[str, Runs] = {"held": _ours(), "ordered": _ours(by_cache), "held_shortest": _ours(shortest_first)}
HOST_ARMS = {name: ARMS[name] for name in ("lru", "ski_rental", "continuum", "soft_pins", "clairvoyant")}
CAPACITY_ARMS = ("lru", "ski_rental", "continuum", "evict_latest", "soft_pins", "clairvoyant")


@cache
def measure_run(run: Runs, load: str, cell: Cell, seed: int) -> Outcome:
    """Return what an arm makes of a load."""
    return run(cell, load, LOADS[load] * capacity(cell), seed)


def _at_load(run: Runs, load: str, cell: Cell, seed: int) -> dict[str, float | None]:
    outcome = measure_run(run, load, cell, seed)
    stock = factor(measure_run(ARMS["lru"], load, cell, seed))
    times = sorted(outcome.completion_sec.values())
    p95 = times[round(0.95 * (len(times) - 1))]
    contended = stock >= CONTENDED
    return {
        "mean_jct_sec": fmean(times),
        "p95_jct_sec": p95,
        "prefilled_tokens": outcome.prefilled_tokens,
        "prefill_factor": factor(outcome),
        "contended_jct_sec": fmean(times) if contended else None,
        "contended_p95_jct_sec": p95 if contended else None,
        "contended_prefilled_tokens": outcome.prefilled_tokens if contended else None,
        "uncontended_jct_sec": fmean(times) if stock < UNCONTENDED else None,
    }


@cache
def _alone_sec(cell: Cell, seed: int) -> float:
    return mean(cell.run(POLICIES["lru"](), 1e-6, seed))


def _capacity_share(run: Runs, load: str, cell: Cell, seed: int) -> dict[str, float | None]:
    """The highest load at which sessions take no more than twice as long as alone, by halving."""
    low, high = 0.0, 2.0
    for _ in range(6):
        tried = (low + high) / 2
        fine = mean(run(cell, load, tried * capacity(cell), seed)) <= FINE * _alone_sec(cell, seed)
        low, high = (tried, high) if fine else (low, tried)
    return {"capacity_share": low}


def _prepare(
    measure: Callable[[str, Cell, int], dict[str, float | None]],
    loads: Sequence[str],
    cells: Sequence[Cell],
    stage: Stage,
) -> Repetition:
    rounds = ((load, cell, seed) for seed in count(1) for cell in cells for load in loads)

    def repeat() -> Mapping[str, float | None]:
        return measure(*next(rounds))

    return repeat


def _arms(part: str, arms: Mapping[str, Runs], loads: Sequence[str], cells: Sequence[Cell] = CELLS) -> Sequence[Arm]:
    # The first round finds out what the cell can do, on anybody's time.
    return [
        Arm(f"{name}.{part}", partial(_prepare, partial(_at_load, run), loads, cells), limit_sec=LIMIT_SEC)
        for name, run in arms.items()
    ]


def _cpu_arms(cpu_load: float) -> Sequence[Arm]:
    # The other set's calls need next to nothing of a CPU.
    cells = [Cell("haiku", pool_tokens, cpu_load=cpu_load) for pool_tokens in (130_000, 200_000)]
    return _arms(f"cpu-{cpu_load}", CPU_ARMS, ("knee", "overload"), cells)


def _order_arms() -> Sequence[Arm]:
    cells = [
        Cell("haiku", pool_tokens, cpu_load=cpu_load, holds_calls=True)
        for cpu_load in CPU_LOADS
        for pool_tokens in (130_000, 200_000)
    ]
    return _arms("order", ORDER_ARMS, ("knee", "overload"), cells)


def _host_arms() -> Sequence[Arm]:
    return _arms("host", HOST_ARMS, ("knee", "overload"), [replace(cell, host=True) for cell in CELLS])


def _capacity_arms(part: str, cells: Sequence[Cell]) -> Sequence[Arm]:
    return [
        Arm(
            f"{name}.{part}",
            partial(_prepare, partial(_capacity_share, ARMS[name]), ("knee",), cells),
            limit_sec=LIMIT_SEC,
        )
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


def _cpu_ratios(cpu_load: float, weights: float) -> list[Ratio]:
    def over(name: str, of: str, to: str, goal: float | None, metric: str = "contended_jct_sec") -> Ratio:
        part = f"cpu-{cpu_load}"
        return Ratio(f"{name}.{part}", f"{of}.{part}", f"{to}.{part}", metric=metric, goal=goal, summary="geometric")

    return [
        over("weights_over_equal", "weights", "equal", weights),
        over("weights_over_equal_p95", "weights", "equal", 1.05, "contended_p95_jct_sec"),
        over("shortest_over_equal", "shortest", "equal", None),
        over("shortest_over_equal_p95", "shortest", "equal", None, "contended_p95_jct_sec"),
        over("weights_over_shortest", "weights", "shortest", None),
        over("signals_over_none", "equal", "unsignalled", 1.02, "mean_jct_sec"),
        over("ours_over_stock_mean_jct", "equal", "lru", None, "mean_jct_sec"),
    ]


def _order_ratios() -> list[Ratio]:
    def over(name: str, of: str, to: str, metric: str, goal: float | None = None) -> Ratio:
        return Ratio(f"{name}.order", f"{of}.order", f"{to}.order", metric=metric, goal=goal, summary="geometric")

    return [
        over("ordered_over_held", "ordered", "held", "contended_jct_sec"),
        over("ordered_over_held_mean_jct", "ordered", "held", "mean_jct_sec"),
        over("ordered_over_held_p95", "ordered", "held", "contended_p95_jct_sec"),
        over("shortest_over_held", "held_shortest", "held", "contended_jct_sec"),
        over("ordered_over_shortest", "ordered", "held_shortest", "contended_jct_sec"),
    ]


def _host_ratios() -> list[Ratio]:
    def over(to: str, goal: float | None = None, summary: Literal["geometric", "max"] = "geometric") -> Ratio:
        name = ("worst_" if summary == "max" else "") + f"ours_over_{to}_mean_jct.host"
        return Ratio(name, "soft_pins.host", f"{to}.host", "mean_jct_sec", goal, summary=summary)

    return [over("lru", 1.02), over("lru", 1.02, "max"), over("ski_rental"), over("continuum"), over("clairvoyant")]


BENCH = Bench(
    name="kv",
    summary="which sessions' caches are kept: policies on simulated servers",
    parts=(
        Part("low", partial(_arms, "low", ARMS, ("low",)), vm=None, quick_sec=8, full_sec=FULL_SEC),
        Part("knee", partial(_arms, "knee", ARMS, ("knee",)), vm=None, quick_sec=15, full_sec=FULL_SEC),
        Part("overload", partial(_arms, "overload", ARMS, ("overload",)), vm=None, quick_sec=15, full_sec=FULL_SEC),
        *(
            Part(part, partial(_capacity_arms, part, cells), vm=None, quick_sec=0, full_sec=FULL_SEC)
            for part, (cells, _) in CAPACITIES.items()
        ),
        *(
            Part(f"cpu-{cpu_load}", partial(_cpu_arms, cpu_load), vm=None, quick_sec=0, full_sec=FULL_SEC)
            for cpu_load in CPU_LOADS
        ),
        Part("order", _order_arms, vm=None, quick_sec=0, full_sec=FULL_SEC),
        Part("host", _host_arms, vm=None, quick_sec=0, full_sec=FULL_SEC),
    ),
    units=UNITS,
    ratios=(
        *(ratio for load in LOADS for ratio in _ratios(load)),
        *(ratio for cpu_load, goal in CPU_LOADS.items() for ratio in _cpu_ratios(cpu_load, goal)),
        *_order_ratios(),
        *_host_ratios(),
        *(
            Ratio(
                f"{part}_over_{to}",
                f"soft_pins.{part}",
                f"{to}.{part}",
                "capacity_share",
                goal if to == "lru" else None,
                "higher",
                summary="geometric",
            )
            for part, (_, goal) in CAPACITIES.items()
            for to in ("lru", "continuum", "clairvoyant")
        ),
    ),
    n=SEEDS * len(CELLS),
    warm_up=0,
)
