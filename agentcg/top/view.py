# SPDX-License-Identifier: Apache-2.0
"""What is selected, typed and asked: what a key does to the view, and what it wants done. Pure, but for the view."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agentcg.top.rows import Row, Sort

__all__ = ["Amend", "Freeze", "Keys", "Kill", "Quit", "Thaw", "View"]

_SORTS: dict[str, Sort] = {"m": "memory", "c": "cpu", "t": "time"}
# What terminals send for keys: xterm's control sequences, invisible-island.net/xterm/ctlseqs. "Cursor keys".
_SEQUENCES = {
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
}
_SINGLE = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\b": "backspace"}
_STEPS = {"up": -1, "down": 1, "page up": -10, "page down": 10}


class Keys:
    """Makes keys of what a terminal sends, which may come in pieces."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._text = ""

    @property
    def waiting(self) -> bool:
        """Whether the beginning of a key is there: without the rest of it, soon, it is the escape key."""
        return bool(self._text)

    def feed(self, data: bytes) -> list[str]:
        """Return the keys that are whole by now: printable characters, and the names of others."""
        self._text += self._decoder.decode(data)
        found = []
        while self._text:
            size = self._size()
            if size is None:
                break
            part, self._text = self._text[:size], self._text[size:]
            key = _SEQUENCES.get(part) or _SINGLE.get(part) or (part if part.isprintable() else "")
            found += [key] if key else []
        return found

    def flush(self) -> list[str]:
        """Nothing more came."""
        self._text = ""
        return ["escape"]

    def _size(self) -> int | None:
        """The length of the first key; None if it is not whole."""
        if self._text[0] != "\x1b":
            return 1
        if len(self._text) < 3:
            return None
        if self._text[1] != "[":
            return 3 if self._text[1] == "O" else 1
        for index, char in enumerate(self._text[2:], 2):
            if "@" <= char <= "~":  # The end of a control sequence: ECMA-48, 5.4.
                return index + 1
        return None


@dataclass(frozen=True, slots=True)
class Kill:
    """End a call."""

    call: str


@dataclass(frozen=True, slots=True)
class Amend:
    """Change what a call may use, as a hint says."""

    call: str
    hint: str


@dataclass(frozen=True, slots=True)
class Freeze:
    """Freeze a call or a session by hand."""

    name: str


@dataclass(frozen=True, slots=True)
class Thaw:
    """Thaw what is frozen by hand."""

    name: str


@dataclass(frozen=True, slots=True)
class Quit:
    """Leave."""


Wish = Kill | Freeze | Thaw | Amend | Quit


@dataclass(slots=True)
class View:
    """What the keys have made of it."""

    sort: Sort = "memory"
    wanted: str = ""
    selected: str = ""
    """The name of the row, empty before the first."""
    asking: Literal["", "filter", "kill", "amend"] = ""
    subject: str = ""
    """The call that is asked about, whatever is selected by the time of the answer."""
    typed: str = ""
    message: str = ""
    """What became of the last thing that was asked."""
    trouble: str = ""
    """Why what is shown is old."""
    _at: int = 0

    def see(self, rows: Sequence[Row]) -> int:
        """The rows are others: return the one that is selected now, where the one before stood if it is gone."""
        names = [row.name for row in rows]
        self._at = names.index(self.selected) if self.selected in names else min(self._at, max(len(names) - 1, 0))
        self.selected = names[self._at] if names else ""
        return self._at

    def press(self, key: str, rows: Sequence[Row]) -> Wish | None:
        """Do what a key does, and return what it wants done."""
        self.message = ""
        if self.asking == "kill":
            return self._confirm(key)
        if self.asking:
            return self._type(key)
        if key in _STEPS and rows:
            self._at = min(max(self.see(rows) + _STEPS[key], 0), len(rows) - 1)
            self.selected = rows[self._at].name
        elif key in _SORTS:
            self.sort = _SORTS[key]
        elif key == "/":
            self.asking, self.typed = "filter", self.wanted
        elif key == "escape":
            self.wanted = ""
        elif key in ("k", "a"):
            self._ask("kill" if key == "k" else "amend")
        elif key == "f":
            return self._freeze(rows)
        return Quit() if key == "q" else None

    def _ask(self, what: Literal["kill", "amend"]) -> None:
        if self.selected.count("/") == 2:
            self.asking, self.subject, self.typed = what, self.selected, ""
        else:
            self.message = f"select a call to {what} it"

    def _freeze(self, rows: Sequence[Row]) -> Freeze | Thaw | None:
        row = next((row for row in rows if row.name == self.selected and row.kind != "tenant"), None)
        if row is None:
            self.message = "select a call or a session to freeze or thaw it"
            return None
        return Thaw(row.name) if row.by_hand else Freeze(row.name)

    def _confirm(self, key: str) -> Wish | None:
        self.asking = ""
        return Kill(self.subject) if key == "y" else None

    def _type(self, key: str) -> Wish | None:
        if key == "backspace":
            self.typed = self.typed[:-1]
        elif len(key) == 1:
            self.typed += key
        asked, typed = self.asking, self.typed
        if key in ("enter", "escape"):
            self.asking = ""
        if asked == "filter":
            self.wanted = "" if key == "escape" else typed
        elif key == "enter" and typed:
            return Amend(self.subject, typed)
        return None
