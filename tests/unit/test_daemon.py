# SPDX-License-Identifier: Apache-2.0
"""The daemon's start: one at a time, on a socket of its own."""

import os
import socket
import stat
from pathlib import Path

import pytest

from agentcg import daemon
from agentcg.cgroup.delegate import Root
from agentcg.cgroup.node import Inner
from agentcg.errors import AgentcgError


def test_anybody_may_connect(tmp_path: Path) -> None:
    path = tmp_path / "run" / "agentcg.sock"
    with daemon._bind(str(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755


def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    daemon._bind(path).close()
    with daemon._bind(path) as sock:
        sock.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)


def test_a_socket_that_somebody_listens_on_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    with daemon._bind(path) as first:
        first.listen()
        with pytest.raises(AgentcgError, match=f"another daemon listens on {path}"):
            daemon._bind(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)


def test_a_file_in_the_place_of_the_socket_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    path.write_text("mine")
    with pytest.raises(AgentcgError, match=f"cannot listen on {path}: Address already in use") as caught:
        daemon._bind(str(path))
    assert caught.value.hint == "name another --socket"
    assert path.read_text() == "mine"


def test_a_path_that_is_too_long_is_an_error_of_ours(tmp_path: Path) -> None:
    path = str(tmp_path / ("x" * 200))
    with pytest.raises(AgentcgError, match="cannot listen on"):
        daemon._bind(path)


def test_a_tree_has_one_daemon(tmp_path: Path) -> None:
    def root() -> Root:
        node = Inner(os.open(tmp_path, os.O_RDONLY), "x")
        return Root(node, str(tmp_path), "/x", frozenset(), ())

    first, second = root(), root()
    daemon._lock(first)
    with pytest.raises(AgentcgError, match=f"another daemon manages {tmp_path}") as caught:
        daemon._lock(second)
    assert "--root" in caught.value.hint
    first.node.close()
    daemon._lock(second)
    second.node.close()


@pytest.mark.parametrize(("text", "share"), [("max\n", 1.0), ("1048576\n", None), ("9" * 19 + "\n", 1.0)])
def test_capacity_is_what_the_root_may_use_and_the_machine_has(tmp_path: Path, text: str, share: float | None) -> None:
    (tmp_path / "memory.max").write_text(text)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with Inner(os.open(tmp_path, os.O_RDONLY), "x") as node:
        found = daemon._capacity(Root(node, "", "", frozenset(), ()))
    assert found == (1 << 20 if share is None else pytest.approx(total, rel=0.01))
