# SPDX-License-Identifier: Apache-2.0
"""What it takes to have a context back that is no longer in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agentcg.errors import InvalidInput

__all__ = ["Prefill", "Reload", "Transfer", "fit_prefill"]


class Reload(Protocol):
    """Continuum's PrefillReload (arXiv 2511.02230, section 4.2)."""

    def sec(self, tokens: int) -> float:
        """Return the seconds that it takes to have ``tokens`` of context back."""
        ...


@dataclass(frozen=True, slots=True)
class Prefill:
    """It is computed again: quadratic x n² + linear x n + constant seconds for n tokens, nothing for none."""

    quadratic: float
    """Seconds per token²: attention."""
    linear: float
    """Seconds per token."""
    constant: float = 0.0
    """Seconds."""

    def sec(self, tokens: int) -> float:
        if tokens <= 0:
            return 0.0
        return max(0.0, (self.quadratic * tokens + self.linear) * tokens + self.constant)


@dataclass(frozen=True, slots=True)
class Transfer:
    """It is copied back from where it was offloaded to."""

    bytes_per_token: int
    bytes_per_sec: float

    def sec(self, tokens: int) -> float:
        return max(0, tokens) * self.bytes_per_token / self.bytes_per_sec


def fit_prefill(samples: Sequence[tuple[int, float]]) -> Prefill:
    """Return the least-squares fit to prefills that ran alone, given as (tokens, seconds).

    :raises InvalidInput: if they are of fewer than three lengths
    """
    if len({tokens for tokens, _ in samples}) < 3:
        raise InvalidInput("samples", "a quadratic needs three lengths", hint="measure 1000, 2000, 4000, … tokens")
    # In units of the longest: the fourth power of a hundred thousand tokens leaves no digits for the constant.
    unit = max(tokens for tokens, _ in samples)
    powers = [sum((tokens / unit) ** power for tokens, _ in samples) for power in range(5)]
    right = [sum(sec * (tokens / unit) ** power for tokens, sec in samples) for power in range(3)]
    rows = [[*powers[power : power + 3], right[power]] for power in range(3)]
    for pivot in range(3):
        rows[pivot:] = sorted(rows[pivot:], key=lambda row: -abs(row[pivot]))
        for below in range(pivot + 1, 3):
            factor = rows[below][pivot] / rows[pivot][pivot]
            rows[below] = [value - factor * above for value, above in zip(rows[below], rows[pivot], strict=True)]
    found = [0.0] * 3
    for row in (2, 1, 0):
        found[row] = (rows[row][3] - sum(rows[row][column] * found[column] for column in range(row + 1, 3))) / rows[
            row
        ][row]
    constant, linear, quadratic = found
    return Prefill(quadratic / unit**2, linear / unit, constant)
