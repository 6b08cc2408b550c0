# SPDX-License-Identifier: Apache-2.0
"""What an importer is: how to find the recordings of one published format, and how to read them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from agentcg.trace.model import Recording
from agentcg.trace.source import head

__all__ = ["Importer", "Source", "files_that", "safe_name"]

_NOT_IN_NAMES = re.compile(r"[^\w.+=@-]+", re.ASCII)
_NAME_MAX = 200  # Characters: it becomes a file's name.


@dataclass(frozen=True, slots=True)
class Source:
    """A file or a directory that holds recorded sessions, usually one."""

    path: Path
    name: str
    """What to call the session, or what to begin its name with if there are several."""
    include_start: bool = True
    """Whether to keep the start of container and agent, where the format has one."""


@dataclass(frozen=True, slots=True)
class Importer:
    """One format."""

    name: str
    """What ``--format`` calls it."""
    looks_for: str
    """What ``find`` goes by, for people."""
    find: Callable[[Path], list[Path]]
    """Return what is of this format at or below a path. It looks at names and at how files begin."""
    read: Callable[[Source], list[Recording]]
    """Read all of one source. :raises InvalidInput: naming the file, and the line or the field that is broken"""


def files_that(path: Path, suffixes: Iterable[str], begins: Callable[[bytes], bool]) -> list[Path]:
    """Return ``path`` if it is a file that ``begins`` knows, else such files below it with one of ``suffixes``."""
    if path.is_file():
        found = [path]
    else:
        found = sorted(file for file in path.rglob("*") if file.name.endswith(tuple(suffixes)) and file.is_file())
    return [file for file in found if begins(head(file))]


def safe_name(text: str) -> str:
    """Return ``text`` as the name of a recording and of its file; the end of it, which tells more, if it is long."""
    return _NOT_IN_NAMES.sub("_", text)[-_NAME_MAX:].lstrip("-.") or "recording"
