# SPDX-License-Identifier: Apache-2.0
"""What every file keeps to: the linters' rules, a licence, and nothing about where or how it was written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PYTHON = ["agentcg", "tests", "scripts"]
SCRIPTS = [path for path in ("scripts/vm", "scripts/bench") if (TOP / path).is_file()]
FORBIDDEN = re.compile(r"(?<![\w.])/work/|/tmp/v/|\bissue #|\bTODO\b|\bFIXME\b")
SHELLS = (b"#!/bin/sh", b"#!/bin/bash")
TEXT = {".py", ".c", ".h", ".md", ".toml", ".sh", ""}


def files() -> list[Path]:
    # What git ignores is built or downloaded, and no concern of ours; without git, everything that is not hidden.
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=TOP, capture_output=True, text=True
    )
    names = listed.stdout.splitlines() if listed.returncode == 0 else []
    found = [TOP / name for name in names] or [path for path in TOP.rglob("*") if "/." not in str(path)]
    return [path for path in found if path.is_file() and path.suffix in TEXT]


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=["check", "format"])
def test_ruff(arguments: list[str]) -> None:
    run("ruff", *arguments, *PYTHON, *SCRIPTS)


def test_types() -> None:
    run("mypy")


def test_shell_scripts() -> None:
    scripts = [path for path in files() if path.suffix in (".sh", "") and path.read_bytes()[:16].startswith(SHELLS)]
    assert len(scripts) > 3
    done = subprocess.run(["shellcheck", *scripts], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_file_speaks_of_where_it_was_written() -> None:
    found = [
        f"{path.relative_to(TOP)}:{number}: {line.strip()[:100]}"
        for path in files()
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if FORBIDDEN.search(line)
    ]
    assert found == []


def test_every_source_file_names_its_licence() -> None:
    sources = [path for path in files() if path.suffix in (".py", ".c", ".h")]
    assert sources
    head = {path: path.read_text()[:200] for path in sources}
    unnamed = [str(path.relative_to(TOP)) for path, text in head.items() if "SPDX-License-Identifier:" not in text]
    assert unnamed == []
