# SPDX-License-Identifier: Apache-2.0
"""The small C programs of the package: how they are compiled, and where they are."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agentcg.errors import Unsupported

__all__ = ["BIN", "FLAGS", "SHARED_FLAGS", "compile_program", "is_program", "program_path"]

BIN = Path(__file__).resolve().parent / "bin"
"""Where the package keeps them."""

_FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fstack-protector-strong", "-s")
FLAGS = (*_FLAGS, "-static")
"""How they are compiled. Static: they start in well under a millisecond, and run in any container."""
SHARED_FLAGS = (*_FLAGS, "-shared", "-fPIC", "-fvisibility=hidden")
"""How a shared object is compiled that another program loads. Hidden: none of its names meets one of that program's."""

_BUILD_SEC = 120


def is_program(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a file that can be executed."""
    return os.path.isfile(path) and os.access(path, os.X_OK)


def program_path(name: str) -> str:
    """Return the absolute path of a program, the package's own or one on PATH.

    :raises Unsupported: if there is none
    """
    own = BIN / name
    if is_program(own):
        return str(own)
    found = shutil.which(name)
    if found:
        return os.path.abspath(found)
    raise Unsupported(
        f"{name} is neither in {own.parent} nor on PATH",
        hint="install a C compiler (Debian: apt install gcc libc6-dev) and then agentcg again",
    )


def compile_program(
    name: str, sources: Sequence[Path], target_dir: str | os.PathLike[str], *, flags: Sequence[str] = FLAGS
) -> Path:
    """Compile ``sources`` to the program ``name`` in ``target_dir``, which is made if need be, and return its path.

    The compiler is ``$CC``, else the first of cc, gcc and clang. The file is replaced in one step.

    :raises Unsupported: if there is no compiler, it fails, or the directory cannot be written
    """
    compiler = _compiler(name)
    target = Path(target_dir) / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as scratch:
            result = Path(scratch) / name
            done = subprocess.run(
                [*compiler, *flags, "-o", str(result), *map(str, sources)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_BUILD_SEC,
            )
            if done.returncode == 0:
                result.replace(target)
                return target
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unsupported(
            f"{shlex.join(compiler)} cannot compile {name} in {target.parent}: {error}", hint="set CC to a C compiler"
        ) from error
    raise Unsupported(
        f"{shlex.join(compiler)} failed to compile {name}: {done.stderr.strip()[-2000:]}",
        hint="install the static C library (Debian: libc6-dev, Fedora: glibc-static), or set CC to musl-gcc",
    )


def _compiler(name: str) -> list[str]:
    chosen = shlex.split(os.environ.get("CC", ""))
    if chosen:
        return chosen
    for known in ("cc", "gcc", "clang"):
        if shutil.which(known):
            return [known]
    raise Unsupported(
        f"there is no C compiler to build {name} with",
        hint="install one (Debian: apt install gcc libc6-dev), or set CC",
    )
