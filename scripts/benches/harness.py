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

Repetition = Callable[[], Mapping[str, float]]
"""Does the thing once, and returns ``{metric: value}``, the same metrics each time."""

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
    """

    name: str
    prepare: Callable[[Stage], Repetition]
    settle_sec: float = 0.0


@dataclass(frozen=True)
class Part:
    """Arms that are measured together in one place.

    :param vm: options of ``scripts/vm run`` where the host cannot enforce; None: always on the host
    :param quick_sec: how long ``--quick`` measures, in seconds
    """

    name: str
    arms: Callable[[], Sequence[Arm]]
    vm: tuple[str, ...] | None
    quick_sec: float


@dataclass(frozen=True)
class Ratio:
    """A comparison of the arm ``of`` with the arm ``to`` of the same part.

    ``difference``: the median of the paired differences, in the metric's unit, instead of the quotient of the medians.
    """

    name: str
    of: str
    to: str
    metric: str = "total_ms"
    goal: float | None = None
    better: Literal["lower", "higher"] = "lower"
    difference: bool = False


@dataclass(frozen=True)
class Bench:
    """A comparison. ``units`` gives the unit of every metric, ``n`` how many rounds a full run has."""

    name: str
    summary: str
    parts: tuple[Part, ...]
    units: Mapping[str, str]
    ratios: tuple[Ratio, ...]
    n: int = 200
    quick_n: int = 30


@dataclass(frozen=True)
class Plan:
    """How long to measure: ``n`` rounds, or as many as begin within ``budget_sec``."""

    n: int
    warm_up: int = 3
    budget_sec: float = 1200.0


@dataclass
class Measured:
    """What one part came to: a sample for every arm, metric and round."""

    part: str
    machine: str
    kernel: str
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    """Arms that failed, and why; they have no samples."""
    notes: list[str] = field(default_factory=list)


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


def measure(arms: Sequence[Arm], plan: Plan, measured: Measured, say: Callable[[str], None]) -> None:
    """Fill ``measured``. An arm that fails is left out from there on, with its error; the others go on.

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
        settle = {arm.name: arm.settle_sec for arm in arms}
        for _ in range(plan.warm_up):
            _round(live, list(live), settle, measured, say, keep=False)
        order = random.Random(SEED)
        deadline = time.monotonic() + plan.budget_sec
        # Garbage of one arm must not be collected on another's time.
        gc.disable()
        try:
            for _ in range(plan.n):
                if not live or time.monotonic() > deadline:
                    break
                gc.collect()
                _round(live, order.sample(list(live), len(live)), settle, measured, say, keep=True)
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
    order: Sequence[str],
    settle: Mapping[str, float],
    measured: Measured,
    say: Callable[[str], None],
    *,
    keep: bool,
) -> None:
    for name in order:
        try:
            with time_limit(REPETITION_SEC, "one repetition"):
                metrics = live[name]()
            if keep:
                _keep(measured.samples.setdefault(name, {}), metrics)
        except Exception as error:
            del live[name]
            measured.samples.pop(name, None)
            _fail(measured, name, error, say)
        else:
            time.sleep(settle[name])


def _keep(samples: dict[str, list[float]], metrics: Mapping[str, float]) -> None:
    if samples and samples.keys() != metrics.keys():
        raise ValueError(f"returned {sorted(metrics)} after {sorted(samples)}")
    for metric, value in metrics.items():
        samples.setdefault(metric, []).append(value)


def _fail(measured: Measured, name: str, error: Exception, say: Callable[[str], None]) -> None:
    measured.errors[name] = f"{type(error).__name__}: {error}"
    say(f"{name} failed: {measured.errors[name]}")
