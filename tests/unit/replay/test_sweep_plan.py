# SPDX-License-Identifier: Apache-2.0
"""The file of a sweep."""

import pytest

from agentcg.errors import InvalidInput
from agentcg.replay.arm_spec import parse_arm
from agentcg.replay.sweep.plan import Configuration, read_sweep

NONE, STATIC = parse_arm("none"), parse_arm("static")
WHOLE = 'version = 1\nrecordings = ["r"]\n[grid]\narms = ["none"]\nmemory_max = ["1G"]\n'


def test_each_combination_is_a_configuration(tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text(
        'version = 1\nrecordings = ["r", "x=s"]\ndraw = 2\nrounds = 3\nseed = 4\nspeed = 5\n[grid]\n'
        'arms = ["none", ["none", "static"]]\nmemory_max = ["1M", "2M"]\ncpus = [1, 2.5]\nagent_memory = ["0", "64K"]\n'
    )
    found = read_sweep(file)
    assert (found.recordings, found.draw, found.rounds, found.seed, found.speed) == (("r", "x=s"), 2, 3, 4, 5.0)
    assert len(found.configurations) == 16
    assert found.configurations[:3] == (
        Configuration((NONE,), 1 << 20, 1.0, 0),
        Configuration((NONE,), 1 << 20, 1.0, 64 << 10),
        Configuration((NONE,), 1 << 20, 2.5, 0),
    )
    assert found.configurations[-1] == Configuration((NONE, STATIC), 2 << 20, 2.5, 64 << 10)


def test_what_may_be_left_out(tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text(WHOLE)
    found = read_sweep(file)
    assert (found.draw, found.rounds, found.seed, found.speed) == (None, 1, 0, 20.0)
    assert found.configurations == (Configuration((NONE,), 1 << 30, 2.0, 0),)


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ("version = 1", "version = 2", r"version: 2 is not known to this agentcg"),
        ("version = 1\n", "", r"version: is missing \(begin the file with: version = 1\)"),
        ("version = 1", "version = 1\nround = 2", r": round: is not a known key \(did you mean 'rounds'\?\)"),
        ("version = 1", "version = 1\nrounds = 0", r": rounds: 0 is not a whole number from 1 to 100000"),
        ("version = 1", 'version = 1\nspeed = "fast"', r": speed: 'fast' is not a number from 0\.01 to 1000"),
        ('["r"]', "[]", r": recordings: \[\] is not a list of recordings in quotes"),
        ('["r"]', "[1]", r": recordings\[0\]: 1 is not a line of text in quotes"),
        ('recordings = ["r"]\n', "", r": recordings: is missing \(docs/sweeps\.md"),
        ('memory_max = ["1G"]', "", r": grid\.memory_max: is missing"),
        ('memory_max = ["1G"]', "memory_max = []", r": grid\.memory_max: \[\] is not a list of one value or more"),
        ('["1G"]', '["1G", "1.5G"]', r": grid\.memory_max\[1\]: '1\.5G' is not a size"),
        ('["1G"]', '["1G", "1024M"]', r": grid\.memory_max\[1\]: '1024M' is there already"),
        ('["1G"]', '["1G"]\ncpu = [1]', r": grid\.cpu: is not a known key \(did you mean 'cpus'\?\)"),
        (
            '["1G"]',
            '["1G"]\nxyzzy = [1]',
            r"xyzzy: is not a known key \(known are arms, memory_max, cpus, agent_memory",
        ),
        ('["none"]', '["agentcg", "nothing"]', r": grid\.arms\[1\]: there is no arm 'nothing'"),
        ('["none"]', '[["none", "none"]]', r": grid\.arms\[0\]\[1\]: 'none' is there already"),
        ("version = 1", "version =", r"sweep\.toml: is not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, before, after, error):
    assert before in WHOLE
    file = tmp_path / "sweep.toml"
    file.write_text(WHOLE.replace(before, after))
    with pytest.raises(InvalidInput, match=error) as caught:
        read_sweep(file)
    assert str(caught.value).startswith(str(file))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InvalidInput, match=r"none\.toml: cannot be read: No such file or directory \(name a sweep's"):
        read_sweep(tmp_path / "none.toml")
