# SPDX-License-Identifier: Apache-2.0
"""Which arm is ahead of all others, and how sure that is: one sentence and a row for each arm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentcg.replay.result import ArmResult
from agentcg.report.compare import MEASURES, ROUNDS_LEAST, Comparison, Measure, Round, compare, drawn, labels, slowdown
from agentcg.statistics import Estimate, median_of

__all__ = ["ArmSummary", "Summary", "describe", "describe_all", "format_estimate", "summarise"]

_PHRASES: Mapping[Measure, str] = {
    "protected finished": "protected sessions finish per round",
    "others finished": "of the other sessions finish per round",
    "protected time": "protected sessions take",
    "others time": "the other sessions take",
}


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One arm over all its rounds."""

    name: str
    rounds: int
    protected: Estimate | None
    """The time of the protected sessions that finished, over the recorded one; None if none did."""
    protected_rounds: int
    """In which any did."""
    others: Estimate | None
    others_rounds: int
    finished: int
    sessions: int
    """In all rounds together."""
    lost: Mapping[str, int]
    """Sessions that did not finish, ``build (died)``, and how often."""
    oom_kills: int
    against: tuple[Comparison, ...]
    """The best arm against this one, in the measure that decides or leans; then what clearly speaks against it."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run says."""

    winner: str | None
    """The arm that is clearly ahead of each other; None if nothing can be told."""
    best: str
    """The winner, or who is in front so far."""
    sentence: str
    arms: tuple[ArmSummary, ...]


class _Duels:
    """Each arm against each other."""

    def __init__(self, rounds: Sequence[Round], names: Sequence[str]) -> None:
        self.names = names
        self.all = {(one, two): compare(rounds, one, two) for one in names for two in names if one != two}
        beaten = {name: [other for other in names if other != name and self.beats(name, other)] for name in names}
        self.ahead = [name for name in names if not any(name in losers for losers in beaten.values())]
        """Those that nobody beats."""
        self.behind = [name for name in names if self.ahead and all(name in beaten[one] for one in self.ahead)]
        self.winner = next((name for name in self.ahead if len(beaten[name]) == len(names) - 1), None)
        if len(names) == 1:
            self.winner = None

    def decisive(self, one: str, other: str) -> Comparison | None:
        """The measure that decides between them; if none does, the first in which they differ at all."""
        differ = [each for each in self.all[one, other] if each.differs]
        at = next((at for at, each in enumerate(differ) if each.clear), 0)
        # What weighs more may lean the other way, and is then not for what weighs less to decide.
        if any(each.behind if differ[at].ahead else each.ahead for each in differ[:at]):
            at = 0
        return next(iter(differ[at:] or self.all[one, other]), None)

    def beats(self, one: str, other: str) -> bool:
        found = self.decisive(one, other)
        return found is not None and found.clear and found.ahead

    def reasons(self, one: str, other: str) -> tuple[Comparison, ...]:
        """What decides, or leans, and then what clearly speaks against it."""
        found = self.decisive(one, other)
        if found is None:
            return ()
        against = [each for each in self.all[one, other] if each.clear and each.ahead != found.ahead]
        return (found, *against)

    def foremost(self) -> str:
        """The arm that is ahead of most others, whether that is sure or not."""
        return max(self.ahead or self.names, key=self._wins)

    def closest(self, winner: str) -> str:
        """The arm that ``winner`` beats in the least weighty measure, and there by the least."""

        def lead(name: str) -> tuple[int, float]:
            found = self.reasons(winner, name)[0]
            value = found.estimate.value
            return -MEASURES.index(found.measure), -value if found.of_times else value

        return min((name for name in self.names if name != winner), key=lead)

    def _wins(self, name: str) -> int:
        found = (self.decisive(name, other) for other in self.names if other != name)
        return sum(each is not None and each.ahead for each in found)


def summarise(rounds: Sequence[Round], names: Iterable[str]) -> Summary:
    """Return what ``rounds`` say of those of the arms ``names`` that finished a round."""
    duels = _Duels(rounds, [name for name in names if any(name in each for each in rounds)])
    best = duels.winner or duels.foremost()
    arms = [_arm(rounds, name, () if name == best else duels.reasons(best, name)) for name in duels.names]
    return Summary(duels.winner, best, _sentence(duels, best, len(rounds)), tuple(arms))


def describe(comparison: Comparison) -> str:
    """Return the first arm against the second in words: ``protected sessions take 0.71 [0.65, 0.80] times as long``."""
    phrase, estimate = _PHRASES[comparison.measure], comparison.estimate
    if comparison.of_times:
        return f"{phrase} {format_estimate(estimate)} times as long"
    if estimate.value >= 0:
        return f"{format_estimate(estimate)} more {phrase}"
    return f"{format_estimate(Estimate(-estimate.value, -estimate.hi, -estimate.lo))} fewer {phrase}"


def describe_all(reasons: Sequence[Comparison]) -> str:
    """Return what decides in words, with the number of its rounds, and what clearly speaks against it."""
    decides, *against = map(describe, reasons)
    return f"{decides}{', though ' if against else ''}{', and '.join(against)} (n = {reasons[0].rounds})"


def format_estimate(estimate: Estimate) -> str:
    """Return a value with its interval: ``1.25 [1.10, 1.40]``."""
    value, low, high = (each + 0.0 for each in estimate)  # 0 has no sign
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _arm(rounds: Sequence[Round], name: str, against: tuple[Comparison, ...]) -> ArmSummary:
    results = [each[name] for each in rounds if name in each]
    protected, others = slowdown(results, protected=True), slowdown(results, protected=False)
    lost: Counter[str] = Counter()
    own = drawn(rounds)
    for result in results:
        named = labels(result, drawn=own)
        unfinished = [each for each in result.sessions if each.state != "finished"]
        lost.update(f"{named[each.name]} ({each.state.replace('_', ' ')})" for each in unfinished)
    sessions = sum(len(result.sessions) for result in results)
    return ArmSummary(
        name=name,
        rounds=len(results),
        protected=median_of(protected) if protected else None,
        protected_rounds=len(protected),
        others=median_of(others) if others else None,
        others_rounds=len(others),
        finished=sessions - lost.total(),
        sessions=sessions,
        lost=dict(lost.most_common()),
        oom_kills=sum(_oom_kills(result) for result in results),
        against=against,
    )


def _oom_kills(result: ArmResult) -> int:
    if result.oom_kills is not None:
        return result.oom_kills
    return sum(session.oom_kills_agent + session.oom_kills_call for session in result.sessions)


def _sentence(duels: _Duels, best: str, rounds: int) -> str:
    if len(duels.names) == 1:
        return f"There is nothing to compare: no other arm than {_quoted(best)} has finished a round."
    if duels.winner:
        return _won(duels, best)
    if rounds < ROUNDS_LEAST:
        count = "1 round is" if rounds == 1 else f"{rounds} rounds are"
        return (
            f"Nothing can be told yet: {count} too few, since below {ROUNDS_LEAST} even rounds that all agree may do so"
            f" by chance. So far {_quoted(best)} is in front."
        )
    if not duels.ahead:
        return f"No arm is ahead of all others: each of {_listed(duels.names)} is clearly behind another."
    rest = f" Each of them is clearly ahead of {_listed(duels.behind)}." if duels.behind else ""
    return (
        f"Nothing can be told between {_listed(duels.ahead)}: no measure tells them apart clearly, or a weightier one"
        f" leans the other way.{rest}"
    )


def _won(duels: _Duels, winner: str) -> str:
    closest = duels.closest(winner)
    parts = []
    for name in dict.fromkeys((duels.names[0], closest)):
        if name != winner:
            whom = _quoted(name) + (", the closest," if name == closest and len(duels.names) > 2 else "")
            parts.append(f"against {whom} {describe_all(duels.reasons(winner, name))}")
    return f"{_quoted(winner)} is ahead of every other arm: {'; '.join(parts)}."


def _listed(names: Sequence[str]) -> str:
    *most, last = map(_quoted, names)
    return f"{', '.join(most)} and {last}" if most else last


def _quoted(arm: str) -> str:
    """An arm may be called none."""
    return f"“{arm}”"
