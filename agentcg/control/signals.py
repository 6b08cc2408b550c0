# SPDX-License-Identifier: Apache-2.0
"""What engines are told of calls: that one began, when it will be over, that it stands still, and that it has ended.

A call has ended when nothing is left in its cgroup. The kernel says so before its runtime does, and so before its
agent can come back.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import msgspec

from agentcg.control.bus import Event, Listeners
from agentcg.control.live import LiveCall
from agentcg.control.prediction import Prediction
from agentcg.control.registry import Registry
from agentcg.kv.coordinate import Forecast, differs
from agentcg.model import CallRef, SessionRef, Verdict
from agentcg.predict.duration import Predictor
from agentcg.predict.learn import learn_verdict

__all__ = ["News", "NewsKind", "Signals"]

HISTORY = 512
"""Verdicts that it learns from at the start."""

NewsKind = Literal["began", "revised", "frozen", "thawed", "ended", "closed", "lost"]


@dataclass(frozen=True, slots=True)
class News:
    """What engines are told: of a call, or, for ``closed``, of a session."""

    kind: NewsKind
    session: SessionRef | None = None
    call: CallRef | None = None
    forecast: Forecast | None = None
    missed: int | None = None


@dataclass(slots=True, eq=False)
class _Followed:
    """A call, and what was told of it."""

    live: LiveCall
    prediction: Prediction
    entered: bool
    watch: int | None = None
    state: Literal["runs", "frozen", "ended"] = "ended"
    told: Forecast | None = None
    told_at: float = 0.0

    def look(self) -> Literal["runs", "frozen", "ended"]:
        """Return how it is now."""
        populated = self.live.leaf.populated
        self.entered = self.entered or populated
        if self.entered and not populated:
            return "ended"
        return "runs" if self.live.still.since is None else "frozen"

    def elapsed(self, now: float) -> float:
        """For how long it has run since its forecast was told, in seconds."""
        return max(0.0, (now if self.live.still.since is None else self.live.still.since) - self.told_at)


class Signals:
    """Follows the calls of a registry between :meth:`start` and :meth:`stop`, and tells of them."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._news = Listeners[News](lambda count: News("lost", missed=count))
        self._predictor = Predictor()
        self._followed: dict[CallRef, _Followed] = {}

    def start(self) -> None:
        """Learn from the history, and follow the calls that are there."""
        self._predictor = Predictor()
        for record in reversed(list(self._registry.store.recent(HISTORY))):
            with contextlib.suppress(msgspec.ValidationError):  # Of a version that wrote others.
                learn_verdict(self._predictor, msgspec.convert(record, Verdict))
        self.look()

    def stop(self) -> None:
        """Follow nobody any more."""
        for ref in list(self._followed):
            self._unfollow(ref)

    def listen(self) -> AsyncIterator[News]:
        """Yield the calls that are there, as if they began now, and then what happens."""
        return self._news.listen(first=lambda: self._all(time.monotonic()))

    def _all(self, now: float) -> Iterator[News]:
        for ref, followed in self._followed.items():
            if followed.state != "ended" and followed.told is not None:
                left = Forecast(*(max(0.0, sec - followed.elapsed(now)) for sec in followed.told))
                yield News("began", ref.session, ref, left)
                if followed.state == "frozen":
                    yield News("frozen", ref.session, ref)

    def running(self) -> set[SessionRef]:
        """Return the sessions of which a call runs."""
        return {ref.session for ref, followed in self._followed.items() if followed.state == "runs"}

    def remaining(self, now: float) -> dict[SessionRef, float]:
        """Return how much progress each session's calls still need, that of the longest, in seconds."""
        longest: dict[SessionRef, float] = {}
        for ref, followed in self._followed.items():
            if followed.state != "ended":
                longest[ref.session] = max(longest.get(ref.session, 0.0), followed.prediction.mean(now))
        return longest

    # What happens

    def heard(self, event: Event) -> None:
        """Something happened that the registry's bus tells of."""
        if event.verdict is not None:
            learn_verdict(self._predictor, event.verdict)
            self._over(event.verdict.ref)
        elif event.kind == "session_closed":
            self._news.tell(News("closed", SessionRef.parse("subject", event.subject, tenant="")))
        elif event.kind in ("session_frozen", "session_thawed"):
            for call in [call for call in self._followed if str(call.session) == event.subject]:
                self._look(call)
        elif event.kind.startswith("call_"):
            self._look(CallRef.parse("subject", event.subject))

    def look(self) -> None:
        """See how every call is."""
        for ref in [ref for ref, one in self._followed.items() if self._registry.calls.get(ref) is not one.live]:
            self._over(ref)
        for ref in list(self._registry.calls):
            self._look(ref)

    def _look(self, ref: CallRef) -> None:
        """See how a call is, and tell if it is not as it was told."""
        live = self._registry.calls.get(ref)
        if live is None:
            return
        now, followed = time.monotonic(), self._followed.get(ref)
        if followed is None or followed.live is not live:
            if live.finishing is not None:
                return  # It comes too late to be told of.
            self._over(ref)
            followed = self._followed[ref] = _Followed(live, Prediction(live, now), live.entered)
            followed.watch = self._registry.poll.watch_file(live.leaf.fd, "cgroup.events", partial(self._changed, ref))
        before, followed.state = followed.state, followed.look()
        if followed.state == before:
            if before == "runs" and now >= followed.prediction.due:
                self._revise(followed, now)
            return
        if before == "ended":
            self._tell(followed, "began", followed.prediction.make(self._predictor, now), now)
        if followed.state != "runs":
            self._tell(followed, followed.state)
        elif before == "frozen":
            self._tell(followed, "thawed", followed.prediction.make(self._predictor, now), now)

    def _changed(self, ref: CallRef) -> None:
        self._look(ref)
        followed = self._followed.get(ref)
        if followed is not None and followed.live.finishing is not None and not followed.live.leaf.populated:
            # Its cgroup goes. The watch goes with it, and its handle may soon be another's.
            self._registry.poll.unwatch(followed.watch)
            followed.watch = None

    def _revise(self, followed: _Followed, now: float) -> None:
        new = followed.prediction.make(self._predictor, now)
        if followed.told is None or differs(new, followed.told, followed.elapsed(now)):
            self._tell(followed, "revised", new, now)

    def _tell(self, followed: _Followed, kind: NewsKind, forecast: Forecast | None = None, now: float = 0.0) -> None:
        if forecast is not None:
            followed.told, followed.told_at = forecast, now
        ref = followed.live.ref
        self._news.tell(News(kind, ref.session, ref, forecast))

    def _over(self, ref: CallRef) -> None:
        followed = self._unfollow(ref)
        if followed is not None and followed.state != "ended":
            self._tell(followed, "ended")

    def _unfollow(self, ref: CallRef) -> _Followed | None:
        followed = self._followed.pop(ref, None)
        if followed is not None:
            self._registry.poll.unwatch(followed.watch)
        return followed
