# SPDX-License-Identifier: Apache-2.0
"""Who is told of calls and sessions as they come, change and go: the controller, and what runs in the kernel."""

from __future__ import annotations

from typing import Protocol

from agentcg.control.live import LiveCall, LiveSession

__all__ = ["Observer"]


class Observer(Protocol):
    """Told on the event loop, at once; it must neither block nor raise."""

    def opened(self, live: LiveSession) -> None:
        """A session is there, with its limits; nothing runs in it yet, unless it was adopted."""

    def closed(self, live: LiveSession) -> None:
        """A session is gone, and so is its cgroup."""

    def begun(self, live: LiveCall) -> None:
        """A call is there, with its limits; nothing runs in it yet, unless it was adopted."""

    def amended(self, live: LiveCall) -> None:
        """A call's limits are others now."""

    def finished(self, live: LiveCall) -> None:
        """A call is over; its cgroup is removed after this."""
