# SPDX-License-Identifier: Apache-2.0
"""How many others finish beside a protected session on the same memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from agentcg.replay.plain_arms import static
from benches.harness import Arm, Repetition, Stage
from benches.isolation_arms import DaemonArm, KnobArm, PlainArm
from benches.isolation_run import LIMIT_SEC, Build, replay, rig_of
from benches.isolation_sessions import FIRST, MB, load_plans

__all__ = ["UNITS", "density_arms"]

UNITS = {"others_beside": "", "last_of_them_sec": "s"}

LIMIT = 1100 * MB
MOST = 4
SLOWER = 1.1
"""How much longer than alone the protected session may take, as a factor."""


def _prepare(name: str, build: Build, slower: float | None, stage: Stage) -> Repetition:
    rig = rig_of(stage)

    def replayed(others: int, build: Build) -> dict[str, float | None]:
        return replay(rig, f"{name}, {others} others", build, load_plans(FIRST, others), LIMIT, FIRST.speed)

    def repeat() -> dict[str, float | None]:
        alone = replayed(0, PlainArm)["high_completion_sec"] if slower else None
        # Nobody beside it is a result; of the split that others are compared with, it would be nothing to compare with.
        found: dict[str, float | None] = {"others_beside": 0.0 if slower else None, "last_of_them_sec": None}
        for others in range(1, MOST + 1):
            run = replayed(others, build)
            took = run["high_completion_sec"]
            if run["lost_somebody"] or took is None:
                break
            if alone is not None and slower is not None and took > alone * slower:
                break
            found = {"others_beside": float(others), "last_of_them_sec": run["others_last_sec"]}
        return found

    return repeat


def density_arms() -> Sequence[Arm]:
    """Return the arms of the part ``density``. The static split need only keep everybody alive."""
    limit_sec = (MOST + 1) * LIMIT_SEC
    return (
        Arm(
            "static.density",
            partial(_prepare, "static.density", lambda scene: KnobArm(scene, static), None),
            limit_sec=limit_sec,
            expected_sec=60,
        ),
        Arm(
            "agentcg.density",
            partial(_prepare, "agentcg.density", DaemonArm, SLOWER),
            limit_sec=limit_sec,
            expected_sec=160,
        ),
    )
