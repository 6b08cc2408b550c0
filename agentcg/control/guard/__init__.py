# SPDX-License-Identifier: Apache-2.0
"""The dead-man's switch: ``agentcg-guard`` lets go of what the daemon has stopped if the daemon dies or falls silent.

Frozen cgroups are one job of the program, stopped processes another. Its sources say what it does and its limits.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agentcg.errors import Unsupported
from agentcg.native import BIN, compile_program, program_path

__all__ = ["NAME", "SILENCE_SEC", "WAITING_SEC", "Guard", "ProcessGuard", "build", "guard_path"]

log = logging.getLogger(__name__)

NAME = "agentcg-guard"

SILENCE_SEC = 1.0
"""How long the daemon may be silent while something is frozen."""
BEAT_SEC = 0.1
"""How often it shows that it is alive meanwhile."""

WAITING_SEC = 2.0
"""How long a process that an agent has started waits, stopped, for the daemon to make it a call."""

GUARD_SEC = 10.0
"""A guard that lives for less is not started again."""

_SOURCES = sorted(Path(__file__).resolve().parent.glob("*.c"))
_FROZEN, _THAWED = b"f", b"t"


def guard_path() -> str:
    """Return the absolute path of ``agentcg-guard``: the package's own, or one on PATH.

    :raises Unsupported: if there is none
    """
    return program_path(NAME)


def build(target_dir: str | os.PathLike[str] = BIN) -> Path:
    """Compile ``agentcg-guard`` into ``target_dir`` and return its path: see :func:`agentcg.native.compile_program`."""
    return compile_program(NAME, _SOURCES, target_dir)


class _Process:
    """One guard process. It lives in the cgroup of whoever starts it, until :meth:`close`. Nothing here blocks.

    :param on_ended: called with the reason if the guard has ended by itself
    """

    def __init__(self, on_ended: Callable[[str], None]) -> None:
        self._on_ended = on_ended
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = self._input = -1
        self._began = -math.inf

    @property
    def pid(self) -> int | None:
        """The guard's process id, None while there is none."""
        return self._process.pid if self._process is not None else None

    def _start(self, program: str, descriptors: Sequence[int], output: int | None = None) -> None:
        again, self._began = time.monotonic() - self._began < GUARD_SEC, time.monotonic()
        if again:
            raise Unsupported("the guard ends as soon as it is started", hint="see the system's log")
        their_input, self._input = os.pipe()
        try:
            process = subprocess.Popen(
                [program, *map(str, descriptors)],
                stdin=their_input,
                stdout=output,
                pass_fds=descriptors,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            self._close_pipe()
            raise Unsupported(f"{program} cannot be run: {error}", hint="install agentcg again") from error
        finally:
            os.close(their_input)
        os.set_blocking(self._input, False)
        self._process, self._pidfd = process, os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._ended)

    def close(self) -> None:
        """Let it go. It lets go on what is still stopped, and ends. Safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            self._close_pipe()
            self._reap_later(process)

    def _close_pipe(self) -> None:
        os.close(self._input)
        self._input = -1

    def _reap_later(self, process: subprocess.Popen[bytes]) -> None:
        pidfd, self._pidfd = self._pidfd, -1
        loop = asyncio.get_running_loop()

        def reap() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            process.wait()  # It has ended: this does not wait.

        loop.add_reader(pidfd, reap)

    def _ended(self) -> None:
        status = self._process.wait() if self._process is not None else 0  # It has ended: this does not wait.
        reason = f"it was killed by signal {-status}" if status < 0 else f"it ended with status {status}"
        self.close()
        log.error("%s is gone: %s", NAME, reason)
        self._on_ended(reason)


class ProcessGuard(_Process):
    """Lets processes go on that :mod:`agentcg.kernel.executions` has stopped: after :data:`WAITING_SEC`, or when this
    process ends.

    :param stopped: the descriptor of the map of that name
    :param agents: likewise; it is cleared when this process has ended
    :param on_ended: called with the reason if the guard has ended by itself. Start another, or stop nothing
    """

    def __init__(self, stopped: int, agents: int, *, on_ended: Callable[[str], None]) -> None:
        super().__init__(on_ended)
        self._descriptors = (stopped, agents)

    def start(self) -> None:
        """Start it, on the running event loop.

        :raises Unsupported: if the program is missing or cannot be run; then nothing must be stopped
        """
        self._start(guard_path(), self._descriptors)


class Guard(_Process):
    """Thaws what is frozen.

    :param root_fd: the directory of the root cgroup; only what is below it is ever thawed
    :param on_thawed: called with the number of cgroups that were thawed while this process was silent: what it
        believes to be frozen is not
    :param on_ended: called with the reason if the guard has ended by itself. Nobody guards any more: thaw everything,
        and start another guard before anything is frozen again
    """

    def __init__(
        self,
        root_fd: int,
        *,
        on_thawed: Callable[[int], None] = lambda count: None,
        on_ended: Callable[[str], None] = lambda reason: None,
    ) -> None:
        super().__init__(on_ended)
        self._root_fd, self._on_thawed = root_fd, on_thawed
        self._output = -1
        self._armed = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start it, on the running event loop. What a daemon before this one left frozen is not its business.

        :raises Unsupported: if the program is missing or cannot be run; then nothing must be frozen
        """
        program = guard_path()
        # Opened anew: the daemon's lock on the root belongs to its own open file, and would live on in this process.
        root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root_fd)
        output, their_output = os.pipe()
        try:
            self._start(program, [root], their_output)
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(root)
            os.close(their_output)
        self._output = output
        os.set_blocking(output, False)
        asyncio.get_running_loop().add_reader(output, self._told)

    def arm(self, frozen: bool) -> None:
        """Say whether anything is frozen. Say so before the first freeze, and not before the last thaw is done."""
        if frozen or self._armed:
            self._armed = frozen
            self._send(_FROZEN if frozen else _THAWED)
        if frozen and self._timer is None:
            self._beat_later()
        elif not frozen:
            self._rest()

    def beat(self) -> None:
        """Show that this process is alive. While something is frozen, its event loop does so every :data:`BEAT_SEC`."""
        if self._armed:
            self._send(_FROZEN)

    def _beat_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(BEAT_SEC, self._beat_on)

    def _beat_on(self) -> None:
        self.beat()
        self._beat_later()

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Let it go. It thaws what is still frozen, and ends. Safe to call twice."""
        self._armed = False
        self._rest()
        if self._output >= 0:
            asyncio.get_running_loop().remove_reader(self._output)
            os.close(self._output)
            self._output = -1
        super().close()

    def _send(self, message: bytes) -> None:
        if self._process is None:
            return
        try:
            os.write(self._input, message)
        except BrokenPipeError:
            pass  # It has ended, and the loop is about to say so.
        except BlockingIOError:
            self._process.kill()  # Thousands of messages are waiting: it hangs, and would not thaw either.

    def _told(self) -> None:
        try:
            lines = os.read(self._output, 4096).split()
        except BlockingIOError:
            return
        if not lines:
            asyncio.get_running_loop().remove_reader(self._output)
        for line in lines:
            log.warning("the guard thawed %s cgroups: this process was silent for %g s", line.decode(), SILENCE_SEC)
            self._on_thawed(int(line))
