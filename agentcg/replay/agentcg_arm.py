# SPDX-License-Identifier: Apache-2.0
"""Sessions under agentcg: a daemon of their own, asked through its socket."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import psutil

from agentcg.api import interfaces as wire
from agentcg.api import types
from agentcg.api.aclient import AsyncClient, aconnect
from agentcg.errors import AgentcgError
from agentcg.kernel.sys import set_parent_death_signal
from agentcg.replay.arms import Place, Scene
from agentcg.replay.event_log import EventLog
from agentcg.replay.events import Frozen, Held, Killed, Thawed, Throttled
from agentcg.replay.managed_place import ManagedPlace, ask
from agentcg.replay.plan import SessionPlan, with_margin

__all__ = ["AgentcgArm"]

START_SEC = 60.0
STOP_SEC = 20.0
LISTEN_SEC = 2.0
"""How long the daemon's last events may take after its end."""

_CONTROLS: dict[str, type[Held | Frozen | Thawed | Throttled | Killed]] = {
    "call_held": Held,
    "call_frozen": Frozen,
    "session_frozen": Frozen,
    "call_thawed": Thawed,
    "session_thawed": Thawed,
    "call_throttled": Throttled,
    "call_killed": Killed,
}
"""Of the daemon's events, what was done to somebody. Whom the OOM killer ended is known from the verdict."""


class AgentcgArm:
    """A daemon of its own, started for the run.

    :param options: more options of ``agentcg daemon``
    :param history: the daemon's history; one of its own, and empty, if left out
    :param declares: sessions and calls say beforehand what they will hold at most
    :param watches: listen to what the daemon does
    """

    wall = "shared"

    def __init__(
        self,
        scene: Scene,
        policy: str = "default",
        *,
        options: Sequence[str] = (),
        history: str | None = None,
        declares: bool = True,
        watches: bool = False,
    ) -> None:
        self.scene, self._policy = scene, policy
        self._options, self._history, self._declares, self._watches = options, history, declares, watches
        self._idle_cpu = 0.0
        self._cgroups: dict[str, str] = {}
        self._recorded: dict[str, str] = {}
        """The recording's id of each call, by the daemon's."""
        self._happened: list[types.Event] = []
        self._listening: asyncio.Task[None] | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> AgentcgArm:
        scratch = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="agentcg-replay-"))
        self.socket = f"{scratch}/agentcg.sock"
        self._log = Path(scratch) / "log"
        self.node = self.scene.parent.make_inner("agentcg")
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
        command += ["--socket", self.socket, "--history", history, "--policy", self._policy]
        command += ["--root", f"{self.scene.directory}/agentcg", "--memory-max", str(self.scene.memory_max)]
        command += self._options
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
        if self._watches:
            listener = await aconnect(self.socket)
            self._listening = asyncio.create_task(self._listen(listener))
        self._idle_cpu = self._total_cpu()

    async def _listen(self, client: AsyncClient) -> None:
        """Listen until the daemon has ended: so nothing is missed."""
        async with client:
            with contextlib.suppress(AgentcgError):
                async for event in client.watch():
                    if event.kind in _CONTROLS:
                        self._happened.append(event)

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
            (await aconnect(self.socket)).close()
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
            if self.node.populated:
                self.node.kill()
            if self._listening is not None:
                _, late = await asyncio.wait({self._listening}, timeout=LISTEN_SEC)
                for task in late:
                    task.cancel()
        if died is not None:
            raise AgentcgError(f"the replay's daemon ended with status {died}: {self._last_words()}")

    def _last_words(self) -> str:
        return self.log_text().strip()[-2000:]

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def open(self, plan: SessionPlan) -> Place:
        client = await aconnect(self.socket)
        try:
            size = plan.reserve or with_margin(plan.peak)
            budget = types.Budget(memoryExpected=size) if self._declares else None
            reply = await ask(
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
        name = reply["session"].session
        self._cgroups[plan.name] = f"{'shared' if plan.reserve is None else 'reserved'}/{name}"
        return ManagedPlace(client, name, reply["procs"], self._recorded, declares=self._declares)

    def name_of(self, session: str) -> str:
        return self._cgroups[session].partition("/")[2]

    def cgroup_of(self, session: str) -> str | None:
        return self._cgroups.get(session)

    def tell_controls(self, log: EventLog) -> None:
        for event in self._happened:
            _, session, *call = event.subject.split("/")
            name = self._recorded.get(event.subject, call[0]) if call else None
            log.tell(_CONTROLS[event.kind](log.at_epoch(event.time), session, name, event.message))
