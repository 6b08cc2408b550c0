# SPDX-License-Identifier: Apache-2.0
"""With systemd: a delegated scope of our own. Run by `scripts/vm test --systemd -- tests/kernel/test_systemd.py`."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentcg.api.client import Client

pytestmark = pytest.mark.skipif(not os.path.isdir("/run/systemd/system"), reason="systemd is not PID 1 here")


class Service:
    """A daemon that was told no root."""

    def __init__(self, directory: Path) -> None:
        self.socket = "/run/agentcg-systemd.sock"
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, tools: Any) -> None:
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["agentcg", "daemon", "-v", "--socket", self.socket, "--history", str(self.directory / "h")],
                stderr=log,
            )

        def answers() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, (self.directory / "log").read_text()
            try:
                with Client(self.socket) as client:
                    return client.status().pid == self.process.pid
            except Exception:
                return False

        tools.wait_for(answers, 90)


@pytest.fixture
def service(tmp_path: Path, tools: Any) -> Iterator[Service]:
    made = Service(tmp_path)
    made.start(tools)
    yield made
    print((tmp_path / "log").read_text())
    assert made.process is not None
    subprocess.run(["systemctl", "kill", "--signal=KILL", "agentcg.scope"], check=False)
    made.process.kill()
    made.process.wait(20)
    tools.wait_for(lambda: not os.path.isdir("/sys/fs/cgroup/system.slice/agentcg.scope"))


def test_the_scope_is_delegated_and_ours(service: Service, tools: Any) -> None:
    with Client(service.socket) as client:
        status = client.status()
        assert status.root == "/system.slice/agentcg.scope"
        assert status.missing == []
    shown = subprocess.run(
        ["systemctl", "show", "agentcg.scope", "--property", "Delegate,ActiveState"], capture_output=True, text=True
    ).stdout
    assert "Delegate=yes" in shown
    assert "ActiveState=active" in shown
    assert service.process is not None
    cgroup = Path(f"/proc/{service.process.pid}/cgroup").read_text().strip()
    assert cgroup == "0::/system.slice/agentcg.scope/supervisor"


def test_calls_are_limited_and_found_again(service: Service, tools: Any) -> None:
    client = Client(service.socket)
    client.session("s1", leased=False)
    greedy = client.call(["x"], session="s1", id="c1", memory_max=64 << 20)
    process = greedy.popen(["sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1; exit 0"])
    assert process.wait(60) == -9
    assert greedy.end(signal=9).outcome == "memory_limit"
    kept = client.call(["sleep", "1000"], session="s1", id="c2", leased=False)
    running = kept.popen()
    assert service.process is not None
    service.process.send_signal(signal.SIGKILL)
    service.process.wait(20)
    assert running.poll() is None
    service.start(tools)
    cgroup = Path(f"/proc/{service.process.pid}/cgroup").read_text().strip()
    assert cgroup == "0::/system.slice/agentcg.scope/supervisor"
    with Client(service.socket) as client:
        assert [call.call for call in client.calls()] == ["u0/s1/c2"]
        assert client.kill("u0/s1/c2", "the test is over").outcome == "killed"
        assert running.wait(20) == -9
        client.close_session("s1")
