# SPDX-License-Identifier: Apache-2.0
"""Reading files of others: what is wrong is named with file and line, and what is only odd is read."""

from typing import Any

import msgspec
import pytest

from agentcg.errors import InvalidInput
from agentcg.model import COMMAND_MAX
from agentcg.trace import source
from agentcg.trace.source import command_of, convert_rows, cut, head, load, load_lines, seconds


class Row(msgspec.Struct):
    n: int


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (b'[{"n":\n1},\n{"n"', ":3", "the file is cut off here"),
        (b'{"n":\n"half of it', ":2", "the file is cut off here"),
        (b"", ":1", "the file is cut off here"),
        (b'{"n":\n1,}', ":2", "not JSON"),
        (b'{"n": 1}\n{"n": 2}', ":2", "not JSON: Extra data"),
        (b'{"n":\n"\xff"}', ":2", "not UTF-8: byte 0xff"),
        (b"[" * 100_000, ":1", "nested too deeply"),
        (b'{"n": "x"}', ": n", "Expected `int`, got `str`"),
        (b"{}", "", "missing required field `n`"),
        (b"[1]", "", "Expected `object`, got `array`"),
    ],
)
def test_a_broken_document_is_named_with_its_line_or_field(tmp_path, text, place, message):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(InvalidInput) as caught:
        load(path, Row)
    assert caught.value.place == f"{path}{place}"
    assert message in caught.value.detail


def test_a_missing_file_is_named_with_what_to_do(tmp_path):
    with pytest.raises(InvalidInput, match=r"none\.json: cannot be read: No such file or directory \(make it\)"):
        load(tmp_path / "none.json", Row, hint="make it")
    with pytest.raises(InvalidInput, match=r"none\.jsonl: cannot be read: No such file"):
        list(load_lines(tmp_path / "none.jsonl", Row))
    assert head(tmp_path / "none.json") == b""


@pytest.mark.parametrize(
    ("line", "place", "message"),
    [
        (b'{"n": 2', ":3", "the file is cut off here"),
        (b'{"n": nothing}\n', ":3", "not JSON: Expecting value at column 7"),
        (b'{"n": "\xe4"}\n', ":3", "not UTF-8: byte 0xe4"),
        (b'{"m": 2}\n', ":3", "missing required field `n`"),
        (b'{"n": ' + b"1" * 100 + b"}\n", ":3", "the line is longer than 64 bytes"),
    ],
)
def test_a_broken_line_is_named_and_those_before_it_are_read(tmp_path, monkeypatch, line, place, message):
    monkeypatch.setattr(source, "_LINE_MAX", 64)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n": 1}\n \n' + line)
    lines = load_lines(path, Row)
    assert next(lines) == (f"{path}:1", Row(1))
    with pytest.raises(InvalidInput) as caught:
        next(lines)
    assert caught.value.place == f"{path}{place}"
    assert message in caught.value.detail


def test_half_of_a_surrogate_pair_is_read_and_becomes_text_that_can_be_written(tmp_path):
    (tmp_path / "a.json").write_bytes(b'"cut \\ud83d"')
    assert cut(load(tmp_path / "a.json", str)) == "cut ?"


def test_a_row_is_named_by_its_number():
    with pytest.raises(InvalidInput) as caught:
        convert_rows("a.json: rows", [{"n": 1}, {"n": None}], Row)
    assert caught.value.place == "a.json: rows[1].n"


def test_times_are_seconds_since_the_epoch():
    assert seconds("t", "1970-01-01T00:00:01.500Z") == seconds("t", "1970-01-01T01:00:01.500+01:00") == 1.5
    assert seconds("t", "1970-01-01T00:00:02") == 2
    with pytest.raises(InvalidInput, match="t: 'soon' is no time"):
        seconds("t", "soon")


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ({"description": "tests", "command": "pytest"}, "pytest"),
        ({"file_path": "/a", "old_string": "x"}, "/a"),
        ({"code": "1 + 1"}, "1 + 1"),
        ({"command": ["a", "b"]}, ""),
        ({}, ""),
    ],
)
def test_the_command_of_a_tool_is_what_comes_nearest_to_one(arguments: dict[str, Any], command):
    assert command_of(arguments) == command


def test_a_long_command_is_cut():
    assert len(command_of({"command": "x" * 5000})) == COMMAND_MAX
    assert command_of({"command": "x" * 5000}).endswith("x…")
