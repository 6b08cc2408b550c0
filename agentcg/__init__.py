# SPDX-License-Identifier: Apache-2.0
"""A cgroup for every tool call of an AI agent: sized from intent, enforced by the kernel, explained to the agent."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentcg.api.aclient import aconnect
    from agentcg.api.client import connect

__all__ = ["__version__", "aconnect", "connect"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # The client is imported when it is used: the command line does not need it for most commands.
    if name == "connect":
        from agentcg.api.client import connect

        return connect
    if name == "aconnect":
        from agentcg.api.aclient import aconnect

        return aconnect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
