# SPDX-License-Identifier: Apache-2.0
"""Importer for the event logs of OpenHands, of its software-agent SDK (version 1) and of OpenHands before (version 0).

Where they are: version 1 keeps ``CONVERSATION/events/event-00000-ID.json``, one event a file; version 0 keeps
``sessions/ID/events/0.json`` and so on, or one list as ``trajectory.json`` (``save_trajectory_path``, and the export of
the user interface). Events as JSON lines are read, too. What they do not say plainly:

- Times have no zone: they are the local time of the machine that wrote them, and taken as UTC. The session's start may
  be wrong by hours, and a change to or from summer time is a jump; how long calls took is right.
- A call begins with the action and ends with the observation that names it (``action_id``; ``cause`` in version 0).
  Where a person confirms actions, the wait is in it.
- Several actions of one answer run one after another by default, and all have their time from when the answer had
  come: all but the first ran somewhere between, and are marked so.
- A terminal command that shows no output for a while (10 s by default) has its observation then, with exit code -1, and
  runs on: when it ended is not recorded. An input to it is a call of its own.
- Actions that nothing is run for (``finish``, ``think``, messages, state changes, memory) are no calls. An action that
  was rejected or could not be run is left out.
- There are no samples: memory and CPU time are not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from agentcg.errors import InvalidInput
from agentcg.model import COMMAND_MAX
from agentcg.trace.assemble import FoundCall, Ids, assemble
from agentcg.trace.importer import Importer, Source, files_that
from agentcg.trace.model import CallKind, Recording
from agentcg.trace.source import command_of, convert, cut, load, load_lines, seconds

__all__ = ["IMPORTER"]

_EVENT_FILES = (re.compile(r"event-([0-9]{5,})-[0-9A-Fa-f-]+\.json"), re.compile(r"([0-9]+)\.json"))
_VERSION_0 = re.compile(rb'"(?:action|observation)": ?"[a-z_]+"')
_VERSION_1 = re.compile(rb'"kind": ?"(?:ActionEvent|SystemPromptEvent|ConversationStateUpdateEvent)"')
_EVENTS = "events"
_RUNNABLE = frozenset(
    {"run", "run_ipython", "read", "write", "edit", "browse", "browse_interactive", "call_tool_mcp", "delegate"}
)
_NO_CALLS = frozenset({"finish", "think"})
_SUBAGENTS = frozenset({"delegate", "task"})


class _Metadata(msgspec.Struct):
    exit_code: int | None = None


class _Details(msgspec.Struct):
    """What an observation of version 1, and the ``extras`` of one of version 0, say of how the call ended."""

    exit_code: int | None = None
    metadata: _Metadata | None = None

    @property
    def status(self) -> int | None:
        """The exit code; -1 stands for one that is not known, or not yet."""
        status = self.exit_code
        if status is None and self.metadata is not None:
            status = self.metadata.exit_code
        return None if status == -1 else status


class _Event1(msgspec.Struct):
    """An event of version 1."""

    timestamp: str
    kind: str
    tool_name: str = ""
    tool_call_id: str | None = None
    llm_response_id: str | None = None
    action: dict[str, Any] | None = None
    observation: _Details = msgspec.field(default_factory=_Details)


class _ToolCall0(msgspec.Struct):
    tool_call_id: str | None = None
    function_name: str | None = None


class _Event0(msgspec.Struct):
    """An event of version 0."""

    timestamp: str
    id: int | None = None
    source: str | None = None
    action: str | None = None
    args: dict[str, Any] = {}
    observation: str | None = None
    cause: int | None = None
    extras: _Details = msgspec.field(default_factory=_Details)
    tool_call_metadata: _ToolCall0 | None = None


class _Log:
    """Puts the events of one conversation together to calls."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.calls: dict[object, FoundCall] = {}
        """By what their observations name them by."""
        self.not_run = 0
        self._ids = Ids()
        self._answers: set[str] = set()

    def add(self, place: str, value: Any) -> None:
        if isinstance(value, dict) and "kind" in value:
            self._version_1(place, convert(place, value, _Event1))
        else:
            self._version_0(place, convert(place, value, _Event0))

    def _version_1(self, place: str, event: _Event1) -> None:
        at = self._time(place, event.timestamp)
        key = event.tool_call_id
        if key is None or event.tool_name in _NO_CALLS:
            return
        if event.kind != "ActionEvent":
            self._end(key, event.observation, at, ran=event.kind == "ObservationEvent")
        elif event.action is not None and key not in self.calls:
            self._begin(place, key, key, event.tool_name, event.action, at)
            self.calls[key].estimated = event.llm_response_id in self._answers
            self._answers.add(event.llm_response_id or "")

    def _version_0(self, place: str, event: _Event0) -> None:
        at = self._time(place, event.timestamp)
        if event.observation is not None:
            self._end(event.cause, event.extras, at, ran=event.observation != "user_rejected")
        elif event.source == "agent" and event.action in _RUNNABLE and event.id is not None:
            made = event.tool_call_metadata or _ToolCall0()
            tool = made.function_name or event.action
            self._begin(place, event.id, made.tool_call_id or f"event-{event.id}", tool, event.args, at)

    def _time(self, place: str, text: str) -> float:
        self.times.append(seconds(f"{place}: timestamp", text))
        return self.times[-1]

    def _begin(self, place: str, key: object, name: str, tool: str, arguments: dict[str, Any], at: float) -> None:
        kind: CallKind = "subagent" if tool in _SUBAGENTS else "tool"
        command, file = command_of(arguments), arguments.get("path")
        if isinstance(file, str) and file != command:
            command = cut(f"{command} {file}", COMMAND_MAX)  # An editor's command says what to do with a file.
        self.calls[key] = FoundCall(place, self._ids.take(name), tool, command, at, kind=kind)

    def _end(self, key: object, details: _Details, at: float, *, ran: bool) -> None:
        call = self.calls.get(key)
        if call is None or call.end is not None:
            return
        call.end, call.exit_code = at, details.status
        if not ran:
            del self.calls[key]
            self.not_run += 1


def _number(file: Path) -> int | None:
    """Which event a file of a store holds."""
    for name in _EVENT_FILES:
        if match := name.fullmatch(file.name):
            return int(match[1])
    return None


def _events(path: Path) -> Iterable[tuple[str, Any]]:
    """Each event with its place, in the order they were made."""
    if path.is_dir():
        store = path / _EVENTS if (path / _EVENTS).is_dir() else path
        files = sorted((number, file) for file in store.iterdir() if (number := _number(file)) is not None)
        return ((str(file), load(file, dict[str, Any])) for _, file in files)
    if path.suffix == ".jsonl":
        return load_lines(path, dict[str, Any])
    return ((f"{path}: [{index}]", event) for index, event in enumerate(load(path, list[Any])))


def _read(source: Source) -> list[Recording]:
    path = source.path
    log = _Log()
    for place, value in _events(path):
        log.add(place, value)
    recording = assemble(
        str(path),
        source.name,
        list(log.calls.values()),
        began=min(log.times, default=None),
        ended=max(log.times, default=0.0),
        source="OpenHands",
        model=_model(path / "base_state.json"),
        warnings=[f"{path}: left out {log.not_run} calls that were rejected or could not be run"] * bool(log.not_run),
    )
    return [recording]


def _model(state: Path) -> str | None:
    """The model's name in what version 1 keeps beside the events."""
    try:
        name = load(state, dict[str, Any])["agent"]["llm"]["model"]
    except (InvalidInput, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def _find(path: Path) -> list[Path]:
    files = files_that(path, (".json", ".jsonl"), _is_log)
    stores = {file.parent for file in files if file != path and _number(file) is not None}
    # Beside its events a conversation has other files, version 0 the same events once more in pages.
    whole = {store.parent if store.name == _EVENTS and store != path else store for store in stores}
    return sorted({*whole, *(file for file in files if whole.isdisjoint(file.parents))})


def _is_log(text: bytes) -> bool:
    if b'"timestamp"' not in text or b'"source"' not in text:
        return False
    version_0 = _VERSION_0.search(text) and (b'"args"' in text or b'"extras"' in text)
    return bool(version_0 or _VERSION_1.search(text))


IMPORTER = Importer(
    name="openhands",
    looks_for="*.json, *.jsonl or directories of events with a timestamp, a source and an action or a kind",
    find=_find,
    read=_read,
)
