# SPDX-License-Identifier: Apache-2.0
"""A call in an attached container: ``docker exec``, whose process enters the call's cgroup before the command begins.

The engine starts a shell of the container's that waits for a line on its standard input. It is moved meanwhile, and
becomes the command when the line comes: so no instruction of the command runs elsewhere, and user, namespaces,
capabilities and filters are those of the engine. A client that dies leaves nothing: the shell finds no more input.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from agentcg.api.client import Call
from agentcg.cgroup.delegate import cgroup_of
from agentcg.errors import AgentcgError, Unsupported
from agentcg.kernel.process import set_oom_score_adj
from agentcg.sandbox.docker import Engine, engine_errors

__all__ = ["DockerExec", "run"]

_WAIT = 'IFS= read -r _ && exec "$@"'
_START_SEC = 120.0
_LOOK_SEC = 0.002
"""Before the engine is asked again, at first: it tells neither that a process has started nor how it ended."""
_LOOK_SLOWER = 1.5
_CHUNK = 1 << 16
_HEADER = struct.Struct(">BxxxL")
"""Of a frame: which stream, and how many bytes follow (the engine's API, "Stream format" of attach)."""


@dataclass(frozen=True)
class DockerExec:
    """What ``docker exec`` takes besides the command."""

    user: str = ""
    workdir: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    interactive: bool = False
    """Standard input is the command's."""


def run(
    engine: Engine,
    container: str,
    call: Call,
    options: DockerExec = DockerExec(),
    *,
    stdout: BinaryIO | None = None,
    stderr: BinaryIO | None = None,
) -> int:
    """Run the command of ``call``, begun in the container's session, to its end; return its exit status.

    :param stdout: where its output goes; None is ours
    :raises Unsupported: if this process may not place another, or the container has no shell
    :raises AgentcgError: see :func:`agentcg.sandbox.docker.engine_errors`
    """
    if call.procs < 0:
        raise Unsupported("the daemon passes the way into a call's cgroup to root alone", hint="run it as root")
    with engine_errors(container):
        api = engine.client().api
        made = api.exec_create(
            container,
            ["/bin/sh", "-c", _WAIT, "agentcg", *call.command],
            stdin=True,
            user=options.user,
            workdir=options.workdir,
            environment={**options.environment, **call.environment},
        )["Id"]
        stream: Any = api.exec_start(made, socket=True)
        # The raw file of a response, which can be neither written to nor shut down: its socket can, and the response is
        # what is to be closed.
        connection: socket.socket = stream._sock
        with contextlib.closing(stream._response):
            _enter(api, made, call)
            connection.setblocking(True)
            connection.sendall(b"\n")
            _copy(connection, options.interactive, stdout or sys.stdout.buffer, stderr or sys.stderr.buffer)
        return int(_await(api, made, lambda state: state["ExitCode"] is not None)["ExitCode"])


def _enter(api: Any, made: str, call: Call) -> None:
    """Move the process of an exec into the call's cgroup, once there is one."""
    state = _await(api, made, lambda state: state["Pid"] or state["ExitCode"] is not None)
    if not (pid := state["Pid"]):
        raise Unsupported(
            f"the engine did not start /bin/sh in the container (status {state['ExitCode']})",
            hint="the container needs a shell, which waits until it is in the call's cgroup",
        )
    where = cgroup_of(pid)
    if where is None or state["ContainerID"] not in where:
        raise AgentcgError(f"process {pid} of the exec is not in its container, but in {where}")
    os.write(call.procs, str(pid).encode())
    with contextlib.suppress(OSError):
        set_oom_score_adj(pid, call.oom_score_adj)


def _copy(connection: socket.socket, interactive: bool, stdout: BinaryIO, stderr: BinaryIO) -> None:
    """Pass input on and output back until the command is over."""
    targets, pending = {1: stdout, 2: stderr}, bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        if not interactive or not _watch_input(selector):
            connection.shutdown(socket.SHUT_WR)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not connection:
                    if chunk := os.read(key.fd, _CHUNK):
                        connection.sendall(chunk)
                    else:
                        selector.unregister(key.fileobj)
                        connection.shutdown(socket.SHUT_WR)
                    continue
                if not (chunk := connection.recv(_CHUNK)):
                    return
                pending += chunk
                _take_frames(pending, targets)


def _watch_input(selector: selectors.BaseSelector) -> bool:
    """Wait for standard input too. False where nothing can be waited for: a file, or none."""
    try:
        selector.register(sys.stdin.buffer.fileno(), selectors.EVENT_READ)
    except (OSError, ValueError):
        return False
    return True


def _take_frames(pending: bytearray, targets: Mapping[int, BinaryIO]) -> None:
    while len(pending) >= _HEADER.size:
        stream, size = _HEADER.unpack_from(pending)
        end = _HEADER.size + size
        if len(pending) < end:
            return
        target = targets.get(stream, targets[2])
        target.write(pending[_HEADER.size : end])
        target.flush()
        del pending[:end]


def _await(api: Any, made: str, wanted: Callable[[Any], Any]) -> Any:
    """Return the state of an exec once it is as ``wanted``."""
    deadline, pause = time.monotonic() + _START_SEC, _LOOK_SEC
    while not wanted(state := api.exec_inspect(made)):
        if time.monotonic() > deadline:
            raise AgentcgError(f"the engine does not say what became of the command for {_START_SEC:g} s")
        time.sleep(pause)
        pause *= _LOOK_SLOWER
    return state
