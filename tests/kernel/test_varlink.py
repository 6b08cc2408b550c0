# SPDX-License-Identifier: Apache-2.0
"""A whole session by hand, with systemd's `varlinkctl`."""

import json
import subprocess
from typing import Any

import pytest


def varlinkctl(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["varlinkctl", *arguments], capture_output=True, text=True, timeout=60)


def call(daemon: Any, method: str, **parameters: Any) -> dict[str, Any]:
    done = varlinkctl("call", "-j", f"unix:{daemon.socket}", f"dev.agentcg.{method}", json.dumps(parameters))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout or "{}")  # type: ignore[no-any-return]


def refused(daemon: Any, method: str, **parameters: Any) -> str:
    done = varlinkctl("call", "-j", f"unix:{daemon.socket}", f"dev.agentcg.{method}", json.dumps(parameters))
    assert done.returncode != 0
    return done.stdout + done.stderr


def test_what_the_daemon_says_of_itself(daemon: Any) -> None:
    info = varlinkctl("info", f"unix:{daemon.socket}").stdout
    for interface in ("dev.agentcg", "dev.agentcg.Sessions", "dev.agentcg.Calls", "dev.agentcg.Monitor"):
        assert interface in info


@pytest.mark.parametrize(
    ("interface", "words"),
    [
        ("dev.agentcg.Sessions", ["method Open(", "method Close(", "method List(", "type Budget"]),
        ("dev.agentcg.Calls", ["method Begin(", "method Amend(", "method End(", "method Kill(", "type Intent"]),
        ("dev.agentcg.Monitor", ["method GetStatus(", "method GetSnapshot(", "method Watch("]),
        ("dev.agentcg", ["error NestedCall", "error Denied"]),
    ],
)
def test_introspect(daemon: Any, interface: str, words: list[str]) -> None:
    done = varlinkctl("introspect", f"unix:{daemon.socket}", interface)
    assert done.returncode == 0, done.stderr
    for word in words:
        assert word in done.stdout


def test_a_session_by_hand(daemon: Any, tools: Any) -> None:
    # The session adhoc stays for some seconds after the calls of a test before.
    tools.wait_for(lambda: call(daemon, "Sessions.List")["sessions"] == [], 60)
    opened = call(daemon, "Sessions.Open", session="hand", budget={"memoryMax": 256 << 20})
    assert opened["session"]["session"] == "u0/hand"
    assert "u0/hand" in refused(daemon, "Sessions.Open", session="hand")
    assert [item["session"] for item in call(daemon, "Sessions.List")["sessions"]] == ["u0/hand"]
    assert call(daemon, "Monitor.GetStatus")["status"]["sessions"] == 1
    assert call(daemon, "Sessions.Close", session="hand")["verdicts"] == []
    assert "NoSuchSession" in refused(daemon, "Sessions.Close", session="hand")
    assert "Invalid" in refused(daemon, "Sessions.Open", session="../x")


def test_a_call_by_hand(daemon: Any, tools: Any) -> None:
    """varlinkctl prints the index of the descriptor that Begin passes, and drops the descriptor.

    So a process is placed by its path, which takes root; and the call must not hang on the connection.
    """
    call(daemon, "Sessions.Open", session="hand")
    begun = call(daemon, "Calls.Begin", session="hand", id="c1", command=["sleep", "1000"], leased=False)
    assert begun["call"] == "u0/hand/c1"
    leaf = daemon.top / "shared/u0/hand/calls/c1"
    assert tools.text(leaf, "memory.max") == str(begun["limits"]["memoryMax"])
    process = subprocess.Popen(["sleep", "1000"])
    (leaf / "cgroup.procs").write_text(str(process.pid))
    amended = call(daemon, "Calls.Amend", call="u0/hand/c1", intent={"memoryMax": 64 << 20})
    assert amended["limits"]["memoryMax"] == 64 << 20
    (listed,) = call(daemon, "Calls.List", session="hand")["calls"]
    assert (listed["call"], listed["pidsCurrent"]) == ("u0/hand/c1", 1)
    verdict = call(daemon, "Calls.End", call="u0/hand/c1", exitCode=0)["verdict"]
    assert verdict["outcome"] == "ok"
    assert process.wait(10) == -9
    call(daemon, "Sessions.Close", session="hand")


def test_with_a_lease_it_is_over_when_varlinkctl_ends(daemon: Any) -> None:
    call(daemon, "Sessions.Open", session="hand")
    call(daemon, "Calls.Begin", session="hand", id="c1")
    daemon_calls = call(daemon, "Calls.List")["calls"]
    assert daemon_calls == [] or call(daemon, "Calls.End", call="u0/hand/c1")["verdict"]["outcome"] == "killed"
    call(daemon, "Sessions.Close", session="hand")
