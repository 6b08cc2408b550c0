# SPDX-License-Identifier: Apache-2.0
"""Recordings in forms that other programs read: OpenTelemetry spans, and a table of calls."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from typing import Any, TextIO

from agentcg import __version__
from agentcg.errors import InvalidInput
from agentcg.spans.ids import SPAN_BYTES, TRACE_BYTES, derive_id
from agentcg.trace.demand import CallDemand, demand
from agentcg.trace.model import RecordedCall, Recording
from agentcg.trace.otlp import ESTIMATED, EXIT_CODE

__all__ = ["COLUMNS", "CsvWriter", "OtlpWriter"]

COLUMNS = (
    *("recording", "started", "id", "tool", "kind", "command", "start_sec", "end_sec", "duration_sec"),
    *("end_estimated", "call_class", "exit_code", "memory_bytes", "cpu_sec"),
)
"""Of a table of calls. What is not known is empty."""

_INTERNAL = 1  # SPAN_KIND_INTERNAL


class CsvWriter:
    """Writes a line for each call. Memory and CPU time are the call's part of the session's, as a replay divides it."""

    def __init__(self, file: TextIO) -> None:
        self._table = csv.writer(file)
        self._table.writerow(COLUMNS)

    def add(self, recording: Recording) -> None:
        clock = recording.timing == "clock"
        started = "" if recording.started is None else datetime.fromtimestamp(recording.started, UTC).isoformat()
        needs = {item.call.id: item for item in demand(recording).calls} if recording.session_samples else {}
        for call in recording.calls:
            times = [call.start_sec, call.end_sec] if clock else ["", ""]
            flags = [int(call.end_estimated), call.call_class, call.exit_code]
            head = [recording.name, started, call.id, call.tool, call.kind, call.command]
            self._table.writerow([*head, *times, round(call.duration_sec, 6), *flags, *_used(needs.get(call.id))])


def _used(needs: CallDemand | None) -> list[object]:
    return ["", ""] if needs is None else [round(needs.memory.peak), round(needs.cpu.points[-1][1], 6)]


class OtlpWriter:
    """Writes each recording as a trace, a line of OTLP JSON: a span for the agent and one for each call, no samples."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def add(self, recording: Recording) -> None:
        """Write one. :raises InvalidInput: if its times are not known; nothing of it is written then"""
        line = json.dumps({"resourceSpans": [_trace(recording)]}, separators=(",", ":"))
        self._file.write(f"{line}\n")


def _trace(recording: Recording) -> dict[str, Any]:
    if recording.started is None or recording.timing != "clock":
        raise InvalidInput(
            recording.name, "a span has a date and a time, and those of this recording are not known", hint="--to csv"
        )
    trace = derive_id(TRACE_BYTES, recording.name, recording.started)
    root = derive_id(SPAN_BYTES, trace)
    conversation = {"gen_ai.conversation.id": recording.name, "gen_ai.agent.name": recording.name}
    model = {} if recording.model is None else {"gen_ai.request.model": recording.model}
    agent = _span(recording, trace, root, "", "invoke_agent", recording.name, 0.0, recording.duration_sec)
    agent["attributes"] += _attributes(conversation | model)
    spans = [agent]
    for call in recording.calls:
        spans += _call(recording, trace, root, call)
    return {
        "resource": {"attributes": _attributes({"service.name": "agentcg", "service.version": __version__})},
        "scopeSpans": [{"scope": {"name": "agentcg.trace", "version": __version__}, "spans": spans}],
    }


def _call(recording: Recording, trace: str, root: str, call: RecordedCall) -> list[dict[str, Any]]:
    key = derive_id(SPAN_BYTES, trace, call.id)
    span = _span(recording, trace, key, root, "execute_tool", call.tool, call.start_sec, call.end_sec)
    values: dict[str, Any] = {"gen_ai.tool.name": call.tool, "gen_ai.tool.call.id": call.id}
    if call.command:
        values["gen_ai.tool.call.arguments"] = json.dumps({"command": call.command})
    if call.exit_code is not None:
        values[EXIT_CODE] = call.exit_code
    if call.end_estimated:
        values[ESTIMATED] = True
    span["attributes"] += _attributes(values)
    if call.kind == "tool":
        return [span]
    below = derive_id(SPAN_BYTES, key, "agent")
    return [span, _span(recording, trace, below, key, "invoke_agent", call.tool, call.start_sec, call.end_sec)]


def _span(
    recording: Recording, trace: str, key: str, parent: str, operation: str, name: str, start_sec: float, end_sec: float
) -> dict[str, Any]:
    started = recording.started or 0.0
    return {
        "traceId": trace,
        "spanId": key,
        "parentSpanId": parent,
        "name": f"{operation} {name}",
        "kind": _INTERNAL,
        "startTimeUnixNano": _nano(started, start_sec),
        "endTimeUnixNano": _nano(started, end_sec),
        "attributes": _attributes({"gen_ai.operation.name": operation}),
    }


def _nano(started: float, t_sec: float) -> str:
    # Both are whole microseconds; their sum in a float would not be.
    return str((round(started * 10**6) + round(t_sec * 10**6)) * 1000)


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}
