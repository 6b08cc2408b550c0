# SPDX-License-Identifier: Apache-2.0
"""One replay in one arm of the isolation bench."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentcg.cgroup.node import Inner
from agentcg.errors import AgentcgError
from agentcg.replay.arms import Scene
from agentcg.replay.host import own_cgroup
from agentcg.replay.live import Options, run_arm
from agentcg.replay.load import load_path
from agentcg.replay.plan import SessionPlan
from agentcg.replay.result import ArmResult
from benches.harness import Stage
from benches.isolation_arms import BenchArm
from benches.isolation_metrics import metrics

__all__ = ["LIMIT_SEC", "Build", "Rig", "replay", "rig_of"]

TIMEOUT_SEC = 180.0
LIMIT_SEC = 240.0
"""Of a replay: the daemon's start and everything's end come on top."""

Build = Callable[[Scene], BenchArm]


@dataclass(frozen=True)
class Rig:
    """Where all arms of a part run."""

    parent: Inner
    directory: str
    program: str


def rig_of(stage: Stage) -> Rig:
    """Return the rig of a stage; the first that asks makes it."""
    if "rig" not in stage.shared:
        parent, directory = stage.enter_context(own_cgroup())
        stage.shared["rig"] = Rig(parent, directory, load_path())
    rig: Rig = stage.shared["rig"]
    return rig


async def _replay(
    rig: Rig, name: str, build: Build, plans: Sequence[SessionPlan], limit: int, speed: float, load: Sequence[str]
) -> dict[str, float | None]:
    arm = build(Scene(rig.parent, rig.directory, limit, plans))
    options = Options(memory_max=limit, speed=speed, timeout_sec=TIMEOUT_SEC, load_options=tuple(load))
    async with arm:
        below = arm.node.name
        result = await run_arm(name, arm, plans, options, rig.program)
        found = metrics(result, arm.figures())
    if not rig.parent.remove_tree(below):
        raise AgentcgError(f"{rig.directory}/{below} stays busy", hint="see which processes are in it")
    _say(result)
    return found


def _say(result: ArmResult) -> None:
    sessions = (
        f"{session.name} {session.state} after {session.completion_sec:.1f} s, growth {session.growth.total_ms:.0f} ms"
        + (f", failed {', '.join(call.outcome for call in session.failed)}" if session.failed else "")
        for session in result.sessions
    )
    print(f"bench: {result.arm}: {'; '.join(sessions)}", file=sys.stderr, flush=True)


def replay(
    rig: Rig,
    name: str,
    build: Build,
    plans: Sequence[SessionPlan],
    limit: int,
    speed: float,
    load: Sequence[str] = (),
) -> dict[str, float | None]:
    """Replay the sessions under an arm, say how that went, and return its metrics.

    :param limit: what all have together, bytes
    :param load: more options of ``agentcg-load``
    :raises AgentcgError: if the arm cannot be set up
    """
    return asyncio.run(_replay(rig, name, build, plans, limit, speed, load))
