# SPDX-License-Identifier: Apache-2.0
"""Claude Code's transcripts, on one of our own making."""

import json
import shutil
from pathlib import Path

import pytest

from agentcg.errors import InvalidInput
from agentcg.trace.claude_code import IMPORTER
from agentcg.trace.importer import Source

PROJECT = Path(__file__).parent / "data" / "claude_code" / "project"
SESSION = "5b0c2d7e-1111-4222-8333-944455556666.jsonl"


@pytest.fixture
def transcript(tmp_path):
    return Path(shutil.copytree(PROJECT, tmp_path / "project")) / SESSION


def _read(path):
    (recording,) = IMPORTER.read(Source(path, "n"))
    return recording


def _add(path, *lines):
    with path.open("a") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")


def _answer(at, *content, **more):
    return {"type": "assistant", "timestamp": at, "message": {"model": "model-h", "content": list(content)}, **more}


def test_a_call_lasts_from_its_use_to_its_result():
    recording = _read(PROJECT / SESSION)
    assert recording.started == 1_772_359_200
    assert recording.model == "model-h"
    assert recording.samples == ()
    calls = {call.id: call for call in recording.calls}
    assert [(call.id, call.tool, call.command, call.start_sec, call.end_sec) for call in recording.calls[:3]] == [
        ("toolu_A", "Grep", "total", 3.25, 4.0),
        ("toolu_B", "Read", "/home/dev/shop/cart.py", 3.5, 4.5),
        ("toolu_C", "Bash", "pytest -q", 10.0, 22.5),
    ]
    assert calls["toolu_F"].duration_sec == 0.5, "what runs in the background has its result at once"


def test_an_exit_code_is_known_where_an_error_says_it_and_the_first_of_two_results_counts():
    codes = {call.id: call.exit_code for call in _read(PROJECT / SESSION).calls}
    assert codes["toolu_C"] == 1
    assert {code for call, code in codes.items() if call != "toolu_C"} == {None}


def test_what_the_user_rejected_is_left_out_and_told():
    recording = _read(PROJECT / SESSION)
    assert "toolu_E" not in {call.id for call in recording.calls}
    assert any("left out 1 calls that the user rejected" in warning for warning in recording.warnings)


def test_a_call_without_a_result_lasts_to_the_last_line_and_is_marked():
    last = _read(PROJECT / SESSION).calls[-1]
    assert (last.id, last.start_sec, last.end_sec, last.end_estimated) == ("toolu_G", 100.0, 101.0, True)


def test_sub_agents_are_calls_and_their_files_belong_to_the_session():
    calls = {call.id: call for call in _read(PROJECT / SESSION).calls}
    assert {call.id for call in calls.values() if call.kind == "subagent"} == {"toolu_D"}
    assert calls["toolu_S"].command == "grep -rn round src"
    assert calls["toolu_O"].tool == "Glob", "from a file beside the session's"
    assert "toolu_X" not in calls, "that file is another session's"
    assert IMPORTER.find(PROJECT) == [PROJECT / SESSION]
    assert IMPORTER.find(PROJECT / "agent-old2.jsonl") == [PROJECT / "agent-old2.jsonl"]


def test_a_result_may_stand_before_its_use(transcript):
    lines = transcript.read_text().splitlines(keepends=True)
    transcript.write_text("".join(lines[::-1]))
    assert {call.id: call.end_sec for call in _read(transcript).calls}["toolu_A"] == 4.0


def test_ids_that_a_recording_cannot_have_are_changed(transcript):
    use = {"type": "tool_use", "id": "functions.Bash:0", "name": "Bash", "input": {"command": "ls"}}
    result = {"type": "tool_result", "tool_use_id": "functions.Bash:0"}
    _add(
        transcript,
        _answer("2026-03-01T10:05:00Z", use),
        {"type": "user", "timestamp": "2026-03-01T10:05:01Z", "message": {"content": [result]}},
    )
    assert "functions_Bash_0" in {call.id for call in _read(transcript).calls}


@pytest.mark.parametrize(
    ("line", "place", "message"),
    [
        (_answer("2026-03-01T10:05:00Z", {"type": "tool_use", "id": "a"}), ": message.content[0]", "field `name`"),
        (_answer(None, {"type": "tool_use", "id": "a", "name": "Bash"}), ": timestamp", "is missing"),
        (_answer("soon"), ": timestamp", "'soon' is no time"),
        (_answer("2026-03-01T10:05:00Z", {"type": "tool_result"}), ": message.content[0]", "field `tool_use_id`"),
        ({"type": "assistant", "timestamp": 5}, ": timestamp", "got `int`"),
    ],
)
def test_what_is_broken_is_named_with_its_line(transcript, line, place, message):
    _add(transcript, line)
    with pytest.raises(InvalidInput) as caught:
        _read(transcript)
    assert caught.value.place == f"{transcript}:{len(transcript.read_text().splitlines())}{place}"
    assert message in caught.value.detail


def test_a_cut_line_and_a_clock_that_jumps_back_are_named(transcript):
    whole = transcript.read_text()
    transcript.write_text(whole[:-20])
    with pytest.raises(InvalidInput, match=rf"{SESSION}:{len(whole.splitlines())}: the file is cut off here"):
        _read(transcript)
    transcript.write_text(whole.replace("2026-03-01T10:00:22.500Z", "2026-03-01T10:00:02.500Z"))
    with pytest.raises(InvalidInput, match=rf"{SESSION}:9: message.content\[0\]: the call's end is 7.500 s before"):
        _read(transcript)


def test_a_session_without_calls_is_refused(transcript):
    transcript.write_text(transcript.read_text().splitlines(keepends=True)[0])
    shutil.rmtree(transcript.with_suffix(""))
    (transcript.parent / "agent-old1.jsonl").unlink()
    with pytest.raises(InvalidInput, match="the recording has no calls"):
        _read(transcript)
