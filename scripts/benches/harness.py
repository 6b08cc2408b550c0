# SPDX-License-Identifier: Apache-2.0
"""What a bench is made of, and how its arms are measured: interleaved, in one run, each once a round."""

from __future__ import annotations

import gc
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Literal

__all__ = ["Arm", "Bench", "Measured", "Part", "Plan", "Ratio", "Stage", "measure", "time_limit"]

Repetition = Callable[[], Mapping[str, float | None]]
"""Does the thing once, and returns ``{metric: value}``, the same metrics each time; None where there was nothing to
measure this time."""

SETUP_SEC = 180.0
REPETITION_SEC = 60.0
SEED = 1  # Any number: every run has the same order.


class Stage(ExitStack):
    """What the arms of one part stand on: everything started is put here and ended with it, in reverse order."""

    def __init__(self) -> None:
        super().__init__()
        self.shared: dict[str, Any] = {}
        """What several arms use; the first of them makes it."""
        self.notes: list[str] = []
        """What a reader of the result has to know."""


@dataclass(frozen=True)
class Arm:
    """One of the things that are compared.

    :param prepare: sets it up, and returns what does one repetition
    :param settle_sec: how long to wait after a repetition because others go on with it in the background
    :param limit_sec: how long a repetition may take; REPETITION_SEC if left out
    :param expected_sec: what a repetition takes, roughly: a run that is long says so before
    """

    name: str
    prepare: Callable[[Stage], Repetition]
    settle_sec: float = 0.0
    limit_sec: float | None = None
    expected_sec: float = 0.0


@dataclass(frozen=True)
class Part:
    """Arms that are measured together in one place.

    :param vm: options of ``scripts/vm run`` where the host cannot enforce; None: always on the host
    :param quick_sec: how long ``--quick`` measures, in seconds; 0: it leaves this part out
    :param quick_arms: the arms of ``--quick``; all if left out
    :param full_sec: the longest that a full run measures
    """

    name: str
    arms: Callable[[], Sequence[Arm]]
    vm: tuple[str, ...] | None
    quick_sec: float
    quick_arms: tuple[str, ...] = ()
    full_sec: float = 1500.0


@dataclass(frozen=True)
class Ratio:
    """A comparison of the arm ``of`` with the arm ``to`` of the same part.

    ``difference``: the median of the paired differences, in the metric's unit, instead of the quotient of the medians.
    ``base``: how much of the way from ``to`` down to this arm was made: (to - of) / (to - base), of medians.
    Without ``to``, it is the metric itself that has a goal, its ``summary`` over the rounds. With it, ``geometric`` and
    ``max`` are the mean and the largest of the rounds' own quotients, for rounds that are not alike.
    """

    name: str
    of: str
    to: str = ""
    metric: str = "total_ms"
    goal: float | None = None
    better: Literal["lower", "higher"] = "lower"
    difference: bool = False
    base: str = ""
    summary: Literal["median", "mean", "max", "geometric"] = "median"

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that it needs."""
        return tuple(filter(None, (self.of, self.to, self.base)))


@dataclass(frozen=True)
class Bench:
    """A comparison. ``units`` gives the unit of every metric, ``n`` how many rounds a full run has.

    :param warm_up: rounds that come first and are not counted
    :param before: what is to be done once, outside of the VM
    """

    name: str
    summary: str
    parts: tuple[Part, ...]
    units: Mapping[str, str]
    ratios: tuple[Ratio, ...]
    n: int = 200
    quick_n: int = 30
    warm_up: int = 3
    before: Callable[[], None] | None = None


@dataclass(frozen=True)
class Plan:
    """How long to measure: ``n`` rounds, or as many as begin within ``budget_sec``.

    :param first: the number of the first round: another order for one that goes on where another stopped
    """

    n: int
    warm_up: int = 3
    budget_sec: float = 1200.0
    first: int = 0


@dataclass
class Measured:
    """What one part came to: a sample for every arm, metric and round."""

    part: str
    machine: str
    kernel: str
    samples: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    """Arms that failed, and why; they have no samples."""
    notes: list[str] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        """How many were completed."""
        return max((len(values) for metrics in self.samples.values() for values in metrics.values()), default=0)

    def joined(self, later: Measured) -> Measured:
        """Return this with the rounds of ``later`` behind its own. Where an arm has none, nothing was measured."""
        samples: dict[str, dict[str, list[float | None]]] = {}
        for arm in self.samples | later.samples:
            mine, others = self.samples.get(arm, {}), later.samples.get(arm, {})
            samples[arm] = {
                metric: [*mine.get(metric, [None] * self.rounds), *others.get(metric, [None] * later.rounds)]
                for metric in mine | others
            }
        notes = [*self.notes, *later.notes]
        return Measured(self.part, later.machine, later.kernel, samples, self.errors | later.errors, notes)


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raise TimeoutError in the main thread when the body takes too long, and again every 5 s until it gives up."""

    def expired(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{what} took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure(
    arms: Sequence[Arm],
    plan: Plan,
    measured: Measured,
    say: Callable[[str], None],
    kept: Callable[[], None] = lambda: None,
) -> None:
    """Fill ``measured``. An arm that fails is left out from there on, with its error; the others go on.

    ``kept`` is called after each round: what was measured so far can be saved.

    Each round has an order of its own. In a rotated one every arm would keep its neighbour, and pay in every round for
    what that one left to be done.
    """
    stage = Stage()
    measured.notes = stage.notes
    live: dict[str, Repetition] = {}
    try:
        for arm in arms:
            say(f"setting up {arm.name}")
            try:
                with time_limit(SETUP_SEC, "the set-up"):
                    live[arm.name] = arm.prepare(stage)
            except Exception as error:
                _fail(measured, arm.name, error, say)
        say(f"measuring {', '.join(live)}" if live else "no arm is left")
        by_name = {arm.name: arm for arm in arms}
        for _ in range(plan.warm_up):
            _round(live, [by_name[name] for name in live], measured, say, keep=False)
        order = random.Random(SEED + plan.first)
        deadline = time.monotonic() + plan.budget_sec
        # Garbage of one arm must not be collected on another's time.
        gc.disable()
        try:
            for _ in range(plan.n):
                if not live or time.monotonic() > deadline:
                    break
                gc.collect()
                _round(live, [by_name[name] for name in order.sample(list(live), len(live))], measured, say, keep=True)
                kept()
        finally:
            gc.enable()
    finally:
        _clean_up(stage)
    measured.samples = {arm.name: measured.samples[arm.name] for arm in arms if arm.name in measured.samples}
    for name in live:
        if name not in measured.samples:
            measured.errors[name] = "no round was completed in the time that was given"


def _clean_up(stage: Stage) -> None:
    try:
        stage.close()
    except Exception as error:
        # What was measured is good all the same.
        stage.notes.append(f"cleaning up failed: {type(error).__name__}: {error}")


def _round(
    live: dict[str, Repetition],
    order: Sequence[Arm],
    measured: Measured,
    say: Callable[[str], None],
    *,
    keep: bool,
) -> None:
    for arm in order:
        try:
            with time_limit(arm.limit_sec or REPETITION_SEC, "one repetition"):
                metrics = live[arm.name]()
            if keep:
                _keep(measured.samples.setdefault(arm.name, {}), metrics)
        except Exception as error:
            del live[arm.name]
            measured.samples.pop(arm.name, None)
            _fail(measured, arm.name, error, say)
        else:
            time.sleep(arm.settle_sec)


def _keep(samples: dict[str, list[float | None]], metrics: Mapping[str, float | None]) -> None:
    if samples and samples.keys() != metrics.keys():
        raise ValueError(f"returned {sorted(metrics)} after {sorted(samples)}")
    for metric, value in metrics.items():
        samples.setdefault(metric, []).append(value)


def _fail(measured: Measured, name: str, error: Exception, say: Callable[[str], None]) -> None:
    measured.errors[name] = f"{type(error).__name__}: {error}"
    say(f"{name} failed: {measured.errors[name]}")
