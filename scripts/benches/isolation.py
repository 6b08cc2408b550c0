# SPDX-License-Identifier: Apache-2.0
"""What isolation is worth: a protected session beside two others under one memory limit, in arms that separate causes.

What each arm is, and what is measured, is said in docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from agentcg.replay.arms import Scene
from agentcg.replay.plain_arms import static
from agentcg.replay.plan import SessionPlan
from benches import isolation_arms as kinds
from benches.daemons import folder
from benches.harness import Arm, Bench, Part, Ratio, Repetition, Stage
from benches.isolation_arms import AdmissionArm, BenchArm, DaemonArm, KnobArm, LoopArm, PlainArm
from benches.isolation_busy import BusyArm
from benches.isolation_density import UNITS as DENSITY_UNITS
from benches.isolation_density import density_arms
from benches.isolation_lock import UNITS as LOCK_UNITS
from benches.isolation_lock import lock_arms
from benches.isolation_metrics import UNITS
from benches.isolation_run import LIMIT_SEC, Build, replay, rig_of
from benches.isolation_sessions import FIRST, MB, TRIPLES, Triple, import_recordings, limit_of, load_plans
from benches.isolation_swap import COLD, HOT, POLICY, SwapArm, swapping, zram_of
from benches.place import CHECKOUT

__all__ = ["BENCH"]

MECHANISMS = ("reserve", "hold", "tripwire", "yield", "cpu", "reclaim", "kill")
"""What ``agentcg daemon --without`` takes."""
SLOWING = ("yield", "cpu")
"""Those of them that slow the others down for the protected session's sake, whoever has how much memory."""

ROOMY = 2000
"""MB, more than the first triple ever needs: what its sessions cost each other when memory is not short."""

PACE = 3.0
"""How much faster than recorded the slow replay is: so much less do growth and call boundaries weigh in it."""

Better = Literal["lower", "higher"]
Who = Callable[[Sequence[SessionPlan]], Sequence[SessionPlan]]


def _all(plans: Sequence[SessionPlan]) -> Sequence[SessionPlan]:
    return plans


def _high(plans: Sequence[SessionPlan]) -> Sequence[SessionPlan]:
    return plans[:1]


def _one_other(plans: Sequence[SessionPlan]) -> Sequence[SessionPlan]:
    return plans[1:2]


@dataclass(frozen=True)
class _Scenario:
    """What the arms of a part have in common. ``limit`` is in MB; None is what is as scarce as for the first triple."""

    name: str
    limit: int | None
    triple: Triple = FIRST
    busy: bool = False
    cached: int = 0
    """How much of all memory is page cache, per cent."""
    swap: tuple[str, ...] = ()
    """There is a zram device, which an arm that is :func:`swapping` may use; and what memory is like."""

    def arm(self, name: str, build: Build, expected_sec: float, who: Who = _all, limit: int | None = None) -> Arm:
        part = self if limit is None else replace(self, limit=limit)
        return Arm(
            f"{name}.{self.name}",
            partial(part._prepare, f"{name}.{self.name}", build, who),
            limit_sec=LIMIT_SEC,
            expected_sec=expected_sec * (1.6 if self.busy and who is _all else 1),
        )

    def undeclared(self, expected_sec: float) -> Arm:
        """agentcg that is told nothing, but has seen each session once."""
        name = f"agentcg_undeclared.{self.name}"
        return Arm(name, partial(self._prepare_undeclared, name), limit_sec=LIMIT_SEC, expected_sec=expected_sec)

    def without(self, names: Sequence[str], expected_sec: float) -> Sequence[Arm]:
        """agentcg with each of these mechanisms left out in turn."""
        return [self.arm(f"without_{name}", _agentcg("--without", name), expected_sec) for name in names]

    def _bytes(self) -> int:
        return limit_of(load_plans(self.triple)) if self.limit is None else self.limit * MB

    def _prepare(self, name: str, build: Build, who: Who, stage: Stage) -> Repetition:
        rig, plans, limit = rig_of(stage), who(load_plans(self.triple)), self._bytes()
        zram = zram_of(stage) if self.swap else None

        def built(scene: Scene) -> BenchArm:
            arm: BenchArm = BusyArm(build(scene), rig.program) if self.busy else build(scene)
            return arm if zram is None else SwapArm(arm, zram)

        load = self.swap
        if self.cached:
            load += ("--cached", str(self.cached), "--directory", str(CHECKOUT / "build"))
        return lambda: replay(rig, name, built, plans, limit, self.triple.speed, load)

    def _prepare_undeclared(self, name: str, stage: Stage) -> Repetition:
        rig, history = rig_of(stage), folder(stage) / "history.sqlite"
        limit = self._bytes()

        def learn(scene: Scene) -> DaemonArm:
            return DaemonArm(scene, history=history, declares=False, learns=True)

        for plan in load_plans(self.triple):
            replay(rig, f"{name}, to learn from", learn, (plan,), limit, self.triple.speed)
        return self._prepare(name, partial(DaemonArm, history=history, declares=False), _all, stage)


def _agentcg(*options: str) -> Build:
    return partial(DaemonArm, options=options)


def _arms_1100() -> Sequence[Arm]:
    part = _Scenario("1100", 1100)
    return (
        part.arm("alone", PlainArm, 17, _high),
        part.arm("others_alone", PlainArm, 17, _one_other),
        part.arm("roomy", PlainArm, 17, limit=ROOMY),
        part.arm("none", PlainArm, 28),
        part.arm("static", lambda scene: KnobArm(scene, static), 25),
        part.arm("high_only", lambda scene: KnobArm(scene, kinds.high_only), 35),
        part.arm("low_high", lambda scene: KnobArm(scene, kinds.low_high), 35),
        part.arm("loop10ms", LoopArm, 35),
        part.arm("admission", AdmissionArm, 45),
        part.arm("agentcg", _agentcg(), 35),
        part.undeclared(35),
        *part.without(MECHANISMS, 35),
        part.arm("agentcg_events", _agentcg("--events"), 40),
        part.arm("agentcg_scheduler", _agentcg("--scheduler"), 35),
        part.arm("agentcg_all", _agentcg("--events", "--scheduler"), 40),
    )


def _arms_stable() -> Sequence[Arm]:
    part = _Scenario("stable", 1100)
    return (
        part.arm("alone", PlainArm, 17, _high),
        part.arm("others_alone", PlainArm, 17, _one_other),
        part.arm("roomy", PlainArm, 17, limit=ROOMY),
        part.arm("none", PlainArm, 28),
        part.arm("agentcg", _agentcg(), 35),
        part.undeclared(35),
        part.arm("agentcg_events", _agentcg("--events"), 40),
    )


def _arms_900() -> Sequence[Arm]:
    part = _Scenario("900", 900)
    return (
        part.arm("alone", PlainArm, 17, _high),
        part.arm("others_alone", PlainArm, 17, _one_other),
        part.arm("none", PlainArm, 25),
        part.arm("admission", AdmissionArm, 45),
        part.arm("agentcg", _agentcg(), 45),
        part.undeclared(45),
    )


def _arms_busy(name: str, limit: int) -> Sequence[Arm]:
    part = _Scenario(name, limit, busy=True)
    return (
        part.arm("alone", PlainArm, 17, _high),
        part.arm("none", PlainArm, 35),
        part.arm("agentcg", _agentcg(), 40),
        *part.without(SLOWING, 40),
        part.arm("agentcg_scheduler", _agentcg("--scheduler"), 40),
    )


def _arms_pace() -> Sequence[Arm]:
    part = _Scenario("pace", 1100, replace(FIRST, speed=PACE))
    return (
        part.arm("alone", PlainArm, 50, _high),
        part.arm("others_alone", PlainArm, 45, _one_other),
        part.arm("none", PlainArm, 50),
        part.arm("agentcg", _agentcg(), 100),
    )


def _arms_cached() -> Sequence[Arm]:
    part = _Scenario("cached", 1100, cached=50)
    return (
        part.arm("alone", PlainArm, 17, _high),
        part.arm("others_alone", PlainArm, 17, _one_other),
        part.arm("none", PlainArm, 35),
        part.arm("high_only", lambda scene: KnobArm(scene, kinds.high_only), 40),
        part.arm("low_high", lambda scene: KnobArm(scene, kinds.low_high), 40),
        part.arm("agentcg", _agentcg(), 40),
        *part.without(("reclaim",), 40),
    )


def _arms_swap(name: str, load: tuple[str, ...]) -> Sequence[Arm]:
    part = _Scenario(name, 1100, swap=load)
    return (
        part.arm("alone", swapping(PlainArm), 17, _high),
        part.arm("others_alone", swapping(PlainArm), 17, _one_other),
        part.arm("none", swapping(PlainArm), 40),
        part.arm("high_only", swapping(lambda scene: KnobArm(scene, kinds.high_only)), 40),
        part.arm("low_high", swapping(lambda scene: KnobArm(scene, kinds.low_high)), 40),
        part.arm("agentcg", _agentcg(), 40),
        part.arm("agentcg_swap", swapping(partial(DaemonArm, policy=POLICY)), 40),
        *part.without(("reclaim",), 40),
    )


def _arms_triple(number: int, triple: Triple) -> Sequence[Arm]:
    part = _Scenario(f"triple-{number}", None, triple)
    return (
        part.arm("alone", PlainArm, 30, _high),
        part.arm("others_alone", PlainArm, 30, _one_other),
        part.arm("none", PlainArm, 50),
        part.arm("admission", AdmissionArm, 80),
        part.arm("agentcg", _agentcg(), 60),
        part.undeclared(60),
        *part.without(SLOWING, 60),
    )


VM = ("--cpus", "2", "--memory", "4G")

PARTS = (
    Part("1100", _arms_1100, VM, quick_sec=55, quick_arms=("alone.1100", "agentcg.1100"), full_sec=3 * 3600),
    Part("stable", _arms_stable, (*VM, "--kernel", "stable"), quick_sec=0, full_sec=3600),
    Part("900", _arms_900, VM, quick_sec=0, full_sec=3600),
    Part("pace", _arms_pace, VM, quick_sec=0, full_sec=3600),
    Part("cpu", lambda: _arms_busy("cpu", 1300), VM, quick_sec=0, full_sec=3600),
    Part("both", lambda: _arms_busy("both", 1100), VM, quick_sec=0, full_sec=3600),
    Part("cached", _arms_cached, VM, quick_sec=0, full_sec=3600),
    Part("swap", lambda: _arms_swap("swap", COLD), VM, quick_sec=0, full_sec=3600),
    Part("swap-hot", lambda: _arms_swap("swap-hot", HOT), VM, quick_sec=0, full_sec=2 * 3600),
    Part("lock", lock_arms, VM, quick_sec=0),
    Part("density", density_arms, VM, quick_sec=0, full_sec=3600),
    *(
        Part(f"triple-{number}", partial(_arms_triple, number, triple), VM, quick_sec=0, full_sec=3600)
        for number, triple in enumerate(TRIPLES, 1)
    ),
)


def _share(name: str, arm: str, part: str, metric: str, goal: float | None) -> Ratio:
    return Ratio(f"{name}.{part}", f"{arm}.{part}", metric=metric, summary="mean", goal=goal, better="higher")


def _over(name: str, part: str, to: str, metric: str, goal: float | None, better: Better = "lower") -> Ratio:
    return Ratio(f"{name}.{part}", f"agentcg.{part}", f"{to}.{part}", metric=metric, goal=goal, better=better)


def _memory_ratios(part: str) -> Sequence[Ratio]:
    """Of a part that is like 1100."""
    return (
        _share("none_lost_somebody", "none", part, "lost_somebody", 0.5),
        _share("survivors", "agentcg", part, "survivors", 1.0),
        _share("survivors_undeclared", "agentcg_undeclared", part, "survivors", 1.0),
        _over("high_growth_over_alone", part, "alone", "high_growth_ms", 1.10),
        _over("high_growth_p95_over_alone", part, "alone", "high_growth_p95_ms", 1.10),
        _over("high_completion_over_alone", part, "alone", "high_completion_sec", 1.05),
        _over("high_working_over_alone", part, "alone", "high_working_sec", None),
        *(_roomy_ratios(part) if part in ("1100", "stable") else ()),
        Ratio(
            f"interference_removed.{part}",
            f"agentcg.{part}",
            f"none.{part}",
            base=f"alone.{part}",
            metric="high_growth_ms_per_mib",
            goal=0.8,
            better="higher",
        ),
        _over("others_completion_over_alone", part, "others_alone", "others_completion_sec", 1.45),
    )


def _roomy_ratios(part: str) -> Sequence[Ratio]:
    """What is left of a ratio over ``alone`` where memory is not short: the price of sharing the CPU, not memory."""
    return (
        _over("high_growth_over_roomy", part, "roomy", "high_growth_ms", None),
        _over("high_growth_p95_over_roomy", part, "roomy", "high_growth_p95_ms", None),
        _over("high_completion_over_roomy", part, "roomy", "high_completion_sec", None),
        _over("others_completion_over_roomy", part, "roomy", "others_completion_sec", None),
    )


def _busy_ratios(part: str) -> Sequence[Ratio]:
    return (
        _over("high_completion_over_alone", part, "alone", "high_completion_sec", 1.05),
        _over("high_working_over_alone", part, "alone", "high_working_sec", None),
        _over("others_work_over_none", part, "none", "others_rounds_per_sec", 0.95, "higher"),
    )


def _swap_ratios(part: str) -> Sequence[Ratio]:
    """What each arm that has somebody beside the protected session comes to, for information."""
    found: list[Ratio] = []
    for arm in ("none", "high_only", "low_high", "agentcg", "agentcg_swap"):
        found.append(_share(f"survivors_{arm}", arm, part, "survivors", None))
        for name, to, metric in (
            ("high_growth", "alone", "high_growth_ms"),
            ("high_completion", "alone", "high_completion_sec"),
            ("others_completion", "others_alone", "others_completion_sec"),
        ):
            found.append(Ratio(f"{name}_over_alone_{arm}.{part}", f"{arm}.{part}", f"{to}.{part}", metric=metric))
    return found


RATIOS = (
    *_memory_ratios("1100"),
    *_memory_ratios("stable"),
    _share("survivors", "agentcg", "900", "survivors", 1.0),
    _share("survivors_undeclared", "agentcg_undeclared", "900", "survivors", 1.0),
    _over("others_completion_over_alone", "900", "others_alone", "others_last_sec", 1.75),
    _over("high_growth_over_alone", "pace", "alone", "high_growth_ms", 1.10),
    _over("high_completion_over_alone", "pace", "alone", "high_completion_sec", 1.05),
    _over("high_working_over_alone", "pace", "alone", "high_working_sec", None),
    _over("others_completion_over_alone", "pace", "others_alone", "others_completion_sec", None),
    *_busy_ratios("cpu"),
    *_busy_ratios("both"),
    _over("high_growth_over_alone", "cached", "alone", "high_growth_ms", None),
    _over("high_completion_over_alone", "cached", "alone", "high_completion_sec", None),
    _over("others_completion_over_alone", "cached", "others_alone", "others_completion_sec", None),
    *_swap_ratios("swap"),
    *_swap_ratios("swap-hot"),
    Ratio("overshoot_mib", "agentcg.1100", metric="overshoot_mib", goal=2.0),
    Ratio("freeze_ms_p50", "agentcg.1100", metric="freeze_ms", goal=5.0),
    Ratio("lock_p99_over_unpaused", "paused.lock", "unpaused.lock", metric="lock_p99_ms", goal=1.5),
    Ratio("lock_max_ms", "paused.lock", metric="lock_max_ms", summary="max", goal=50.0),
    Ratio(
        "density_over_static",
        "agentcg.density",
        "static.density",
        metric="others_beside",
        goal=2.0,
        better="higher",
    ),
    *(ratio for number in range(1, len(TRIPLES) + 1) for ratio in _memory_ratios(f"triple-{number}")),
)

BENCH = Bench(
    name="isolation",
    summary="a protected session beside two others under one memory limit, with and without isolation",
    parts=PARTS,
    units={**UNITS, **LOCK_UNITS, **DENSITY_UNITS},
    ratios=RATIOS,
    n=10,
    quick_n=1,
    warm_up=0,
    before=import_recordings,
)
