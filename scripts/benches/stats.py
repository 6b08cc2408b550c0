# SPDX-License-Identifier: Apache-2.0
"""Medians and what is known of them: percentile bootstrap intervals (Efron and Tibshirani 1993, chapter 13)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

__all__ = ["Estimate", "median_difference", "median_of", "median_quotient"]

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


def _estimate(n: int, statistic: Callable[[Sequence[int]], float]) -> Estimate:
    if not n:
        raise ValueError("there are no samples")
    draw = random.Random(SEED)
    rounds = range(n)
    drawn = sorted(statistic(draw.choices(rounds, k=n)) for _ in range(RESAMPLES))
    cut = round(RESAMPLES * (1 - CONFIDENCE) / 2)
    return Estimate(statistic(rounds), drawn[cut], drawn[-1 - cut])
