# SPDX-License-Identifier: Apache-2.0
"""What Prometheus reads, by its own parser, from the daemon's own registry and controller on a fake hierarchy."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentcg.control.bus import Bus
from agentcg.control.controller import Controller
from agentcg.control.registry import Registry
from agentcg.control.stops import Stops
from agentcg.control.view import Settings
from agentcg.metrics.collect import Metrics
from agentcg.model import Budget, SessionRef

M = 1 << 20


def read(metrics: Metrics) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the value of each sample by its name and its labels' values."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        assert family.documentation
        for sample in family.samples:
            assert sample.name.startswith("agentcg_")
            labels = tuple(sample.labels.values())
            assert labels not in found.setdefault(sample.name, {})
            found[sample.name][labels] = sample.value
    return found


def on_loop(work: Callable[[], None]) -> None:
    async def run() -> None:
        work()

    asyncio.run(run())


def session(registry: Registry, name: str, **options):  # type: ignore[no-untyped-def]
    return registry.open_session(SessionRef("t", name), tenant="t", owner_uid=1, **options)[0]


def test_calls_are_counted_by_class_and_outcome(new_registry) -> None:  # type: ignore[no-untyped-def]
    async def run() -> None:
        registry = new_registry()
        metrics = Metrics(registry, None, None)
        live = session(registry, "s")
        for name, command, status in (("a", "pytest -x", 0), ("b", "pytest", 2), ("c", "pytest", 0), ("d", "true", 0)):
            call, _ = registry.begin(live, owner_uid=1, name=name, command=command)
            await registry.end(call.ref, exit_code=status)
        registry.begin(live, owner_uid=1, name="e", command="pytest")
        found = read(metrics)
        ended = {labels: value for labels, value in found["agentcg_calls_ended_total"].items() if value}
        assert ended == {("test", "ok"): 2, ("test", "exit_status"): 1, ("search", "ok"): 1}
        assert found["agentcg_calls_begun_total"] == {(): 5}
        assert found["agentcg_call_duration_seconds_count"]["test",] == 3
        assert found["agentcg_call_duration_seconds_bucket"]["test", "+Inf"] == 3
        assert found["agentcg_call_duration_seconds_bucket"]["test", "3000.0"] == 3
        assert 0 < found["agentcg_call_duration_seconds_sum"]["test",] < 60
        assert found["agentcg_events_total"]["call_ended",] == 4
        assert found["agentcg_sessions"] == {("running",): 1, ("frozen",): 0}
        assert found["agentcg_calls"]["running",] == 1

    asyncio.run(run())


def test_there_are_as_many_series_after_many_calls_as_before(new_registry) -> None:  # type: ignore[no-untyped-def]
    async def run() -> None:
        registry = new_registry()
        metrics = Metrics(registry, None, None)
        before = {name: set(labels) for name, labels in read(metrics).items()}
        for number in range(20):
            live = session(registry, f"s{number}")
            for name in range(5):
                call, _ = registry.begin(live, owner_uid=1, name=f"c{name}", tool=f"tool{number}", command=f"x{number}")
                await registry.end(call.ref, exit_code=name)
            await registry.close_session(live.session.ref, "over")
        assert {name: set(labels) for name, labels in read(metrics).items()} == before

    asyncio.run(run())


def test_a_class_that_is_not_in_the_policy_any_more_is_other(new_registry) -> None:  # type: ignore[no-untyped-def]
    async def run() -> None:
        registry = new_registry()
        metrics = Metrics(registry, None, None)
        call, _ = registry.begin(session(registry, "s"), owner_uid=1)
        call.call = replace(call.call, call_class="of-last-year")
        await registry.end(call.ref, exit_code=0)
        found = read(metrics)["agentcg_calls_ended_total"]
        assert {labels for labels, value in found.items() if value} == {("other", "ok")}

    asyncio.run(run())


def test_who_is_stopped_is_seen_in_the_states(new_registry, cgroups, guard) -> None:  # type: ignore[no-untyped-def]
    def work() -> None:
        registry = new_registry()
        metrics = Metrics(registry, None, None)
        first, second = session(registry, "a"), session(registry, "b")
        calls = [registry.begin(first, owner_uid=1, name=name)[0] for name in ("held", "frozen", "throttled")]
        registry.begin(second, owner_uid=1, name="of-its-session")
        cgroups.enter("shared/t/a/calls/frozen")
        cgroups.set("shared/t/a/calls/throttled", "memory.events", "high 3\n")
        stops = Stops(registry)
        stops.apply({calls[0].ref: "no room", calls[1].ref: "grows", second.session.ref: "grows"})
        assert read(metrics)["agentcg_calls"] == {
            ("running",): 0,
            ("throttled",): 1,
            ("frozen",): 2,
            ("held",): 1,
            ("ending",): 0,
        }
        assert read(metrics)["agentcg_sessions"] == {("running",): 1, ("frozen",): 1}
        stops.apply({})
        assert read(metrics)["agentcg_calls"]["running",] == 3
        assert stops.actions == {"hold": 1, "freeze": 2, "thaw": 3}
        stops.freeze(second, "somebody")
        assert read(metrics)["agentcg_sessions"]["frozen",] == 1
        assert read(metrics)["agentcg_calls"]["frozen",] == 1
        stops.close()
        assert stops.actions == {"hold": 1, "freeze": 2, "thaw": 3}

    on_loop(work)


def test_what_the_controller_does_is_counted(new_registry, cgroups) -> None:  # type: ignore[no-untyped-def]
    def work() -> None:
        registry = new_registry(capacity=512 * M, limited=True)
        controller = Controller(registry, Settings(mechanisms=frozenset({"kill"})), Stops(registry))
        registry.observers.append(controller)
        metrics = Metrics(registry, controller, None)
        live = session(registry, "s")
        registry.begin(live, owner_uid=1, name="c")
        assert set(read(metrics)["agentcg_controller_actions_total"].values()) == {0}
        controller._set_tripwire(live.session.ref, 100 * M)
        controller._yield(True, 1.0)
        controller._yield(False, 2.0)
        found = read(metrics)["agentcg_controller_actions_total"]
        assert {action for (action,), value in found.items() if value} == {"tripwire", "yield"}
        assert set(found) == {(a,) for a in ("hold", "freeze", "thaw", "tripwire", "yield", "reclaim", "kill")}
        controller.close()

    on_loop(work)


def test_memory_that_is_reserved_and_what_is_left(new_registry, cgroups) -> None:  # type: ignore[no-untyped-def]
    def work() -> None:
        registry = new_registry(capacity=1024 * M, limited=True)
        metrics = Metrics(registry, None, None)
        session(registry, "p", protected=True, budget=Budget(memory_max=256 * M))
        cgroups.set("shared", "memory.current", str(33 * M))
        found = read(metrics)
        assert found["agentcg_memory_capacity_bytes"] == {(): 1024 * M}
        assert found["agentcg_memory_reserved_bytes"] == {(): 256 * M}
        assert found["agentcg_memory_wall_bytes"] == {(): 768 * M}
        assert found["agentcg_memory_used_bytes"] == {("reserved",): 0, ("shared",): 33 * M}

    on_loop(work)


def test_what_nobody_knows_is_left_out(new_registry) -> None:  # type: ignore[no-untyped-def]
    def work() -> None:
        found = read(Metrics(new_registry(capacity=None), None, None))
        for name in (
            "memory_capacity_bytes",
            "memory_wall_bytes",
            "controller_actions_total",
            "kernel_events_lost_total",
            "spans_sent_total",
            "spans_dropped_total",
        ):
            assert f"agentcg_{name}" not in found

    on_loop(work)


def test_losses_are_counted(new_registry, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("agentcg.control.bus.QUEUE", 3)

    class Kernel:
        lost = 7

    async def run() -> None:
        registry = new_registry()
        metrics = Metrics(registry, None, Kernel())  # type: ignore[arg-type]
        listener = registry.bus.listen()
        waiting = asyncio.ensure_future(anext(listener))
        await asyncio.sleep(0)
        for _ in range(5):
            registry.bus.publish("refused", "t/s", "")
        assert (await waiting).kind == "lost"
        found = read(metrics)
        assert found["agentcg_watch_lost_total"] == {(): 2}
        assert found["agentcg_kernel_events_lost_total"] == {(): 7}
        assert found["agentcg_events_total"]["refused",] == 5

    asyncio.run(run())


def test_spans_are_counted(new_registry) -> None:  # type: ignore[no-untyped-def]
    class Delivery:
        sent, dropped = 5, 2

    def work() -> None:
        found = read(Metrics(new_registry(), None, None, Delivery()))  # type: ignore[arg-type]
        assert (found["agentcg_spans_sent_total"], found["agentcg_spans_dropped_total"]) == ({(): 5}, {(): 2})

    on_loop(work)


def test_nothing_is_counted_after_the_end(new_registry) -> None:  # type: ignore[no-untyped-def]
    def work() -> None:
        registry = new_registry()
        bus: Bus = registry.bus
        metrics = Metrics(registry, None, None)
        assert len(bus.hooks) == 1
        metrics.close()
        bus.publish("refused", "t/s", "")
        assert read(metrics)["agentcg_events_total"]["refused",] == 0

    on_loop(work)
