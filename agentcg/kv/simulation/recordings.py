# SPDX-License-Identifier: Apache-2.0
"""Recordings that have turns, as scripts: what the model was sent and answered, and which calls followed.

Of the AgentCgroup data set it is ``turns.json`` beside a recording's other files: one row a request to the model.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

from agentcg.kv.simulation.script import Script, ToolCall, Turn
from agentcg.policy.match import command_key
from agentcg.trace.agentcgroup import import_attempt
from agentcg.trace.demand import demand
from agentcg.trace.source import since
from agentcg.trace.turns import FoundTurn, answered, load_rows

__all__ = ["import_script"]


def import_script(path: str | os.PathLike[str], *, output_tokens: int | None = None, wait_sec: float = 0.0) -> Script:
    """Read one attempt of the AgentCgroup data set.

    A call begins when its turn ends and takes until its result is there; its CPU time is what the recording's samples
    leave for it. A prompt that is shorter than the one before is taken to share nothing with it: it was summarised.
    Rows without a prompt are answers that failed, and are left out.

    :param output_tokens: what each turn is taken to have answered, where the recording's own counts are partial, but
        no more than the next prompt is longer
    :param wait_sec: how long Bash calls waited before they began, for something that belongs to the recording: it is
        taken off those that took longer
    :raises InvalidInput: naming the file that is broken or missing
    """
    attempt = Path(path)
    place = attempt / "turns.json"
    rows = answered(str(place), load_rows(place))
    recording = import_attempt(attempt)
    known = {each.call.id: (each.call, each.cpu_at(each.call.end_sec)) for each in demand(recording).calls}
    known |= {call.id: (call, 0.0) for call in recording.calls if call.id not in known}

    def call_of(row: FoundTurn, name: str) -> ToolCall:
        sec = max(0.0, since(row.results[name], row.last))
        if name not in known:
            return ToolCall("", sec)
        call, cpu_sec = known[name]
        if call.tool == "Bash" and sec > wait_sec:
            sec -= wait_sec
        return ToolCall(call.tool, sec, cpu_sec, command_key(call.tool, call.command))

    turns: list[Turn] = []
    for row, following in [*pairwise(rows), *((row, None) for row in rows[-1:])]:
        prompt, output = row.prompt_tokens, max(1, row.output_tokens)
        growth = following.prompt_tokens - prompt if following else None
        if output_tokens is not None:
            output = output_tokens if growth is None else max(1, min(output_tokens, growth))
        before = turns[-1] if turns else None
        prefix = min(before.prompt_tokens + before.output_tokens, prompt) if before else 0
        if before and prompt < before.prompt_tokens:
            prefix = 0
        calls = tuple(call_of(row, name) for name in row.results) if following else ()
        turns.append(Turn(prompt, output, prefix, calls))
    return Script(recording.name, tuple(turns))
