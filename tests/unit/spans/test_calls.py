# SPDX-License-Identifier: Apache-2.0
"""Spans of the daemon's own registry on a fake hierarchy, by the SDK's own exporter into memory."""

import asyncio
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from agentcg.control.adopt import adopt
from agentcg.control.lease import Lease
from agentcg.control.registry import Registry
from agentcg.control.stops import Stops
from agentcg.control.watch import memory_event
from agentcg.kernel.process import start_time
from agentcg.launcher import build
from agentcg.model import CallRef, SessionRef
from agentcg.spans.calls import Spans, _context_of

REF = SessionRef("t", "s")
CONTEXT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


class World:
    """A registry, what makes its spans, and these."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.exporter = InMemorySpanExporter()
        self.spans = Spans(registry, self.exporter)

    def open(self, **options: Any) -> Any:
        return self.registry.open_session(REF, tenant="t", owner_uid=1, **options)[0]

    def begin(self, name: str = "c", **options: Any) -> Any:
        given = {"tool": "Bash", "command": "pytest -x"} | options
        return self.registry.begin(self.registry.sessions[REF], owner_uid=1, name=name, **given)[0]

    async def made(self) -> dict[str, Any]:
        """Return all spans by their names; there are none after this."""
        await self.spans.close()
        found = self.exporter.get_finished_spans()
        assert self.spans.delivery.sent == len(found)
        assert self.spans.delivery.dropped == 0
        assert self.spans._open == {}
        return {span.name: span for span in found}


@pytest.fixture
def world(new_registry: Callable[..., Registry]) -> Callable[[Callable[[World], Coroutine[Any, Any, None]]], None]:
    """Return a function that runs a coroutine with a world."""

    def run(work: Callable[[World], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            made = World(new_registry())
            await work(made)
            await made.registry.settle()

        asyncio.run(main())

    return run


def test_a_call_is_a_span_below_its_sessions(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
        live = world.open()
        call = world.begin()
        verdict = await world.registry.end(call.ref, exit_code=0)
        await world.registry.close_session(REF, "it was closed")
        found = await world.made()
        assert set(found) == {"execute_tool Bash", "invoke_agent s"}
        span, session = found["execute_tool Bash"], found["invoke_agent s"]
        assert span.parent.span_id == session.context.span_id
        assert span.context.trace_id == session.context.trace_id
        assert session.parent is None
        assert span.attributes["gen_ai.tool.call.id"] == "c"
        assert span.attributes["agentcg.outcome"] == "ok"
        assert span.attributes["process.exit.code"] == 0
        assert span.status.status_code is StatusCode.UNSET
        assert span.start_time == round(verdict.started * 1e6) * 1000
        assert span.end_time == round(verdict.ended * 1e6) * 1000
        assert session.start_time == round(live.session.opened * 1e6) * 1000
        assert session.end_time >= span.end_time
        assert span.resource.attributes["service.name"] == "agentcg"

    world(work)


@pytest.mark.parametrize(
    ("ending", "error", "description"),
    [
        ({"exit_code": 2}, "exit_status", "exit_status"),
        ({"signal": 11}, "signal", "signal"),
        ({"reason": "an operator ended it"}, "killed", "an operator ended it"),
    ],
)
def test_a_call_that_failed_is_an_error(world, ending, error: str, description: str) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
        world.open()
        await world.registry.finish(world.begin(), **ending)
        span = (await world.made())["execute_tool Bash"]
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == description
        assert span.attributes["error.type"] == error

    world(work)


def test_what_happened_to_a_call_are_its_events(world, cgroups) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
        world.open()
        call, other = world.begin(), world.begin("other", tool="Other")
        stops = Stops(world.registry)
        stops.apply({call.ref: "no room"})
        stops.apply({})
        cgroups.enter("shared/t/s/calls/c")
        stops.apply({call.ref: "grows"})
        stops.apply({REF: "all of it grows"})
        stops.apply({})
        cgroups.set("shared/t/s/calls/c", "memory.events", "high 3\n")
        memory_event(world.registry, call)
        world.registry.bus.publish("call_killed", call.ref, "an operator ended it", at=call.call.started + 5)
        cgroups.leave("shared/t/s/calls/c")
        await world.registry.end(call.ref, exit_code=0)
        await world.registry.end(other.ref, exit_code=0)
        await world.registry.close_session(REF, "it was closed")
        found = await world.made()
        events = found["execute_tool Bash"].events
        names = [event.name.removeprefix("agentcg.") for event in events]
        assert names == ["held", "thawed", "frozen", "thawed", "frozen", "thawed", "throttled", "killed"]
        assert events[0].attributes["agentcg.message"] == "no room"
        assert events[-1].timestamp == round((call.call.started + 5) * 1e6) * 1000
        assert all(event.timestamp >= found["execute_tool Bash"].start_time for event in events)
        stopped = ["agentcg.frozen", "agentcg.thawed"]
        assert [event.name for event in found["execute_tool Other"].events] == stopped
        assert [event.name for event in found["invoke_agent s"].events] == stopped

    world(work)


def started(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Return a process that runs in this environment by now."""
    process = subprocess.Popen(
        ["sh", "-c", "echo; read line"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.read(1) == b"\n"
    return process


async def found_parent(world: World) -> None:
    """Wait until it was looked for."""
    async with asyncio.timeout(10):
        while True:
            if any(one.parent is not None and one.parent.done() for one in world.spans._open.values()):
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("transparent", [False, True])
def test_a_call_of_a_runtime_with_a_trace_is_in_that(world, transparent: bool) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
        with started(os.environ | {"TRACEPARENT": CONTEXT}) as runtime:
            live = world.open()
            call = world.begin(lease=None if transparent else Lease(runtime.pid))
            if transparent:
                call.process = runtime.pid, start_time(runtime.pid)
            await found_parent(world)
            runtime.kill()
        await world.registry.end(call.ref, exit_code=0)
        await world.registry.close_session(live.session.ref, "it was closed")
        found = await world.made()
        span, session = found["execute_tool Bash"], found["invoke_agent s"]
        assert f"{span.context.trace_id:032x}" == CONTEXT.split("-")[1]
        assert f"{span.parent.span_id:016x}" == CONTEXT.split("-")[2]
        assert [link.context.span_id for link in span.links] == [session.context.span_id]
        assert session.context.trace_id != span.context.trace_id

    world(work)


def test_the_launcher_of_a_traced_program_is_in_its_trace(served, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The launcher as it is shipped, at the real server, on a fake hierarchy: the socket says nothing of a trace."""
    launcher = str(build(tmp_path))
    exporter = InMemorySpanExporter()
    spans = served.on_loop(lambda: Spans(served.registry, exporter))
    variables = os.environ | {"TRACEPARENT": CONTEXT, "AGENTCG_SOCKET": served.path}
    assert subprocess.run([launcher, "--", "sleep", "0.2"], env=variables, timeout=60).returncode == 0
    asyncio.run_coroutine_threadsafe(spans.close(), served.loop).result(20)
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.attributes["agentcg.outcome"]) == ("execute_tool sleep", "ok")
    assert f"{span.context.trace_id:032x}" == CONTEXT.split("-")[1]
    assert f"{span.parent.span_id:016x}" == CONTEXT.split("-")[2]


def test_a_call_that_ends_before_its_trace_is_known_waits_for_that(world, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    known = threading.Event()

    def late(pid: int, started: int) -> object:
        known.wait(10)
        return _context_of(pid, started)

    monkeypatch.setattr("agentcg.spans.calls._context_of", late)

    async def work(world: World) -> None:
        with started(os.environ | {"TRACEPARENT": CONTEXT}) as runtime:
            world.open()
            call = world.begin(lease=Lease(runtime.pid))
            await asyncio.sleep(0)
            await world.registry.end(call.ref, exit_code=0)
            await world.registry.close_session(REF, "it was closed")
            known.set()
            async with asyncio.timeout(10):
                while True:
                    await asyncio.sleep(0.01)
                    if world.spans.delivery.waiting + world.spans.delivery.sent == 2:
                        break
            runtime.kill()
        span = (await world.made())["execute_tool Bash"]
        assert f"{span.parent.span_id:016x}" == CONTEXT.split("-")[2]

    world(work)


@pytest.mark.parametrize("text", ["", "00-0-0-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 5000])
def test_what_is_no_context_is_none(world, text: str) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
        with started({"TRACEPARENT": text}) as runtime:
            world.open()
            call = world.begin(lease=Lease(runtime.pid))
            await found_parent(world)
            runtime.kill()
        await world.registry.end(call.ref, exit_code=0)
        assert (await world.made())["execute_tool Bash"].links == ()

    world(work)


def test_a_trace_that_is_not_sampled_has_no_span(world) -> None:  # type: ignore[no-untyped-def]
    async def work(world: World) -> None:
        with started({"TRACEPARENT": CONTEXT.removesuffix("1") + "0"}) as runtime:
            world.open()
            call = world.begin(lease=Lease(runtime.pid))
            await found_parent(world)
            runtime.kill()
        await world.registry.end(call.ref, exit_code=0)
        assert await world.made() == {}

    world(work)


@pytest.mark.parametrize(("sampler", "names"), [("always_off", set()), ("always_on", {"execute_tool Bash"})])
def test_the_environment_says_what_is_sampled(world, sampler: str, names: set[str], monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", f"parentbased_{sampler}")

    async def work(world: World) -> None:
        world.open()
        await world.registry.end(world.begin().ref, exit_code=0)
        assert set(await world.made()) == names

    world(work)


def test_the_next_daemon_goes_on_with_the_same_trace(new_registry) -> None:  # type: ignore[no-untyped-def]
    async def run() -> None:
        first = World(new_registry())
        first.open()
        await first.registry.end(first.begin("before").ref, exit_code=0)
        first.begin("adopted")
        (before,) = (await first.made()).values()
        second = World(new_registry())
        await adopt(second.registry)
        await second.registry.end(CallRef(REF, "adopted"), exit_code=0)
        await second.registry.close_session(REF, "it was closed")
        found = await second.made()
        call, session = found["execute_tool Bash"], found["invoke_agent s"]
        assert call.attributes["gen_ai.tool.call.id"] == "adopted"
        assert {before.parent.span_id, call.parent.span_id} == {session.context.span_id}
        assert before.context.trace_id == call.context.trace_id == session.context.trace_id
        assert before.context.span_id != call.context.span_id

    asyncio.run(run())


def test_the_environment_names_the_service(world, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("OTEL_SERVICE_NAME", "sandboxes")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "host.name=h1,deployment.environment.name=test")

    async def work(world: World) -> None:
        world.open()
        await world.registry.end(world.begin().ref, exit_code=0)
        attributes = (await world.made())["execute_tool Bash"].resource.attributes
        assert attributes["service.name"] == "sandboxes"
        assert (attributes["host.name"], attributes["deployment.environment.name"]) == ("h1", "test")

    world(work)


def test_a_span_that_cannot_be_made_costs_no_call(world, monkeypatch, caplog) -> None:  # type: ignore[no-untyped-def]
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr("agentcg.spans.calls.call_attributes", fail)

    async def work(world: World) -> None:
        world.open()
        with caplog.at_level(logging.ERROR):
            assert (await world.registry.end(world.begin().ref, exit_code=0)).outcome == "ok"
        assert "there is no span of t/s/c" in caplog.text
        assert await world.made() == {}

    world(work)
