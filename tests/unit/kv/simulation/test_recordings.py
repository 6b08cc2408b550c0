# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import pytest

from agentcg.errors import InvalidInput
from agentcg.kv.simulation.recordings import import_script
from agentcg.kv.simulation.script import ToolCall

NAME = "set-task-attempt_1"


def at(sec: float) -> str:
    return f"1970-01-01T00:{int(sec) // 60:02}:{sec % 60:06.3f}Z"


def row(sec: float, prompt: int, output: int, **results: float) -> dict[str, Any]:
    found = [{"id": name, "at": at(when)} for name, when in results.items()]
    return {"last_at": at(sec), "prompt_tokens": prompt, "output_tokens": output, "results": found}


ROWS = [
    row(1.0, 100, 10, a=3.0, b=11.0),
    row(20.0, 0, 0),  # An answer that failed.
    row(21.0, 150, 20, c=21.5),
    row(30.0, 40, 0, d=31.0),
    row(40.0, 60, 5),
]


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    path = tmp_path / "set/task/attempt_1"
    path.mkdir(parents=True)
    samples = [
        # Two CPU seconds between 1 s and 3 s; what is recorded is the average since the begin.
        {"epoch": float(sec), "mem_usage": "1MB / 2MB", "cpu_percent": f"{200 / sec if sec > 1 else 0:.2f}%"}
        for sec in (0, 1, 3, 11, 50)
    ]
    (path / "resources.json").write_text(json.dumps({"samples": samples}))
    calls = [("a", "Read", "", 1.0, 3.0), ("b", "Bash", "make -j4 all", 3.0, 11.0), ("c", "Bash", "ls", 21.0, 21.5)]
    found = [
        {"id": name, "tool": tool, "input": {"command": text}, "timestamp": at(begin), "end_timestamp": at(end)}
        for name, tool, text, begin, end in calls
    ]
    (path / "tool_calls.json").write_text(json.dumps(found))
    (path / "turns.json").write_text(json.dumps(ROWS))
    return path


def test_turns_and_calls_of_an_attempt(attempt: Path) -> None:
    script = import_script(attempt)
    assert script.name == NAME
    assert [(turn.prompt_tokens, turn.output_tokens, turn.prefix_tokens) for turn in script.turns] == [
        (100, 10, 0),
        (150, 20, 110),
        (40, 1, 0),  # It was summarised.
        (60, 5, 41),
    ]
    first, second = script.turns[0].calls
    assert (first.tool, first.wall_sec, first.cpu_sec) == ("Read", 2.0, pytest.approx(2.0, abs=0.1))
    assert (second.tool, second.wall_sec, second.words) == ("Bash", 10.0, "make all")
    assert second.cpu_sec == pytest.approx(0.0, abs=0.1)
    # Of the last the recording has no call; and what the last turn calls, nobody waits for.
    assert script.turns[2].calls == (ToolCall("", 1.0),)
    assert script.turns[3].calls == ()


def test_what_belongs_to_the_recording_is_taken_off(attempt: Path) -> None:
    script = import_script(attempt, output_tokens=30, wait_sec=7.0)
    # No more than the next prompt is longer, and all of it where there is none.
    assert [turn.output_tokens for turn in script.turns] == [30, 1, 20, 30]
    assert [call.wall_sec for turn in script.turns for call in turn.calls] == [2.0, 3.0, 0.5, 1.0]


@pytest.mark.parametrize("text", [None, "{", "[{}]", "[]"])
def test_an_attempt_without_turns_is_refused(attempt: Path, text: str | None) -> None:
    if text is None:
        (attempt / "turns.json").unlink()
    else:
        (attempt / "turns.json").write_text(text)
    with pytest.raises(InvalidInput, match=rf"turns\.json|{NAME}"):
        import_script(attempt)
