# SPDX-License-Identifier: Apache-2.0
"""The command itself, as a process, between a client, a server of llama.cpp and the daemon's own server."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from benches.llamacpp import LlamaServer

TOP = Path(__file__).resolve().parents[3]


@pytest.fixture
def command() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return what starts the command; it is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", "from agentcg.cli import main; main()", "gateway", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(TOP)},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def serving(process: subprocess.Popen[str]) -> str:
    """Wait until it serves; return where."""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"serving on (\S+)", line):
            return found[1]
    pytest.fail(f"it ended with status {process.wait()}")


def chat(url: str, name: str) -> str:
    body = {"messages": [{"role": "user", "content": "x" * 300}], "max_tokens": 2}
    headers = {"X-Session-ID": name, "Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode(), headers), timeout=20
    ) as reply:
        return str(json.load(reply)["object"])


def test_it_serves_reports_and_stops(served, llama: LlamaServer, command) -> None:  # type: ignore[no-untyped-def]
    listen = ("--listen", "127.0.0.1:0", "--socket", served.path)
    process = command("--upstream", llama.url, "--engine", "llamacpp", "--policy", "soft_pins", *listen)
    url = serving(process)
    with served.client() as agent:
        agent.session("a").call(["make"], id="c1", tool="Bash")
        assert chat(url, "u0/a") == "chat.completion"
        deadline = time.monotonic() + 20
        while not (held := [each for engine in agent.kv_engines() for each in engine.sessions]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert (held[0].session, held[0].turns) == ("u0/a", 0)
        assert held[0].tokens > 300
        assert held[0].pinnedSec > 0
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_without_a_daemon_and_without_the_server_it_serves(tmp_path: Path, command) -> None:  # type: ignore[no-untyped-def]
    process = command("--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--socket", str(tmp_path / "none"))
    with pytest.raises(urllib.error.HTTPError, match="502"):
        chat(serving(process), "a")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--upstream", "127.0.0.1:8080"], "--upstream"),
        (["--upstream", "http://x", "--listen", "8900"], "--listen"),
        (["--upstream", "http://x", "--listen", "127.0.0.1:99999"], "--listen"),
        (["--upstream", "http://x", "--listen", "192.0.2.1:80"], "--listen"),
    ],
)
def test_what_it_is_asked_in_vain_it_says(command, arguments: list[str], reason: str) -> None:  # type: ignore[no-untyped-def]
    process = command(*arguments)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert reason in said
    assert "Traceback" not in said
