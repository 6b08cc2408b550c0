# SPDX-License-Identifier: Apache-2.0
"""``agentcg report`` without plotly.js: tests/unit/report/test_browser.py has it."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from agentcg.cli.report import report
from agentcg.errors import AgentcgError, InvalidInput, Unsupported


@pytest.fixture
def run(monkeypatch):
    """Run the command with a text in the place of plotly.js."""
    monkeypatch.setattr("agentcg.cli.report.load_library", lambda: "/* plotly.js */")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)

    def invoke(*arguments):
        return CliRunner().invoke(report, [str(each) for each in arguments], catch_exceptions=False)

    return invoke


def test_the_page_is_written_and_its_sentence_said(run, make_run, tmp_path):
    page = tmp_path / "report.html"
    result = run(make_run(tmp_path / "a", rounds=2), "-o", page)
    assert result.exit_code == 0
    assert result.stdout.startswith("a: Nothing can be told yet: 2 rounds are too few")
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(("arguments", "opened"), [([], 1), (["--open-nothing"], 0)])
def test_the_page_is_opened_where_there_is_a_display(run, make_run, tmp_path, monkeypatch, arguments, opened):
    urls = []
    monkeypatch.setattr("click.launch", urls.append)
    monkeypatch.setenv("DISPLAY", ":0")
    run(make_run(tmp_path / "a", rounds=1), "-o", tmp_path / "report.html", *arguments)
    assert urls == [(tmp_path / "report.html").as_uri()][:opened]


def test_a_folder_that_is_no_run_is_refused(run, tmp_path):
    with pytest.raises(InvalidInput, match=r"run.json: cannot be read.*a run's folder is what -o named"):
        run(tmp_path, "-o", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_cannot_be_written_is_an_error(run, make_run, tmp_path):
    with pytest.raises(AgentcgError, match=r"no/report.html: cannot be written: No such file.*choose another -o"):
        run(make_run(tmp_path / "a", rounds=1), "-o", tmp_path / "no" / "report.html")


def test_without_its_package_it_is_said_how_to_get_it(make_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(Unsupported, match=r"a report needs the Python package plotly.*pip install 'agentcg\[report\]'"):
        CliRunner().invoke(report, [str(tmp_path), "-o", "x"], catch_exceptions=False)


def test_figures_without_their_package_are_an_error(run, make_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(Unsupported, match=r"--figures needs the Python package kaleido \(pip install"):
        run(make_run(tmp_path / "a", rounds=1), "-o", tmp_path / "x.html", "--figures", tmp_path / "figures")


def test_it_is_a_command():
    said = subprocess.run(
        [sys.executable, "-c", "from agentcg.cli import main; main()", "report", "-h"], capture_output=True
    )
    assert b"RUN..." in said.stdout
