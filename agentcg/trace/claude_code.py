# SPDX-License-Identifier: Apache-2.0
"""Importer for Claude Code's transcripts, ``~/.claude/projects/PROJECT/SESSION.jsonl``.

What the files do not say plainly, and what is made of it:

- A call begins with the ``tool_use`` block of an assistant's line and ends with the ``tool_result`` of the same id on a
  user's line. In between the user may have been asked for permission, and hooks run: that time is in the call.
- Results of parallel calls come in any order, and a resumed session repeats lines: an id counts once.
- A rejected call (``toolUseResult`` is ``User rejected tool use``) may have been running or not: it is left out.
- A command that runs in the background has its result at once, and the transcript does not say when it ends.
- An exit code stands only in the text of a result that is an error, as ``Exit code N``, and not in every version. Of
  other calls it is not known.
- ``Task``, later ``Agent``, starts a sub-agent. Its calls are lines of the same file with ``isSidechain``, or files
  ``agent-*.jsonl`` beside the session's or in ``SESSION/subagents/``. Old versions recorded none of them.
- There are no samples: memory and CPU time are not known.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from agentcg.errors import InvalidInput
from agentcg.trace.assemble import FoundCall, Ids, assemble
from agentcg.trace.importer import Importer, Source, files_that
from agentcg.trace.model import CallKind, Recording
from agentcg.trace.source import command_of, convert, head, load_lines, seconds

__all__ = ["IMPORTER", "SUBAGENT_TOOLS", "Transcript", "read_transcript"]

SUBAGENT_TOOLS = frozenset({"Task", "Agent"})
_REJECTED = "User rejected tool use"
_EXIT_CODE = re.compile(r"(?:Error: )?Exit code ([0-9]{1,3})(?:\n|$)")
_SYNTHETIC = "<synthetic>"  # The model's name on lines that the program wrote itself.


class _Line(msgspec.Struct, rename="camel"):
    type: str | None = None
    timestamp: str | None = None
    message: Any = None
    tool_use_result: Any = None


class _Use(msgspec.Struct):
    id: str
    name: str
    input: dict[str, Any] = {}


class _Result(msgspec.Struct):
    tool_use_id: str
    content: Any = None
    is_error: bool | None = None


@dataclass(slots=True)
class Transcript:
    """What one session's files say of its calls. Times are seconds since the epoch."""

    calls: dict[str, FoundCall] = field(default_factory=dict)
    """By the ids of the source."""
    rejected: set[str] = field(default_factory=set)
    models: Counter[str] = field(default_factory=Counter)
    began: float | None = None
    ended: float = 0.0
    first_answer: float | None = None

    @property
    def model(self) -> str | None:
        """The model that most answers came from."""
        return max(self.models, key=self.models.__getitem__, default=None)


def _find(path: Path) -> list[Path]:
    # A sub-agent's file belongs to its session's.
    found = files_that(path, (".jsonl",), _is_transcript)
    return [file for file in found if file == path or not file.name.startswith("agent-")]


def _is_transcript(text: bytes) -> bool:
    return b'"sessionId"' in text and (b'"parentUuid"' in text or b'"queue-operation"' in text)


def _read(source: Source) -> list[Recording]:
    path = source.path
    transcript = Transcript()
    for file in (path, *_subagent_files(path)):
        read_transcript(file, transcript)
    ids = Ids()
    for call in transcript.calls.values():
        call.id = ids.take(call.id)
    left_out = len(transcript.rejected)
    recording = assemble(
        str(path),
        source.name,
        [call for key, call in transcript.calls.items() if key not in transcript.rejected],
        began=transcript.began,
        ended=transcript.ended,
        source="Claude Code",
        model=transcript.model,
        warnings=[f"{path}: left out {left_out} calls that the user rejected"] if left_out else [],
    )
    return [recording]


def _subagent_files(path: Path) -> Iterator[Path]:
    yield from sorted((path.with_suffix("") / "subagents").glob("agent-*.jsonl"))
    if path.stem.startswith("agent-"):
        return
    for file in sorted(path.parent.glob("agent-*.jsonl")):
        if f'"sessionId":"{path.stem}"'.encode() in head(file).replace(b'": "', b'":"'):
            yield file


def read_transcript(path: Path, into: Transcript) -> None:
    """Add what one file says. :raises InvalidInput: naming the line that is broken"""
    results: list[tuple[_Result, Any, float]] = []  # Lines are not in the order of time.
    for place, line in load_lines(path, _Line):
        at = None if line.timestamp is None else seconds(f"{place}: timestamp", line.timestamp)
        if at is not None:
            into.began = at if into.began is None else min(into.began, at)
            into.ended = max(into.ended, at)
        message = line.message if isinstance(line.message, dict) else {}
        if line.type == "assistant":
            _answer(message, at, into)
        content = message.get("content")
        for index, block in enumerate(content if isinstance(content, list) else []):
            kind = block.get("type") if isinstance(block, dict) else None
            if kind not in ("tool_use", "tool_result"):
                continue
            where = f"{place}: message.content[{index}]"
            if at is None:
                raise InvalidInput(f"{place}: timestamp", "is missing, and a call begins or ends here")
            if kind == "tool_use":
                _begin(where, convert(where, block, _Use), at, into)
            else:
                results.append((convert(where, block, _Result), line.tool_use_result, at))
    for result, details, at in results:
        _end(result, details, at, into)


def _answer(message: dict[str, Any], at: float | None, into: Transcript) -> None:
    model = message.get("model")
    if isinstance(model, str) and model != _SYNTHETIC:
        into.models[model] += 1
    if at is not None:
        into.first_answer = at if into.first_answer is None else min(into.first_answer, at)


def _begin(place: str, use: _Use, at: float, into: Transcript) -> None:
    if use.id not in into.calls:
        kind: CallKind = "subagent" if use.name in SUBAGENT_TOOLS else "tool"
        into.calls[use.id] = FoundCall(place, use.id, use.name, command_of(use.input), at, kind=kind)


def _end(result: _Result, details: Any, at: float, into: Transcript) -> None:
    call = into.calls.get(result.tool_use_id)
    if call is None or call.end is not None:
        return
    call.end = at
    if details == _REJECTED:
        into.rejected.add(result.tool_use_id)
    elif result.is_error and (match := _EXIT_CODE.match(_text(result.content))):
        call.exit_code = int(match[1])


def _text(content: Any) -> str:
    """The first text of a result, which is a string or a list of blocks."""
    if isinstance(content, list):
        texts = (block.get("text") for block in content if isinstance(block, dict) and block.get("type") == "text")
        content = next(texts, None)
    return content if isinstance(content, str) else ""


IMPORTER = Importer(
    name="claude-code",
    looks_for="*.jsonl with lines that have a sessionId and a parentUuid",
    find=_find,
    read=_read,
)
