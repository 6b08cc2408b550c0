# SPDX-License-Identifier: Apache-2.0
"""Runs as what a page shows of them."""

import json

import pytest

from agentcg.errors import InvalidInput
from agentcg.replay.run_folder import read_run
from agentcg.report.build import build, median_round


def build_of(*paths, number=None):
    return build([read_run(path) for path in paths], number)


def test_a_run_is_a_section_with_all_its_arms(make_run, tmp_path):
    report = build_of(make_run(tmp_path / "a"))
    (section,) = report.sections
    assert section.summary.winner == "agentcg"
    assert section.shown == "round 4, the median one"
    assert list(section.lanes) == ["none", "agentcg"]
    assert [figure.name for figure in section.figures] == ["completion-1", "latency-1", "durations-1"]
    assert section.verdict.columns[-1] == "agentcg against it"
    assert [row[0] for row in section.verdict.rows] == ["none", "agentcg"]
    assert section.verdict.rows[0][3] == "14 of 21; b (died) 7 ×"
    assert section.verdict.rows[1][1].endswith("], n = 7")
    assert section.verdict.rows[1][4] == "–"
    what, sessions, arms = section.what
    assert ("Rounds", "7 of 7 have results") in what.rows
    assert sessions.rows[0] == ("a", "recording-a", "yes", "100 MiB", "90.0 MiB", "1 min 40 s", "3")
    assert arms.rows[0][3] == "b (died) 7 ×"
    assert report.all_notes == []


def test_another_round_can_be_chosen(make_run, tmp_path):
    path = make_run(tmp_path / "a", rounds=2)
    assert build_of(path, number=2).sections[0].shown == "round 2"
    with pytest.raises(InvalidInput, match=r"--round: there is no round 3 \(a has 2\)"):
        build_of(path, number=3)


def test_the_median_round_is_the_closest_to_the_medians(arm):
    rounds = [{"x": arm("x", sec, [1]), "y": arm("y", sec, [1])} for sec in (10, 50, 20, 21, 90)]
    assert median_round(rounds) == 3
    # One that lacks an arm is not shown while another has all.
    del rounds[3]["y"]
    assert median_round(rounds) in (1, 2)


def test_a_run_that_was_cut_off_says_so(make_run, tmp_path):
    path = make_run(tmp_path / "a", rounds=2)
    with (path / "results.jsonl").open("a") as file:
        file.write('{"round": 2, "arm":')
    assert [note.partition("results.jsonl")[2] for note in build_of(path).notes] == [
        ":5: the line is cut off, and left out"
    ]


def test_events_that_cannot_be_read_are_left_out_and_that_is_said(make_run, tmp_path):
    path = make_run(tmp_path / "a", rounds=2)
    (path / "events" / "0-none.jsonl").unlink()
    with (path / "events" / "1-none.jsonl").open("a") as file:
        file.write('{"t": 1, "ki')
    report = build_of(path)
    assert list(report.sections[0].lanes) == ["agentcg"]
    assert [note.partition(":")[0] for note in report.all_notes] == [
        "The events of none, round 1, are left out",
        "The events of none, round 2, are left out",
    ]


def test_an_arm_without_a_finished_round_is_named(make_run, tmp_path):
    path = make_run(tmp_path / "a", rounds=1)
    lines = (path / "results.jsonl").read_text().splitlines()
    (path / "results.jsonl").write_text("".join(f"{line}\n" for line in lines if json.loads(line)["arm"] == "none"))
    report = build_of(path)
    assert report.all_notes == ["agentcg has not finished any round, and is left out."]
    assert report.sections[0].summary.sentence.startswith("There is nothing to compare")


def test_runs_that_cannot_be_compared_stand_apart_and_it_is_said_why(make_run, tmp_path):
    report = build_of(
        make_run(tmp_path / "a", rounds=1), make_run(tmp_path / "b", rounds=1, memory_max=9 << 20, speed=2.0)
    )
    assert [section.title for section in report.sections] == ["a", "b"]
    assert report.notes == ["a and b are not compared: 800 MiB and 9.0 MiB for all; speed: 10.0 and 2.0."]
    assert len({figure.name for figure in report.figures}) == len(report.figures)


def test_sessions_that_each_round_draws_are_none_of_the_run(make_run, tmp_path):
    what, _ = build_of(make_run(tmp_path / "a", rounds=1, sessions=None)).sections[0].what
    assert ("Sessions", "each round has drawn its own") in what.rows
