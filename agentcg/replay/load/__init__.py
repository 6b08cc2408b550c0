# SPDX-License-Identifier: Apache-2.0
"""The follower ``agentcg-load``: where it is, and how it is built from the C source beside this file."""

from __future__ import annotations

import os
from pathlib import Path

from agentcg.native import BIN, compile_program, is_program

__all__ = ["NAME", "build", "load_path"]

NAME = "agentcg-load"

_SOURCE = Path(__file__).resolve().parent / "load.c"


def load_path() -> str:
    """Return the absolute path of ``agentcg-load``; it is built into the package's ``bin`` if it is not there.

    :raises Unsupported: if it can be neither found nor built
    """
    own = BIN / NAME
    # A source that is newer than the program: a checkout that has changed.
    if is_program(own) and (not _SOURCE.exists() or own.stat().st_mtime >= _SOURCE.stat().st_mtime):
        return str(own)
    return str(build())


def build(target_dir: str | os.PathLike[str] = BIN) -> Path:
    """Compile ``agentcg-load`` into ``target_dir`` and return its path: see :func:`agentcg.native.compile_program`."""
    return compile_program(NAME, [_SOURCE], target_dir)
