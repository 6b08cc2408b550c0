# SPDX-License-Identifier: Apache-2.0
"""Small sweeps: of real recordings, simulated in a moment; and a host for live replays without a kernel's limits."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result

from agentcg.cgroup.node import Inner
from agentcg.cli.replay import replay
from agentcg.replay import live
from agentcg.replay.arm_spec import ArmSpec, parse_arm
from agentcg.replay.load import build
from agentcg.replay.plan import make_plan
from agentcg.replay.simulated import SimulatedOptions
from agentcg.replay.simulation import SimulatedHost
from agentcg.replay.sweep.work import Job, Workload
from agentcg.trace.format import read

WORKLOADS = Path(__file__).parents[3] / "workloads"
SWEEP = f"""version = 1
recordings = ["{WORKLOADS}/tests.jsonl", "install={WORKLOADS}/install.jsonl"]
draw = 2
rounds = 2
seed = 3
speed = 50
[grid]
arms = ["none", ["static", "high-only"]]
memory_max = ["160M", "400M"]
agent_memory = ["0", "16M"]
"""


@pytest.fixture(scope="session")
def load_program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """agentcg-load, compiled."""
    if not (shutil.which("cc") or shutil.which("clang")):
        pytest.skip("no C compiler")
    return str(build(tmp_path_factory.mktemp("bin")))


@pytest.fixture
def host(cgroups: Any, load_program: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A host whose cgroups are plain directories."""

    @contextmanager
    def own() -> Iterator[tuple[Inner, str]]:
        with Inner.open_root(str(cgroups.top)) as node:
            yield node, str(cgroups.top)

    monkeypatch.setattr(live, "own_cgroup", own)
    monkeypatch.setattr(live, "load_path", lambda: load_program)
    return cgroups


@pytest.fixture
def offspring() -> Callable[[], list[psutil.Process]]:
    """Return what finds the children that this process has and did not have before the test."""
    before = set(psutil.Process().children())
    return lambda: [child for child in psutil.Process().children() if child not in before]


@pytest.fixture
def run_replay() -> Callable[..., Result]:
    """Return what runs ``agentcg replay``."""

    def run(*arguments: object) -> Result:
        result = CliRunner().invoke(replay, [str(item) for item in arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    file = tmp_path / "sweep.toml"
    file.write_text(SWEEP)
    return file


@pytest.fixture
def tree() -> Callable[[Path], dict[str, Any]]:
    """Return what reads a folder's files, without the times of the clock."""

    def read_lines(file: Path) -> list[Any]:
        lines = file.read_bytes().splitlines()
        if file.name == "results.jsonl":
            return [json.loads(line) | {"wallSec": None} for line in lines]
        return [line for line in lines if not line.startswith(b'  "created"')]

    def read_tree(folder: Path) -> dict[str, Any]:
        return {str(file.relative_to(folder)): read_lines(file) for file in sorted(folder.rglob("*.json*"))}

    return read_tree


@pytest.fixture
def workload() -> Workload:
    plans = [make_plan(read(WORKLOADS / f"{name}.jsonl"), name) for name in ("tests", "install")]
    return Workload({0: plans}, {})


@pytest.fixture
def job() -> Callable[..., Job]:
    def make(number: int, spec: ArmSpec | None = None, **options: Any) -> Job:
        """One of the round ``number``."""
        spec = spec or parse_arm("none")
        return Job(0, number, spec, 0, SimulatedOptions(SimulatedHost(160 << 20), (spec,), speed=50.0, **options))

    return make


class Deadly(ArmSpec):
    """Whoever receives it is killed."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        return signal.raise_signal, (signal.SIGKILL,)


@pytest.fixture
def deadly() -> ArmSpec:
    return Deadly("none", "none")
