# SPDX-License-Identifier: Apache-2.0
"""mini-swe-agent's trajectories, on one of our own making."""

import json
from pathlib import Path

import pytest

from agentcg.errors import InvalidInput
from agentcg.trace.importer import Source
from agentcg.trace.mini_swe_agent import IMPORTER

FILE = Path(__file__).parent / "data" / "mini_swe_agent" / "shop-7.traj.json"


@pytest.fixture
def change(tmp_path):
    """Return a function that reads the trajectory after a change to it."""

    def read(edit):
        content = json.loads(FILE.read_text())
        edit(content)
        path = tmp_path / "changed.traj.json"
        path.write_text(json.dumps(content))
        (recording,) = IMPORTER.read(Source(path, "n"))
        return recording

    return read


def test_a_command_lasts_from_the_answer_to_its_observation(change):
    recording = change(lambda content: None)
    assert recording.started == 1_772_359_202, "the first answer: nothing before it has a time"
    assert recording.model == "some/model-m"
    assert recording.source == "mini-swe-agent 2.4.6"
    first = recording.calls[0]
    assert (first.id, first.tool, first.command, first.exit_code) == ("call_1", "bash", "pytest -q", 1)
    assert (first.start_sec, first.end_sec, first.end_estimated) == (0.0, 12.5, False)


def test_several_commands_of_one_answer_ran_somewhere_within_it(change):
    calls = {call.id: call for call in change(lambda content: None).calls}
    assert [(call.start_sec, call.end_sec, call.end_estimated) for call in (calls["call_2"], calls["call_3"])] == [
        (18.0, 50.0, True),
        (18.0, 50.001, True),
    ]
    assert calls["call_3"].exit_code is None, "-1 stands for a command that timed out"


def test_a_persons_command_began_after_what_came_before(change):
    recording = change(lambda content: None)
    diff = next(call for call in recording.calls if call.command == "git diff")
    assert (diff.start_sec, diff.end_sec, diff.end_estimated) == (12.5, 13.25, True)
    assert "ls" not in {call.command for call in recording.calls}
    assert any("messages[2]: left out 1 commands: nothing says when they began" in note for note in recording.warnings)


def test_what_was_not_run_and_what_has_no_end_is_left_out_and_told(change):
    recording = change(lambda content: None)
    assert {"call_5", "call_6"}.isdisjoint(call.id for call in recording.calls)
    assert any("messages[13]: left out 1 commands that were not run" in note for note in recording.warnings)
    assert any("messages[16]: left out 1 commands: nothing says when they ended" in note for note in recording.warnings)


def test_the_responses_interface_has_other_messages_and_the_same_times(change):
    def to_responses(content):
        for message in content["messages"]:
            message.pop("role")
            message["type" if message.pop("tool_call_id", None) else "object"] = "function_call_output"

    assert change(to_responses).calls == change(lambda content: None).calls


@pytest.mark.parametrize(
    ("edit", "place", "message"),
    [
        (
            lambda c: c.update(trajectory_format="mini-swe-agent-1"),
            ": trajectory_format",
            "only mini-swe-agent-1.1 has",
        ),
        (lambda c: c.pop("messages"), "", "missing required field `messages`"),
        (lambda c: c["messages"][4]["extra"].update(timestamp="x"), ": messages[4].extra.timestamp", "got `str`"),
        (
            lambda c: c["messages"][4]["extra"]["actions"][0].pop("command"),
            ": messages[4].extra.actions[0]",
            "`command`",
        ),
        (
            lambda c: c["messages"][4]["extra"].update(timestamp=1_772_359_220.0),
            ": messages[4]",
            "end is 5.500 s before",
        ),
    ],
)
def test_what_is_broken_is_named_with_its_place(change, tmp_path, edit, place, message):
    with pytest.raises(InvalidInput) as caught:
        change(edit)
    assert caught.value.place == f"{tmp_path / 'changed.traj.json'}{place}"
    assert message in caught.value.detail
