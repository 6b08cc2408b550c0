# SPDX-License-Identifier: Apache-2.0
"""What a process says of itself, by its words and by those of real processes."""

import os
import subprocess
from collections.abc import Callable

import pytest

from agentcg.control.executed import read_command, split_command
from agentcg.model import Intent


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["/bin/sh", "-c", "pytest -x", "sh"], (None, "pytest -x")),
        (["bash", "-lc", "AGENT_RESOURCE_HINT=memory:2g pytest"], ("memory:2g", "pytest")),
        (["bash", "-eo", "pipefail", "-c", "a | b"], (None, "a | b")),
        (["make", "-j", "8 9"], (None, "make -j '8 9'")),
        (["sh", "-c", "x\udcff"], (None, "x?")),
        ([""], (None, "")),
    ],
)
def test_the_command_that_words_stand_for(words: list[str], expected: tuple[str | None, str]) -> None:
    assert split_command(words) == expected


@pytest.mark.parametrize(
    ("command", "environment", "expected"),
    [
        (": ; read line", {}, (": ; read line", Intent())),
        (": ; read line", {"AGENT_RESOURCE_HINT": "priority:70"}, (": ; read line", Intent(priority=70))),
        ("AGENT_RESOURCE_HINT=priority:80 read line", {"AGENT_RESOURCE_HINT": "priority:70"}, ("read line", 80)),
        ("AGENT_RESOURCE_HINT=memory:no read line", {}, ("read line", Intent())),
    ],
)
def test_a_hint_at_the_head_wins_over_the_environment_and_one_that_cannot_be_read_is_none(
    command: str,
    environment: dict[str, str],
    expected: tuple[str, Intent | int],
    caplog: pytest.LogCaptureFixture,
    await_words: Callable[[int], None],
) -> None:
    environment |= {"PATH": os.environ["PATH"]}
    with subprocess.Popen(["sh", "-c", command], env=environment, stdin=subprocess.PIPE) as process:
        await_words(process.pid)
        found, hint = read_command(process.pid)
    assert (found, hint if isinstance(expected[1], Intent) else hint.priority) == expected
    assert ("counts for nothing" in caplog.text) == ("memory:no" in command)


def test_one_that_has_ended_is_no_command() -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    with pytest.raises(OSError, match="No such"):
        read_command(process.pid)
