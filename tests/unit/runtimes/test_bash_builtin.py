# SPDX-License-Identifier: Apache-2.0
"""The builtin in the real bash, with plain files in the place of cgroups: what went there has another oom_score_adj."""

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentcg.runtimes.bash_builtin import BUILTIN, ORDER_BYTES, build

pytestmark = pytest.mark.skipif(not (shutil.which("cc") or shutil.which("clang")), reason="no C compiler")

SHOW = "cat /proc/self/oom_score_adj"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("bin"))


class Shell:
    """A bash that reads commands, and the file that says where its children go."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.library, self.order, self.procs = library, folder / "order", folder / "procs"
        self.procs.touch()
        self.send("")
        self.process = subprocess.Popen(
            ["bash", "--norc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def send(self, *lines: str) -> None:
        with self.order.open("r+b" if self.order.exists() else "w+b") as file:
            file.write("\n".join(lines).encode().ljust(ORDER_BYTES, b"\0"))

    def run(self, command: str) -> list[str]:
        """Run a command and return what it prints and, as the last line, its status."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f'{command}\nprintf "%s\\n" "over $?"\n')
        self.process.stdin.flush()
        said = []
        while not (line := self.process.stdout.readline()).startswith("over "):
            assert line, said
            said.append(line.rstrip("\n"))
        return [*said, line.split()[1]]

    def load(self) -> list[str]:
        return self.run(f"enable -f {self.library} {BUILTIN} && {BUILTIN} {self.order}")


@pytest.fixture
def shell(library: Path, tmp_path: Path) -> Iterator[Shell]:
    made = Shell(library, tmp_path)
    yield made
    made.process.kill()
    made.process.communicate()


@pytest.mark.parametrize(
    "command",
    [
        SHOW,
        f"{SHOW} | cat",
        f"true | {SHOW}",
        f"x=$({SHOW}); echo $x",
        f"(cd /; {SHOW})",
        f"cat <({SHOW})",
        f"{SHOW} & wait $!",
        f"f() {{ {SHOW}; }}; f",
        f"bash -c '{SHOW}; true'",
        f"coproc {SHOW}; cat <&${{COPROC[0]}}; wait",
        f"exec 3< <({SHOW}); cat <&3; exec 3<&-",
        f"eval '{SHOW}'",
        f"trap '{SHOW}' USR1; kill -USR1 $$; trap - USR1",
    ],
)
def test_whatever_the_shell_starts_goes_there(shell: Shell, command: str) -> None:
    assert shell.load() == ["0"]
    shell.send("700", str(shell.procs), "", "{}")
    assert shell.run(command) == ["700", "0"]
    assert shell.procs.read_text() == "0"
    assert shell.run('read line < /proc/$$/oom_score_adj; echo "$line"') == ["0", "0"]


def test_what_it_goes_by_may_change_and_end(shell: Shell) -> None:
    shell.load()
    assert shell.run(SHOW) == ["0", "0"]
    shell.send("300", str(shell.procs), "", "{}")
    assert shell.run(SHOW) == ["300", "0"]
    shell.send("400", str(shell.procs), "", "{}")
    assert shell.run(SHOW) == ["400", "0"]
    shell.send("")
    assert shell.run(SHOW) == ["0", "0"]


def test_state_of_the_shell_is_kept(shell: Shell) -> None:
    shell.load()
    shell.send("300", str(shell.procs), "", "{}")
    assert shell.run("cd /tmp; A=1; export B=2; f() { echo $A$B$1; }") == ["0"]
    assert shell.run("f 3 | cat; pwd; sh -c 'echo $B'") == ["123", "/tmp", "2", "0"]
    assert shell.run("sh -c 'exit 7'") == ["7"]


class Asked:
    """A daemon that answers every request the same, and counts them."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self.requests: list[bytes] = []
        self.answer = answer
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                self.requests.append(connection.recv(65536))
                connection.sendall(self.answer)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()


def test_where_it_may_not_write_it_asks_once_for_each_child_of_the_shell(shell: Shell, tmp_path: Path) -> None:
    shell.load()
    asked = Asked(tmp_path / "s", b'{"parameters":{}}\0')
    try:
        shell.send("600", "", str(tmp_path / "s"), '{"method":"x"}')
        assert shell.run(f"bash -c '{SHOW}; {SHOW} | cat; true'") == ["600", "600", "0"]
        assert shell.run(f"({SHOW}; {SHOW})") == ["600", "600", "0"]
        assert asked.requests == [b'{"method":"x"}\0'] * 2
    finally:
        asked.close()


@pytest.mark.parametrize("answer", [b'{"error":"dev.agentcg.NoSuchCall","parameters":{}}\0', b"nonsense\0", None])
def test_what_cannot_go_there_does_not_run(shell: Shell, tmp_path: Path, answer: bytes | None) -> None:
    shell.load()
    asked = Asked(tmp_path / "s", answer) if answer is not None else None
    try:
        shell.send("600", str(tmp_path / "none"), str(tmp_path / "s"), "{}")
        line, status = shell.run("touch /proc/nonsense")
        assert line.startswith("agentcg: the cgroup of this call cannot be entered (")
        assert status == "125"
        assert shell.run("echo still here") == ["still here", "0"]
    finally:
        if asked is not None:
            asked.close()


def test_the_shell_itself_goes_where_it_is_told_when_it_loads(shell: Shell) -> None:
    shell.send("", str(shell.procs), "", "{}")
    assert shell.load() == ["0"]
    assert shell.procs.read_text() == "0"


def test_a_shell_that_cannot_go_is_not_hooked(shell: Shell, tmp_path: Path) -> None:
    shell.send("", "", str(tmp_path / "none"), "{}")
    line, status = shell.load()
    assert "No such file or directory" in line
    assert status == "1"
    assert shell.run("true") == ["0"]


def test_it_may_be_loaded_again(shell: Shell, tmp_path: Path) -> None:
    shell.load()
    assert shell.load() == ["0"]
    asked = Asked(tmp_path / "s", b'{"parameters":{}}\0')
    try:
        shell.send("300", "", str(tmp_path / "s"), "{}")
        assert shell.run(SHOW) == ["300", "0"]
        assert len(asked.requests) == 1
    finally:
        asked.close()


def test_it_says_how_it_is_used(shell: Shell) -> None:
    shell.load()
    assert shell.run(f"{BUILTIN}")[-1] == "2"
    assert shell.run(f"{BUILTIN} /no/such/file")[-1] == "1"
    assert shell.run(f"help {BUILTIN}")[0] == f"{BUILTIN}: {BUILTIN} FILE"


def test_nothing_of_it_is_passed_on(shell: Shell) -> None:
    ours = [line for line in shell.run("env") if "agentcg" in line.lower()]
    shell.load()
    shell.send("300", str(shell.procs), "", "{}")
    assert shell.run("ls /proc/self/fd") == ["0", "1", "2", "3", "0"]  # One of them is what ls reads.
    assert [line for line in shell.run("env") if "agentcg" in line.lower()] == ours
