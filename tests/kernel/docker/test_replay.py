# SPDX-License-Identifier: Apache-2.0
"""Three containers under one limit of the host, each with a recorded session whose calls are execs."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agentcg.cgroup.files import parse_flat_keyed
from agentcg.replay.plan import PlannedCall, make_plan, points
from agentcg.trace.format import read

WORKLOADS = Path(__file__).parents[3] / "workloads"
LIMIT = 700 << 20
"""Of all three; what they hold at most comes to 514 MiB."""
CALLS = int(os.environ.get("AGENTCG_EXECS", "2"))
"""Of each session, and the greediest of all; by hand all of them: 30."""
SPEED = 30.0
TOO_SMALL = 64
"""MiB: what the longest call of one session says it will need, and exceeds."""

pytestmark = pytest.mark.timeout(900)


def replayed(containers: Any, name: str, call: PlannedCall, hint: str | None) -> Any:
    """Follow a recorded call's demand in a container."""
    demand = "".join(f"{at * 1e6:.0f} {memory} {cpu * 1e6:.0f}\n" for at, memory, cpu in points(call, SPEED))
    script = f"agentcg-load >/dev/null <<END\n{demand}END\n"
    return containers.run(name, "sh", "-c", script, hint=hint).verdict


def test_recorded_sessions_in_containers(containers: Any, tools: Any) -> None:
    host = Path("/sys/fs/cgroup/agents.slice")  # So systemd calls it, too, where it makes the cgroups of containers.
    parent = host.name if Path("/run/systemd/system").exists() else f"/{host.name}"
    host.mkdir()
    try:
        plans = {name: make_plan(read(WORKLOADS / f"{name}.jsonl"), name) for name in ("tests", "install", "build")}
        tops = {name: containers.start(name, cgroup_parent=parent) for name in plans}
        assert {top.parent for top in tops.values()} == {host}
        (host / "memory.max").write_text(str(LIMIT))
        first = {name: containers.state(name)["Pid"] for name in plans}
        for name in plans:
            containers.attach(name)
        greedy = max(plans["build"].calls, key=lambda call: call.declared)
        chosen = {name: [call for call in plan.calls[:CALLS] if call is not greedy] for name, plan in plans.items()}
        chosen["build"].append(greedy)

        def session(name: str) -> list[tuple[PlannedCall, Any]]:
            hints = {id(greedy): f"memory:{TOO_SMALL}m"}
            return [(call, replayed(containers, name, call, hints.get(id(call)))) for call in chosen[name]]

        with ThreadPoolExecutor(len(plans)) as pool:
            ended = [pair for pairs in pool.map(session, plans) for pair in pairs]
        for call, verdict in ended:
            assert verdict.outcome == ("memory_limit" if call is greedy else "ok"), (call, verdict)
        assert len(ended) == sum(map(len, chosen.values()))
        for name, top in tops.items():
            assert (containers.state(name)["Running"], containers.state(name)["Pid"]) == (True, first[name])
            assert {path.name for path in top.rglob("*") if path.is_dir()} == {"init", "calls"}
        assert parse_flat_keyed((host / "memory.events.local").read_text())["oom"] == 0
    finally:
        containers.clear()
        tools.wait_for(lambda: tools.remove_cgroup(host))
