# SPDX-License-Identifier: Apache-2.0
"""Importer for the trajectories of SWE-agent, ``*.traj``.

https://swe-agent.com/latest/usage/trajectories/ describes the file. What it does not say plainly:

- There is no date and no time in it. ``execution_time`` says how long a step's command took, and nothing says how long
  the model thought in between: the recording has durations only. SWE-agent before 1.0 did not record even those.
- A step whose ``execution_time`` is 0 ran no command: its action was malformed or blocked, or it is ``exit``, or what
  was submitted when the agent was stopped. Such steps are left out.
- Steps are those under ``trajectory``. ``history`` also holds demonstrations, which are another session's.
- Every action is a line for one shell, SWE-agent's own tools (``open``, ``edit``, ``submit``) among them: the tool is
  ``bash``. Its time holds the way to the shell and back, in published runs about a tenth of a second. A command that
  timed out counts with its time-out.
- A file of several ``attempts`` holds one session for each; ``trajectory`` beside them repeats the one that was chosen.
- There are no samples and no exit codes: memory, CPU time and how a command ended are not known.
"""

from __future__ import annotations

from typing import Any

import msgspec

from agentcg.errors import InvalidInput
from agentcg.trace.assemble import Ids, check
from agentcg.trace.checks import SECONDS_MAX
from agentcg.trace.importer import Importer, Source, files_that
from agentcg.trace.model import RecordedCall, Recording
from agentcg.trace.source import command_of, convert, convert_rows, cut, load

__all__ = ["IMPORTER"]


class _Info(msgspec.Struct):
    swe_agent_version: str | None = None


class _Attempt(msgspec.Struct):
    trajectory: list[Any]
    info: _Info = msgspec.field(default_factory=_Info)
    replay_config: Any = None


class _File(msgspec.Struct):
    attempts: list[Any] = []


class _Step(msgspec.Struct):
    action: str = ""
    execution_time: float | None = None


def _read(source: Source) -> list[Recording]:
    path = source.path
    content = load(path, dict[str, Any])
    attempts = convert(str(path), content, _File).attempts
    if not attempts:
        return [_recording(str(path), source.name, convert(str(path), content, _Attempt))]
    return [
        _recording(f"{path}: attempts[{index}]", f"{source.name}-{index}", attempt)
        for index, attempt in enumerate(convert_rows(f"{path}: attempts", attempts, _Attempt))
    ]


def _recording(place: str, name: str, attempt: _Attempt) -> Recording:
    where = f"{place}{'.' if place.endswith(']') else ': '}trajectory"
    steps = convert_rows(where, attempt.trajectory, _Step)
    if steps and all(step.execution_time is None for step in steps):
        raise InvalidInput(
            where,
            "no step has an execution_time, so nothing is known but the commands",
            hint="SWE-agent 1.0 records it",
        )
    ids = Ids()
    calls: list[RecordedCall] = []
    now = 0.0
    for index, step in enumerate(steps):
        if step.execution_time is None or not 0 <= step.execution_time <= SECONDS_MAX:
            raise InvalidInput(f"{where}[{index}].execution_time", f"{step.execution_time} is no duration")
        if step.execution_time == 0:
            continue
        end = round(now + step.execution_time, 6)
        command = command_of({"command": step.action.strip()})
        calls.append(RecordedCall(ids.take(f"step-{index + 1}"), "bash", command, now, end))
        now = end
    recording = Recording(
        name=cut(name),
        started=None,
        calls=tuple(calls),
        source=cut(f"SWE-agent {attempt.info.swe_agent_version or ''}".strip()),
        model=_model(attempt.replay_config),
        timing="durations",
        warnings=(f"{place}: left out {len(steps) - len(calls)} steps that ran no command",)
        * (len(calls) < len(steps)),
    )
    check(where, recording)
    return recording


def _model(config: Any) -> str | None:
    """The model's name in the run's configuration, which is JSON in a string."""
    try:
        config = msgspec.json.decode(config) if isinstance(config, str) else config
        name = config["agent"]["model"]["name"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return None
    return cut(name) if isinstance(name, str) else None


def _is_trajectory(text: bytes) -> bool:
    return text.lstrip().startswith(b"{") and (b'"trajectory"' in text or b'"attempts"' in text)


IMPORTER = Importer(
    name="swe-agent",
    looks_for="*.traj with a trajectory",
    find=lambda path: files_that(path, (".traj",), _is_trajectory),
    read=_read,
)
