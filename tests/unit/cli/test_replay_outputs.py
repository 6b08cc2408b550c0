# SPDX-License-Identifier: Apache-2.0
"""What is said of a replay's progress."""

import pytest

from agentcg.cli import replay_outputs


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [100.0]
    monkeypatch.setattr(replay_outputs.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_there_is_a_line_for_what_is_new_but_not_all_the_time(clock, capsys):
    with replay_outputs.progress() as tell:
        for at, text in ((0.9, "a"), (1.5, "b"), (3.0, "b"), (6.4, "c"), (6.6, "d"), (30.0, "d"), (31.0, "e")):
            clock[0] = 100.0 + at
            tell(text, at / 40)
    assert capsys.readouterr().err.splitlines() == ["agentcg: b …", "agentcg: d …", "agentcg: e …"]


def test_nothing_is_said_of_what_takes_less_than_a_second(clock, capsys):
    with replay_outputs.progress() as tell:
        tell("a", 0.5)
        tell("b", 1.0)
    assert capsys.readouterr().err == ""
