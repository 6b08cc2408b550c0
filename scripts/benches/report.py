# SPDX-License-Identifier: Apache-2.0
"""The result of a bench: one JSON object, and the table that people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from agentcg.statistics import Estimate, median_difference, median_of, median_quotient, share_removed, summary_of
from benches.harness import Bench, Measured, Ratio

__all__ = ["print_table", "result"]


def result(bench: Bench, parts: Sequence[Measured]) -> dict[str, Any]:
    """Return what the parts of a bench came to, with medians, intervals and ratios.

    A failed arm has ``error`` instead of metrics; a ratio that needs it has nulls, and neither holds nor fails.
    """
    samples = {arm: metrics for part in parts for arm, metrics in part.samples.items()}
    arms: dict[str, Any] = {}
    for part in parts:
        for arm, metrics in part.samples.items():
            n = len(next(iter(metrics.values())))
            arms[arm] = {"n": n} | {
                metric: _metric(there, n) | {"unit": bench.units[metric]}
                for metric, values in metrics.items()
                if (there := [value for value in values if value is not None])
            }
        arms |= {arm: {"n": 0, "error": error} for arm, error in part.errors.items()}
    return {
        "bench": bench.name,
        "machine": _where({part.part: part.machine for part in parts}),
        "kernel": _where({part.part: part.kernel for part in parts}),
        "arms": arms,
        "ratios": {ratio.name: _ratio(ratio, samples, bench.units) for ratio in bench.ratios},
        "notes": list(dict.fromkeys(note for part in parts for note in part.notes)),
    }


def _where(of_part: Mapping[str, str]) -> str:
    if len(set(of_part.values())) == 1:
        return next(iter(of_part.values()))
    return "; ".join(f"{part}: {text}" for part, text in of_part.items())


def _metric(values: Sequence[float], rounds: int) -> dict[str, float]:
    found = _rounded(median_of(values), "p50")
    return found | ({"n": len(values)} if len(values) < rounds else {})


def _ratio(
    ratio: Ratio, samples: Mapping[str, Mapping[str, Sequence[float | None]]], units: Mapping[str, str]
) -> dict[str, Any]:
    fixed: dict[str, Any] = {"goal": ratio.goal, "better": ratio.better}
    if ratio.difference or not ratio.to:
        fixed["unit"] = units[ratio.metric]
    estimate = _estimate(ratio, [samples.get(arm, {}).get(ratio.metric, ()) for arm in ratio.arms])
    if estimate is None:
        return {"value": None, "lo": None, "hi": None, **fixed, "holds": None}
    holds = None
    if ratio.goal is not None:
        holds = estimate.value <= ratio.goal if ratio.better == "lower" else estimate.value >= ratio.goal
    return _rounded(estimate, "value") | fixed | {"holds": holds}


def _estimate(ratio: Ratio, arms: Sequence[Sequence[float | None]]) -> Estimate | None:
    # Rounds in which every arm has a value: the order of an arm's rounds is that of the others.
    rounds = [values for values in zip(*arms, strict=False) if None not in values]
    if not rounds:
        return None
    of, *others = ([value for value in column if value is not None] for column in zip(*rounds, strict=True))
    if not ratio.to:
        return summary_of(of, ratio.summary)
    if ratio.base:
        return share_removed(of, *others)
    if ratio.summary != "median":
        return summary_of([one / other for one, other in zip(of, *others, strict=True)], ratio.summary)
    return median_difference(of, *others) if ratio.difference else median_quotient(of, *others)


def _rounded(estimate: Estimate, name: str) -> dict[str, float]:
    return {name: round(estimate.value, 4), "lo": round(estimate.lo, 4), "hi": round(estimate.hi, 4)}


def print_table(outcome: Mapping[str, Any], console: Console) -> None:
    """Print a result for people."""

    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    line(f"{outcome['bench']}\nmachine: {outcome['machine']}\nkernel: {outcome['kernel']}")
    arms = _table("arm", "metric", "median", "95 % interval", "n")
    for name, arm in outcome["arms"].items():
        for metric, given in arm.items():
            if metric not in ("n", "error"):
                arms.add_row(name, metric, *_cells(given, "p50"), str(given.get("n", arm["n"])))
                name = ""
    console.print(arms)
    for name, arm in outcome["arms"].items():
        if "error" in arm:
            line(f"{name} failed: {arm['error']}")
    ratios = _table("ratio", "value", "95 % interval", "goal", "holds")
    for name, ratio in outcome["ratios"].items():
        goal = "" if ratio["goal"] is None else f"{'≤' if ratio['better'] == 'lower' else '≥'} {ratio['goal']:g}"
        holds = {True: "yes", False: "NO", None: "not known" if goal else ""}[ratio["holds"]]
        ratios.add_row(name, *_cells(ratio, "value"), goal, holds)
    console.print(ratios)
    for note in outcome["notes"]:
        line(f"note: {note}")


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE)
    for column in columns:
        left = column in ("arm", "metric", "ratio")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    return table


def _cells(estimate: Mapping[str, Any], key: str) -> tuple[str, str]:
    if estimate[key] is None:
        return "–", ""
    unit = f" {estimate['unit']}" if "unit" in estimate else ""
    return f"{estimate[key]:.2f}{unit}", f"{estimate['lo']:.2f} to {estimate['hi']:.2f}"
