# SPDX-License-Identifier: Apache-2.0
"""Turns of an attempt, on its recording's clock."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from agentcg.trace.agentcgroup import import_attempt
from agentcg.trace.model import RecordedTurn

ATTEMPT = Path(__file__).parents[2] / "data" / "agentcgroup" / "made_up_set" / "example__task-1" / "attempt_1"


def at(sec: float) -> str:
    """A time of the recording: it began at 22:13:20.25."""
    return f"2023-11-14T22:13:{20.25 + sec:06.3f}Z"


def row(first: float, last: float, prompt: int | None, output: int | None, **results: float) -> dict[str, Any]:
    found = [{"id": name, "at": at(when)} for name, when in results.items()]
    return {"first_at": at(first), "last_at": at(last), "prompt_tokens": prompt, "output_tokens": output} | {
        "results": found
    }


@pytest.fixture
def turns_of(tmp_path: Path) -> Any:
    def read(*rows: Any) -> Any:
        attempt = Path(shutil.copytree(ATTEMPT, tmp_path / "attempt_1"))
        (attempt / "turns.json").write_text(json.dumps(rows))
        return import_attempt(attempt)

    return read


def test_a_turn_lasts_from_the_last_result_to_its_answer_or_its_first_call(turns_of: Any) -> None:
    # toolu_0 runs from 2.2 to 2.22, toolu_1 from 2.25 to 4.5, toolu_2 from 5.25 to 6.25; nothing is recorded after 7.
    rows = [
        row(1.65, 2.21, 100, 10, toolu_0=2.22, toolu_1=4.6),
        row(4.7, 4.8, None, None),  # It failed.
        row(4.9, 5.0, 150, None, toolu_2=6.2),
        row(6.5, 9.0, 90, 7),
    ]
    assert turns_of(*rows).turns == (
        RecordedTurn(1.65, 2.2, 100, 10),
        RecordedTurn(4.6, 5.0, 150, 0),
        RecordedTurn(6.25, 7.0, 90, 7),
    )


def test_turns_stay_one_behind_the_other_whatever_was_recorded(turns_of: Any) -> None:
    rows = [row(3.0, 2.0, 1, 1, toolu_2=6.25), row(1.0, 1.5, 2, 2), row(8.0, 9.0, 3, 3), row(0.0, 0.1, 4, 4, gone=0.0)]
    found = turns_of(*rows).turns
    assert [turn.prompt_tokens for turn in found] == [1, 2, 3, 4]
    times = [time for turn in found for time in (turn.start_sec, turn.end_sec)]
    assert times == sorted(times)
    assert times[0] >= 0.0
    assert times[-1] <= 7.0


def test_what_is_broken_has_no_turns_and_that_is_said(turns_of: Any) -> None:
    recording = turns_of(row(1.0, 2.0, 100, 1) | {"results": [{"id": "toolu_0", "at": "noon"}]})
    assert recording.turns == ()
    assert any("turns.json: [0].results: 'noon' is no time" in warning for warning in recording.warnings)


def test_an_attempt_without_prompts_has_no_turns() -> None:
    assert import_attempt(ATTEMPT).turns == ()
