# SPDX-License-Identifier: Apache-2.0
"""A daemon of our own for the arms that need one, with its own socket and history, gone without a trace afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from agentcg.api.client import Client, RemoteError
from agentcg.cgroup.node import Inner
from agentcg.errors import AgentcgError
from agentcg.kernel.sys import set_parent_death_signal
from benches.harness import Stage
from benches.place import CHECKOUT

__all__ = ["end", "folder", "parent_death", "start_agentcg", "start_daemon", "start_python", "tail"]

START_SEC = 60.0
END_SEC = 20.0
_MAIN = "from agentcg.cli import main; main()"


def folder(stage: Stage) -> Path:
    """Return a new folder that goes with ``stage``."""
    path = tempfile.mkdtemp(prefix="agentcg-bench-")
    stage.callback(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


def parent_death() -> None:
    """For a child: go when the bench goes, however it goes."""
    set_parent_death_signal(15)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, wait, and end it if it does not."""
    process.terminate()
    try:
        process.wait(timeout=END_SEC)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tail(log: Path, lines: int = 5) -> str:
    """Return the last lines of a log, in one line."""
    return " | ".join(log.read_text(errors="replace").splitlines()[-lines:])


def start_python(arguments: Sequence[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start this Python with the modules of this checkout and its ``scripts``; it goes with us, and adds to ``log``."""
    paths = [str(CHECKOUT), str(CHECKOUT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(paths)},
            preexec_fn=parent_death,
        )


def start_agentcg(stage: Stage, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start `agentcg` of this checkout as a process that goes with ``stage``."""
    process = start_python(["-c", _MAIN, *arguments], log)
    stage.callback(end, process)
    return process


def start_daemon(stage: Stage, *options: str, root: str | None = None, observe: bool = False) -> str:
    """Start a daemon and return its socket. ``root`` is removed with it, with all that is in it.

    :param options: more of `agentcg daemon`'s

    :raises AgentcgError: if it does not start, with the end of its log
    """
    where = folder(stage)
    socket, log = f"{where}/agentcg.sock", where / "daemon.log"
    arguments = ["daemon", "--socket", socket, "--history", f"{where}/history.sqlite", *options]
    if root is not None:
        arguments += ["--root", root]
        stage.callback(_remove, root)
    if observe:
        arguments.append("--observe")
    _wait(start_agentcg(stage, arguments, log), socket, log)
    return socket


def _wait(process: subprocess.Popen[bytes], socket: str, log: Path) -> None:
    deadline = time.monotonic() + START_SEC
    while process.poll() is None and time.monotonic() < deadline:
        try:
            Client(socket).close()
            return
        except RemoteError:
            time.sleep(0.05)
    raise AgentcgError(f"the daemon did not start: {tail(log)}")


def _remove(root: str) -> None:
    """Remove a cgroup and all below it, and end what runs in it."""
    parent, name = os.path.split(root)
    with suppress(FileNotFoundError), Inner.open_root(parent) as above:
        with above.open_inner(name) as node:
            node.kill()
            node.wait_empty(10.0)
        if not above.remove_tree(name):
            raise AgentcgError(f"{root} is still busy", hint=f"see {root}/*/cgroup.procs, and remove it")
