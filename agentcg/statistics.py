# SPDX-License-Identifier: Apache-2.0
"""Medians and what is known of them: percentile bootstrap intervals (Efron and Tibshirani 1993, chapter 13)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from statistics import geometric_mean, mean, median
from typing import Literal, NamedTuple

__all__ = ["Estimate", "median_difference", "median_of", "median_quotient", "share_removed", "summary_of"]

RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 20_090  # Any number: the same samples give the same interval.


class Estimate(NamedTuple):
    """A value and its 95 % interval, in the unit of the samples."""

    value: float
    lo: float
    hi: float


def median_of(values: Sequence[float]) -> Estimate:
    """Return the median of ``values``. :raises ValueError: if there are none"""
    return _estimate(len(values), lambda rounds: median([values[i] for i in rounds]))


def summary_of(values: Sequence[float], summary: Literal["median", "mean", "max", "geometric"]) -> Estimate:
    """Return what ``summary`` says of ``values``. :raises ValueError: if there are none"""
    statistics: dict[str, Callable[[Sequence[float]], float]] = {
        "median": median,
        "mean": mean,
        "max": max,
        "geometric": geometric_mean,
    }
    statistic = statistics[summary]
    return _estimate(len(values), lambda rounds: statistic([values[i] for i in rounds]))


def share_removed(of: Sequence[float], to: Sequence[float], base: Sequence[float]) -> Estimate | None:
    """Return how much of the way from ``to`` down to ``base`` was made by ``of``, by their medians: 1 is all of it.

    None if ``to`` is not above ``base``: there was nothing to remove.

    :raises ValueError: if there are none, or not equally many
    """
    _require_pairs(of, to)
    _require_pairs(of, base)

    def share(rounds: Sequence[int]) -> float | None:
        low, mid, high = (median([values[i] for i in rounds]) for values in (base, of, to))
        return (high - mid) / (high - low) if high > low else None

    return None if share(range(len(of))) is None else _estimate(len(of), share)


def median_quotient(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """Return the median of ``above`` over the median of ``below``.

    The two come from the same rounds, and whole rounds are drawn: what slowed a round down slowed both.

    :raises ValueError: if there are none, not equally many, or one of ``below`` is not positive
    """
    if min(below, default=1.0) <= 0:
        raise ValueError("a quotient needs positive samples below")
    _require_pairs(above, below)
    return _estimate(len(above), lambda rounds: median([above[i] for i in rounds]) / median([below[i] for i in rounds]))


def median_difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Return the median over the rounds of ``first`` minus ``second``.

    :raises ValueError: if there are none, or not equally many
    """
    _require_pairs(first, second)
    return median_of([one - other for one, other in zip(first, second, strict=True)])


def _require_pairs(first: Sequence[float], second: Sequence[float]) -> None:
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} samples are not of the same rounds")


def _estimate(n: int, statistic: Callable[[Sequence[int]], float | None]) -> Estimate:
    """``statistic`` is None of rounds that say nothing, but not of all of them."""
    if not n:
        raise ValueError("there are no samples")
    draw = random.Random(SEED)  # noqa: S311  no secret is made of it
    rounds = range(n)
    values = (statistic(draw.choices(rounds, k=n)) for _ in range(RESAMPLES))
    drawn = sorted(value for value in values if value is not None)
    cut = round(len(drawn) * (1 - CONFIDENCE) / 2)
    whole = statistic(rounds)
    if whole is None:
        raise ValueError("the samples say nothing")
    return Estimate(whole, drawn[cut], drawn[-1 - cut])
