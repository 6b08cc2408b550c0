# SPDX-License-Identifier: Apache-2.0
"""A real dockerd, and containers of this machine's own programs."""

import io
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
from benches.containers import import_image, start_engine
from benches.harness import Stage

from agentcg.api.types import Verdict
from agentcg.cgroup.delegate import cgroup_of
from agentcg.replay.load import load_path
from agentcg.sandbox.docker import Engine
from agentcg.sandbox.docker_exec import DockerExec, run

CGROUPS = Path("/sys/fs/cgroup")
PROGRAMS = ("sh", "bash", "sleep", "cat", "dd", "id", "hostname", "true")
LIVE = "trap 'exit 0' TERM; while :; do sleep 0.2; done"


@dataclass
class Ran:
    """What a call in a container came to."""

    status: int
    output: str
    verdict: Verdict

    @property
    def cgroup(self) -> str:
        """Where it was, as it has printed."""
        found = re.search(r"0::(\S+)", self.output)
        assert found is not None, self
        return found[1]


class Containers:
    """An engine, and a daemon that knows it."""

    def __init__(self, client: Any, image: str, daemon: Any) -> None:
        self.client, self.image, self.daemon = client, image, daemon
        self._engine = Engine()

    def start(self, name: str, **options: Any) -> Path:
        """Start a container; return its cgroup."""
        asked = {"command": ["sh", "-c", LIVE], "network_mode": "none", "detach": True} | options
        self.client.containers.run(self.image, name=name, **asked)
        path = cgroup_of(self.state(name)["Pid"])
        assert path is not None
        return CGROUPS / path.strip("/")

    def get(self, name: str) -> Any:
        return self.client.containers.get(name)

    def state(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(name).attrs["State"]
        return found

    def attach(self, name: str) -> Any:
        with self.daemon.client() as client:
            return client.attach(name)

    def detach(self, name: str) -> None:
        with self.daemon.client() as client:
            client.detach(name)

    def run(self, name: str, *command: str, hint: str | None = None, **options: Any) -> Ran:
        """Run a command as a call in an attached container."""
        out = io.BytesIO()
        with self.daemon.client() as client, client.call(command, session=f"docker/{name}", hint=hint) as call:
            status = run(self._engine, name, call, DockerExec(**options), stdout=out, stderr=out)
            return Ran(status, out.getvalue().decode(), call.end(exit_code=status))

    def begin(self, name: str, *command: str) -> tuple[threading.Thread, list[Any]]:
        """Run it in a thread; what it came to, or its error, is in the list when that ends."""
        found: list[Any] = []

        def work() -> None:
            try:
                found.append(self.run(name, *command))
            except Exception as error:
                found.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        return thread, found

    def calls(self) -> list[Any]:
        """Return the calls in which something runs."""
        with self.daemon.client() as client:
            return [call for call in client.calls() if call.pidsCurrent]

    def sessions(self) -> set[str]:
        """Return the sessions that are containers."""
        with self.daemon.client() as client:
            return {one.session for one in client.sessions() if one.container}

    def clear(self) -> None:
        for container in self.client.containers.list(all=True):
            container.remove(force=True)


@pytest.fixture(scope="session")
def engine() -> Iterator[tuple[Any, str]]:
    """Return a client of an engine, which has systemd make its cgroups where that runs, and an image."""
    with Stage() as stage:
        driver = "systemd" if Path("/run/systemd/system").exists() else "cgroupfs"
        # Where every daemon looks for it.
        words = start_engine(stage, f"--exec-opt=native.cgroupdriver={driver}", "--host=unix:///var/run/docker.sock")
        folder = Path("/tmp/agentcg-image")
        stage.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / "bin").mkdir(parents=True)
        shutil.copy(load_path(), folder / "bin/agentcg-load")
        image = import_image(words, folder, PROGRAMS)
        client = docker.from_env(timeout=120)
        stage.callback(client.close)
        yield client, image


@pytest.fixture
def containers(engine: tuple[Any, str], daemon: Any, tools: Any) -> Iterator[Containers]:
    """Return an engine without a container before and after, and a daemon that others use too."""
    found = Containers(*engine, daemon)
    yield found
    found.clear()
    tools.wait_for(lambda: not found.sessions())


@pytest.fixture
def own_containers(engine: tuple[Any, str], own_daemon: Any) -> Iterator[Containers]:
    """Return the same with a daemon of this test's own."""
    found = Containers(*engine, own_daemon)
    yield found
    found.clear()
