# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from click.testing import CliRunner

from agentcg.cli.policy import policy
from agentcg.errors import InvalidInput


def run(*words):
    return CliRunner().invoke(policy, words, catch_exceptions=True, env={"COLUMNS": "200"})


def test_list_names_the_presets():
    result = run("list")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == ["default", "shared-host", "strict"]


def test_show_prints_what_check_accepts(tmp_path):
    path = tmp_path / "copy.toml"
    path.write_text(run("show", "default").output)
    assert run("check", str(path)).output == f"{path}: ok, 6 classes and 7 rules\n"


def test_check_fails_on_what_is_no_policy(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("version = 1\n[class.test]\npid_max = 3\n")
    result = run("check", str(path))
    assert result.exit_code == 1
    assert isinstance(result.exception, InvalidInput)
    assert str(result.exception) == f"{path}: class.test.pid_max: is not a known key (did you mean 'pids_max'?)"


def test_explain_says_what_and_why():
    result = run("explain", "--capacity", "16G", "--memory", "64G", "--hint", "cpu:batch", "--", "pytest", "-x", "a b")
    assert result.exit_code == 0
    assert "pytest -x 'a b'" in result.output
    assert "test (rule 1: pytest)" in result.output
    assert "declared by the intent, limited to what the session's budget allows" in result.output
    assert "Note: memory: 64.0 GiB declared, 11.5 GiB given: the session's budget allows no more" in result.output
    assert "'batch' at priority 50, from the hint and from class 'test'" in result.output


def test_explain_shows_a_rate_in_words():
    def rate(hint):
        (line,) = [line for line in run("explain", "--hint", hint, "x").output.splitlines() if "network_rate" in line]
        return " ".join(line.split())

    assert rate("net:none") == "network_rate none declared by the hint"
    assert rate("net:10m") == "network_rate 10.0 MiB/s declared by the hint"
    assert rate("cpu:batch") == "network_rate unlimited class 'default' has no limit of its own"


def test_explain_in_json_has_the_names_of_the_socket():
    result = run("explain", "--policy", "strict", "--capacity", "8G", "--json", "git", "log")
    shown = json.loads(result.output)
    assert shown["callClass"] == "vcs"
    assert shown["limits"]["memoryMax"] == 256 << 20
    assert shown["limits"]["durationMaxSec"] == 120
    assert shown["limits"].keys() == shown["reasons"].keys()
    assert shown["budget"]["memoryMax"] == 1 << 30


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["--memory", "1.5g", "--", "x"], "--memory"),
        (["--hint", "memory:-1", "--", "x"], "--hint.memory"),
        (["--policy", "nope", "--", "x"], "policy"),
        (["--capacity", "0", "--", "x"], "--capacity"),
    ],
)
def test_bad_input_names_its_option(words, place):
    result = run("explain", *words)
    assert isinstance(result.exception, InvalidInput)
    assert result.exception.place == place


def test_markup_and_control_characters_in_a_command_are_shown_as_they_are():
    result = run("explain", "--capacity", "8G", "--", "echo [red]x[/red] \x1b[31m")
    assert "[red]x[/red]" in result.output
    assert "\x1b" not in result.output
