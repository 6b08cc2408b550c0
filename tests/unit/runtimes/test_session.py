# SPDX-License-Identifier: Apache-2.0
"""What the model reads, and a daemon that is not there."""

from pathlib import Path

import pytest

from agentcg.api.client import RemoteError
from agentcg.errors import InvalidInput
from agentcg.runtimes import with_advice
from agentcg.runtimes.session import RuntimeSession, refusal


@pytest.mark.parametrize(
    ("output", "advice", "read"),
    [
        ("", "", ""),
        ("one\n\n", "", "one\n\n"),
        ("one\n\n", "ask for more.", "one\nagentcg: ask for more.\n"),
        ("one", "ask for more.", "one\nagentcg: ask for more.\n"),
        ("\n", "ask for more.", "agentcg: ask for more.\n"),
    ],
)
def test_advice_is_the_last_line(output: str, advice: str, read: str) -> None:
    assert with_advice(output, advice) == read


def test_a_refusal_says_what_to_do() -> None:
    assert refusal(RemoteError("it is too much", hint="ask for less")) == "agentcg: it is too much (ask for less)"
    assert refusal(RemoteError("it is too much")) == "agentcg: it is too much"


def test_without_a_daemon_there_is_no_session(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="no daemon at"):
        RuntimeSession(socket=str(tmp_path / "none"))


def test_what_is_no_size_is_seen_before_the_daemon_is_asked(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="memory"):
        RuntimeSession(memory="lots", socket=str(tmp_path / "none"))
