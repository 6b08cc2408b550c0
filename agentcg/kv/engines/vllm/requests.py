# SPDX-License-Identifier: Apache-2.0
"""What a request says of itself: whose turn it is, what that session has called before, and whether it is the last."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Told", "told_by"]

_NAME_MAX = 512
"""A session's or a tool's name that is longer is none."""


class Told(NamedTuple):
    """What a request says; nothing of it has to be there."""

    session: str | None = None
    tool: str = ""
    last: bool = False


def told_by(request: Any) -> Told:
    """Return what a vLLM request says.

    The session is vLLM's own ``session_id``, which it takes from the body, the header X-Session-ID or ``vllm_xargs``.
    The rest is in ``vllm_xargs``: ``agentcg_tool``, what the session has called since its last turn, and
    ``agentcg_last``, not zero if there will be no other turn.
    """
    given = getattr(request.sampling_params, "extra_args", None) or {}
    session = _name(getattr(request, "session_id", None)) or _name(given.get("session_id"))
    return Told(session, _name(given.get("agentcg_tool")) or "", given.get("agentcg_last") in (1, True, "1", "true"))


def _name(value: object) -> str | None:
    if isinstance(value, str) and 0 < len(value) <= _NAME_MAX and value.isprintable():
        return value
    return None
