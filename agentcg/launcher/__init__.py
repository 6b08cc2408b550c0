# SPDX-License-Identifier: Apache-2.0
"""Where the launcher ``agentcg-exec`` is, and how it is built from the C sources beside this file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from agentcg.errors import Unsupported
from agentcg.native import BIN, FLAGS, compile_program, is_program, program_path

__all__ = ["NAME", "SOURCES", "build", "launcher_path"]

NAME = "agentcg-exec"

SOURCES = Path(__file__).resolve().parent


def launcher_path() -> str:
    """Return the absolute path of ``agentcg-exec``: ``$AGENTCG_EXEC``, the package's own, or one on PATH.

    :raises Unsupported: if there is none, or ``$AGENTCG_EXEC`` names something that cannot be executed
    """
    chosen = os.environ.get("AGENTCG_EXEC")
    if chosen:
        if not is_program(chosen):
            raise Unsupported(
                f"AGENTCG_EXEC names {chosen!r}, which is not a program",
                hint=f"unset it, or let it name {NAME}",
            )
        return os.path.abspath(chosen)
    return program_path(NAME)


def build(target_dir: str | os.PathLike[str] = BIN, *, flags: Sequence[str] = FLAGS) -> Path:
    """Compile ``agentcg-exec`` into ``target_dir`` and return its path: see :func:`agentcg.native.compile_program`."""
    return compile_program(NAME, sorted(SOURCES.glob("*.c")), target_dir, flags=flags)
