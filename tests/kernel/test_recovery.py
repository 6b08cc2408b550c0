# SPDX-License-Identifier: Apache-2.0
"""`kill -9` of the daemon, at any moment: no call is lost, none is ended by it, none is leaked."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

from agentcg.launcher import launcher_path

LIVE = 20


def launch(daemon: Any, *command: str) -> "subprocess.Popen[str]":
    options = ["--socket", daemon.socket, "--verdict", "json", "--without-daemon", "fail"]
    return subprocess.Popen([launcher_path(), *options, "--", *command], stderr=subprocess.PIPE, text=True)


def verdict(process: "subprocess.Popen[str]") -> dict[str, Any]:
    out = process.communicate(timeout=60)[1]
    try:
        found: dict[str, Any] = json.loads(out)
    except ValueError:
        return {"outcome": f"no verdict: {out[:300]}"}
    return found


class Gate:
    """Holds any number of shells without costing a cycle: they open a pipe that nobody writes to."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "gate"
        os.mkfifo(self.path)
        self.command = ["sh", "-c", f"read line < {self.path}; exit 7"]

    def open(self) -> None:
        for _ in range(10):
            try:
                fd = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # Nobody is there to read any more.
                return
            time.sleep(0.3)
            os.close(fd)


def test_every_live_call_is_found_again(own_daemon: Any, tools: Any, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    running = [launch(own_daemon, *gate.command) for _ in range(LIVE)]
    with own_daemon.client() as client:
        tools.wait_for(lambda: client.status().calls == LIVE, 60)
        before = sorted(call.call for call in client.calls())
    own_daemon.signal(signal.SIGKILL)
    own_daemon.start()
    with own_daemon.client() as client:
        assert sorted(call.call for call in client.calls()) == before
        assert client.status().callsAdopted == LIVE
        time.sleep(6)  # Longer than the grace that a runtime has which went away meanwhile.
        assert len(client.calls()) == LIVE
    gate.open()
    found = Counter((item["outcome"], item.get("exitCode")) for item in map(verdict, running))
    assert found == {("exit_status", 7): LIVE}
    own_daemon.clear()
    kept = sqlite3.connect(own_daemon.directory / "history.sqlite").execute("SELECT count(*) FROM verdicts")
    assert kept.fetchone() == (LIVE,)


def test_killed_while_calls_begin_and_end(own_daemon: Any, tools: Any) -> None:
    """Some calls begin and many end while there is no daemon."""
    running, seen = [], Counter[str]()
    for _ in range(2):
        running += [launch(own_daemon, "sleep", str(number / 6)) for number in range(15)]
        with own_daemon.client() as client:
            # Begun are counted from each daemon's start.
            tools.wait_for(lambda: client.status().callsBegun >= 12, 60)
        own_daemon.signal(signal.SIGKILL)
        own_daemon.start()
    told, refused = [], 0
    for process in running:
        found = verdict(process)
        seen[found["outcome"].partition(" agentcg-exec")[0]] += 1
        if late := re.search(r'the end of call "(\S+)" was not taken', found["outcome"]):
            told.append(late[1])  # A daemon that starts too slowly for the launcher's patience; the call has a verdict.
        elif process.returncode == 125 and "no daemon at" in found["outcome"]:
            refused += 1  # It asked as the daemon died: nothing was run.
        else:
            assert found["outcome"] == "ok", found
            told.append(found["call"])
    own_daemon.clear()
    rows = sqlite3.connect(own_daemon.directory / "history.sqlite").execute(
        "SELECT tenant || '/' || session || '/' || call FROM verdicts"
    )
    kept = [name for (name,) in rows]
    assert len(kept) == len(set(kept))
    assert set(told) <= set(kept)
    assert len(told) == 30 - refused
    assert seen["ok"], seen


def test_a_runtime_that_ended_while_there_was_no_daemon(own_daemon: Any, tools: Any) -> None:
    runtime = launch(own_daemon, "sleep", "1000")
    other = launch(own_daemon, "sleep", "1000")
    with own_daemon.client() as client:
        calls = tools.wait_for(lambda: (found := client.calls()) and len(found) == 2 and found, 20)
        leaves = {
            call.call: own_daemon.top / "shared" / Path(*call.call.split("/")[:2], "calls", call.call.split("/")[2])
            for call in calls
        }
        pids = {name: int(tools.text(leaf, "cgroup.procs").split()[0]) for name, leaf in leaves.items()}
    parent = {
        name: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for name, pid in pids.items()
    }
    (gone,) = (name for name, pid in parent.items() if pid == runtime.pid)
    own_daemon.signal(signal.SIGKILL)
    runtime.kill()
    runtime.wait(10)
    own_daemon.start()
    with own_daemon.client() as client:
        assert len(client.calls()) == 2
        tools.wait_for(lambda: len(client.calls()) == 1, 30)
        ended = client.end(gone)
        assert (ended.outcome, ended.reason) == ("killed", "its runtime has gone away") or "gone away" in ended.reason
        (left,) = client.calls()
        client.kill(left.call, "the test is over")
    assert verdict(other)["outcome"] == "killed"
    own_daemon.clear()


def test_a_runtime_that_ends_after_the_restart(own_daemon: Any, tools: Any) -> None:
    runtime = launch(own_daemon, "sleep", "1000")
    with own_daemon.client() as client:
        tools.wait_for(client.calls, 20)
    own_daemon.signal(signal.SIGKILL)
    own_daemon.start()
    runtime.kill()
    runtime.wait(10)
    own_daemon.clear()


def test_a_call_that_nobody_holds_is_found_and_ends_itself(own_daemon: Any, tools: Any) -> None:
    client = own_daemon.client()
    client.session("kept", leased=False)
    call = client.call(["sleep", "3"], session="kept", id="c1", leased=False)
    process = call.popen()
    own_daemon.signal(signal.SIGKILL)
    assert process.poll() is None
    own_daemon.start()
    with own_daemon.client() as client:
        assert process.wait(20) == 0
        tools.wait_for(lambda: not client.calls(), 30)
        assert client.end("u0/kept/c1").outcome == "unknown"
        client.close_session("kept")


def test_stopping_ends_no_call(own_daemon: Any, tools: Any) -> None:
    runtime = launch(own_daemon, "sh", "-c", "sleep 8; exit 7")
    with own_daemon.client() as client:
        tools.wait_for(client.calls, 20)
    own_daemon.signal(signal.SIGTERM)
    assert runtime.poll() is None
    own_daemon.start()
    assert verdict(runtime)["exitCode"] == 7
    own_daemon.clear()


def test_one_tree_has_one_daemon(own_daemon: Any) -> None:
    options = ["--root", f"/sys/fs/cgroup/{own_daemon.name}", "--socket", "/run/second.sock"]
    history = ["--history", str(own_daemon.directory / "second.sqlite")]
    second = subprocess.run(["agentcg", "daemon", *options, *history], capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert f"another daemon manages /sys/fs/cgroup/{own_daemon.name}" in second.stderr
    assert "--root" in second.stderr
    assert not os.path.exists("/run/second.sock")
    with own_daemon.client() as client, client.call(["true"]) as call:
        assert call.run() == 0
    own_daemon.clear()
