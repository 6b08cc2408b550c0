# SPDX-License-Identifier: Apache-2.0
"""Agent runtimes that know nothing of agentcg, each with what it takes to have its tool calls managed."""

from __future__ import annotations

__all__ = ["RECONNECT_SEC", "STILL_SEC", "with_advice"]

RECONNECT_SEC = 10.0
"""For how long a daemon that is started again is waited for."""
STILL_SEC = 900.0
"""For how long a call may stand still at most, on top of its own time."""


def with_advice(output: str, advice: str) -> str:
    """Return a command's output with what is advised, if anything, on a line of its own behind it."""
    return f"{output.rstrip()}\nagentcg: {advice}\n".lstrip() if advice else output
