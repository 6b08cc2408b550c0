# SPDX-License-Identifier: Apache-2.0
"""Explanations: shares, JSON, and what a terminal shows of them."""

import io
import json

from rich.console import Console

from agentcg.explain.result import MEANING, Explanation, Kind, Stack
from agentcg.explain.table import FRAMES, render

SPENT = {Kind.RUN: 3.0, Kind.QUEUE: 1.0} | dict.fromkeys(list(Kind)[2:], 0.0)
STACK = Stack(Kind.SLEEP, 2.5, 7, tuple(f"function_{number}" for number in range(FRAMES + 2)))


def shown(seen: Explanation) -> str:
    written = io.StringIO()
    Console(width=100, file=written).print(render(seen))
    return written.getvalue()


def test_shares_are_of_all_task_time() -> None:
    seen = Explanation("t/s/c", 2.0, 2, SPENT)
    assert (seen.total, seen.share(Kind.RUN), seen.share(Kind.IO)) == (4.0, 0.75, 0.0)
    assert Explanation("t/s/c", 2.0, 0, dict.fromkeys(Kind, 0.0)).share(Kind.RUN) == 0.0


def test_json_has_all_of_it() -> None:
    wire = json.loads(json.dumps(Explanation("t/s/c", 2.0, 2, SPENT, 0.5, True, (STACK,)).to_wire()))
    assert wire["taskSeconds"] == {"run": 3, "queue": 1, "reclaim": 0, "throttled": 0, "io": 0, "frozen": 0, "sleep": 0}
    assert (wire["call"], wire["seconds"], wire["tasks"], wire["ended"], wire["cpuMaxSeconds"]) == (
        "t/s/c",
        2,
        2,
        True,
        0.5,
    )
    assert wire["stacks"][0] == {"kind": "sleep", "seconds": 2.5, "count": 7, "frames": list(STACK.frames)}


def test_a_terminal_shows_each_kind_and_the_innermost_frames() -> None:
    text = shown(Explanation("t/s/c", 2.0, 2, SPENT, 0.5, True, (STACK, Stack(Kind.IO, 0.1, 1, ()))))
    assert "t/s/c: 2.0 s, then it was over, 2 tasks now" in text
    assert all(meaning in text for meaning in MEANING.values())
    assert "75 %" in text
    assert "cpu.max held it back for 500 ms of that" in text
    assert "7 x  sleep: function_0 < function_1" in text
    assert f"function_{FRAMES}" not in text
    assert "1 x  io: unknown" in text


def test_what_was_not_there_is_not_shown() -> None:
    text = shown(Explanation("t/s/c", 2.0, 2, SPENT))
    assert "cpu.max" not in text
    assert "longest waits" not in text
    assert "over" not in text
