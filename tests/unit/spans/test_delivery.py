# SPDX-License-Identifier: Apache-2.0
"""Spans on their way to a real collector's HTTP: it takes them, refuses them, is silent, or is not there."""

import asyncio
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToJson

from agentcg import daemon
from agentcg.api.client import Client
from agentcg.control.registry import Registry
from agentcg.model import SessionRef
from agentcg.spans import delivery
from agentcg.spans.load import load_spans
from agentcg.trace.importer import Source
from agentcg.trace.otlp import IMPORTER

REF = SessionRef("t", "s")


def sent_to(url: str, registry: Registry) -> Any:
    start = load_spans(url)
    assert start is not None
    return start(registry)


async def calls(registry: Registry, count: int) -> None:
    """Begin and end so many calls."""
    live = registry.sessions.get(REF) or registry.open_session(REF, tenant="t", owner_uid=1)[0]
    for number in range(count):
        call, _ = registry.begin(live, owner_uid=1, name=f"c{number}", tool="Bash", command="pytest")
        assert (await registry.end(call.ref, exit_code=0)).outcome == "ok"


async def until(fact: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while True:
            if fact():
                return
            await asyncio.sleep(0.01)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("agentcg.spans")]


def test_what_a_collector_refuses_is_counted_and_said_once(  # type: ignore[no-untyped-def]
    new_registry, collector, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        registry = new_registry()
        spans = sent_to(collector.url, registry)
        collector.status = 400
        for batch in (1, 2):
            await calls(registry, 3)
            await until(lambda batch=batch: spans.delivery.dropped == 3 * batch)
        collector.status = 200
        await calls(registry, 2)
        await until(lambda: spans.delivery.sent == 2)
        await spans.close()

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    first, again, last = said(caplog)
    assert first.startswith("spans are dropped until the collector takes them: ")
    assert "400" in first
    assert again == "the collector takes spans again; 6 were dropped"
    assert last == "2 spans were sent, 6 dropped"
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]
    assert len(collector.spans()) == 2


def test_a_collector_that_does_not_answer_holds_no_call_up(  # type: ignore[no-untyped-def]
    new_registry, collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "QUEUE", 16)
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
    monkeypatch.setattr("agentcg.spans.calls.CLOSE_SEC", 0.2)
    collector.answering.clear()

    async def run() -> None:
        registry = new_registry()
        spans = sent_to(collector.url, registry)
        await calls(registry, 4)
        assert await asyncio.to_thread(collector.asked.wait, 20)
        await calls(registry, 32)
        assert (spans.delivery.sent, spans.delivery.dropped) == (0, 20)
        await spans.close()
        assert (spans.delivery.sent, spans.delivery.waiting) == (0, 16)

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    assert said(caplog) == ["0 spans were sent, 36 dropped"]


def test_a_collector_that_is_not_there_holds_no_call_up(  # type: ignore[no-untyped-def]
    new_registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    with socket.socket() as sock:  # Its port is nobody's: it does not listen.
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"

        async def run() -> None:
            registry = new_registry()
            spans = sent_to(url, registry)
            await calls(registry, 3)
            await until(lambda: spans.delivery.dropped == 3)
            began = time.monotonic()
            await spans.close()
            assert time.monotonic() - began < 20

        asyncio.run(run())
    (first,) = [text for text in said(caplog) if "dropped until" in text]
    assert "Connection refused" in first


def test_what_waits_at_the_end_is_sent(new_registry, collector, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    monkeypatch.setattr("agentcg.spans.calls.CLOSE_SEC", 20.0)

    async def run() -> None:
        registry = new_registry()
        spans = sent_to(collector.url, registry)
        await calls(registry, 3)
        assert spans.delivery.sent == 0
        await spans.close()
        assert spans.delivery.sent == 3

    asyncio.run(run())


def test_the_whole_daemon_sends_calls_that_can_be_imported_again(  # type: ignore[no-untyped-def]
    cgroups, root, collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole daemon, but for what only a kernel can be: the hierarchy, and the wait for its files."""
    monkeypatch.setattr(daemon, "open_root", lambda path, observe: root)
    monkeypatch.setattr(daemon, "EventPoll", lambda loop: cgroups.poll)
    monkeypatch.setattr(cgroups.poll, "close", lambda: None, raising=False)
    monkeypatch.setattr("agentcg.daemon.gc.freeze", lambda: None)
    monkeypatch.setattr("agentcg.spans.calls.CLOSE_SEC", 20.0)
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")
    options = daemon.Options(
        socket=str(tmp_path / "sock"),
        history=str(tmp_path / "history"),
        metrics=f"unix:{tmp_path}/metrics",
        otlp=collector.url,
        root="/",
    )
    given = [("Bash", "pytest -x", 0), ("Bash", "make -j4", 2), ("fetch", "curl x", 0)]

    def work() -> None:
        with Client(options.socket) as client, client.session("fix") as session:
            for number, (tool, command, status) in enumerate(given):
                session.call([command], tool=tool, id=f"c{number}").end(exit_code=status)

    async def run() -> bytes:
        serving = asyncio.create_task(daemon.serve(options))
        async with asyncio.timeout(60):
            while not (tmp_path / "sock").exists():
                assert not serving.done(), await serving
                await asyncio.sleep(0.01)
            await asyncio.to_thread(work)
            await until(lambda: len(collector.spans()) == 4)
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "metrics"))
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
            text = await reader.read()
            writer.close()
            os.kill(os.getpid(), signal.SIGTERM)
            await serving
        return text

    lines = asyncio.run(run()).splitlines()
    assert b"agentcg_spans_dropped_total 0.0" in lines
    file = tmp_path / "spans.jsonl"
    file.write_text("".join(json.dumps(json.loads(MessageToJson(one))) + "\n" for one in collector.requests))
    (recording,) = IMPORTER.read(Source(file, "n"))
    assert [(call.id, call.tool, call.command, call.exit_code) for call in recording.calls] == [
        (f"c{number}", tool, command, status) for number, (tool, command, status) in enumerate(given)
    ]
    spans = {attribute.value.string_value: span for span in collector.spans() for attribute in span.attributes}
    for call in recording.calls:
        span = spans[call.id]
        assert call.duration_sec == pytest.approx((span.end_time_unix_nano - span.start_time_unix_nano) / 1e9, abs=2e-6)
        assert (recording.started or 0) + call.start_sec == pytest.approx(span.start_time_unix_nano / 1e9, abs=2e-6)
