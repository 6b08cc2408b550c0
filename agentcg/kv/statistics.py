# SPDX-License-Identifier: Apache-2.0
"""What Continuum's rule needs to know of the server: T and η (arXiv 2511.02230, section 4.2).

The paper names both and leaves their windows open; the ones here are ours.
"""

from __future__ import annotations

from collections import deque

__all__ = ["Delay", "Turns"]

_REQUESTS = 200
_PROGRAMS = 256


class Delay:
    """T: the mean time in the queue of the last requests whose session had lost cached blocks, in seconds."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=_REQUESTS)

    def observe(self, sec: float) -> None:
        """Learn how long such a request has waited until it ran."""
        self._last.append(sec)

    @property
    def sec(self) -> float:
        """T; 0 as long as nobody has come back to nothing."""
        return sum(self._last) / len(self._last) if self._last else 0.0


class Turns:
    """η = -Corr(k, N - k): k turns of a program are over, N - k are to come, for every k of the last programs.

    If every program has as many turns, being k turns in says exactly how soon it will be done, and η is 1: serving
    those first that are ahead is worth all of T. If turns so far say nothing of those to come, η is 0; if they promise
    more, it is negative.
    """

    def __init__(self) -> None:
        self._programs: deque[int] = deque(maxlen=_PROGRAMS)
        self._eta: float | None = None

    def observe(self, turns: int) -> None:
        """Learn how many turns a program had."""
        self._programs.append(turns)
        self._eta = None

    @property
    def eta(self) -> float:
        """η; 1, as in the paper's cold start, where the turns so far do not determine it."""
        if self._eta is None:
            self._eta = self._compute()
        return self._eta

    def _compute(self) -> float:
        # Of one program: k and N - k both run through 1, …, N - 1.
        pairs = total = squares = products = 0
        for turns in self._programs:
            one = turns * (turns - 1) // 2
            square = one * (2 * turns - 1) // 3
            pairs += turns - 1
            total += one
            squares += square
            products += turns * one - square
        # Both have the same mean and variance; times pairs², so that whole numbers stay whole.
        variance = pairs * squares - total * total
        return -(pairs * products - total * total) / variance if variance else 1.0
