# SPDX-License-Identifier: Apache-2.0
"""Two arms, round by round: which of them is ahead, in what, by how much.

Arms are compared in the order of :data:`MEASURES`: losses come first, since who lets the others die has memory to be
quick with. The first measure in which two arms clearly differ decides between them, unless a weightier one leans the
other way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Literal, TypeAlias

from agentcg.replay.result import ArmResult, SessionResult
from agentcg.statistics import Estimate, median_quotient, summary_of

__all__ = ["MEASURES", "ROUNDS_LEAST", "Comparison", "Measure", "Round", "compare", "drawn"]
__all__ += ["labels", "slowdown"]

Round: TypeAlias = Mapping[str, ArmResult]
"""What one round came to: by the names of the arms that finished it."""

Measure: TypeAlias = Literal["protected finished", "others finished", "protected time", "others time"]

MEASURES: tuple[Measure, ...] = ("protected finished", "others finished", "protected time", "others time")

ROUNDS_LEAST = 6
"""Of fewer rounds nothing is said: where two arms are alike, five agree by chance in more than one of twenty runs
(2 / 2**5), six in fewer (2 / 2**6)."""

NEGLIGIBLE = 0.01
"""Times that differ by less than this part of them are alike: a replay keeps them no better."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The first arm against the second, in one measure."""

    first: str
    second: str
    measure: Measure
    rounds: int
    """How many have both; for times, those in which both finished the same session."""
    estimate: Estimate
    """How many more sessions finished in a round, on the average; or the quotient of the median times."""

    @property
    def of_times(self) -> bool:
        """Less is better, and 1 is no difference. Else more is better, and 0 is none."""
        return self.measure.endswith("time")

    @property
    def differs(self) -> bool:
        """A part of the interval is beyond no difference."""
        low, high = self._equal
        return self.estimate.lo < low or self.estimate.hi > high

    @property
    def clear(self) -> bool:
        """The whole interval is on one side of no difference, and it comes from enough rounds."""
        low, high = self._equal
        return self.rounds >= ROUNDS_LEAST and (self.estimate.hi < low or self.estimate.lo > high)

    @property
    def ahead(self) -> bool:
        """The first is better, clearly or not."""
        low, high = self._equal
        return self.estimate.value < low if self.of_times else self.estimate.value > high

    @property
    def behind(self) -> bool:
        """The second is."""
        low, high = self._equal
        return self.estimate.value > high if self.of_times else self.estimate.value < low

    @property
    def _equal(self) -> tuple[float, float]:
        return (1 - NEGLIGIBLE, 1 + NEGLIGIBLE) if self.of_times else (0.0, 0.0)


def compare(rounds: Sequence[Round], first: str, second: str) -> list[Comparison]:
    """Return the first arm against the second in each measure that both have, the weightiest first."""
    pairs = [(each[first], each[second]) for each in rounds if first in each and second in each]
    found = []
    for measure in MEASURES:
        protected = measure.startswith("protected")
        if not any(_of(result, protected) for pair in pairs for result in pair):
            continue
        if measure.endswith("finished"):
            more = [_finished(one, protected) - _finished(other, protected) for one, other in pairs]
            found.append(Comparison(first, second, measure, len(more), summary_of(more, "mean")))
        elif times := [both for one, other in pairs if (both := _times(one, other, protected)) is not None]:
            mine, theirs = zip(*times, strict=True)
            found.append(Comparison(first, second, measure, len(times), median_quotient(mine, theirs)))
    return found


def drawn(rounds: Sequence[Round]) -> bool:
    """Return whether rounds have sessions of their own, so that a name says nothing beyond its round."""
    named = {frozenset(session.name for session in result.sessions) for each in rounds for result in each.values()}
    return len(named) > 1


def labels(result: ArmResult, *, drawn: bool) -> dict[str, str]:
    """Return what stands for each session in tables of all rounds: its name, or its kind if each has drawn its own."""
    return {
        session.name: session.name if not drawn else "protected" if session.protected else "others"
        for session in sorted(result.sessions, key=lambda session: not session.protected)
    }


def slowdown(results: Iterable[ArmResult], *, protected: bool) -> list[float]:
    """Return the times of the sessions that finished over the recorded ones: their geometric mean, a value a result.

    :param protected: of those that are, or of the others
    """
    ratios = ([session.ratio for session in _of(result, protected) if session.ratio] for result in results)
    return [geometric_mean(each) for each in ratios if each]


def _finished(result: ArmResult, protected: bool) -> int:
    return sum(session.state == "finished" for session in _of(result, protected))


def _of(result: ArmResult, protected: bool) -> list[SessionResult]:
    return [session for session in result.sessions if session.protected == protected]


def _times(one: ArmResult, other: ArmResult, protected: bool) -> tuple[float, float] | None:
    """The times of the sessions that finished in both, as geometric means: who died early does not count as quick."""
    mine, theirs = (
        {session.name: session.completion_sec for session in _of(result, protected) if _timed(session)}
        for result in (one, other)
    )
    both = [(mine[name], theirs[name]) for name in mine if name in theirs]
    if not both:
        return None
    return geometric_mean([first for first, _ in both]), geometric_mean([second for _, second in both])


def _timed(session: SessionResult) -> bool:
    return session.state == "finished" and session.completion_sec > 0
