# SPDX-License-Identifier: Apache-2.0
"""sd_notify and socket activation, without systemd."""

import os
import socket
from pathlib import Path

import pytest

from agentcg.kernel import systemd


def test_nobody_wants_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert systemd.notify("READY=1") is False


@pytest.mark.parametrize("abstract", [False, True])
def test_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"@agentcg-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0"))
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert systemd.notify("READY=1") is True
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [("", None, None), ("0", None, None), ("x", None, None), ("4000000", None, 2.0), ("4000000", "1", None)],
)
def test_watchdog(monkeypatch: pytest.MonkeyPatch, usec: str, pid: str | None, seconds: float | None) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    assert systemd.watchdog_sec() == seconds


@pytest.mark.parametrize(("pid", "count"), [(None, None), ("1", "1"), ("ours", "0"), ("ours", None)])
def test_no_socket_was_passed(monkeypatch: pytest.MonkeyPatch, pid: str | None, count: str | None) -> None:
    for name, value in (("LISTEN_PID", pid), ("LISTEN_FDS", count)):
        monkeypatch.delenv(name, raising=False)
        if value:
            monkeypatch.setenv(name, str(os.getpid()) if value == "ours" else value)
    assert systemd.listen_socket() is None
