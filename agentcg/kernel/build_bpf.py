# SPDX-License-Identifier: Apache-2.0
"""Compiles the programs of ``bpf/`` to objects that load on any kernel with BTF.

``python -m agentcg.kernel.build_bpf`` does it in a checkout. A wheel carries the objects: no clang is needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from agentcg.errors import AgentcgError, Unsupported

__all__ = ["OBJECTS", "build", "object_path", "require_object"]

OBJECTS = Path(__file__).resolve().parents[1] / "bpf"
"""Where the package keeps the compiled objects."""

_SOURCES = Path(__file__).resolve().parents[2] / "bpf"
_FLAGS = ("-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter")
_BUILD_SEC = 120
_HINT = "install clang and libbpf's headers (Debian: apt install clang llvm libbpf-dev)"


def object_path(name: str) -> Path:
    """Return where the object of program ``name`` is; it may not have been built."""
    return OBJECTS / f"{name}.bpf.o"


def require_object(path: Path) -> Path:
    """Return ``path``, an object's. :raises Unsupported: if it is not there"""
    if not path.is_file():
        hint = "install agentcg from a wheel, or build them: python -m agentcg.kernel.build_bpf"
        raise Unsupported(f"there is no {path.name} in {path.parent}", hint=hint)
    return path


def build(sources: Path = _SOURCES, target: Path = OBJECTS, *, clang: str | None = None) -> list[Path]:
    """Compile every ``*.bpf.c`` of ``sources`` into ``target`` and return the objects. Each is replaced in one step.

    :param clang: the compiler; by default ``$CLANG``, or clang
    :raises Unsupported: if there is none, or it fails
    """
    compiler = clang or os.environ.get("CLANG") or "clang"
    if shutil.which(compiler) is None:
        raise Unsupported(f"there is no {compiler} to build the BPF programs with", hint=_HINT)
    target.mkdir(parents=True, exist_ok=True)
    return [_compile(compiler, source, target) for source in sorted(sources.glob("*.bpf.c"))]


def _compile(compiler: str, source: Path, target: Path) -> Path:
    # clang's BPF target does not know where Debian keeps the architecture's own headers (asm/types.h).
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    includes = ("-idirafter", f"/usr/include/{multiarch}") if multiarch else ()
    result = target / f"{source.name.removesuffix('.c')}.o"
    with tempfile.TemporaryDirectory(dir=target, prefix=".build-") as scratch:
        made = Path(scratch) / result.name
        command = [compiler, *_FLAGS, *includes, "-c", str(source), "-o", str(made)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_BUILD_SEC)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unsupported(f"{compiler} cannot compile {source.name}: {error}", hint=_HINT) from error
        if done.returncode:
            raise Unsupported(f"{compiler} failed to compile {source.name}: {done.stderr.strip()[-2000:]}", hint=_HINT)
        _strip(made)
        made.replace(result)
    return result


def _strip(path: Path) -> None:
    """Drop DWARF, which -g is not for, and keep BTF. Without the tool the object is larger, that is all."""
    tool = shutil.which("llvm-strip")
    if tool is not None:
        subprocess.run([tool, "-g", str(path)], check=False, capture_output=True, timeout=_BUILD_SEC)


if __name__ == "__main__":
    try:
        for built in build():
            print(built)
    except AgentcgError as error:
        sys.exit(f"build_bpf: {error}")
