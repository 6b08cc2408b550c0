# SPDX-License-Identifier: Apache-2.0
"""What a command leaves running: killed, adopted by its agent, or left in its cgroup, as the policy says."""

import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

POLICY = """
version = 1
extends = "default"
[class.adopted]
background = "adopt"
[class.left]
background = "leave"
[[rule]]
tool = ["adopted"]
class = "adopted"
[[rule]]
tool = ["left"]
class = "left"
"""


FILE = Path("/run/agentcg-background.toml")


@pytest.fixture(scope="module", autouse=True)
def _policy() -> Iterator[None]:
    FILE.write_text(POLICY)
    yield
    FILE.unlink()


pytestmark = pytest.mark.parametrize("own_daemon", [("--policy", str(FILE))], indirect=True)


def left_running(session: Any, tool: str, **intent: Any) -> tuple[int, Any]:
    """Run a command that leaves a process behind; return its pid and the verdict."""
    with session.call(["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $! > /run/left"], tool=tool, **intent) as call:
        assert call.run() == 0
        verdict = call.end()
    return int(Path("/run/left").read_text()), verdict


def where(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::")
    except FileNotFoundError:
        return None


def test_by_default_it_ends_with_the_call(own_daemon: Any) -> None:
    with own_daemon.client() as client, client.session("s") as session:
        pid, verdict = left_running(session, "other")
        assert (verdict.outcome, where(pid)) == ("ok", None)


def test_an_agent_adopts_it(own_daemon: Any, tools: Any) -> None:
    with own_daemon.client() as client:
        with client.session("s") as session:
            pid, verdict = left_running(session, "adopted")
            assert verdict.outcome == "ok"
            assert where(pid) == "/agentcg-own/shared/u0/s/agent"
            assert not [path for path in own_daemon.left() if "/calls/" in path]
        tools.wait_for(lambda: where(pid) is None)


def test_it_is_left_under_its_limits_until_it_ends(own_daemon: Any, tools: Any) -> None:
    with own_daemon.client() as client:
        with client.session("s") as session:
            pid, verdict = left_running(session, "left", pids_max=9)
            assert client.calls() == []
            leaf = Path("/sys/fs/cgroup" + str(where(pid)))
            assert leaf.name == verdict.call.rpartition("/")[2]
            assert tools.text(leaf, "pids.max") == "9"
            second, _ = left_running(session, "left")
            (leaf / "cgroup.kill").write_text("1")
            tools.wait_for(lambda: not leaf.exists())
            assert where(second) is not None
        tools.wait_for(lambda: where(second) is None)
    assert own_daemon.left() == []


def test_the_next_daemon_knows_what_was_left(own_daemon: Any, tools: Any) -> None:
    with own_daemon.client() as client:
        client.session("s")
        pid, _ = left_running(client.session("t"), "left")
        leaf = Path("/sys/fs/cgroup" + str(where(pid)))
    own_daemon.signal(SIGKILL)
    own_daemon.start()
    with own_daemon.client() as client:
        assert client.calls() == []
        assert where(pid) is not None
        (leaf / "cgroup.kill").write_text("1")
        tools.wait_for(lambda: not leaf.exists())
        client.close_session("u0/s")
        client.close_session("u0/t")


def test_what_is_left_of_a_call_that_was_ended_is_killed(own_daemon: Any, tools: Any) -> None:
    with own_daemon.client() as client, client.session("s") as session:
        call = session.call(["sh", "-c", "sleep 1000 & sleep 1000"], tool="left", duration_max_sec=1.0)
        process = call.popen()
        process.wait(60)
        assert call.end().outcome == "timed_out"
        time.sleep(0.1)
        assert not [path for path in own_daemon.left() if "/calls/" in path]
