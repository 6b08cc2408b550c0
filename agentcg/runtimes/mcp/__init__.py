# SPDX-License-Identifier: Apache-2.0
"""Servers of the Model Context Protocol that speak on standard input and output, behind a proxy.

It starts the server, passes messages on as they are, in both directions, and makes each ``tools/call`` a call. A hint
may stand in ``_meta`` of the tool's definition and of the request, and the verdict is put into that of the answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from agentcg.api.client import RemoteError
from agentcg.runtimes.mcp.calls import open_calls
from agentcg.runtimes.mcp.proxy import Proxy
from agentcg.runtimes.mcp.streams import open_standard_streams, say

__all__ = ["serve"]


async def serve(
    command: Sequence[str], *, socket: str | None, memory_max: int | None, one_call: bool, without_daemon: str
) -> int:
    """Run the server ``command`` behind this process's standard input and output; return its exit status.

    :param memory_max: what its session may use in all, in bytes; None is what the policy gives
    :param one_call: it is one call, for as long as it runs
    :param without_daemon: ``run`` it unmanaged, or ``fail``
    :raises OSError: if ``command`` cannot be executed
    :raises AgentcgError: if the daemon refuses, or is not there and has to be
    """
    reader, writer = await open_standard_streams()
    async with contextlib.AsyncExitStack() as stack:
        calls = None
        try:
            calls = await stack.enter_async_context(open_calls(socket, memory_max=memory_max, one=one_call))
        except RemoteError as error:
            if error.name or without_daemon == "fail":
                raise
            say(f"{error}: running unmanaged")
        if calls is not None and calls.one and not one_call:
            say("the server is one call for as long as it runs: only root can make each tools/call one")
        return await Proxy(command, calls, reader, writer, strict=without_daemon == "fail").run()
