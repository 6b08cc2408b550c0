# SPDX-License-Identifier: Apache-2.0
"""``agentcg history``."""

import json
import time

import pytest
from click.testing import CliRunner

from agentcg.cli.history import history
from agentcg.errors import InvalidInput
from agentcg.model import CallRef, Limits, SessionRef, Usage, Verdict
from agentcg.predict.history import Store


@pytest.fixture
def ask(tmp_path):
    """Return a function that asks a history of three calls."""
    path = str(tmp_path / "history.sqlite")
    store = Store(path)
    for number, (outcome, ago) in enumerate([("ok", 7200), ("ok", 60), ("memory_limit", 30)]):
        started = time.time() - ago
        ref = CallRef(SessionRef("u0", "fix"), f"c{number}")
        usage = Usage(duration_sec=2.5, memory_peak=64 << 20)
        store.add("make", 0, Verdict(ref, outcome, usage, Limits(), started, started + 3, command="make [all]\n  -j"))
    store.close()

    def run(*arguments):
        result = CliRunner().invoke(history, ["--history", path, *arguments], env={"COLUMNS": "160"})
        if result.exception is not None:
            raise result.exception
        return result.output

    return run


def test_calls_are_lines(ask):
    lines = ask().splitlines()
    assert [line.split()[2] for line in lines] == ["outcome", "u0/fix/c2", "u0/fix/c1", "u0/fix/c0"]
    assert lines[1].split()[3:] == ["memory_limit", "2.5", "s", "64.0", "MiB", "make", "[all]", "-j"]
    assert len(ask("--since", "1h").splitlines()) == 3
    assert len(ask("--limit", "1").splitlines()) == 2
    assert ask("--outcome", "timed_out", "--outcome", "killed") == "no such calls\n"


def test_calls_that_are_alike_are_a_line(ask):
    _, line = ask("--by", "kind").splitlines()
    assert line.split()[:3] == ["make", "3", "2"]


def test_a_command_of_several_lines_is_one(ask):
    _, line = ask("--by", "command").splitlines()
    assert line.split()[:5] == ["make", "[all]", "-j", "3", "2"]


def test_quantiles_of_what_is_asked_for(ask):
    (group,) = map(json.loads, ask("--json", "--by", "command", "--command", "all", "--outcome", "ok").splitlines())
    assert group == {
        "name": "make [all]\n  -j",
        "n": 2,
        "outcomes": {"ok": 2},
        "durationSec": {"p50": 2.5, "p95": 2.5, "max": 2.5},
        "memoryPeak": {"p50": 64 << 20, "p95": 64 << 20, "max": 64 << 20},
    }


def test_as_json_each_is_an_object(ask):
    assert [json.loads(line)["call"] for line in ask("--json").splitlines()] == [f"u0/fix/c{n}" for n in (2, 1, 0)]
    assert json.loads(ask("--json").splitlines()[0])["usage"]["memoryPeak"] == 64 << 20
    assert json.loads(ask("--json", "--by", "outcome").splitlines()[0])["n"] == 2


def test_a_duration_that_is_none_is_named(ask):
    with pytest.raises(InvalidInput, match="--since"):
        ask("--since", "yesterday")
