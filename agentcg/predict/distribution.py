# SPDX-License-Identifier: Apache-2.0
"""What a positive quantity may come to: values that were seen, and a tail for what was not.

The tail is Lomax with shape 2 (a Pareto that begins at zero): a value is above t with probability (s / (s + t))² for
the scale s, and the mean is s. It is the rule beyond the largest value seen: what has already come to x more than the
tail's begin is again Lomax, with the scale s + x, so the longer it has lasted the longer it is expected to last on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf, sqrt

__all__ = ["Distribution"]


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution of what is still to come, in the unit of its values. Nothing of it is below zero.

    ``shares`` and ``tail_share`` add up to 1; each share is the probability of the value at its place.
    """

    values: tuple[float, ...]
    """In ascending order."""
    shares: tuple[float, ...]
    tail_share: float
    tail_scale: float

    def survival(self, t: float) -> float:
        """Return the probability of more than ``t``."""
        if t < 0:
            return 1.0
        return min(1.0, sum(self.shares[bisect_right(self.values, t) :]) + self._tail(t))

    def _tail(self, t: float) -> float:
        return self.tail_share * (self.tail_scale / (self.tail_scale + t)) ** 2

    def quantile(self, q: float) -> float:
        """Return the least t that is not exceeded with probability ``q``, 0 <= q <= 1; it may be infinite."""
        seen = 0.0
        for value, share in zip(self.values, self.shares, strict=True):
            if (between := self._tail_quantile(q - seen)) <= value:
                return between
            seen += share
            if seen + self.tail_share - self._tail(value) >= q:
                return value
        return self._tail_quantile(q - seen)

    def _tail_quantile(self, probability: float) -> float:
        """Where the tail alone comes to ``probability``."""
        if probability <= 0:
            return 0.0
        left = self.tail_share - probability
        return self.tail_scale * (sqrt(self.tail_share / left) - 1) if left > 0 else inf

    def mean(self) -> float:
        """Return the expected value."""
        known = sum(value * share for value, share in zip(self.values, self.shares, strict=True))
        return known + self.tail_share * self.tail_scale

    def after(self, t: float) -> Distribution:
        """Return what is still to come when it is known to be more than ``t``."""
        if t <= 0:
            return self
        first = bisect_right(self.values, t)
        tail = self._tail(t)
        left = sum(self.shares[first:]) + tail
        if not left:  # It was certain to be over by now.
            return Distribution((), (), 1.0, self.tail_scale + t)
        return Distribution(
            tuple(value - t for value in self.values[first:]),
            tuple(share / left for share in self.shares[first:]),
            tail / left,
            self.tail_scale + t,
        )

    def within(self, times: Iterable[float]) -> Iterator[tuple[float, float]]:
        """Yield for each t of ``times``, which ascend, the probability of t or less, and the mean of the smaller of t
        and what is to come."""
        seen = below = 0.0
        index = 0
        for t in times:
            while index < len(self.values) and self.values[index] <= t:
                seen += self.shares[index]
                below += self.shares[index] * self.values[index]
                index += 1
            # The tail's survival from 0 to t comes to share x s x t / (s + t).
            tail = self.tail_share * self.tail_scale * t / (self.tail_scale + t)
            above = (1 - self.tail_share - seen) * t
            yield seen + self.tail_share - self._tail(t), below + above + tail
