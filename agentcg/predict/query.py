# SPDX-License-Identifier: Apache-2.0
"""Questions to the history: past verdicts, and what the calls of a group came to. The file is only read."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from agentcg.errors import AgentcgError
from agentcg.model import Verdict
from agentcg.predict.history import VERSION, quantile

__all__ = ["BY", "By", "Filter", "Group", "Reader"]

By: TypeAlias = Literal["kind", "command", "tool", "session", "outcome"]
BY: dict[By, str] = {
    "kind": "kind",
    "command": "command",
    "tool": "tool",
    "session": "tenant || '/' || session",
    "outcome": "outcome",
}
"""What calls can be grouped by, and the columns that are that."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which calls. What is None or empty is not asked for."""

    tool: str | None = None
    kind: str | None = None
    """The words that group calls which are alike, such as ``pytest`` or ``git status``."""
    command: str | None = None
    """What stands somewhere in the command."""
    session: str | None = None
    """Its name, or TENANT/SESSION."""
    outcomes: tuple[str, ...] = ()
    since: float | None = None
    """Begun at this time or later, in seconds since the epoch."""

    def where(self) -> tuple[str, list[object]]:
        """Return the condition of an SQL statement, and its values."""
        tests: list[tuple[str, list[object]]] = [("1", [])]
        if self.tool is not None:
            tests.append(("tool = ?", [self.tool]))
        if self.kind is not None:
            tests.append(("kind = ?", [self.kind]))
        if self.command is not None:
            tests.append(("instr(command, ?) > 0", [self.command]))
        if self.session is not None:
            tests.append(("? IN (session, tenant || '/' || session)", [self.session]))
        if self.outcomes:
            tests.append((f"outcome IN ({', '.join('?' * len(self.outcomes))})", list(self.outcomes)))
        if self.since is not None:
            tests.append(("started >= ?", [self.since]))
        return " AND ".join(test for test, _ in tests), [value for _, values in tests for value in values]


@dataclass(slots=True)
class Group:
    """Calls that have something in common."""

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    durations: list[float] = field(default_factory=list)
    """In seconds."""
    peaks: list[int] = field(default_factory=list)
    """In bytes, of the calls of which it is known."""

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.durations)

    def figures(self) -> dict[str, Any]:
        """Return what there is to say of it; quantiles are values that were seen (nearest rank)."""
        found: dict[str, Any] = {"name": self.name, "n": self.n, "outcomes": dict(self.outcomes.most_common())}
        for name, values in (("durationSec", sorted(self.durations)), ("memoryPeak", sorted(self.peaks))):
            found[name] = {label: quantile(values, q) for label, q in (("p50", 0.5), ("p95", 0.95), ("max", 1.0))}
        return found


class Reader:
    """The history in a file. A context manager.

    :raises AgentcgError: if it is not there, may not be read, or is not a history
    """

    def __init__(self, path: str) -> None:
        try:
            with open(path, "rb"):  # SQLite does not say why it cannot.
                pass
            self._db = sqlite3.connect(f"{Path(os.path.abspath(path)).as_uri()}?mode=ro", uri=True)
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
        except FileNotFoundError as error:
            hint = "a daemon makes it when it starts; name another with --history"
            raise AgentcgError(f"there is no history in {path}", hint=hint) from error
        except (OSError, sqlite3.Error) as error:
            hint = "run as root, or name another with --history"
            raise AgentcgError(f"cannot read the history in {path}: {error}", hint=hint) from error
        if not 0 < version <= VERSION:
            self._db.close()
            hint = "name another with --history, or upgrade agentcg"
            raise AgentcgError(f"{path} is no history of this version of agentcg", hint=hint)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def verdicts(self, asked: Filter, limit: int) -> Iterator[Verdict]:
        """Yield the last ``limit`` verdicts, the newest first."""
        where, values = asked.where()
        statement = f"SELECT verdict FROM verdicts WHERE {where} ORDER BY id DESC LIMIT ?"  # noqa: S608  no word of theirs
        for (text,) in self._db.execute(statement, (*values, limit)):
            yield msgspec.json.decode(text, type=Verdict)

    def groups(self, asked: Filter, by: By) -> list[Group]:
        """Return what calls have in common, the largest group first."""
        where, values = asked.where()
        statement = f"SELECT {BY[by]}, outcome, duration_sec, memory_peak FROM verdicts WHERE {where}"  # noqa: S608
        found: dict[str, Group] = {}
        for name, outcome, duration, peak in self._db.execute(statement, values):
            group = found.setdefault(name, Group(name))
            group.outcomes[outcome] += 1
            group.durations.append(duration)
            if peak is not None:
                group.peaks.append(peak)
        return sorted(found.values(), key=lambda group: (-group.n, group.name))
