# SPDX-License-Identifier: Apache-2.0
"""Children that never outlive us: PR_SET_PDEATHSIG, private mount namespaces, and a lock file."""

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from machine.errors import MachineError, say

__all__ = ["end", "locked", "run_logged", "spawn"]

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> Callable[[], None]:
    parent = os.getpid()

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def spawn(command: Sequence[str], log: IO[bytes], keep: Sequence[int] = ()) -> "subprocess.Popen[bytes]":
    """Start a child that the kernel kills when this process ends in any way."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=keep, start_new_session=True,
        preexec_fn=_die_with_parent(),
    )  # fmt: skip


def end(child: "subprocess.Popen[bytes]") -> None:
    """Kill a child and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    child.wait()


def run_logged(command: Sequence[str], log: Path, env: dict[str, str] | None = None) -> tuple[int, list[str]]:
    """Run a command with its output in a log file; return its status and the log's last lines.

    It gets mount and process namespaces of its own: whatever happens, its mounts and its children end with it.
    """
    wrapped = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=SIGKILL", *command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        child = subprocess.Popen(
            wrapped, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=env, start_new_session=True,
            preexec_fn=_die_with_parent(),
        )  # fmt: skip
        try:
            status = child.wait()
        finally:
            end(child)
    return status, log.read_text(errors="replace").splitlines()[-20:]


@contextlib.contextmanager
def locked(path: Path, exclusive: bool) -> Iterator[None]:
    """Hold the cache's lock: shared while a machine runs, exclusive while one is built."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        stream = path.open("w")
    except OSError as error:
        raise MachineError(
            f"cannot write {path}: {error.strerror}", "set XDG_CACHE_HOME to a writable folder"
        ) from error
    with stream:
        mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(stream, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another build or a running machine to end")
            fcntl.flock(stream, mode)
        yield
