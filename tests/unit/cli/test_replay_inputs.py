# SPDX-License-Identifier: Apache-2.0
"""Which sessions take part in a replay, and under which arms."""

import shutil
from pathlib import Path

import pytest

from agentcg.cli.replay_inputs import arms_of, plans_of, protected_of
from agentcg.errors import InvalidInput
from agentcg.replay.arm_spec import ArmSpec
from agentcg.trace.format import write
from agentcg.trace.model import RecordedCall, Recording, Sample

DATA_SET = Path(__file__).parents[2] / "data" / "agentcgroup" / "made_up_set"
ATTEMPT = DATA_SET / "example__task-1" / "attempt_1"


def recording(path, name, *, samples=True):
    calls = (RecordedCall("a", "Bash", "true", 0.0, 1.0),)
    held = (Sample(0, 1000, 0), Sample(1, 3000, 0)) if samples else ()
    write(Recording(name, 0.0, calls, held), path)
    return path


def names(*arguments, agent_memory=0):
    return [plan.name for plan in plans_of([str(argument) for argument in arguments], agent_memory)]


def test_without_arms_there_are_the_two_that_matter_and_the_policy_is_of_one():
    assert arms_of([], "strict") == (ArmSpec("none", "none"), ArmSpec("agentcg", "agentcg", "strict"))
    assert arms_of(["agentcg=a.toml", "agentcg", "static", "agentcg"], "p.toml") == (
        ArmSpec("agentcg=a.toml", "agentcg", "a.toml"),
        ArmSpec("agentcg", "agentcg", "p.toml"),
        ArmSpec("static", "static"),
    )


def test_recordings_of_ours_attempts_and_directories_of_both_take_part(tmp_path):
    ours = recording(tmp_path / "b.jsonl", "ours.1")
    shutil.copytree(DATA_SET, tmp_path / "sets" / "made_up_set")
    recording(tmp_path / "sets" / "c.jsonl", "ours.2")
    assert names(ours, ATTEMPT) == ["ours-1", "made_up_set-example__task-1-attempt_1"]
    found = names(tmp_path / "sets")
    assert "ours-2" in found
    assert "made_up_set-example__task-1-attempt_1" in found


def test_a_name_is_given_and_repeated_with_a_number(tmp_path):
    ours = recording(tmp_path / "a=b.jsonl", "r")
    assert names(f"x={ours}", f"x={ours}", ours, ours) == ["x", "x-2", "r", "r-2"]


def test_agents_hold_what_is_asked_for_besides(tmp_path):
    ours = recording(tmp_path / "a.jsonl", "r")
    assert [plan.peak for plan in plans_of([str(ours)], 5000)] == [8000]


def test_one_that_cannot_be_replayed_is_an_error_and_of_many_it_is_left_out_and_said(tmp_path, capsys):
    recording(tmp_path / "a.jsonl", "good")
    bad = recording(tmp_path / "b.jsonl", "bad", samples=False)
    with pytest.raises(InvalidInput, match="no samples"):
        names(bad)
    assert names(tmp_path) == ["good"]
    assert "agentcg: left out: " in capsys.readouterr().err


def test_the_protected_ones_are_named(tmp_path):
    plans = plans_of([str(recording(tmp_path / "a.jsonl", "r"))] * 3, 0)
    assert [plan.reserve for plan in protected_of(plans, ["r-2:8M", "r"])] == [3000 + (16 << 20), 8 << 20, None]
    with pytest.raises(InvalidInput, match=r"--protect: there is no session 'x' \(there are r, r-2, r-3\)"):
        protected_of(plans, ["x"])
