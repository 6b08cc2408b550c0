# SPDX-License-Identifier: Apache-2.0
"""``agentcg trace`` from outside."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentcg.cli.trace import trace
from agentcg.errors import InvalidInput

DATA = Path(__file__).parents[2] / "data" / "agentcgroup"
OTHERS = Path(__file__).parents[1] / "trace" / "data"
NAME = "made_up_set-example__task-1-attempt_1"


def run(*arguments, status=0):
    result = CliRunner().invoke(trace, [str(item) for item in arguments], terminal_width=200)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def recording(tmp_path):
    run("import", DATA, "-o", tmp_path / "out")
    return tmp_path / "out" / f"{NAME}.jsonl"


def test_import_makes_one_file_a_session(tmp_path):
    result = run("import", DATA, "-o", tmp_path / "new" / "out")
    assert [path.name for path in (tmp_path / "new" / "out").iterdir()] == [f"{NAME}.jsonl"]
    assert result.stdout == f"1 of 1 recordings are in {tmp_path / 'new' / 'out'}\n"
    assert "2 calls have no end" in result.stderr


def test_a_broken_attempt_is_named_and_the_others_are_imported(tmp_path):
    tree = Path(shutil.copytree(DATA, tmp_path / "tree"))
    broken = tree / "made_up_set" / "other__task-2" / "attempt_1"
    shutil.copytree(tree / "made_up_set" / "example__task-1" / "attempt_1", broken)
    (broken / "resources.json").write_text('{"samples": [')
    result = run("import", tree, "-o", tmp_path / "out", status=1)
    assert f"{broken}/resources.json:1: the file is cut off here" in result.stderr
    assert "1 of 2 recordings" in result.stdout
    assert (tmp_path / "out" / f"{NAME}.jsonl").exists()


def test_of_two_attempts_of_one_name_the_second_is_refused(tmp_path):
    shutil.copytree(DATA, tmp_path / "tree")
    result = run("import", DATA, tmp_path / "tree", "-o", tmp_path / "out", status=1)
    assert "attempt_1: would be written to the same file as" in result.stderr
    assert "1 of 2 recordings" in result.stdout


def test_a_set_of_many_formats_is_imported_and_what_is_broken_is_named_at_the_end(tmp_path):
    tree = Path(shutil.copytree(OTHERS, tmp_path / "tree"))
    whole = (tree / "swe_agent" / "retried.traj").read_bytes()
    (tree / "swe_agent" / "retried.traj").write_bytes(whole[:-100])
    (tree / "otlp" / "agent.json").write_bytes(b'{"resourceSpans": [\n{"scopeSpans": "none"}]}')
    result = run("import", tree, "-o", tmp_path / "out", status=1)
    *_, first, second = result.stderr.splitlines()
    assert "swe_agent/retried.traj:" in first
    assert "the file is cut off here" in first
    assert "otlp/agent.json: resourceSpans[0].scopeSpans: Expected `array`" in second
    assert result.stdout == f"8 of 10 recordings are in {tmp_path / 'out'}\n"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "swe_agent-try-shop-7.jsonl" in names
    assert len(names) == 8
    assert "ok" in run("validate", *(tmp_path / "out").iterdir()).stdout


def test_a_format_can_be_named(tmp_path):
    shutil.copy(OTHERS / "otlp" / "agent.json", tmp_path / "spans.txt")
    with pytest.raises(InvalidInput, match="nothing of a known format is here"):
        run("import", tmp_path, "-o", tmp_path / "out")
    run("import", "--format", "otlp", tmp_path / "spans.txt", "-o", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["spans.txt.jsonl"]
    assert "'x' is not one of" in run("import", "--format", "x", OTHERS, "-o", tmp_path, status=2).stderr


def test_durations_without_times_are_shown_as_such(tmp_path):
    run("import", OTHERS / "swe_agent" / "try", "-o", tmp_path)
    (path,) = tmp_path.iterdir()
    assert f"{path}: ok, 4 calls that took 13.4 s; when they ran is not known" in run("validate", path).stdout
    (row,) = [line for line in run("show", path).stdout.splitlines() if "pytest" in line]
    assert row.replace("│", " ").split()[:3] == ["–", "12.5", "s"]


def test_validate_says_what_is_in_a_file_or_what_is_wrong_with_it(recording, tmp_path):
    assert run("validate", recording).stdout == f"{recording}: ok, 5 calls, 8 samples, 7.0 s\n"
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(recording.read_bytes()[:-10])
    result = run("validate", cut, recording, status=1)
    assert f"{cut}:15: the file is cut off in the middle of this line" in result.stderr
    assert "ok, 5 calls" in result.stdout


def test_salvage_makes_a_whole_recording_of_a_cut_one(recording, tmp_path):
    cut, saved = tmp_path / "cut.jsonl", tmp_path / "saved.jsonl"
    cut.write_bytes(recording.read_bytes()[:-60])
    assert "the file is cut off" in run("salvage", cut, "-o", saved).stderr
    assert "ok, 4 calls, 8 samples" in run("validate", saved).stdout


def test_show_lists_the_calls_and_their_peaks(recording):
    output = run("show", recording).stdout
    (row,) = [line for line in output.splitlines() if "pytest -q" in line]
    assert "188 MiB" in row
    assert "Task" in output
    assert "≤ 300 ms" in output
    assert "5 calls, 8 samples, 7.0 s" in output


def test_show_sends_no_control_characters_to_the_terminal(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(
        '{"type":"agentcg.recording","version":1,"name":"[red]n","started":1}\n'
        '{"type":"call","id":"a","tool":"Bash","command":"\\u001b[2J[bold]x\\n","start_sec":1,"end_sec":2}\n'
        '{"type":"end","calls":1,"samples":0}\n'
    )
    output = run("show", path).stdout
    assert "\\x1b[2J[bold]x\\n" in output
    assert "[red]n" in output
    assert "\x1b[2J" not in output


def test_a_broken_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(InvalidInput, match=r"none\.jsonl: cannot be read"):
        run("show", tmp_path / "none.jsonl")
