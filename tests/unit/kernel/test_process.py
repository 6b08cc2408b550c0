# SPDX-License-Identifier: Apache-2.0
"""What /proc says of a real process."""

import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

from agentcg.kernel.process import command_words, environment_variable, start_time


@pytest.fixture
def process(await_words: Callable[[int], None]) -> Iterator["subprocess.Popen[bytes]"]:
    command = [b"a (name) of its own", b"-c", b"read line; :", b"", "ü".encode(), b"\xff"]
    environment = {b"AGENT_RESOURCE_HINT": b"memory:1g", b"XAGENT_RESOURCE_HINT": b"x", b"EMPTY": b""}
    with subprocess.Popen(command, executable="/bin/sh", env=environment, stdin=subprocess.PIPE) as started:
        await_words(started.pid)
        yield started


def test_its_words_and_its_environment(process: "subprocess.Popen[bytes]") -> None:
    assert command_words(process.pid) == ["a (name) of its own", "-c", "read line; :", "", "ü", "\udcff"]
    assert environment_variable(process.pid, "AGENT_RESOURCE_HINT") == "memory:1g"
    assert environment_variable(process.pid, "EMPTY") == ""
    assert environment_variable(process.pid, "AGENT_RESOURCE") is None


def test_its_start_tells_it_from_others(process: "subprocess.Popen[bytes]") -> None:
    start = start_time(process.pid)
    assert start is not None
    assert start == start_time(process.pid)
    assert start >= (start_time(os.getpid()) or start + 1)


def test_one_that_is_gone(process: "subprocess.Popen[bytes]") -> None:
    process.communicate(b"\n", timeout=30)
    assert start_time(process.pid) is None
    assert start_time(0) is None
    with pytest.raises(OSError, match="No such file"):
        command_words(process.pid)
