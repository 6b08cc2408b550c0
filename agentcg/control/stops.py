# SPDX-License-Identifier: Apache-2.0
"""Who is stopped: freezes and thaws calls and sessions until it is as a plan wants it, and tells of it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping

from agentcg.cgroup.node import Node
from agentcg.control.live import LiveCall, LiveSession
from agentcg.control.registry import Registry
from agentcg.control.view import Action, Subject
from agentcg.control.watch import go_on, stand_still
from agentcg.journal import about
from agentcg.model import CallRef

__all__ = ["Stops"]

log = logging.getLogger("agentcg.control")


class Stops:
    """Every call and session that the controller has stopped."""

    def __init__(self, registry: Registry, *, dry_run: bool = False) -> None:
        self._registry, self._dry_run = registry, dry_run
        self._stopped: dict[Subject, LiveCall | LiveSession] = {}
        self._refused = False
        """The kernel refused to stop somebody."""
        self._timed: dict[Subject, int | None] = {}
        self.actions: Counter[Action] = Counter()
        """How often each was done so far."""

    @property
    def any(self) -> bool:
        """Whether anybody is, or should be."""
        return self._refused or bool(self._stopped)

    def apply(self, wanted: Mapping[Subject, str]) -> None:
        """Let go on whoever is not in ``wanted``, stop whoever is; it says why. What the kernel refuses is logged."""
        self._refused = False
        for subject in [subject for subject in self._stopped if subject not in wanted]:
            self._go(subject)
        for subject, why in wanted.items():
            if subject not in self._stopped:
                self._stop(subject, why)

    def thawed(self) -> None:
        """Somebody else let everybody go on."""
        self.apply({})

    def began(self, live: LiveCall) -> None:
        """A call came: it stands still with its session."""
        if live.session.stopped is not None:
            stand_still(live, live.started)

    def forget(self, live: LiveCall) -> None:
        """A call is over. What it has left in the background goes on."""
        self._stopped.pop(live.ref, None)
        self._untime(live.ref)
        if live.stopped is not None:
            live.leaf.thaw()

    def _find(self, subject: Subject) -> LiveCall | LiveSession | None:
        if isinstance(subject, CallRef):
            call = self._registry.calls.get(subject)
            return call if call is not None and call.finishing is None else None
        session = self._registry.sessions.get(subject)
        return session if session is not None and not session.closing else None

    def _stop(self, subject: Subject, why: str) -> None:
        live = self._find(subject)
        if live is None:
            return
        if self._dry_run:
            self._stopped[subject] = live
            log.info("dry run: stopping %s: %s", subject, why, extra=about(subject))
            return
        node, now = _node(live), time.monotonic()
        try:
            node.freeze()
        except OSError as error:
            log.warning("%s cannot be stopped: %s", subject, error, extra=about(subject))
            self._refused = True
            return
        self._stopped[subject] = live
        live.stopped = now
        for call in _calls(live):
            stand_still(call, now)
        if isinstance(live, LiveCall) and not live.leaf.populated:
            live.held = True
            self.actions["hold"] += 1
            self._registry.bus.publish("call_held", subject, why)
            return
        self.actions["freeze"] += 1
        self._registry.bus.publish("call_frozen" if isinstance(live, LiveCall) else "session_frozen", subject, why)
        self._time(subject, node, now)

    def _time(self, subject: Subject, node: Node, since: float) -> None:
        """Tell the log how long the freeze took, when it has."""

        def look() -> None:
            if node.frozen:
                self._untime(subject)
                log.info("froze %s in %.1f ms", subject, (time.monotonic() - since) * 1e3, extra=about(subject))

        self._timed[subject] = self._registry.poll.watch_file(node.fd, "cgroup.events", look)
        look()

    def _untime(self, subject: Subject) -> None:
        self._registry.poll.unwatch(self._timed.pop(subject, None))

    def _go(self, subject: Subject) -> None:
        live = self._stopped.pop(subject)
        self._untime(subject)
        if self._dry_run:
            log.info("dry run: letting %s go on", subject, extra=about(subject))
            return
        if self._find(subject) is not live or live.stopped is None:
            return
        waited, live.stopped = time.monotonic() - live.stopped, None
        try:
            _node(live).thaw()
        except OSError as error:
            log.error("%s cannot be let go on: %s", subject, error, extra=about(subject))
        if isinstance(live, LiveCall):
            live.held = False
        self.actions["thaw"] += 1
        for call in _calls(live):
            if call.stopped is None and call.session.stopped is None:
                go_on(self._registry, call)
        after = f"after {waited:.3g} s"
        self._registry.bus.publish("call_thawed" if isinstance(live, LiveCall) else "session_thawed", subject, after)


def _node(live: LiveCall | LiveSession) -> Node:
    return live.leaf if isinstance(live, LiveCall) else live.node.top


def _calls(live: LiveCall | LiveSession) -> list[LiveCall]:
    found = [live] if isinstance(live, LiveCall) else list(live.calls.values())
    return [call for call in found if call.finishing is None]
