# SPDX-License-Identifier: Apache-2.0
"""A session and its calls under agentcg, through the socket."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from asyncvarlink import VarlinkInterface

from agentcg.api import interfaces as wire
from agentcg.api import types
from agentcg.api.aclient import AsyncClient
from agentcg.replay.arms import Verdict
from agentcg.replay.follower import Placement
from agentcg.replay.plan import PlannedCall

__all__ = ["ManagedPlace", "ask"]


async def ask(client: AsyncClient, interface: type[VarlinkInterface], method: str, **parameters: Any) -> dict[str, Any]:
    """Ask the daemon. If the asker is cancelled, the request goes on to its end: half of one cannot be taken back."""
    return await asyncio.shield(client.invoke(interface, method, **parameters))


class ManagedPlace:
    """A session that the daemon opened for us, on a connection of its own.

    :param recorded: is told the recording's id of each call, by the daemon's
    """

    def __init__(
        self, client: AsyncClient, name: str, procs: int, recorded: dict[str, str], *, declares: bool = True
    ) -> None:
        self._client, self._name, self._procs, self._declares = client, name, procs, declares
        self._recorded = recorded
        self.agent = Placement(procs)

    async def begin(self, call: PlannedCall) -> ManagedCall:
        reply = await ask(
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
        self._recorded[reply["call"]] = call.id
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
        reply = await ask(
            self._client,
            wire.CallInterface,
            "End",
            call=self._name,
            exitCode=status if status >= 0 else None,
            signal=-status if status < 0 else None,
        )
        verdict: types.Verdict = reply["verdict"]
        usage = verdict.usage
        return Verdict(
            verdict.outcome, verdict.advice, usage.oomKills or 0, usage.memoryPeak, usage.cpuSec, usage.frozenSec
        )
