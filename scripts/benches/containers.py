# SPDX-License-Identifier: Apache-2.0
"""A Docker daemon of our own and its containers, with nothing fetched and nothing left."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from agentcg.errors import AgentcgError, Unsupported
from benches.daemons import end, folder, parent_death, tail
from benches.harness import Stage

__all__ = ["import_image", "start_container", "start_engine"]

START_SEC = 120.0
IMAGE = "agentcg-bench"


def start_engine(stage: Stage, *options: str) -> list[str]:
    """Start dockerd; return the words of ``docker`` that speak to it, its address the last of them.

    :param options: more of dockerd's; by default the cgroups are made by itself
    :raises Unsupported: if there is no Docker here
    :raises AgentcgError: if it does not start, with the end of its log
    """
    dockerd, docker = shutil.which("dockerd"), shutil.which("docker")
    if dockerd is None or docker is None:
        raise Unsupported("dockerd or docker is not installed", hint="install docker.io and docker-cli")
    where = folder(stage)
    client = [docker, "--host", f"unix://{where}/docker.sock"]
    log = where / "dockerd.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                dockerd,
                f"--host=unix://{where}/docker.sock",
                f"--data-root={where}/data",
                f"--exec-root={where}/exec",
                f"--pidfile={where}/docker.pid",
                "--bridge=none",
                "--iptables=false",
                "--ip6tables=false",
                *(options or ("--exec-opt=native.cgroupdriver=cgroupfs",)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            preexec_fn=parent_death,
        )
    stage.callback(end, process)
    deadline = time.monotonic() + START_SEC
    while subprocess.run([*client, "version"], capture_output=True, timeout=30).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise AgentcgError(f"dockerd did not start: {tail(log)}")
        time.sleep(0.2)
    return client


def start_container(stage: Stage, programs: tuple[str, ...] = ("true", "sleep")) -> list[str]:
    """Start dockerd and a container that has ``programs``; return the words of ``docker exec CONTAINER``.

    :raises AgentcgError: see :func:`start_engine`
    """
    client = start_engine(stage)
    with_programs = folder(stage) / "image"
    import_image(client, with_programs, programs)
    run = ["run", "--detach", "--network=none", IMAGE, "/bin/sleep", "86400"]
    container = _output([*client, *run]).strip()
    stage.callback(subprocess.run, [*client, "rm", "--force", container], capture_output=True, timeout=60)
    return [*client, "exec", container]


def import_image(client: Sequence[str], root: Path, programs: Sequence[str]) -> str:
    """Make an image of this machine's own ``programs`` and their libraries; return its name.

    :param root: a folder for its file system, which may have files of yours already
    """
    for name in programs:
        source = shutil.which(name)
        if source is None:
            raise Unsupported(f"there is no program {name!r} for the image", hint="install coreutils")
        _copy(source, f"/bin/{name}", root)
        for library in re.findall(r"(/\S+) \(0x", _output(["ldd", source])):
            _copy(library, library, root)
    tar = subprocess.run(["tar", "-C", str(root), "-c", "."], capture_output=True, check=True, timeout=60)
    subprocess.run([*client, "import", "-", IMAGE], input=tar.stdout, capture_output=True, check=True, timeout=60)
    return IMAGE


def _copy(source: str, target: str, root: Path) -> None:
    place = root / target.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, place)


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise AgentcgError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout
