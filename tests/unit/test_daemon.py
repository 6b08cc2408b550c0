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


G, M = 1 << 30, 1 << 20
TOTAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("text", "given", "expected"),
    [
        ("max\n", None, TOTAL),
        ("9" * 19 + "\n", None, TOTAL),
        (f"{G}\n", None, G - 64 * M),
        (f"{64 * M}\n", None, 32 * M),
        (f"{G + 64 * M}\n", G, G),
        ("max\n", 2 * TOTAL, TOTAL),
    ],
)
def test_capacity_is_what_the_sessions_may_use_beside_the_daemon(
    root: Root,
    cgroups,  # type: ignore[no-untyped-def]
    text: str,
    given: int | None,
    expected: int,
) -> None:
    cgroups.set("", "memory.max", text)
    assert daemon._capacity(root, given) == pytest.approx(expected, rel=0.01)


def test_the_daemons_own_memory_is_not_taken_from_the_sessions(root: Root, cgroups) -> None:  # type: ignore[no-untyped-def]
    """Otherwise memory runs out in the root before the sessions come to their wall, and the OOM killer is first."""

    def limits() -> tuple[str, str]:
        return cgroups.text("", "memory.max"), cgroups.text("", "memory.swap.max")

    daemon._limit(root, G)
    assert limits() == (str(G + 64 * M), "0")
    daemon._limit(root, G, swap=True)  # The tenants' own limits count.
    assert limits() == (str(G + 64 * M), "max")
    daemon._limit(root, None)  # The next one is not limited.
    assert limits() == ("max", "max")


def test_a_limit_that_somebody_else_has_set_is_left(root: Root, cgroups) -> None:  # type: ignore[no-untyped-def]
    cgroups.set("", "memory.max", str(8 * G))
    daemon._limit(root, None)
    assert cgroups.text("", "memory.max") == str(8 * G)
