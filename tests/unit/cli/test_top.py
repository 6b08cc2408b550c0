# SPDX-License-Identifier: Apache-2.0
"""The real command at a real terminal, against the daemon's own server on a fake hierarchy."""

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentcg.api.client import Client

MAIN = [sys.executable, "-c", "from agentcg.cli import main; main()", "top"]
HOME = "\x1b[H"  # Every frame begins there.
UP, DOWN = b"\x1b[A", b"\x1b[B"


@pytest.fixture
def host(served) -> Iterator[Client]:  # type: ignore[no-untyped-def]
    """Return a client whose session has two calls."""
    with served.client() as client:
        session = client.session("work", memory_max=4 << 30)
        session.call(["pytest", "-x"], id="one", memory_max=1 << 30)
        session.call(["make"], id="two", memory_max=1 << 30)
        served.cgroups.set("shared/u0/work/calls/one", "memory.current", str(300 << 20))
        served.cgroups.set("shared/u0/work/calls/two", "memory.current", str(100 << 20))
        yield client


def environment(served, **changes: str) -> dict[str, str]:  # type: ignore[no-untyped-def]
    # These two say more than the terminal does, to whoever draws on it.
    ours = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    return ours | {"AGENTCG_SOCKET": served.path, "TERM": "xterm-256color"} | changes


class Top:
    """The command at a terminal of 80 × 24."""

    def __init__(self, terminal: Any) -> None:
        self.terminal = terminal
        self.resize(24, 80)

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.terminal.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def see(self, expected: Callable[[str], bool]) -> str:
        """Return the next whole frame that is as expected."""
        deadline = time.monotonic() + 20
        while True:
            *frames, self.terminal.seen = self.terminal.seen.split(HOME)
            for number, frame in enumerate(frames):
                if expected(frame):
                    self.terminal.seen = HOME.join([*frames[number + 1 :], self.terminal.seen])
                    return frame
            last = frames[-1] if frames else self.terminal.seen
            assert self.terminal.read(deadline), f"not as expected: {last!r}"

    def type(self, keys: bytes, *expected: str) -> str:
        """Press keys, and return the next frame that has all of ``expected``."""
        self.terminal.type(keys)
        return self.see(lambda frame: all(text in frame for text in expected))

    def is_as_it_was(self) -> None:
        """Wait until the terminal passes lines again, and shows what is typed."""
        wanted, deadline = termios.ICANON | termios.ECHO, time.monotonic() + 10
        while termios.tcgetattr(self.terminal.fd)[3] & wanted != wanted:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def select(self, name: str) -> None:
        """Go down to a call, which is seen to be selected by the question that k asks."""
        self.terminal.type(DOWN * 2)
        self.type(b"k", f"kill u0/work/{name}?")
        self.type(b"n", "q quit")


@pytest.fixture
def top(host, served, open_terminal) -> Top:  # type: ignore[no-untyped-def]
    found = Top(open_terminal([*MAIN, "--every", "200ms"], environment(served)))
    found.see(lambda frame: "q quit" in frame and "pytest -x" in frame)
    return found


def test_q_leaves_the_terminal_as_it_was(top: Top) -> None:
    assert not termios.tcgetattr(top.terminal.fd)[3] & termios.ICANON
    top.terminal.type(b"q")
    top.terminal.expect("\x1b[?1049l")
    top.is_as_it_was()
    assert top.terminal.wait() == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_so_does_a_signal(top: Top, number: int, status: int) -> None:
    os.kill(top.terminal.pid, number)
    top.terminal.expect("\x1b[?1049l")
    top.is_as_it_was()
    assert top.terminal.wait() == status


def test_what_comes_and_goes_is_seen(top: Top, host: Client) -> None:
    host.call(["cargo", "build"], session="work", id="three")
    top.see(lambda frame: "cargo build" in frame)
    host.end("u0/work/three", exit_code=101)
    frame = top.see(lambda frame: "last verdicts" in frame)
    assert "exit_status" in frame
    assert "u0/work/three" in frame


def test_sort_and_filter(top: Top) -> None:
    top.type(b"m", "300M")
    frame = top.type(b"/", "filter: ")
    assert frame.index("pytest") < frame.index("make")
    frame = top.type(b"MAKE", "filter: MAKE", "make")
    assert "pytest" not in frame
    top.type(b"\r", "filter: MAKE", "q quit")
    top.type(b"\x1b", "pytest", "q quit")


def test_kill_asks_first(top: Top, host: Client) -> None:
    top.select("one")
    assert len(host.calls()) == 2
    top.type(b"k", "kill u0/work/one?")
    top.type(b"y", "u0/work/one: killed")
    assert [call.call for call in host.calls()] == ["u0/work/two"]
    (verdict,) = host.snapshot().verdicts
    assert (verdict.outcome, verdict.reason) == ("killed", "an operator ended it")


def test_amend_takes_a_hint(top: Top, served) -> None:  # type: ignore[no-untyped-def]
    top.select("one")
    top.type(b"a", "amend u0/work/one")
    top.type(b"memory:2g,time:90s\r", "u0/work/one: ", "2.0G")
    assert served.cgroups.text("shared/u0/work/calls/one", "memory.max") == str(2 << 30)
    top.type(b"amemory:lots\r", "hint.memory: ", "is not an amount of memory")
    top.type(b"amemory:100m\r", "intent.memoryMax: the call uses 300 MiB already")


def test_a_session_is_not_killed(top: Top, host: Client) -> None:
    top.terminal.type(DOWN)
    top.type(b"k", "select a call to kill it")
    top.terminal.type(b"y" + UP * 3)
    top.type(b"k", "select a call to kill it")
    assert len(host.sessions()) == 1


def test_a_call_or_its_session_is_frozen_and_thawed(top: Top, served) -> None:  # type: ignore[no-untyped-def]
    top.type(b"f", "select a call or a session to freeze or thaw it")
    for path, name in (("shared/u0/work", "u0/work"), ("shared/u0/work/calls/one", "u0/work/one")):
        top.terminal.type(DOWN)
        top.type(b"f", f"{name}: frozen", "by hand")
        assert served.cgroups.text(path, "cgroup.freeze") == "1"
        top.type(b"f", f"{name}: running")
        assert served.cgroups.text(path, "cgroup.freeze") == "0"
        top.see(lambda frame: "by hand" not in frame)


def test_another_size_is_drawn_at_once(host, served, open_terminal) -> None:  # type: ignore[no-untyped-def]
    top = Top(open_terminal([*MAIN, "--every", "1h"], environment(served)))
    top.terminal.expect("make")
    assert "one  pytest" not in top.terminal.seen
    top.resize(50, 200)
    top.terminal.expect("one  pytest -x")


def test_a_daemon_that_is_gone_is_said_to_be_and_waited_for(top: Top, served) -> None:  # type: ignore[no-untyped-def]
    away = served.path + "-away"
    os.rename(served.path, away)
    served.on_loop(lambda: [connection.close() for connection in list(served.listening._connections)])
    top.see(lambda frame: f"no daemon at {served.path}"[:60] in frame)
    os.rename(away, served.path)
    top.see(lambda frame: "q quit" in frame)


def run(served, *arguments: str, **changes: str) -> str:  # type: ignore[no-untyped-def]
    given = environment(served, **changes)
    done = subprocess.run([*MAIN, *arguments], env=given, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_once_in_a_pipe_is_plain_text(host, served) -> None:  # type: ignore[no-untyped-def]
    text = run(served, "--once", COLUMNS="80")
    assert "\x1b" not in text
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[4:]] == ["300M", "100M"]
    assert "quit" not in text


def test_a_character_that_the_terminal_has_not_is_another(host, served) -> None:  # type: ignore[no-untyped-def]
    host.call(["echo", "ü€" * 40], session="work", id="three")
    assert "echo '????" in run(served, "--once", PYTHONIOENCODING="ascii")


def test_a_dumb_terminal_gets_one_frame_after_the_other(host, served, open_terminal) -> None:  # type: ignore[no-untyped-def]
    terminal = open_terminal([*MAIN, "--every", "100ms"], environment(served, TERM="dumb"))
    for _ in range(3):
        terminal.expect("make")
    assert "\x1b" not in terminal.seen
    os.kill(terminal.pid, signal.SIGINT)
    assert terminal.wait() == 0


def test_json_is_a_line_for_each_look(host, served) -> None:  # type: ignore[no-untyped-def]
    (line,) = run(served, "--once", "--json").splitlines()
    found = json.loads(line)
    assert {call["call"] for call in found["calls"]} == {"u0/work/one", "u0/work/two"}
    assert found["calls"][0]["state"] == "running"
    assert found["status"]["calls"] == 2
    command = [*MAIN, "--json", "--every", "100ms"]
    with subprocess.Popen(command, env=environment(served), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        times = [json.loads(process.stdout.readline())["time"] for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert times == sorted(set(times))


def test_without_a_daemon_it_says_so(tmp_path) -> None:  # type: ignore[no-untyped-def]
    done = subprocess.run([*MAIN, "--socket", str(tmp_path / "none")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(f"agentcg: no daemon at {tmp_path}/none")
