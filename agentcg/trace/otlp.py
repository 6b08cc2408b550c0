# SPDX-License-Identifier: Apache-2.0
"""Importer for OpenTelemetry spans of agents: OTLP JSON with ``execute_tool`` spans.

https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding is the encoding, the file either one such object or one
a line, as the Collector's file exporter writes; the semantic conventions for generative AI name the attributes. What
they do not say plainly:

- A span whose ``gen_ai.operation.name`` is ``execute_tool`` is a call. It has a start and an end of its own; what the
  instrumentation does around the tool, such as asking for approval, is in it. Spans that were not sampled are missing.
- A session is a conversation (``gen_ai.conversation.id``): a sub-agent has one of its own, so that of the outermost
  span counts. Without one a trace is a session.
- A call under which another agent runs (``invoke_agent``) is a sub-agent.
- 64-bit numbers are strings or numbers, and ids are text that is only compared: protobuf's own JSON has them in base64.
- Arguments (``gen_ai.tool.call.arguments``) are opt-in, as an object or as JSON in a string: often the command is not
  known.
- A collector that sends again repeats spans: one id counts once.
- There are no samples: memory and CPU time are not known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from agentcg.errors import InvalidInput
from agentcg.model import COMMAND_MAX
from agentcg.trace.assemble import FoundCall, Ids, assemble
from agentcg.trace.importer import Importer, Source, files_that, safe_name
from agentcg.trace.model import Recording
from agentcg.trace.source import command_of, convert_rows, cut, from_nanoseconds, load, load_lines
from agentcg.trace.wire import is_json

__all__ = ["ESTIMATED", "EXIT_CODE", "IMPORTER"]

EXIT_CODE = "process.exit.code"
ESTIMATED = "agentcg.end_estimated"
"""An attribute of our own, on calls of which it is only known when they ended at the latest."""

_FIRST_LINE_MAX = 64 << 20


class _Value(msgspec.Struct, rename="camel"):
    string_value: str | None = None
    int_value: int | str | None = None
    bool_value: bool | None = None
    double_value: float | str | None = None
    array_value: _Array | None = None
    kvlist_value: _Attributes | None = None


class _Array(msgspec.Struct):
    values: list[_Value] = []


class _Attribute(msgspec.Struct):
    key: str
    value: _Value = msgspec.field(default_factory=_Value)


class _Attributes(msgspec.Struct):
    values: list[_Attribute] = []


class _Span(msgspec.Struct, rename="camel"):
    trace_id: str
    span_id: str
    start_time_unix_nano: int | str
    name: str = ""
    parent_span_id: str = ""
    end_time_unix_nano: int | str = 0
    attributes: list[_Attribute] = []


class _Scope(msgspec.Struct, rename="camel"):
    spans: list[Any] = []


class _Resource(msgspec.Struct, rename="camel"):
    scope_spans: list[_Scope] = []


class _Export(msgspec.Struct, rename="camel"):
    resource_spans: list[_Resource] = []


@dataclass(frozen=True, slots=True)
class _Known:
    """A span, its attributes as plain values, its times in seconds since the epoch."""

    place: str
    key: tuple[str, str]
    parent: tuple[str, str]
    operation: str
    name: str
    values: dict[str, Any]
    start: float
    end: float | None


class _Spans:
    """All spans of a file."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], _Known] = {}

    def add(self, place: str, span: _Span) -> None:
        values = {item.key: _plain(item.value) for item in span.attributes}
        operation, _, name = span.name.partition(" ")
        key = span.trace_id, span.span_id
        self.known.setdefault(
            key,
            _Known(
                place=place,
                key=key,
                parent=(span.trace_id, span.parent_span_id),
                operation=str(values.get("gen_ai.operation.name", operation)),
                name=str(values.get("gen_ai.tool.name", name)),
                values=values,
                start=_time(f"{place}.startTimeUnixNano", span.start_time_unix_nano) or 0.0,
                end=_time(f"{place}.endTimeUnixNano", span.end_time_unix_nano),
            ),
        )

    def above(self, span: _Known) -> Iterator[_Known]:
        """The span, its parent, and so on; each once, whatever the file says."""
        seen = set()
        here: _Known | None = span
        while here is not None and here.key not in seen:
            seen.add(here.key)
            yield here
            here = self.known.get(here.parent)

    def sessions(self) -> dict[str, list[_Known]]:
        """The spans of each conversation, or of each trace that has none."""
        found: dict[str, list[_Known]] = {}
        for span in self.known.values():
            session = span.key[0]
            for above in self.above(span):
                session = str(above.values.get("gen_ai.conversation.id", session))
            found.setdefault(session, []).append(span)
        return found

    def with_agents(self) -> set[tuple[str, str]]:
        """The calls under which another agent runs."""
        agents = [span for span in self.known.values() if span.operation == "invoke_agent"]
        return {above.key for agent in agents for above in self.above(agent) if above.operation == "execute_tool"}


def _plain(value: _Value) -> Any:
    """An attribute's value without its type: ``{"intValue": "3"}`` is 3."""
    if value.kvlist_value is not None:
        return {item.key: _plain(item.value) for item in value.kvlist_value.values}
    if value.array_value is not None:
        return [_plain(item) for item in value.array_value.values]
    if isinstance(value.int_value, str):
        return int(value.int_value) if value.int_value.lstrip("-").isdecimal() else None
    plain = (value.string_value, value.int_value, value.bool_value, value.double_value)
    return next((item for item in plain if item is not None), None)


def _time(place: str, nano: int | str) -> float | None:
    """Seconds since the epoch; 0 stands for a time that is not known."""
    try:
        number = int(nano)
    except ValueError:
        raise InvalidInput(place, f"{str(nano)[:80]!r} is no number of nanoseconds") from None
    return from_nanoseconds(place, number) or None


def _load(path: Path) -> Iterator[tuple[str, _Export]]:
    with open(path, "rb") as file:
        one_a_line = is_json(file.readline(_FIRST_LINE_MAX))
    return load_lines(path, _Export) if one_a_line else iter([(str(path), load(path, _Export))])


def _read(source: Source) -> list[Recording]:
    path = source.path
    spans = _Spans()
    for place, export in _load(path):
        for number, resource in enumerate(export.resource_spans):
            for index, scope in enumerate(resource.scope_spans):
                where = f"{place}: resourceSpans[{number}].scopeSpans[{index}].spans"
                for at, span in enumerate(convert_rows(where, scope.spans, _Span)):
                    spans.add(f"{where}[{at}]", span)
    agents = spans.with_agents()
    sessions = {
        session: members
        for session, members in spans.sessions().items()
        if any(span.operation == "execute_tool" for span in members)
    }
    if not sessions:
        raise InvalidInput(
            str(path),
            "there is no execute_tool span",
            hint="have the agent's instrumentation follow the semantic conventions for generative AI",
        )
    return [
        _recording(
            str(path), source.name if len(sessions) == 1 else f"{source.name}-{safe_name(session)}", members, agents
        )
        for session, members in sessions.items()
    ]


def _recording(place: str, name: str, members: list[_Known], agents: set[tuple[str, str]]) -> Recording:
    ids = Ids()
    calls = [
        FoundCall(
            place=span.place,
            id=ids.take(str(span.values.get("gen_ai.tool.call.id", span.key[1]))),
            tool=span.name,
            command=_command(span.values.get("gen_ai.tool.call.arguments")),
            start=span.start,
            end=span.end,
            kind="subagent" if span.key in agents else "tool",
            estimated=span.values.get(ESTIMATED) is True,
            exit_code=code if isinstance(code := span.values.get(EXIT_CODE), int) else None,
        )
        for span in members
        if span.operation == "execute_tool"
    ]
    models = Counter(
        model
        for span in members
        if isinstance(model := span.values.get("gen_ai.response.model", span.values.get("gen_ai.request.model")), str)
    )
    return assemble(
        place,
        name,
        calls,
        began=min(span.start for span in members),
        ended=max(span.end or span.start for span in members),
        source="OpenTelemetry",
        model=max(models, key=models.__getitem__, default=None),
    )


def _command(arguments: Any) -> str:
    """The command in a tool's arguments, or these as they are."""
    text = arguments if isinstance(arguments, str) else ""
    if text:
        try:
            arguments = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            return cut(text, COMMAND_MAX)
    if not isinstance(arguments, dict):
        return cut(text, COMMAND_MAX)
    return command_of(arguments) or cut(msgspec.json.encode(arguments).decode() if arguments else "", COMMAND_MAX)


IMPORTER = Importer(
    name="otlp",
    looks_for="*.json and *.jsonl with resourceSpans",
    find=lambda path: files_that(path, (".json", ".jsonl"), lambda text: b'"resourceSpans"' in text),
    read=_read,
)
