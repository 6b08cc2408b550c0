# SPDX-License-Identifier: Apache-2.0
"""Importer for the trajectories of mini-swe-agent 2, ``*.traj.json`` of format ``mini-swe-agent-1.1``.

https://mini-swe-agent.com/latest/usage/output_files/ describes the file. What it does not say plainly:

- Each action of a message is a call. It begins when the model's answer had come (``extra.timestamp`` of that message)
  and ends when its observation was made (the same field there). Where a person confirms commands, the wait is in it.
- Several actions of one answer run one after another, but all their observations are made when the last has ended:
  each ran somewhere within the turn, and is marked so.
- A command of a person (mode ``human``) has no time of its own: it began after what came before it, and is marked so.
- The command that submits has no observation and nothing after it has a time: its turn is left out.
- An observation can say that its action was not executed: a person refused or interrupted it, or it submitted. It is
  left out. ``returncode`` is -1 when a command timed out: its exit code is not known.
- When the session began is not recorded: the first answer stands for it.
- There are no samples: memory and CPU time are not known. Trajectories of version 1 have no times at all.
"""

from __future__ import annotations

from typing import Any

import msgspec

from agentcg.errors import InvalidInput
from agentcg.trace.assemble import FoundCall, Ids, assemble
from agentcg.trace.importer import Importer, Source, files_that
from agentcg.trace.model import Recording
from agentcg.trace.source import command_of, convert_rows, load

__all__ = ["IMPORTER"]

_FORMAT = "mini-swe-agent-1.1"
_NOT_RUN = "action was not executed"


class _Model(msgspec.Struct):
    model_name: str | None = None


class _Config(msgspec.Struct):
    model: _Model = msgspec.field(default_factory=_Model)


class _Info(msgspec.Struct):
    mini_version: str = ""
    config: _Config = msgspec.field(default_factory=_Config)


class _Trajectory(msgspec.Struct):
    messages: list[Any]
    info: _Info = msgspec.field(default_factory=_Info)
    trajectory_format: str = ""


class _Action(msgspec.Struct):
    command: str
    tool_call_id: str | None = None


class _Extra(msgspec.Struct):
    timestamp: float | None = None
    actions: list[_Action] = []
    returncode: int | None = None
    exception_info: str | None = None


class _Message(msgspec.Struct):
    extra: _Extra = msgspec.field(default_factory=_Extra)


def _read(source: Source) -> list[Recording]:
    path = source.path
    trajectory = load(path, _Trajectory)
    if trajectory.trajectory_format != _FORMAT:
        raise InvalidInput(
            f"{path}: trajectory_format",
            f"is {trajectory.trajectory_format[:80]!r}, and only {_FORMAT} has times",
            hint="record it with mini-swe-agent 2",
        )
    messages = [message.extra for message in convert_rows(f"{path}: messages", trajectory.messages, _Message)]
    warnings: list[str] = []
    found: list[FoundCall] = []
    ids = Ids()
    now: float | None = None
    for index, extra in enumerate(messages):
        place = f"{path}: messages[{index}]"
        started = extra.timestamp or now
        if extra.actions:
            observed = messages[index + 1 : index + 1 + len(extra.actions)]
            found += _turn(place, extra, started, observed, ids, warnings)
        now = started
    model = trajectory.info.config.model.model_name
    origin = f"mini-swe-agent {trajectory.info.mini_version}"
    return [assemble(str(path), source.name, found, source=origin, model=model, warnings=warnings)]


def _turn(
    place: str, answer: _Extra, started: float | None, observed: list[_Extra], ids: Ids, warnings: list[str]
) -> list[FoundCall]:
    """The calls of one answer; its observations are the messages that follow it."""
    count = len(answer.actions)
    if len(observed) < count or any(item.returncode is None or item.timestamp is None for item in observed):
        warnings.append(f"{place}: left out {count} commands: nothing says when they ended")
        return []
    if started is None:
        warnings.append(f"{place}: left out {count} commands: nothing says when they began")
        return []
    run = [pair for pair in zip(answer.actions, observed, strict=True) if pair[1].exception_info != _NOT_RUN]
    if len(run) < count:
        warnings.append(f"{place}: left out {count - len(run)} commands that were not run")
    return [
        FoundCall(
            place=place,
            id=ids.take(action.tool_call_id or "call"),
            tool="bash",
            command=command_of({"command": action.command}),
            start=started,
            end=result.timestamp,
            estimated=count > 1 or answer.timestamp is None,
            exit_code=None if result.returncode == -1 else result.returncode,
        )
        for action, result in run
    ]


IMPORTER = Importer(
    name="mini-swe-agent",
    looks_for="*.json with a mini_version",
    find=lambda path: files_that(path, (".json",), lambda text: b'"mini_version"' in text),
    read=_read,
)
