# SPDX-License-Identifier: Apache-2.0
"""The look: from cgroups to a snapshot."""

from __future__ import annotations

import contextlib
import os

from agentcg.cgroup import files
from agentcg.cgroup.node import Node
from agentcg.cgroup.usage import cpu_sec
from agentcg.control.live import LiveCall, LiveSession
from agentcg.control.view import CallView, SessionView

__all__ = ["Eyes", "Gauge"]


class Gauge:
    """A node's memory.current, kept open: read a hundred times a second."""

    def __init__(self, node: Node) -> None:
        self._fd: int | None = None
        with contextlib.suppress(FileNotFoundError):
            self._fd = os.open("memory.current", os.O_RDONLY | os.O_CLOEXEC, dir_fd=node.fd)
        self.last = 0
        self.read()

    def read(self) -> int:
        """Return the memory charged to the node now, in bytes; 0 if there is no such node or file any more."""
        if self._fd is None:
            return 0
        try:
            self.last = int(os.pread(self._fd, 32, 0))
        except OSError:  # ENODEV: the cgroup was removed.
            self.last = 0
        return self.last

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Eyes:
    """Remembers what each session and call held at the look before."""

    def __init__(self) -> None:
        self._gauges: dict[object, Gauge] = {}
        self._unseen: dict[object, Gauge] = {}

    def begin(self) -> None:
        """A new look begins: what was not seen during the one before is forgotten."""
        for gauge in self._unseen.values():
            gauge.close()
        self._unseen, self._gauges = self._gauges, {}

    def forget(self, live: LiveSession | LiveCall) -> None:
        """It is over."""
        for gauges in (self._gauges, self._unseen):
            if gauge := gauges.pop(live, None):
                gauge.close()

    def close(self) -> None:
        """Close all that is open."""
        for gauge in (*self._unseen.values(), *self._gauges.values()):
            gauge.close()

    def session(self, live: LiveSession, *, tripped: bool, closely: bool) -> SessionView:
        """Look at a session and its calls. ``closely``: also at page cache and CPU time, which takes longer."""
        current, grew = self._memory(live, live.node.top)
        return SessionView(
            ref=live.session.ref,
            opened=live.session.opened,
            protected=live.session.protected,
            current=current,
            claim=live.claim,
            grew=grew,
            tripped=tripped,
            stopped=live.stopped,
            by_hand=live.by_hand is not None,
            turn_until=live.turn_until,
            urgency=live.urgency,
            cache=_cache(live.node.top) if closely else 0,
            calls=tuple(self._call(call, closely) for call in live.calls.values() if call.finishing is None),
        )

    def _call(self, live: LiveCall, closely: bool) -> CallView:
        current, grew = self._memory(live, live.leaf)
        live.entered = live.entered or live.leaf.populated
        intent = live.call.intent
        return CallView(
            ref=live.ref,
            started=live.started,
            current=current,
            claim=live.claim,
            grew=grew,
            priority=50 if intent.priority is None else intent.priority,
            cpu_sec=(cpu_sec(live.leaf) or 0.0) if closely else 0.0,
            # One that was held is frozen as soon as it enters: it has not run before it is let go.
            waiting=not live.entered or (live.held and live.stopped is not None),
            stopped=live.stopped,
            by_hand=live.by_hand is not None,
            declared=intent.memory_claim is not None,
        )

    def _memory(self, key: object, node: Node) -> tuple[int, int]:
        gauge = self._gauges.get(key) or self._unseen.pop(key, None) or Gauge(node)
        self._gauges[key] = gauge
        before = gauge.last
        return gauge.read(), gauge.last - before


def _cache(node: Node) -> int:
    stat = files.read_flat_keyed(node.fd, "memory.stat")
    # Not dirty, not shared memory: what the kernel can drop at once.
    return max(stat.get("active_file", 0) + stat.get("inactive_file", 0) - stat.get("file_dirty", 0), 0)
