# SPDX-License-Identifier: Apache-2.0
"""The builtin that a persistent bash loads, so that what it starts runs in calls, and how it is compiled.

The source's own header says what it does and its limits.
"""

from __future__ import annotations

import os
from pathlib import Path

from agentcg.launcher import SOURCES
from agentcg.native import BIN, SHARED_FLAGS, compile_program, program_path

__all__ = ["BUILTIN", "NAME", "ORDER_BYTES", "build", "library_path"]

NAME = "agentcg-shell.so"
BUILTIN = "agentcg_shell"
"""What bash calls it."""
ORDER_BYTES = 8192
"""The size of the file that it reads."""

_SOURCES = (
    Path(__file__).resolve().parent / "builtin.c",
    *(SOURCES / name for name in ("json.c", "process.c", "say.c", "varlink.c")),
)


def library_path() -> str:
    """Return the absolute path of the shared object: the package's own, or one on PATH.

    :raises Unsupported: if there is none
    """
    return program_path(NAME)


def build(target_dir: str | os.PathLike[str] = BIN) -> Path:
    """Compile it into ``target_dir`` and return its path: see :func:`agentcg.native.compile_program`."""
    return compile_program(NAME, _SOURCES, target_dir, flags=SHARED_FLAGS)
