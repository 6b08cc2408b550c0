# SPDX-License-Identifier: Apache-2.0
"""What the commands of ``agentcg trace`` share: reading many recordings, and showing text of others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

from agentcg.errors import InvalidInput
from agentcg.trace.model import Recording
from agentcg.trace.registry import IMPORTERS, RECORDINGS, find_sources

__all__ = ["read_all", "shown", "with_progress"]

_T = TypeVar("_T")


def read_all(paths: Sequence[Path], failures: list[str]) -> Iterator[Recording]:
    """Yield every recording, ours or of another format, at or below ``paths``. What is broken is told to ``failures``.

    :raises InvalidInput: if nothing of a known format is at one of ``paths``
    """
    found = [item for path in paths for item in find_sources(path, (RECORDINGS, *IMPORTERS))]
    for importer, source in with_progress(found, "reading"):
        try:
            yield from importer.read(source)
        except InvalidInput as error:
            failures.append(str(error))


def with_progress(items: Sequence[_T], what: str) -> Iterator[_T]:
    """The items; a bar on the terminal if they take longer than a second."""
    console = Console(stderr=True)
    began = time.monotonic()
    progress = Progress(console=console, disable=not console.is_terminal, transient=True)
    task = progress.add_task(what, total=len(items))
    try:
        for item in items:
            yield item
            progress.advance(task)
            if time.monotonic() - began > 1:
                progress.start()
    finally:
        progress.stop()


def shown(text: str) -> str:
    """``text`` on one line, with nothing in it that a terminal would act on."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
