# SPDX-License-Identifier: Apache-2.0
"""One ``agentcg-load`` process: told what to hold, heard of what that took."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from agentcg.errors import AgentcgError

__all__ = ["Follower", "Growth", "Placement", "Point"]

Point = tuple[float, int, float]
"""Seconds since the process's start, bytes to hold, CPU seconds used so far."""


@dataclass(frozen=True, slots=True)
class Growth:
    """One growth step."""

    size: int
    """Bytes."""
    latency_sec: float


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a process is to live."""

    procs: int
    """A descriptor of the cgroup's cgroup.procs; it stays the caller's."""
    oom_score_adj: int | None = None
    environment: Mapping[str, str] | None = None


class Follower:
    """A process that follows a demand. It dies with this one."""

    def __init__(self, process: asyncio.subprocess.Process, heard: Callable[[], None]) -> None:
        self._process = process
        self._told = cast(asyncio.StreamWriter, process.stdin)
        self._said = cast(asyncio.StreamReader, process.stdout)
        self._heard = heard
        self.growth: list[Growth] = []
        self.rounds = 0
        """Rounds of its loop that it has burnt CPU time with: how fast they come says how much of a CPU it has."""
        self.trouble = ""
        """Why it gave up by itself."""
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(
        cls,
        program: str,
        placement: Placement,
        heard: Callable[[], None] = lambda: None,
        *,
        options: Sequence[str] = (),
    ) -> Follower:
        """Start a process in its cgroup. ``heard`` is called when a point is done.

        :param options: more options of the program
        :raises AgentcgError: if it cannot be started
        """
        arguments = [*options, "--procs", str(placement.procs)]
        if placement.oom_score_adj is not None:
            arguments += ["--oom-score-adj", str(placement.oom_score_adj)]
        try:
            process = await asyncio.create_subprocess_exec(
                program,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                pass_fds=[placement.procs],
                start_new_session=True,  # Ctrl-C is for us: nobody may take it for a death.
                env=os.environ | dict(placement.environment or {}),
            )
        except OSError as error:
            raise AgentcgError(f"{program} cannot be started: {error.strerror}") from error
        return cls(process, heard)

    def follow(self, points: Iterable[Point], *, last: bool = False) -> None:
        """Give it points to follow, behind those it has. After the ``last`` one it exits."""
        text = "".join(f"{time * 1e6:.0f} {memory} {cpu * 1e6:.0f}\n" for time, memory, cpu in points)
        if not self._told.is_closing():
            self._told.write(text.encode())
            if last:
                self._told.close()

    async def wait(self) -> int:
        """Return its status when it has ended, negative for a signal; all it wrote has been heard then."""
        status = await self._process.wait()
        await asyncio.shield(self._listening)
        return status

    async def stop(self) -> None:
        """End it."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self.wait()
        self._told.close()

    async def _listen(self) -> None:
        while line := await self._said.readline():
            kind, *rest = line.split(None, 1)
            if kind == b"d":
                self.rounds += int(rest[0])
                self._heard()
            elif kind == b"g":
                size, latency = rest[0].split()
                self.growth.append(Growth(int(size), int(latency) / 1e6))
            else:
                self.trouble = rest[0].decode(errors="replace").strip() if rest else "it wrote nonsense"
