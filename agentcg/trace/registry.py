# SPDX-License-Identifier: Apache-2.0
"""The formats that can be read, and which of them a file or a directory is in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentcg.errors import InvalidInput
from agentcg.trace import agentcgroup, agentcgroup_ebpf, claude_code, mini_swe_agent, openhands, otlp, swe_agent
from agentcg.trace.format import read
from agentcg.trace.importer import Importer, Source, files_that, safe_name

__all__ = ["IMPORTERS", "RECORDINGS", "find_sources", "named"]

RECORDINGS = Importer(
    name="agentcg",
    looks_for='files that begin {"type":"agentcg.recording"',
    find=lambda path: files_that(path, (".jsonl",), lambda text: text.startswith(b'{"type":"agentcg.recording"')),
    read=lambda source: [read(source.path)],
)
"""Recordings of our own."""

IMPORTERS = (
    agentcgroup_ebpf.IMPORTER,
    agentcgroup.IMPORTER,
    claude_code.IMPORTER,
    mini_swe_agent.IMPORTER,
    swe_agent.IMPORTER,
    openhands.IMPORTER,
    otlp.IMPORTER,
)
"""Those of others. What one has found, those after it do not look into."""

_SUFFIXES = (".traj.json", ".traj", ".jsonl", ".json")


def named(name: str) -> Importer:
    """Return the importer of that name. :raises InvalidInput: if there is none"""
    for importer in IMPORTERS:
        if importer.name == name:
            return importer
    raise InvalidInput("--format", f"there is no format {name[:80]!r}", hint=f"there are {', '.join(_names())}")


def _names() -> list[str]:
    return [importer.name for importer in IMPORTERS]


def find_sources(
    path: Path, importers: Sequence[Importer] = IMPORTERS, *, include_start: bool = True
) -> list[tuple[Importer, Source]]:
    """Return what can be read at or below ``path``, and by which importer.

    :param importers: those that are tried, in this order; with a single one a file is taken for its format unseen
    :raises InvalidInput: if there is nothing, saying what was looked for
    """
    if not path.exists():
        raise InvalidInput(str(path), "there is no such file or directory")
    found: list[tuple[Importer, Source]] = []
    claimed: set[Path] = set()
    for importer in importers:
        items = [path] if len(importers) == 1 and path.is_file() else importer.find(path)
        free = [item for item in items if claimed.isdisjoint((item, *item.parents))]
        found += [(importer, Source(item, _name(path, item), include_start)) for item in free]
        claimed.update(free)
    if not found:
        tried = "; ".join(f"{importer.name}: {importer.looks_for}" for importer in importers)
        hint = "" if len(importers) == 1 else "'agentcg trace import --format NAME' takes a file for one of them"
        raise InvalidInput(str(path), f"nothing of a known format is here; looked for {tried}", hint=hint)
    return found


def _name(root: Path, path: Path) -> str:
    """A name that no other source below ``root`` has: the way there, without what repeats."""
    parts = list(path.relative_to(root).parts) or [path.absolute().name]
    suffix = next((suffix for suffix in _SUFFIXES if parts[-1].endswith(suffix)), "")
    parts[-1] = parts[-1].removesuffix(suffix)
    once = [part for part, before in zip(parts, [None, *parts], strict=False) if part and part != before]
    return safe_name("-".join(once))
