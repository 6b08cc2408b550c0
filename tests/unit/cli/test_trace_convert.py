# SPDX-License-Identifier: Apache-2.0
"""``agentcg trace convert`` from outside."""

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentcg.cli.trace import trace
from agentcg.errors import AgentcgError

OTHERS = Path(__file__).parents[1] / "trace" / "data"


def run(*arguments, status=0):
    result = CliRunner().invoke(trace, ["convert", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def test_all_calls_of_a_set_become_one_table(tmp_path):
    run(OTHERS, tmp_path / "calls.csv", "--to", "csv")
    with open(tmp_path / "calls.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 39
    assert len({row["recording"] for row in rows}) == 11
    assert [path.name for path in tmp_path.iterdir()] == ["calls.csv"]


def test_what_has_no_times_is_named_and_the_others_become_spans(tmp_path):
    result = run(OTHERS, tmp_path / "spans.jsonl", "--to", "otlp", status=1)
    assert len((tmp_path / "spans.jsonl").read_text().splitlines()) == 8
    assert result.stderr.count("a span has a date and a time") == 3
    assert json.loads((tmp_path / "spans.jsonl").read_text().splitlines()[0])["resourceSpans"]


def test_a_place_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(AgentcgError, match="cannot be written: No such file"):
        run(OTHERS, tmp_path / "none" / "calls.csv", "--to", "csv")
    with pytest.raises(AgentcgError, match="cannot be written: Is a directory"):
        run(OTHERS, tmp_path, "--to", "csv")
    assert list(tmp_path.parent.glob(f"{tmp_path.name}.part")) == []
