# SPDX-License-Identifier: Apache-2.0
"""Who is stopped, by the controller or by hand: freezes and thaws calls and sessions, tells of it, and sees to it that
somebody thaws them if we die.

The two reasons do not touch each other: what has both goes on when neither is left. By hand it lasts until somebody
thaws it, or it or this daemon ends; the controller neither ends nor counts it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping

from agentcg.cgroup.node import Node
from agentcg.control.guard import Guard
from agentcg.control.live import LiveCall, LiveSession
from agentcg.control.registry import Registry
from agentcg.control.view import Action, Subject
from agentcg.control.watch import go_on, stand_still
from agentcg.errors import Unsupported
from agentcg.journal import about
from agentcg.model import CallRef

__all__ = ["Stops"]

log = logging.getLogger("agentcg.control")


class Stops:
    """Every call and session that is stopped. An :class:`~agentcg.control.observer.Observer` of a registry, by way of
    the controller where there is one. Belongs to the loop it was made on.

    :param dry_run: what the controller wants is logged, and not done
    """

    def __init__(self, registry: Registry, *, dry_run: bool = False) -> None:
        self._registry, self.dry_run = registry, dry_run
        self._stopped: dict[Subject, LiveCall | LiveSession] = {}
        self._by_hand: dict[Subject, LiveCall | LiveSession] = {}
        self._refused = False
        """The kernel refused to stop somebody."""
        self._timed: dict[Subject, int | None] = {}
        self.actions: Counter[Action] = Counter()
        """How often the controller did each so far."""
        self.on_thawed: Callable[[], None] = lambda: None
        """Called when we were silent for so long that the guard let everybody go on, and lifted the tripwires."""
        self.on_unguarded: Callable[[], None] = lambda: None
        """Called when the guard is gone: until there is another, nothing is to be stopped."""
        self._guard = Guard(
            registry.tree.root.node.fd,
            on_thawed=lambda count: self._thawed(),
            on_ended=lambda reason: self._unguarded(),
        )

    @property
    def paused(self) -> bool:
        """Whether all that are not protected are stopped together."""
        return self._registry.pauses.under_way

    @property
    def any(self) -> bool:
        """Whether the controller has stopped anybody, or should have."""
        return self._refused or bool(self._stopped)

    def close(self) -> None:
        """Let everybody go on, and stop."""
        self.pause(False)
        self.apply({})
        for live in list(self._by_hand.values()):
            self.thaw(live)
        self._guard.close()

    # For the controller

    def apply(self, wanted: Mapping[Subject, str]) -> None:
        """Let go on whoever is not in ``wanted``, stop whoever is; it says why. What the kernel refuses is logged."""
        self._refused = False
        for subject in [subject for subject in self._stopped if subject not in wanted]:
            self._go(subject)
        for subject, why in wanted.items():
            if subject not in self._stopped:
                self._stop(subject, why)
        self._rest()

    def pause(self, wanted: bool) -> None:
        """Stop all that are not protected together, or let them go on."""
        if wanted == self.paused:
            return
        if wanted:
            self._guard.arm(True)
            since = time.monotonic()
            self._registry.tree.shared.freeze()
            self._registry.pauses.begin(since)
            self.actions["yield"] += 1
        else:
            self._registry.tree.shared.thaw()
            self._registry.pauses.end(time.monotonic())
        self._rest()

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
        if self.dry_run:
            self._stopped[subject] = live
            log.info("dry run: stopping %s: %s", subject, why, extra=about(subject))
            return
        try:
            now = self._freeze(live)
        except OSError as error:
            log.warning("%s cannot be stopped: %s", subject, error, extra=about(subject))
            self._refused = True
            return
        self._stopped[subject] = live
        live.stopped = now
        if isinstance(live, LiveCall) and not live.leaf.populated:
            live.held = True
            self.actions["hold"] += 1
            self._registry.bus.publish("call_held", subject, why)
            return
        self.actions["freeze"] += 1
        self._tell_frozen(live, why)
        self._time(subject, _node(live), now)

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
        if self.dry_run:
            log.info("dry run: letting %s go on", subject, extra=about(subject))
            return
        if self._find(subject) is not live or live.stopped is None:
            return
        since, live.stopped = live.stopped, None
        if isinstance(live, LiveCall):
            live.held = False
        self.actions["thaw"] += 1
        if live.by_hand is None:
            self._let_go(live, since)

    # By hand

    def freeze(self, live: LiveCall | LiveSession, who: str) -> None:
        """Stop a call or session until :meth:`thaw`; nothing, if it is frozen by hand already.

        :param who: wants it
        :raises Unsupported: for a container, and where nobody would thaw it if we die
        :raises OSError: what the kernel refused
        """
        if live.by_hand is not None:
            return
        if (live.session if isinstance(live, LiveCall) else live).session.container:
            hint = "pause the container by its engine, such as `docker pause`"
            raise Unsupported(f"{live.ref} is in a container, which is not frozen here", hint=hint)
        self.require_guard()
        try:
            live.by_hand = self._freeze(live)
            self._by_hand[live.ref] = live
        finally:
            self._rest()
        self._tell_frozen(live, f"by hand: {who}")

    def thaw(self, live: LiveCall | LiveSession) -> None:
        """Let a call or session that is frozen by hand go on, unless the controller has stopped it too."""
        if live.by_hand is None:
            return
        since, live.by_hand = live.by_hand, None
        del self._by_hand[live.ref]
        if live.stopped is None:
            self._let_go(live, since)
        self._rest()

    # The guard

    def require_guard(self) -> None:
        """See to it that there is a guard. :raises Unsupported: if there can be none; then nothing must be stopped"""
        if self._guard.pid is None:
            self._guard.start()

    def _thawed(self) -> None:
        self._registry.pauses.end(time.monotonic())
        self.apply({})
        self._freeze_again()
        self.on_thawed()

    def _unguarded(self) -> None:
        for live in self._by_hand.values():
            _node(live).thaw()
        self.on_unguarded()
        if not self._by_hand:
            return
        try:
            self.require_guard()
        except Unsupported as error:
            log.warning("what was frozen by hand goes on, for want of who would thaw it: %s", error)
            for live in list(self._by_hand.values()):
                self.thaw(live)
        else:
            self._freeze_again()

    def _freeze_again(self) -> None:
        """What is frozen by hand stays so, though the guard has thawed it."""
        for live in list(self._by_hand.values()):
            try:
                self._freeze(live)
            except OSError as error:
                log.warning("%s cannot be stopped again: %s", live.ref, error, extra=about(live.ref))
                self.thaw(live)

    def _rest(self) -> None:
        """Disarm the guard if nothing is stopped any more."""
        if not (self._stopped or self._by_hand or self.paused):
            self._guard.arm(False)

    # What happens

    def opened(self, live: LiveSession) -> None:
        """A session came."""

    def closed(self, live: LiveSession) -> None:
        """A session went."""
        self._by_hand.pop(live.ref, None)
        self._rest()

    def begun(self, live: LiveCall) -> None:
        """A call came: it stands still with its session."""
        if live.session.frozen:
            stand_still(live, live.started)

    def amended(self, live: LiveCall) -> None:
        """A call may use other amounts."""

    def finished(self, live: LiveCall) -> None:
        """A call is over. What it has left in the background goes on."""
        self._stopped.pop(live.ref, None)
        self._by_hand.pop(live.ref, None)
        self._untime(live.ref)
        if live.stopped is not None or live.by_hand is not None:
            live.leaf.thaw()
        self._rest()

    # What is done

    def _freeze(self, live: LiveCall | LiveSession) -> float:
        """Stop a call or session, and return when. :raises OSError: what the kernel refused"""
        self._guard.arm(True)
        now = time.monotonic()
        _node(live).freeze()
        for call in _calls(live):
            stand_still(call, now)
        return now

    def _let_go(self, live: LiveCall | LiveSession, since: float) -> None:
        """Nobody wants it stopped any more."""
        try:
            _node(live).thaw()
        except OSError as error:
            log.error("%s cannot be let go on: %s", live.ref, error, extra=about(live.ref))
        for call in _calls(live):
            if not call.frozen:
                go_on(self._registry, call)
        after = f"after {time.monotonic() - since:.3g} s"
        self._registry.bus.publish("call_thawed" if isinstance(live, LiveCall) else "session_thawed", live.ref, after)

    def _tell_frozen(self, live: LiveCall | LiveSession, why: str) -> None:
        self._registry.bus.publish("call_frozen" if isinstance(live, LiveCall) else "session_frozen", live.ref, why)


def _node(live: LiveCall | LiveSession) -> Node:
    return live.leaf if isinstance(live, LiveCall) else live.node.top


def _calls(live: LiveCall | LiveSession) -> list[LiveCall]:
    found = [live] if isinstance(live, LiveCall) else list(live.calls.values())
    return [call for call in found if call.finishing is None]
