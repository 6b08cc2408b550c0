# SPDX-License-Identifier: Apache-2.0
"""What is measured, in seconds and bytes.

Labels are classes of the policy, outcomes, states and kinds: there are as many series after a million calls as after
one, and a scrape costs the same. An event costs two additions; all the rest is read when somebody asks.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agentcg.cgroup.usage import memory_current
from agentcg.control.bus import Event, EventKind
from agentcg.control.controller import Controller
from agentcg.control.kernel_events import KernelEvents
from agentcg.control.live import STATES
from agentcg.control.registry import Registry
from agentcg.control.view import ACTIONS
from agentcg.model import Outcome

if TYPE_CHECKING:
    from agentcg.spans.delivery import Delivery

__all__ = ["Metrics"]

BUCKETS_SEC = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
OTHER = "other"
"""The class of a call that an older policy put into one that is not there any more."""


class Metrics(Collector):
    """Counts what is told on the bus from now on, and looks at the rest when asked. Belongs to the registry's loop.

    :param controller: None if nothing is controlled
    :param events: None if the kernel does not tell
    :param delivery: None if no spans are sent
    """

    def __init__(
        self,
        registry: Registry,
        controller: Controller | None,
        events: KernelEvents | None,
        delivery: Delivery | None = None,
    ) -> None:
        self._registry, self._controller, self._kernel, self._delivery = registry, controller, events, delivery
        self._classes = frozenset(registry.policy.classes)
        self._prometheus = CollectorRegistry()
        # When each series began says no more than the daemon's start does.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._ended = Counter(
            "agentcg_calls_ended",
            "Calls that have ended, by class and outcome.",
            ("class", "outcome"),
            registry=self._prometheus,
        )
        self._durations = Histogram(
            "agentcg_call_duration_seconds",
            "From begin to end of the calls that have ended, the time for which they were stopped included.",
            ("class",),
            buckets=BUCKETS_SEC,
            registry=self._prometheus,
        )
        self._events = Counter("agentcg_events", "What happened, by kind.", ("kind",), registry=self._prometheus)
        # A series that is there from the start shows its first increase as one.
        for name in sorted({*self._classes, OTHER}):
            self._durations.labels(name)
            for outcome in get_args(Outcome):
                self._ended.labels(name, outcome)
        for kind in get_args(EventKind):
            if kind != "lost":  # It is a listener's alone, and counted as agentcg_watch_lost_total.
                self._events.labels(kind)
        self._prometheus.register(self)
        registry.bus.hooks.append(self._happened)

    def close(self) -> None:
        """Count no more."""
        self._registry.bus.hooks.remove(self._happened)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._prometheus)

    def _happened(self, event: Event) -> None:
        self._events.labels(event.kind).inc()
        if event.kind == "call_ended" and (verdict := event.verdict) is not None:
            name = verdict.call_class if verdict.call_class in self._classes else OTHER
            self._ended.labels(name, verdict.outcome).inc()
            self._durations.labels(name).observe(verdict.usage.duration_sec)

    def describe(self) -> Iterator[Metric]:
        """Nothing: to collect at registration only to learn the names would be one look too many."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """Look at what is there now."""
        yield from self._totals()
        yield from self._live()
        yield from self._memory()

    def _totals(self) -> Iterator[Metric]:
        registry = self._registry
        yield _total("agentcg_calls_begun", "Calls begun.", registry.begun)
        yield _total("agentcg_calls_adopted", "Calls taken over at the daemon's start.", registry.adopted)
        yield _total("agentcg_requests_refused", "Requests of peers that may not make them.", registry.refused)
        yield _total("agentcg_watch_lost", "Events that listeners of the socket read too late.", registry.bus.lost)
        if self._kernel is not None:
            what = "Memory events of the kernel that were lost; the control files were read instead."
            yield _total("agentcg_kernel_events_lost", what, self._kernel.lost)
        if self._delivery is not None:
            yield _total("agentcg_spans_sent", "Spans that the collector has taken.", self._delivery.sent)
            yield _total("agentcg_spans_dropped", "Spans that it did not take in time.", self._delivery.dropped)
        if self._controller is not None:
            family = CounterMetricFamily("agentcg_controller_actions", "What the controller did.", labels=("action",))
            for action in ACTIONS:
                family.add_metric((action,), self._controller.actions[action])
            yield family

    def _live(self) -> Iterator[Metric]:
        registry = self._registry
        calls = Counts(call.state for call in registry.calls.values())
        yield _gauge("agentcg_calls", "Calls that are there now.", "state", {name: calls[name] for name in STATES})
        frozen = sum(session.frozen for session in registry.sessions.values())
        sessions = {"running": len(registry.sessions) - frozen, "frozen": frozen}
        yield _gauge("agentcg_sessions", "Sessions that are open now.", "state", sessions)

    def _memory(self) -> Iterator[Metric]:
        registry = self._registry
        reserved = sum(session.reserve for session in registry.sessions.values())
        sizes = {
            ("agentcg_memory_capacity_bytes", "What all sessions may use together."): registry.capacity,
            ("agentcg_memory_reserved_bytes", "What is set aside for protected sessions."): reserved,
            ("agentcg_memory_wall_bytes", "What all others may use together."): registry.reserves.wall,
        }
        for (name, what), size in sizes.items():
            if size is not None:
                yield GaugeMetricFamily(name, what, value=size)
        groups = {"reserved": registry.tree.reserved, "shared": registry.tree.shared}
        used = {name: size for name, node in groups.items() if (size := memory_current(node)) is not None}
        what = "What the sessions use: the protected ones, and all others."
        yield _gauge("agentcg_memory_used_bytes", what, "group", used)


def _total(name: str, what: str, value: int) -> Metric:
    return CounterMetricFamily(name, what, value=value)


def _gauge(name: str, what: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, what, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family
