# SPDX-License-Identifier: Apache-2.0
"""Where the launcher ``agentcg-exec`` is, and how it is built from the C sources beside this file."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agentcg.errors import Unsupported

__all__ = ["FLAGS", "NAME", "build", "launcher_path"]

NAME = "agentcg-exec"

FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fstack-protector-strong", "-static", "-s")
"""How it is compiled. Static: it starts in well under a millisecond, and runs in any container."""

_SOURCES = Path(__file__).resolve().parent
_BUILD_SEC = 120


def launcher_path() -> str:
    """Return the absolute path of ``agentcg-exec``: ``$AGENTCG_EXEC``, the package's own, or one on PATH.

    :raises Unsupported: if there is none, or ``$AGENTCG_EXEC`` names something that cannot be executed
    """
    chosen = os.environ.get("AGENTCG_EXEC")
    if chosen:
        if not _is_program(chosen):
            raise Unsupported(
                f"AGENTCG_EXEC names {chosen!r}, which is not a program",
                hint=f"unset it, or let it name {NAME}",
            )
        return os.path.abspath(chosen)
    own = _SOURCES.parent / "bin" / NAME
    if _is_program(own):
        return str(own)
    found = shutil.which(NAME)
    if found:
        return os.path.abspath(found)
    raise Unsupported(
        f"{NAME} is neither in {own.parent} nor on PATH",
        hint="install a C compiler (Debian: apt install gcc libc6-dev) and then agentcg again, or set AGENTCG_EXEC",
    )


def build(target_dir: str | os.PathLike[str], *, flags: Sequence[str] = FLAGS) -> Path:
    """Compile ``agentcg-exec`` into ``target_dir``, which is made if need be, and return its path.

    The compiler is ``$CC``, else the first of cc, gcc and clang. The file is replaced in one step.

    :raises Unsupported: if there is no compiler, or it fails
    """
    compiler = _compiler()
    target = Path(target_dir) / NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    sources = sorted(str(source) for source in _SOURCES.glob("*.c"))
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as scratch:
        result = Path(scratch) / NAME
        try:
            done = subprocess.run(
                [*compiler, *flags, "-o", str(result), *sources],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_BUILD_SEC,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unsupported(
                f"{shlex.join(compiler)} cannot compile {NAME}: {error}", hint="set CC to a C compiler"
            ) from error
        if done.returncode:
            raise Unsupported(
                f"{shlex.join(compiler)} failed to compile {NAME}: {done.stderr.strip()[-2000:]}",
                hint="install the static C library (Debian: libc6-dev, Fedora: glibc-static), or set CC to musl-gcc",
            )
        result.replace(target)
    return target


def _is_program(path: str | os.PathLike[str]) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _compiler() -> list[str]:
    chosen = shlex.split(os.environ.get("CC", ""))
    if chosen:
        return chosen
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    raise Unsupported(
        f"there is no C compiler to build {NAME} with",
        hint="install one (Debian: apt install gcc libc6-dev), or set CC",
    )
