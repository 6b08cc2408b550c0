# SPDX-License-Identifier: Apache-2.0
"""Runs that may be looked at as one, and those that may not."""

import pytest

from agentcg.errors import InvalidInput
from agentcg.replay.run_folder import read_run
from agentcg.report.groups import differences, group_runs


def test_runs_of_the_same_under_the_same_count_as_one(make_run, tmp_path):
    runs = [read_run(make_run(tmp_path / name, rounds=2, seed=seed)) for seed, name in enumerate("ab")]
    (group,) = group_runs(runs)
    assert len(group.rounds) == 4
    assert group.title == "a + b"
    assert group.name(2) == "round 1 of b"
    assert list(group.events(2, "none")) == list(runs[1].events(0, "none"))


def test_runs_of_the_same_seed_are_the_same_rounds_twice(make_run, tmp_path):
    runs = [read_run(make_run(tmp_path / name, rounds=1)) for name in "ab"]
    assert len(group_runs(runs)) == 2
    assert differences(runs[0].description, runs[1].description) == [
        "both have the seed 1: they are the same rounds twice"
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"memory_max": 9 << 20}, ["800 MiB and 9.0 MiB for all"]),
        ({"speed": 2.0, "kernel": "6.12"}, ["kernel: 7.3.4 and 6.12", "speed: 10.0 and 2.0"]),
        ({"sessions": None}, ["sessions differ"]),
        ({"options": {}}, ["options differ"]),
    ],
)
def test_what_differs_is_named(make_run, tmp_path, changes, said):
    one, other = (
        read_run(make_run(tmp_path / "a", rounds=1)),
        read_run(make_run(tmp_path / "b", rounds=1, seed=2, **changes)),
    )
    assert differences(one.description, other.description) == said
    assert len(group_runs([one, other])) == 2


def test_arms_of_all_runs_are_there(make_run, tmp_path):
    runs = [
        read_run(make_run(tmp_path / "a", rounds=1, arms=["none", "static"])),
        read_run(make_run(tmp_path / "b", rounds=1, arms=["none", "agentcg"], seed=2)),
    ]
    assert group_runs(runs)[0].arms == ["none", "static", "agentcg"]


def test_a_run_without_a_result_is_refused(make_run, tmp_path):
    with pytest.raises(InvalidInput, match=r"a: the run has no finished arm yet \(.*--resume"):
        group_runs([read_run(make_run(tmp_path / "a", rounds=0))])


def test_a_run_given_twice_is_refused(make_run, tmp_path):
    run = read_run(make_run(tmp_path / "a", rounds=1))
    with pytest.raises(InvalidInput, match="a: the run is given twice"):
        group_runs([run, run])
