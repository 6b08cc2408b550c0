# SPDX-License-Identifier: Apache-2.0
"""Who is stopped by a simulated controller. A freeze takes the host's time from the order until all stand still."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from agentcg.control.view import Subject
from agentcg.model import CallRef
from agentcg.replay.events import Frozen, Held, Tell, Thawed
from agentcg.replay.simulation.group import Group
from agentcg.replay.simulation.machine import Machine
from agentcg.replay.simulation.managed import LiveCall, LiveSession

__all__ = ["SimulatedStops"]


class SimulatedStops:
    """Every call and session that is stopped.

    :param find: returns what a plan speaks of, or None if it is over
    """

    def __init__(self, machine: Machine, find: Callable[[Subject], LiveCall | LiveSession | None], tell: Tell) -> None:
        self._machine, self._find, self._tell = machine, find, tell
        self._stopped: dict[Subject, LiveCall | LiveSession] = {}

    @property
    def any(self) -> bool:
        """Whether anybody is."""
        return bool(self._stopped)

    def apply(self, wanted: Mapping[Subject, str]) -> bool:
        """Let go on whoever is not in ``wanted``, stop whoever is; it says why. False if all is as it was."""
        gone = [subject for subject in self._stopped if subject not in wanted]
        new = [subject for subject in wanted if subject not in self._stopped]
        for subject in gone:
            self._go(subject)
        for subject in new:
            self._stop(subject, wanted[subject])
        return bool(gone or new)

    def forget(self, live: LiveCall | LiveSession) -> None:
        """It is over."""
        self._stopped.pop(live.ref, None)
        if live.freezing is not None:
            live.freezing.cancel()

    def _stop(self, subject: Subject, why: str) -> None:
        live, now = self._find(subject), self._machine.clock.now
        if live is None:
            return
        self._stopped[subject] = live
        live.stopped = now
        for call in _calls(live):
            call.still.begin(now)
        if isinstance(live, LiveCall) and not live.group.processes:
            live.held = True
            self._machine.freeze(live.group)
            self._tell(Held(now, *_name(subject), why))
            return
        delay = self._machine.host.freeze_sec
        live.freezing = self._machine.clock.after(delay, partial(self._machine.freeze, _group(live)))
        self._tell(Frozen(now, *_name(subject), why))

    def _go(self, subject: Subject) -> None:
        live, now = self._stopped.pop(subject), self._machine.clock.now
        if live.freezing is not None:
            live.freezing.cancel()
        if self._find(subject) is not live or live.stopped is None:
            return
        waited, live.stopped = now - live.stopped, None
        if isinstance(live, LiveCall):
            live.held = False
        for call in _calls(live):
            if call.stopped is None and call.session.stopped is None:
                call.still.end(now)
        self._tell(Thawed(now, *_name(subject), f"after {waited:.3g} s"))
        self._machine.thaw(_group(live))


def _group(live: LiveCall | LiveSession) -> Group:
    return live.group if isinstance(live, LiveCall) else live.top


def _calls(live: LiveCall | LiveSession) -> list[LiveCall]:
    found = [live] if isinstance(live, LiveCall) else list(live.calls.values())
    return [call for call in found if not call.finishing]


def _name(subject: Subject) -> tuple[str, str | None]:
    return (subject.session.session, subject.call) if isinstance(subject, CallRef) else (subject.session, None)
