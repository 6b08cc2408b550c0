# SPDX-License-Identifier: Apache-2.0
"""How long to keep a paused session's KV cache: Continuum's rule, and the one that follows a call while it runs.

Both weigh seconds against seconds. A session that keeps m of M bytes for τ seconds costs the others τ x m / M; one
that comes back to nothing costs B x m / M. The factor m / M stands on both sides and cancels (Continuum, arXiv
2511.02230, section 4.1), so neither appears here. The symbols of the paper:

====================  ======  ==================================================================================
τ                     s       time-to-live: how long the blocks are kept after a turn's end
r, f                          the turn that ended, the tool that it calls
PrefillReload(r)      s       to have the context of r back: :mod:`agentcg.kv.reload`. Section 4.2
T                     s       queueing delay of those who came back to nothing: :class:`agentcg.kv.statistics.Delay`
η                             how much of T a kept cache saves: :class:`agentcg.kv.statistics.Turns`. Section 4.2
B                     s       T x η + PrefillReload(r), what a kept cache saves (the bracket of equation 2)
S, S[f]               s       pauses so far, after all tools and after f: from a turn's end to the next request
P(τ, f)                       part of S[f] that was not longer than τ
K                             up to so many pauses, nothing is believed yet: 100. Section 4.2
====================  ======  ==================================================================================
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Sequence
from math import log

from agentcg.predict.distribution import Distribution

__all__ = ["COLD_START", "Pauses", "best_ttl", "default_ttl", "hold_value"]

COLD_START = 100
"""K."""
_KEPT = 4096  # Pauses kept of each tool, and of all; the paper does not say that they are bounded.
_TOOLS = 1024  # Those that were called last.


def best_ttl(pauses: Sequence[float], benefit_sec: float) -> float:
    """Return the τ that maximises P(τ, f) x B - τ, equation 2 of the paper, in seconds.

    P jumps only where a pause was seen, so these and 0 are all that need to be tried. Of equals it is the least.

    :param pauses: S[f], in seconds, ascending, none below 0
    :param benefit_sec: B
    """
    best = value = 0.0
    for number, pause in enumerate(pauses, 1):
        # Of equal pauses the last one counts: all of them are over by then.
        if (found := number / len(pauses) * benefit_sec - pause) > value:
            best, value = pause, found
    return best


def default_ttl(benefit_sec: float) -> float:
    """Return T_default in seconds: the τ that maximises (1 - e^(-τ)) x B - τ.

    The paper takes pauses as exponential with a mean of 1 s, and η as 1, before it has seen any. The derivative
    e^(-τ) x B - 1 is zero at ln B; below B = 1 s it is negative from the start.
    """
    return log(benefit_sec) if benefit_sec > 1 else 0.0


class Pauses:
    """S and S[f]: the last pauses, after every tool and after each."""

    def __init__(self) -> None:
        self._all = _Window()
        self._tools: OrderedDict[str, _Window] = OrderedDict()

    def observe(self, tool: str, sec: float) -> None:
        """Learn of a pause after a call of ``tool``."""
        self._all.add(sec)
        self._tools.setdefault(tool, _Window()).add(sec)
        self._tools.move_to_end(tool)
        if len(self._tools) > _TOOLS:
            self._tools.popitem(last=False)

    def ttl(self, tool: str, *, delay_sec: float, eta: float, reload_sec: float) -> float:
        """Return Continuum's τ for a call of ``tool``, in seconds; T, η and PrefillReload are given."""
        of_tool = self._tools.get(tool)
        if len(self._all.ascending) <= COLD_START:
            return default_ttl(delay_sec + reload_sec)
        known = self._all if of_tool is None or len(of_tool.ascending) <= COLD_START else of_tool
        return best_ttl(known.ascending, delay_sec * eta + reload_sec)

    def mean(self, tool: str) -> float | None:
        """Return the mean pause after ``tool`` in seconds, or None if there was none."""
        known = self._tools.get(tool)
        return sum(known.ascending) / len(known.ascending) if known else None


class _Window:
    """The last values, in ascending order."""

    def __init__(self) -> None:
        self.ascending: list[float] = []
        self._order: deque[float] = deque()

    def add(self, value: float) -> None:
        if len(self._order) == _KEPT:
            self.ascending.pop(bisect_left(self.ascending, self._order.popleft()))
        self._order.append(value)
        insort(self.ascending, value)


def hold_value(remaining: Distribution, benefit_sec: float) -> float:
    """Return what it is worth to go on keeping the cache, in seconds: the most of P(R <= τ) x B - E[min(R, τ)] over τ.

    R is what is left of the pause, as it is known now. Unlike in equation 2, the price is what is expected to be paid
    and not all of τ: a cache whose session is back costs nothing more. And it is asked again while the call runs, with
    what is left by then. Nothing is worth less than 0: the cache can be given up at once.

    Without the tail the most is at a value of R; of the tail alone it is where its hazard 2 / (s + τ) has fallen to
    1 / B. Only these are tried: between two values it may be a little more.
    """
    tail_ends = 2 * benefit_sec - remaining.tail_scale
    times = sorted({*remaining.values, max(0.0, tail_ends)})
    return max(0.0, *(back * benefit_sec - held for back, held in remaining.within(times)))
