# SPDX-License-Identifier: Apache-2.0
"""From what the bus tells to spans: one of each call that ends, below that of its session.

A span is made when its call has ended; all that is kept before are its events. The ids are made of the names and times
that stand on the cgroups: after a restart the next daemon goes on with the same trace, and ends the session's span.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from agentcg import __version__
from agentcg.control.bus import Event
from agentcg.control.lease import Lease
from agentcg.control.live import LiveCall
from agentcg.control.registry import Registry
from agentcg.journal import about
from agentcg.kernel.process import environment_variable, start_time
from agentcg.model import CallRef, Session, SessionRef, Verdict
from agentcg.spans.attributes import call_attributes, failed, session_attributes, tool_name
from agentcg.spans.delivery import Delivery
from agentcg.spans.ids import SPAN_BYTES, TRACE_BYTES, derive_id
from agentcg.trace.source import cut

__all__ = ["Spans"]

log = logging.getLogger(__name__)

EVENTS_MAX = 128
"""Of a span, the last ones: what the SDK keeps by default."""
CLOSE_SEC = 3.0
"""For what waits to be sent when the daemon ends."""
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""Commands may hold secrets, and the conventions have them as opt-in. This is what other instrumentations ask, too."""

# What is told of a call while it runs, and how its span's event is called; a session's are those of its calls, too.
_EVENTS = {
    f"{of}_{kind}": f"agentcg.{kind}"
    for of, kinds in (("call", "held frozen thawed throttled oom killed amended"), ("session", "frozen thawed"))
    for kind in kinds.split()
}


@dataclass(slots=True)
class _Open:
    """What is kept of a call or a session until it ends."""

    events: deque[tuple[str, str, int]] = field(default_factory=lambda: deque(maxlen=EVENTS_MAX))
    """Name, message and time in nanoseconds."""
    parent: asyncio.Future[SpanContext | None] | None = None
    """The context that a call's runtime runs in; None for a session, and for a call that nobody stands for."""


class _Ids(IdGenerator):
    """Gives the next span the ids that are wanted for it."""

    trace = span = 0

    def generate_trace_id(self) -> int:
        return self.trace

    def generate_span_id(self) -> int:
        return self.span


class Spans:
    """Makes spans of what a registry's bus tells from now on, and sends them. Belongs to the registry's loop."""

    def __init__(self, registry: Registry, exporter: SpanExporter) -> None:
        self._registry = registry
        self._content = os.environ.get(CONTENT, "").lower() in ("true", "span_only", "span_and_event")
        self._ids = _Ids()
        self.delivery = Delivery(exporter)
        described = {"service.name": "agentcg", "service.version": __version__, "host.name": socket.gethostname()}
        resource = Resource.create(described).merge(OTELResourceDetector().detect())  # The environment wins.
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(self.delivery)
        self._tracer = self._provider.get_tracer("agentcg", __version__)
        self._open: dict[str, _Open] = {}
        registry.bus.hooks.append(self._happened)

    async def close(self) -> None:
        """Make no more, and give those that wait :data:`CLOSE_SEC` to be sent."""
        self._registry.bus.hooks.remove(self._happened)
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        await asyncio.to_thread(sending.join, CLOSE_SEC)
        log.info("%d spans were sent, %d dropped", self.delivery.sent, self.delivery.dropped + self.delivery.waiting)

    def _happened(self, event: Event) -> None:
        try:
            self._hear(event)
        except Exception:
            log.exception("there is no span of %s", event.subject, extra=about(event.subject))  # Its call goes on.

    def _hear(self, event: Event) -> None:
        if event.kind in _EVENTS:
            told = _EVENTS[event.kind], cut(event.message), _nano(event.time)
            for subject in self._with_calls(event):
                self._open.setdefault(subject, _Open()).events.append(told)
        elif event.kind in ("call_begun", "call_adopted"):
            live = self._registry.calls[CallRef.parse("subject", event.subject)]
            # The process that a transparent call stands for is known when its beginning is over.
            asyncio.get_running_loop().call_soon(self._look_for_parent, live)
        elif event.kind == "call_ended" and event.verdict is not None:
            session = self._registry.sessions[event.verdict.ref.session].session
            opened = self._open.pop(event.subject, _Open())
            end = partial(self._end_call, session, event.verdict, opened)
            if opened.parent is None or opened.parent.done():
                end()
            else:
                opened.parent.add_done_callback(end)
        elif event.kind == "session_closed":
            session = self._registry.sessions[SessionRef.parse("subject", event.subject, tenant="")].session
            self._end_session(session, event, self._open.pop(event.subject, _Open()))

    def _with_calls(self, event: Event) -> list[str]:
        if event.kind.startswith("call_"):
            return [event.subject]
        live = self._registry.sessions[SessionRef.parse("subject", event.subject, tenant="")]
        return [event.subject, *(str(call.ref) for call in live.calls.values())]

    # Whose child a call is

    def _look_for_parent(self, live: LiveCall) -> None:
        """Look for the context of who began a call, not on the loop: a process that reclaims memory answers late."""
        pid, started = live.process or Lease.holder(live.lease and live.lease.record())
        if pid and live.finishing is None:
            found = asyncio.get_running_loop().run_in_executor(None, _context_of, pid, started)
            self._open.setdefault(str(live.ref), _Open()).parent = found

    # Spans

    def _end_call(self, session: Session, verdict: Verdict, opened: _Open, _: object = None) -> None:
        of_session = self._context(session)
        of_runtime = opened.parent.result() if opened.parent is not None else None
        links = [Link(of_session)] if of_runtime is not None else []
        self._ids.span = int(derive_id(SPAN_BYTES, verdict.ref, verdict.started), 16)
        span = self._start(
            f"execute_tool {tool_name(verdict)}",
            set_span_in_context(NonRecordingSpan(of_runtime or of_session)),
            verdict.started,
            call_attributes(verdict, content=self._content),
            links,
        )
        if failed(verdict):
            span.set_status(StatusCode.ERROR, cut(verdict.reason) or verdict.outcome)
        _end(span, opened, verdict.started, verdict.ended)

    def _end_session(self, session: Session, event: Event, opened: _Open) -> None:
        context = self._context(session)
        self._ids.trace, self._ids.span = context.trace_id, context.span_id
        name = f"invoke_agent {session.ref.session}"
        span = self._start(name, Context(), session.opened, session_attributes(session, event.message), [])
        _end(span, opened, session.opened, event.time)

    def _context(self, session: Session) -> SpanContext:
        """Return what names a session's span, which may be made by the next daemon."""
        trace = int(derive_id(TRACE_BYTES, socket.gethostname(), session.ref, session.opened), 16)
        span = int(derive_id(SPAN_BYTES, session.ref, session.opened), 16)
        sampled = self._provider.sampler.should_sample(None, trace, "").decision is Decision.RECORD_AND_SAMPLE
        return SpanContext(trace, span, is_remote=True, trace_flags=TraceFlags(sampled))

    def _start(self, name: str, parent: Context, began: float, said: dict[str, Any], links: list[Link]) -> Span:
        known = {key: value for key, value in said.items() if value is not None}
        return self._tracer.start_span(name, parent, attributes=known, links=links, start_time=_nano(began))


def _end(span: Span, opened: _Open, began: float, ended: float) -> None:
    for name, message, at in opened.events:
        span.add_event(name, {"agentcg.message": message}, at)
    span.end(_nano(max(began, ended)))  # A clock may go back.


def _context_of(pid: int, started: int) -> SpanContext | None:
    """Return the context that a process was started in, if it was told one; not of another one with its pid.

    opentelemetry.io/docs/specs/otel/context/env-carriers
    """
    try:
        text = environment_variable(pid, "TRACEPARENT")
    except OSError:
        return None
    if text is None or start_time(pid) != started:
        return None
    found = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": text})).get_span_context()
    return found if found.is_valid else None


def _nano(moment: float) -> int:
    """Return seconds since the epoch in nanoseconds; a float has whole microseconds at most."""
    return round(moment * 10**6) * 1000
