# SPDX-License-Identifier: Apache-2.0
"""Questions to the history."""

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from agentcg.errors import AgentcgError
from agentcg.model import CallRef, Limits, SessionRef, Usage, Verdict
from agentcg.predict.history import Store
from agentcg.predict.query import BY, Filter, Reader

M = 1 << 20


def verdict(number: int, **given: Any) -> Verdict:
    fields: dict[str, Any] = {
        "ref": CallRef(SessionRef("u0", given.pop("session", "a")), f"c{number}"),
        "outcome": "ok",
        "usage": Usage(duration_sec=float(number), memory_peak=given.pop("peak", number * M)),
        "limits": Limits(),
        "started": 1000.0 + number,
        "ended": 1001.0 + number,
        "tool": "Bash",
        "command": "pytest -x",
    }
    return Verdict(**(fields | given))


@pytest.fixture
def history(tmp_path: Path) -> str:
    path = str(tmp_path / "history.sqlite")
    store = Store(path)
    for number in range(1, 21):
        store.add("pytest", 0, verdict(number))
    store.add("git status", 0, verdict(21, command="git status", session="b", tool="Shell", peak=None))
    store.add("pytest", 0, verdict(22, outcome="memory_limit", session="b"))
    store.close()
    return path


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Filter(), [22, 21, 20]),
        (Filter(tool="Shell"), [21]),
        (Filter(kind="pytest", session="b"), [22]),
        (Filter(session="u0/b"), [22, 21]),
        (Filter(session="u1/b"), []),
        (Filter(command="status"), [21]),
        (Filter(command="%"), []),
        (Filter(outcomes=("memory_limit", "timed_out")), [22]),
        (Filter(since=1021.0), [22, 21]),
        (Filter(session="' OR 1 --"), []),
    ],
)
def test_what_is_asked_for_is_found_the_newest_first(history: str, asked: Filter, expected: list[int]) -> None:
    with Reader(history) as reader:
        assert [one.ref.call for one in reader.verdicts(asked, 3)] == [f"c{number}" for number in expected]


def test_a_group_says_what_its_calls_came_to(history: str) -> None:
    with Reader(history) as reader:
        tests, status = reader.groups(Filter(), "kind")
    assert tests.figures() == {
        "name": "pytest",
        "n": 21,
        "outcomes": {"ok": 20, "memory_limit": 1},
        "durationSec": {"p50": 11.0, "p95": 20.0, "max": 22.0},
        "memoryPeak": {"p50": 11 * M, "p95": 20 * M, "max": 22 * M},
    }
    assert status.figures()["memoryPeak"] == {"p50": None, "p95": None, "max": None}


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("session", ["u0/a", "u0/b"]),
        ("tool", ["Bash", "Shell"]),
        ("command", ["pytest -x", "git status"]),
        ("outcome", ["ok", "memory_limit"]),
    ],
)
def test_groups_are_by_what_is_asked_the_largest_first(history: str, by: Any, names: list[str]) -> None:
    with Reader(history) as reader:
        assert [group.name for group in reader.groups(Filter(), by)] == names
    assert by in BY


def test_it_reads_beside_a_daemon_that_writes_and_writes_nothing(history: str) -> None:
    store = Store(history)
    with Reader(history) as reader:
        store.add("make", 0, verdict(23))
        assert next(reader.verdicts(Filter(), 1)).ref.call == "c23"
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader._db.execute("DELETE FROM verdicts")
    store.close()


def test_what_is_no_history_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(AgentcgError, match="there is no history in"):
        Reader(str(tmp_path / "none"))
    assert os.listdir(tmp_path) == []
    (tmp_path / "text").write_text("x" * 4096)
    with pytest.raises(AgentcgError, match="cannot read the history in"):
        Reader(str(tmp_path / "text"))
    sqlite3.connect(tmp_path / "other").execute("CREATE TABLE x (y)").connection.close()
    with pytest.raises(AgentcgError, match="is no history of this version"):
        Reader(str(tmp_path / "other"))
