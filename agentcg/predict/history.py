# SPDX-License-Identifier: Apache-2.0
"""Every verdict, in SQLite, and what the calls of one kind came to.

A verdict is on its way to the disk when :meth:`Store.add` returns: it survives the daemon's death, though not always
the machine's (``synchronous=NORMAL`` in WAL mode, sqlite.org/pragma.html).
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from agentcg.errors import AgentcgError
from agentcg.model import CallRef, History, SessionRef, Verdict

__all__ = ["VERSION", "Store", "quantile", "summarise"]

VERSION = 2
"""Of the file's format."""
_RECENT = 64  # Calls of one kind that a summary looks at: old ones say little about today's code.
_KINDS = 4096  # Kinds kept in memory.
_SESSIONS = 5  # Sessions of one name whose peaks say what the next one will come to.

_SCHEMA = """
CREATE TABLE verdicts (
  id INTEGER PRIMARY KEY,
  tenant TEXT NOT NULL, session TEXT NOT NULL, call TEXT NOT NULL,
  owner_uid INTEGER NOT NULL, kind TEXT NOT NULL, tool TEXT NOT NULL, command TEXT NOT NULL, outcome TEXT NOT NULL,
  started REAL NOT NULL, duration_sec REAL NOT NULL, memory_peak INTEGER, cpu_sec REAL,
  verdict TEXT NOT NULL
);
CREATE INDEX verdicts_kind ON verdicts (kind, id);
CREATE INDEX verdicts_call ON verdicts (tenant, session, call, id);
"""
_SCHEMA_2 = """
CREATE TABLE sessions (
  id INTEGER PRIMARY KEY,
  tenant TEXT NOT NULL, session TEXT NOT NULL, opened REAL NOT NULL, memory_peak INTEGER NOT NULL
);
CREATE INDEX sessions_name ON sessions (tenant, session, id);
"""


_N = TypeVar("_N", int, float)


class _Past(NamedTuple):
    outcome: str
    duration_sec: float
    memory_peak: int | None


def summarise(past: Sequence[tuple[str, float, int | None]]) -> History:
    """Return what calls given as (outcome, duration in s, peak in bytes) came to."""
    peaks = sorted(peak for _, _, peak in past if peak is not None)
    durations = sorted(duration for outcome, duration, _ in past if outcome in ("ok", "exit_status"))
    return History(
        n=len(past),
        memory_peak_p95=quantile(peaks, 0.95),
        memory_peak_max=peaks[-1] if peaks else None,
        memory_limit_hits=sum(outcome == "memory_limit" for outcome, _, _ in past),
        duration_p95_sec=quantile(durations, 0.95),
    )


def quantile(ordered: Sequence[_N], q: float) -> _N | None:
    """Return the least value that ``q`` of all are not above (nearest rank), 0 < q <= 1; None of none."""
    return ordered[math.ceil(q * len(ordered)) - 1] if ordered else None


class Store:
    """The history of one host. ``path`` may be ``:memory:``.

    :raises AgentcgError: if the file cannot be used; the file is left as it is
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._kinds: OrderedDict[str, deque[_Past]] = OrderedDict()
        try:
            if path != ":memory:":
                os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o700, exist_ok=True)
                # Command lines may hold secrets; SQLite gives its other files the mode of this one.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None)
            self._migrate()
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
        except (OSError, sqlite3.Error) as error:
            raise AgentcgError(
                f"cannot use the history in {path}: {error}", hint="move the file away, or name another with --history"
            ) from error

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise AgentcgError(
                f"{self.path} was written by a newer agentcg (format {version}, this one knows {VERSION})",
                hint="upgrade agentcg, or name another file with --history",
            )
        if version == 0 and self._db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            raise AgentcgError(f"{self.path} is somebody else's database", hint="name another file with --history")
        missing = {0: _SCHEMA + _SCHEMA_2, 1: _SCHEMA_2}.get(version)
        if missing:
            self._db.executescript(f"BEGIN; {missing} PRAGMA user_version = {VERSION}; COMMIT;")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add(self, kind: str, owner_uid: int, verdict: Verdict) -> None:
        """Keep a verdict. ``kind`` is what groups calls that are alike, such as ``pytest`` or ``git status``.

        :raises AgentcgError: if it cannot be written
        """
        usage, ref = verdict.usage, verdict.ref
        names = (ref.session.tenant, ref.session.session, ref.call, owner_uid, kind, verdict.tool, verdict.command)
        numbers = (verdict.started, usage.duration_sec, usage.memory_peak, usage.cpu_sec)
        self._insert(
            "INSERT INTO verdicts (tenant, session, call, owner_uid, kind, tool, command, outcome, started, "
            "duration_sec, memory_peak, cpu_sec, verdict) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*names, verdict.outcome, *numbers, msgspec.json.encode(verdict).decode()),
        )
        if kind in self._kinds:
            self._kinds[kind].append(_Past(verdict.outcome, usage.duration_sec, usage.memory_peak))

    def add_session(self, ref: SessionRef, opened: float, memory_peak: int) -> None:
        """Keep what a session came to, in bytes. :raises AgentcgError: if it cannot be written"""
        self._insert(
            "INSERT INTO sessions (tenant, session, opened, memory_peak) VALUES (?, ?, ?, ?)",
            (ref.tenant, ref.session, opened, memory_peak),
        )

    def session_peak(self, ref: SessionRef) -> int | None:
        """Return the most that the last few sessions of that name came to, in bytes; None if there was none."""
        (peak,) = self._db.execute(
            "SELECT MAX(memory_peak) FROM (SELECT memory_peak FROM sessions WHERE tenant = ? AND session = ? "
            "ORDER BY id DESC LIMIT ?)",
            (ref.tenant, ref.session, _SESSIONS),
        ).fetchone()
        return None if peak is None else int(peak)

    def _insert(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise AgentcgError(
                f"cannot write to the history in {self.path}: {error}", hint="is the disk full?"
            ) from error

    def summary(self, kind: str) -> History:
        """Return what the last calls of ``kind`` came to."""
        past = self._kinds.get(kind)
        if past is None:
            rows = self._db.execute(
                "SELECT outcome, duration_sec, memory_peak FROM verdicts WHERE kind = ? ORDER BY id DESC LIMIT ?",
                (kind, _RECENT),
            )
            past = self._kinds[kind] = deque((_Past(*row) for row in reversed(rows.fetchall())), maxlen=_RECENT)
            if len(self._kinds) > _KINDS:
                self._kinds.popitem(last=False)
        self._kinds.move_to_end(kind)
        return summarise(past)

    def find(self, ref: CallRef) -> tuple[Verdict, int] | None:
        """Return the verdict on the last call of that name and its owner's uid, or None if there was none."""
        row = self._db.execute(
            "SELECT verdict, owner_uid FROM verdicts WHERE tenant = ? AND session = ? AND call = ? "
            "ORDER BY id DESC LIMIT 1",
            (ref.session.tenant, ref.session.session, ref.call),
        ).fetchone()
        return (msgspec.json.decode(row[0], type=Verdict), row[1]) if row else None

    def recent(self, limit: int = 50) -> Iterator[dict[str, object]]:
        """Yield the last verdicts, the newest first, as they were kept."""
        for (text,) in self._db.execute("SELECT verdict FROM verdicts ORDER BY id DESC LIMIT ?", (limit,)):
            yield json.loads(text)
