# SPDX-License-Identifier: Apache-2.0
"""Where a replay's sessions live: under agentcg, or as on a host without it. The total and all else is the same."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
from asyncvarlink import VarlinkInterface

from agentcg.api import interfaces as wire
from agentcg.api import types
from agentcg.api.aclient import AsyncClient, aconnect
from agentcg.cgroup import files
from agentcg.cgroup.node import Inner, Leaf
from agentcg.errors import AgentcgError
from agentcg.kernel.sys import set_parent_death_signal
from agentcg.replay.follower import Placement
from agentcg.replay.plan import PlannedCall, SessionPlan, with_margin

__all__ = ["AgentcgArm", "Arm", "NoArm", "Place", "PlacedCall", "Verdict"]

START_SEC = 60.0
STOP_SEC = 20.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a call ended."""

    outcome: str
    advice: str = ""
    oom_kills: int = 0


class PlacedCall(Protocol):
    """A call that has a place."""

    placement: Placement

    async def end(self, status: int) -> Verdict:
        """The call's process has ended with ``status``, negative for a signal."""


class Place(Protocol):
    """Where one session lives."""

    agent: Placement

    async def begin(self, call: PlannedCall) -> PlacedCall:
        """Return a place for a call. :raises AgentcgError: if it is refused"""

    async def close(self) -> None:
        """The session is over. What still runs in it is ended."""


class Arm(Protocol):
    """What the sessions of a run live under."""

    node: Inner
    """The cgroup of everything, with the total as its limit."""

    async def __aenter__(self) -> Arm: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def open(self, plan: SessionPlan) -> Place:
        """Return a place for a session. :raises AgentcgError: if it is refused"""


def _end_all(node: Inner) -> None:
    if node.populated:
        node.kill()


def judge_plain(status: int) -> Verdict:
    """Return what anybody can know of a call without agentcg: its exit status. Here only the OOM killer kills."""
    if status == -signal.SIGKILL:
        return Verdict("oom_killed", oom_kills=1)
    if status < 0:
        return Verdict("signal")
    return Verdict("exit_status" if status else "ok")


class NoArm:
    """A host without agentcg: one limit for all, and a plain cgroup for each session with agent and calls in it."""

    def __init__(self, parent: Inner, memory_max: int) -> None:
        self._parent, self._memory_max = parent, memory_max

    async def __aenter__(self) -> NoArm:
        self.node = self._parent.make_inner("none")
        files.write_limit(self.node.fd, "memory.max", self._memory_max)
        files.write_limit(self.node.fd, "memory.swap.max", 0)
        self.node.enable(self._parent.controllers)
        return self

    async def __aexit__(self, *_: object) -> None:
        _end_all(self.node)
        self.node.close()

    async def open(self, plan: SessionPlan) -> Place:
        return PlainPlace(self.node.make_leaf(plan.name))


class PlainPlace:
    """A session's cgroup without agentcg."""

    def __init__(self, leaf: Leaf) -> None:
        self._leaf = leaf
        self._procs = leaf.open_procs()
        self.agent = Placement(self._procs)

    async def begin(self, call: PlannedCall) -> PlainCall:
        return PlainCall(self.agent)

    async def close(self) -> None:
        os.close(self._procs)
        if self._leaf.populated:
            self._leaf.kill()
        self._leaf.close()


@dataclass
class PlainCall:
    """A call without agentcg: a process beside its agent."""

    placement: Placement

    async def end(self, status: int) -> Verdict:
        return judge_plain(status)


class AgentcgArm:
    """A daemon of its own, started for the run.

    :param options: more options of ``agentcg daemon``
    :param history: the daemon's history; one of its own, and empty, if left out
    :param declares: sessions and calls say beforehand what they will hold at most
    """

    def __init__(
        self,
        parent: Inner,
        directory: str,
        memory_max: int,
        policy: str = "default",
        *,
        options: Sequence[str] = (),
        history: str | None = None,
        declares: bool = True,
    ) -> None:
        self._parent = parent
        self._directory, self._memory_max, self._policy = directory, memory_max, policy
        self._options, self._history, self._declares = options, history, declares
        self._idle_cpu = 0.0
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> AgentcgArm:
        scratch = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="agentcg-replay-"))
        self._socket = f"{scratch}/agentcg.sock"
        self._log = Path(scratch) / "log"
        self.node = self._parent.make_inner("agentcg")
        self._stack.callback(self.node.close)
        try:
            await self._start(scratch)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _start(self, scratch: str) -> None:
        command = [sys.executable, "-c", "from agentcg.cli import main; main()", "daemon", "--verbose"]
        history = self._history or f"{scratch}/history.sqlite"
        command += ["--socket", self._socket, "--history", history, "--policy", self._policy]
        command += ["--root", f"{self._directory}/agentcg", "--memory-max", str(self._memory_max), *self._options]
        with self._log.open("wb") as log:
            daemon = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we stop it when its sessions are closed.
                preexec_fn=lambda: set_parent_death_signal(signal.SIGTERM),
            )
        self._stack.push_async_callback(self._stop, daemon)
        deadline = asyncio.get_running_loop().time() + START_SEC
        while not await self._answers():
            if daemon.returncode is not None or asyncio.get_running_loop().time() > deadline:
                said = self._last_words()
                raise AgentcgError(f"the replay's daemon did not come up: {said}", hint="try `agentcg doctor`")
            await asyncio.sleep(0.05)
        self._process = psutil.Process(daemon.pid)
        self._idle_cpu = self._total_cpu()

    def _total_cpu(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system

    def cpu_sec(self) -> float:
        """CPU seconds that the daemon has used since it was ready. :raises psutil.NoSuchProcess: if it has ended"""
        return self._total_cpu() - self._idle_cpu

    def log_text(self) -> str:
        """What the daemon has logged."""
        return self._log.read_text(errors="replace")

    async def _answers(self) -> bool:
        try:
            (await aconnect(self._socket)).close()
        except AgentcgError:
            return False
        return True

    async def _stop(self, daemon: asyncio.subprocess.Process) -> None:
        died = daemon.returncode
        try:
            if died is None:
                daemon.terminate()
                await asyncio.wait_for(daemon.wait(), STOP_SEC)
        except TimeoutError:
            daemon.kill()
            await daemon.wait()
        finally:
            _end_all(self.node)
        if died is not None:
            raise AgentcgError(f"the replay's daemon ended with status {died}: {self._last_words()}")

    def _last_words(self) -> str:
        return self.log_text().strip()[-2000:]

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def open(self, plan: SessionPlan) -> Place:
        client = await aconnect(self._socket)
        try:
            size = plan.reserve or with_margin(plan.peak)
            budget = types.Budget(memoryExpected=size) if self._declares else None
            reply = await _ask(
                client,
                wire.SessionInterface,
                "Open",
                session=plan.name,
                budget=budget,
                protected=plan.reserve is not None,
                leased=True,
                agent=True,
            )
        except BaseException:
            client.close()
            raise
        return ManagedPlace(client, reply["session"].session, reply["procs"], declares=self._declares)


async def _ask(
    client: AsyncClient, interface: type[VarlinkInterface], method: str, **parameters: Any
) -> dict[str, Any]:
    """Ask the daemon. If the asker is cancelled, the request goes on to its end: half of one cannot be taken back."""
    return await asyncio.shield(client.invoke(interface, method, **parameters))


class ManagedPlace:
    """A session that the daemon opened for us, on a connection of its own."""

    def __init__(self, client: AsyncClient, name: str, procs: int, *, declares: bool = True) -> None:
        self._client, self._name, self._procs, self._declares = client, name, procs, declares
        self.agent = Placement(procs)

    async def begin(self, call: PlannedCall) -> ManagedCall:
        reply = await _ask(
            self._client,
            wire.CallInterface,
            "Begin",
            session=self._name,
            tool=call.tool,
            command=[call.command],
            intent=types.Intent(memoryExpected=call.declared) if self._declares else None,
            hint=None,
            leased=True,
            id=None,
        )
        return ManagedCall(self._client, reply["call"], reply["procs"], reply["oomScoreAdj"], reply["environment"])

    async def close(self) -> None:
        os.close(self._procs)
        try:
            await asyncio.shield(self._client.close_session(self._name))
        finally:
            self._client.close()


class ManagedCall:
    """A call in a cgroup of its own."""

    def __init__(
        self, client: AsyncClient, name: str, procs: int, oom_score_adj: int, environment: dict[str, str]
    ) -> None:
        self._client, self._name, self._procs = client, name, procs
        self.placement = Placement(procs, oom_score_adj, environment)

    async def end(self, status: int) -> Verdict:
        os.close(self._procs)
        reply = await _ask(
            self._client,
            wire.CallInterface,
            "End",
            call=self._name,
            exitCode=status if status >= 0 else None,
            signal=-status if status < 0 else None,
        )
        verdict: types.Verdict = reply["verdict"]
        return Verdict(verdict.outcome, verdict.advice, verdict.usage.oomKills or 0)
