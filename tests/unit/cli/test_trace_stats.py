# SPDX-License-Identifier: Apache-2.0
"""``agentcg trace stats`` from outside."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentcg.cli.trace import trace
from agentcg.errors import InvalidInput

ATTEMPTS = Path(__file__).parents[2] / "data" / "agentcgroup"
OTHERS = Path(__file__).parents[1] / "trace" / "data"


def run(*arguments, status=0):
    result = CliRunner().invoke(trace, ["stats", *map(str, arguments)], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def test_one_session_is_shown_with_its_figures():
    lines = run(ATTEMPTS).stdout.splitlines()
    assert lines[0].strip() == "made_up_set-example__task-1-attempt_1"
    assert "memory peak" in lines[4]
    assert "334 MiB" in lines[4]
    assert any(line.startswith("8 samples over 7.0 s. 40.0% of the calls contain none") for line in lines)
    assert any(line.split()[:2] == ["Bash", "1"] for line in lines)
    assert any(line.split()[:3] == ["test", "1", "100.0%"] for line in lines)


def test_a_set_is_shown_over_its_sessions_and_says_how_many_know_a_figure():
    lines = run(OTHERS, ATTEMPTS).stdout.splitlines()
    assert lines[0].split() == ["12", "sessions", "known", "P50", "P95", "max"]
    assert lines[1].split()[:2] == ["length", "9"]
    assert lines[2].split()[:2] == ["calls", "12"]
    assert lines[4].split()[:3] == ["memory", "peak", "2"]
    assert any("calls it is only known between which times they ran" in line for line in lines)
    assert any(line.startswith("Known exit codes: ") for line in lines)


def test_without_samples_nothing_is_said_of_memory():
    output = run(OTHERS / "swe_agent").stdout
    assert "memory peak" not in output
    assert "samples" not in output
    assert "of all time" not in output


def test_json_has_it_all():
    found = json.loads(run("--json", ATTEMPTS, OTHERS / "swe_agent").stdout)
    assert [session["name"] for session in found["sessions"]] == [
        "made_up_set-example__task-1-attempt_1",
        "retried-0",
        "retried-1",
        "try-shop-7",
    ]
    assert found["sessions"][1]["durationSec"] is None
    assert found["sessions"][1]["memory"] is None
    assert found["figures"]["peak"] == {"n": 1, "p50": 350.5e6, "p95": 350.5e6, "p99": 350.5e6, "max": 350.5e6}
    assert found["calls"]["n"] == 5 + 1 + 2 + 4
    assert {"tool": "Task", "durationSec": {"n": 1, "p50": 1.0, "p95": 1.0, "p99": 1.0, "max": 1.0}} in found["tools"]


def test_what_is_broken_is_named_at_the_end_and_the_others_count(tmp_path):
    tree = Path(shutil.copytree(OTHERS / "swe_agent", tmp_path / "tree"))
    (tree / "retried.traj").write_text('{"trajectory": [')
    result = run(tree, status=1)
    assert result.stderr == f"agentcg: {tree}/retried.traj:1: the file is cut off here (fetch it again)\n"
    assert result.stdout.splitlines()[0].strip() == "try-shop-7"
    shutil.rmtree(tree / "try")
    assert run(tree, status=1).stdout == ""


def test_recordings_of_our_own_are_read(tmp_path):
    CliRunner().invoke(trace, ["import", str(ATTEMPTS), "-o", str(tmp_path)])
    assert run("--json", tmp_path).stdout == run("--json", ATTEMPTS).stdout
    with pytest.raises(InvalidInput, match="nothing of a known format is here; looked for agentcg: "):
        run(Path(__file__))
