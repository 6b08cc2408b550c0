# SPDX-License-Identifier: Apache-2.0
"""Which LLM server is in the loop of a replay, and how it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agentcg.errors import InvalidInput
from agentcg.replay.plan import SessionPlan

__all__ = ["ServerEngine", "ServerOptions", "require_turns"]

ServerEngine = Literal["llamacpp", "none"]
"""``llamacpp``: under agentcg a gateway is in front of it. ``none``: every arm asks it directly."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """An OpenAI-compatible server."""

    url: str
    """Of its root."""
    model: str | None = None
    """Asked for by this name; None: by none."""
    engine: ServerEngine = "none"
    context_max: int | None = None
    """Tokens of the longest context, to which all are scaled; None: as many as recorded."""
    timeout_sec: float = 300.0
    """For each turn."""


def require_turns(plans: Sequence[SessionPlan]) -> None:
    """:raises InvalidInput: if a session has no turns"""
    for plan in plans:
        if not plan.turns:
            raise InvalidInput(
                plan.name,
                "its recording does not say what was asked of a language model",
                hint="with --server, replay attempts of the AgentCgroup data set that have turns.json",
            )
