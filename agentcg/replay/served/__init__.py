# SPDX-License-Identifier: Apache-2.0
"""A replay with an LLM server in the loop: the turns of the recording are asked of it again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from agentcg.errors import missing_extra
from agentcg.replay.plan import SessionPlan
from agentcg.replay.served.options import ServerOptions

if TYPE_CHECKING:
    from agentcg.replay.served.loop import Loop

__all__ = ["in_loop"]


def in_loop(options: ServerOptions, plans: Sequence[SessionPlan], seed: int) -> AbstractAsyncContextManager[Loop]:
    """Return what has a server in the loop while it is entered: it is asked how it counts, first of all.

    :param seed: of what is said
    :raises Unsupported: if the client for it is not installed
    """
    try:
        from agentcg.replay.served.loop import open_loop
    except ModuleNotFoundError as error:
        raise missing_extra("--server", error, "gateway") from error
    return open_loop(options, plans, seed)
