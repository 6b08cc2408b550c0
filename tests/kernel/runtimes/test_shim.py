# SPDX-License-Identifier: Apache-2.0
"""Agents that know nothing of agentcg and find its shells in the place of theirs."""

import os
import pty
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

AGENT = """
import os, subprocess, sys
print(open("/proc/self/cgroup").read().strip())
for command in sys.argv[1:]:
    ran = subprocess.run(command, shell=True, executable=os.environ["SHELL"], capture_output=True, text=True)
    print(f"<{ran.returncode}> {ran.stdout}{ran.stderr}")
"""
EAT = "python3 -S -c \"x = bytearray(b'x') * (90 << 20); print('passed')\""


@pytest.fixture
def shells(daemon: Any, tmp_path: Path) -> dict[str, str]:
    """Return the environment of an agent behind the shims."""
    folder = tmp_path / "shells"
    subprocess.run(["agentcg", "shim", folder], check=True, timeout=60)
    path = f"{folder}:{os.environ['PATH']}"
    return os.environ | {"AGENTCG_SOCKET": daemon.socket, "PATH": path, "SHELL": str(folder / "bash")}


def run(shells: dict[str, str], *commands: str) -> str:
    ran = subprocess.run(
        ["python3", "-S", "-c", AGENT, *commands], env=shells, capture_output=True, text=True, timeout=100, check=True
    )
    return ran.stdout


def test_each_command_is_a_call_and_what_it_starts_stays_in_it(shells: dict[str, str]) -> None:
    said = run(
        shells, "cat /proc/self/cgroup; exit 3", "sh -c 'bash -c \"cat /proc/self/cgroup\"'; cat /proc/self/cgroup"
    )
    agent, *places = re.findall(r"0::(\S+)", said)
    assert "/calls/" not in agent
    assert all("/shared/u0/adhoc/calls/" in place for place in places)
    assert (len(places), len(set(places))) == (3, 2)
    assert "<3>" in said


def test_the_agent_reads_why_its_command_died_and_asks_for_what_is_advised(shells: dict[str, str]) -> None:
    first = run(shells, f"AGENT_RESOURCE_HINT=memory:64m {EAT}")
    advised = re.search(r"<-?\d+> agentcg: .*memory limit of 64\.0 MiB.* ask for (\d+) MiB", first)
    assert advised is not None, first
    assert "<0> passed\n" in run(shells, f"AGENT_RESOURCE_HINT=memory:{advised[1]}m {EAT}")


def test_a_shell_on_a_terminal_has_it(shells: dict[str, str]) -> None:
    main, side = pty.openpty()
    process = subprocess.Popen(
        ["bash", "-c", "tty; stty size; read line; echo got $line; cat /proc/self/cgroup"],
        env=shells,
        executable=shells["SHELL"],
        stdin=side,
        stdout=side,
        stderr=side,
        start_new_session=True,
    )
    os.write(main, b"hello\n")
    assert process.wait(60) == 0
    os.close(side)
    said = b""
    try:
        while chunk := os.read(main, 65536):
            said += chunk
    except OSError:  # EIO: nobody has the other end.
        pass
    os.close(main)
    assert b"/dev/pts/" in said
    assert b"got hello" in said
    assert b"/calls/" in said
