# SPDX-License-Identifier: Apache-2.0
"""A shell that does not load the builtin. For one that does, see tests/kernel/test_swe_rex.py."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentcg import native
from agentcg.errors import Unsupported
from agentcg.runtimes.persistent_shell import PersistentShell


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PersistentShell]:
    (tmp_path / "agentcg-shell.so").touch(0o755)
    monkeypatch.setattr(native, "BIN", tmp_path)
    session: Any = SimpleNamespace(name="u0/fix", socket="/run/s")
    made = PersistentShell(session)
    yield made
    made.close()
    made.close()


def test_the_shell_is_told_where_to_go_while_it_loads(shell: PersistentShell, tmp_path: Path) -> None:
    *words, file = shell.loading().split()
    assert words == ["enable", "-f", f"{tmp_path}/agentcg-shell.so", "agentcg_shell", "&&", "agentcg_shell"]
    request = '{"method": "dev.agentcg.Sessions.Enter", "parameters": {"session": "u0/fix"}}'
    assert Path(file).read_bytes().rstrip(b"\0").decode() == f"\n\n/run/s\n{request}"
    with pytest.raises(Unsupported):
        shell.loaded(os.getpid(), "")
    assert Path(file).read_bytes()[0] == 0


def test_a_shell_that_cannot_load_it_is_refused_with_what_it_said(shell: PersistentShell) -> None:
    with pytest.raises(Unsupported, match=r"cannot load agentcg-shell.so: bash: enable: no such thing \(use a bash of"):
        shell.loaded(os.getpid(), "bash: enable:\r\nno such thing\n")


def test_without_the_shared_object_it_says_what_to_install(
    shell: PersistentShell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agentcg-shell.so").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match="install a C compiler"):
        shell.loading()


def test_nothing_runs_in_a_shell_that_was_given_nothing(shell: PersistentShell) -> None:
    assert not shell.running
    assert shell.end(exit_code=0) == ""
    shell.release()
