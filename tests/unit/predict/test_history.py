# SPDX-License-Identifier: Apache-2.0
"""The history: kept over restarts, summarised, and never written to when it is not ours."""

import dataclasses
import sqlite3
from pathlib import Path

import pytest

from agentcg.errors import AgentcgError
from agentcg.model import CallRef, History, Limits, Outcome, SessionRef, Usage, Verdict
from agentcg.predict.history import Store, summarise


def verdict(peak: int | None = 1000, *, outcome: Outcome = "ok", duration: float = 1.0, command: str = "x") -> Verdict:
    ref = CallRef(SessionRef("u0", "s1"), "c1")
    return Verdict(ref, outcome, Usage(duration, memory_peak=peak), Limits(), 0.0, duration, command=command)


def test_nothing_comes_to_nothing() -> None:
    assert summarise([]) == History(0)


def test_the_summary() -> None:
    past = [("ok", float(number), number * 10) for number in range(1, 101)]
    found = summarise([*past, ("memory_limit", 999.0, 5000), ("killed", 999.0, None)])
    assert found == History(102, memory_peak_p95=960, memory_peak_max=5000, memory_limit_hits=1, duration_p95_sec=95.0)


def test_a_call_that_was_cut_short_says_nothing_about_its_duration() -> None:
    assert summarise([("timed_out", 60.0, 1)]).duration_p95_sec is None


def test_verdicts_are_kept_over_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "history.sqlite")
    store = Store(path)
    for peak in (100, 300, 200):
        store.add("pytest", 7, verdict(peak, command="pytest \x1b 'ü'\n"))
    store.add("make", 7, verdict(9))
    before = store.summary("pytest")
    store.close()
    again = Store(path)
    assert again.summary("pytest") == before == History(3, 300, 300, 0, 1.0)
    assert [item["usage"]["memory_peak"] for item in again.recent(2)] == [9, 200]  # type: ignore[index]
    assert next(iter(again.recent()))["ref"] == {"session": {"tenant": "u0", "session": "s1"}, "call": "c1"}
    again.close()


def test_a_verdict_from_before_there_was_a_field_is_read_without_it(tmp_path: Path) -> None:
    path = str(tmp_path / "h")
    store = Store(path)
    kept = verdict(5)
    store.add("x", 7, dataclasses.replace(kept, usage=dataclasses.replace(kept.usage, refusals=3, left_behind=1)))
    store.close()
    old = sqlite3.connect(path)
    old.execute("UPDATE verdicts SET verdict = json_remove(verdict, '$.usage.refusals', '$.usage.left_behind')")
    old.commit()
    old.close()
    again = Store(path)
    assert again.find(kept.ref) == (kept, 7)
    again.close()


def test_what_is_in_memory_agrees_with_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "h")
    store = Store(path)
    store.summary("pytest")
    for peak in range(100):
        store.add("pytest", 7, verdict(peak))
        if peak % 20 == 19:
            fresh = Store(path)
            assert store.summary("pytest") == fresh.summary("pytest")
            fresh.close()
    assert store.summary("pytest").n == 64
    store.close()


def test_the_number_of_kinds_in_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentcg.predict.history._KINDS", 3)
    store = Store(":memory:")
    for kind in "abcde":
        store.add(kind, 7, verdict())
        assert store.summary(kind).n == 1
    assert len(store._kinds) == 3
    assert store.summary("a").n == 1


def test_a_file_that_is_no_history_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be looked at" * 100)
    with pytest.raises(AgentcgError, match=f"cannot use the history in {path}") as caught:
        Store(str(path))
    assert "--history" in caught.value.hint
    assert path.read_text().startswith("not a database")


def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE precious (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(AgentcgError, match=str(path)):
        Store(str(path))
    assert path.read_bytes() == before


def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "h"
    Store(str(path)).close()
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 7")
    newer.close()
    with pytest.raises(AgentcgError, match="was written by a newer agentcg \\(format 7, this one knows 2\\)"):
        Store(str(path))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AgentcgError, match="cannot use the history in"):
        Store(str(tmp_path / "file" / "h"))


def test_others_cannot_read_what_was_run(tmp_path: Path) -> None:
    path = tmp_path / "h"  # The folder is there already, and open to all.
    tmp_path.chmod(0o755)
    Store(str(path)).close()
    assert path.stat().st_mode & 0o077 == 0


def test_the_last_verdict_of_a_name_is_found_with_its_owner(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "h"))
    assert store.find(verdict().ref) is None
    store.add("x", 7, verdict(1))
    store.add("x", 8, verdict(2))
    assert store.find(verdict().ref) == (verdict(2), 8)
    assert store.find(CallRef(SessionRef("u0", "s1"), "c2")) is None
    store.close()


def test_a_history_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "h"))
    store.close()
    with pytest.raises(AgentcgError, match=f"cannot write to the history in {tmp_path}/h"):
        store.add("x", 7, verdict())


S1, S2 = SessionRef("u0", "s1"), SessionRef("u0", "s2")


def test_a_session_comes_to_the_most_of_its_last_five(tmp_path: Path) -> None:
    path = str(tmp_path / "h")
    store = Store(path)
    assert store.session_peak(S1) is None
    for peak in (900, 300, 500, 400, 200, 100):
        store.add_session(S1, 0.0, peak)
    store.add_session(S2, 0.0, 7)
    store.add_session(SessionRef("u1", "s1"), 0.0, 8)
    store.close()
    again = Store(path)
    assert (again.session_peak(S1), again.session_peak(S2)) == (500, 7)
    again.close()
    with pytest.raises(AgentcgError, match=f"cannot write to the history in {path}"):
        again.add_session(S1, 0.0, 1)


def test_a_history_of_the_first_format_is_kept_and_carried_on(tmp_path: Path) -> None:
    path = str(tmp_path / "h")
    store = Store(path)
    store.add("pytest", 7, verdict(100))
    store.close()
    old = sqlite3.connect(path)
    old.executescript("DROP TABLE sessions; PRAGMA user_version = 1")
    old.close()
    for _ in range(2):  # The second time it is of the present format.
        store = Store(path)
        assert store.summary("pytest").memory_peak_max == 100
        store.add_session(S1, 0.0, 5)
        assert store.session_peak(S1) == 5
        store.close()
