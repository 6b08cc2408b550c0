# SPDX-License-Identifier: Apache-2.0
"""``agentcg explain``: which call, for how long, and how it is printed."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from agentcg.cli import explain as module
from agentcg.errors import AgentcgError, InvalidInput
from agentcg.explain.result import Explanation, Kind


class FakeTaskTime:
    """Stands for the programs: a second passes whenever it is asked whether the call is over."""

    seconds_left = 100
    opened: list[tuple[str, str]]

    def __init__(self, call: str, cgroup: str) -> None:
        self.call = call
        self.seconds = 0
        self.looks = 0
        FakeTaskTime.opened.append((call, cgroup))

    def __enter__(self) -> "FakeTaskTime":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def over(self) -> bool:
        self.seconds += 1
        return self.seconds > self.seconds_left

    def look(self, stacks: int) -> Explanation:
        self.looks += 1
        assert self.looks == 1  # Nobody sees another.
        ended = self.seconds > self.seconds_left
        return Explanation(self.call, float(self.seconds), stacks, dict.fromkeys(Kind, 1.0), ended=ended)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    calls = [
        SimpleNamespace(call="u0/s/one", cgroup="/cgroup/one"),
        SimpleNamespace(call="u0/s/two", cgroup="/cgroup/two"),
        SimpleNamespace(call="u0/t/two", cgroup=None),
    ]

    class FakeClient:
        def __enter__(self) -> Any:
            return SimpleNamespace(calls=lambda: calls)

        def __exit__(self, *_: object) -> None:
            pass

    FakeTaskTime.opened = []
    monkeypatch.setattr(FakeTaskTime, "seconds_left", 100)
    monkeypatch.setattr(module, "connect", lambda path: FakeClient())
    monkeypatch.setattr(module, "TaskTime", FakeTaskTime)

    def invoke(*words: str) -> Any:
        return CliRunner().invoke(module.explain, ["--every", "1ms", *words])

    return invoke


def test_a_call_is_found_by_its_last_name_and_looked_at_to_the_end(run: Any) -> None:
    done = run("--for", "5ms", "--json", "--stacks", "3", "one")
    assert done.exit_code == 0, done.output
    seen = json.loads(done.stdout)
    assert FakeTaskTime.opened == [("u0/s/one", "/cgroup/one")]
    assert (seen["call"], seen["tasks"], seen["ended"]) == ("u0/s/one", 3, False)


def test_it_ends_with_the_call_and_prints_one_table_where_there_is_no_terminal(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeTaskTime, "seconds_left", 3)
    done = run("--for", "60s", "u0/s/two")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("TASK TIME") == 1
    assert "u0/s/two: 4.0 s, then it was over" in done.stdout


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("two", InvalidInput, "is the name of more than one: u0/s/two, u0/t/two"),
        ("three", InvalidInput, "is no call that runs"),
        ("u0/t/two", AgentcgError, "does not say where"),
    ],
)
def test_what_cannot_be_looked_at_is_said(run: Any, name: str, error: type[Exception], said: str) -> None:
    done = run(name)
    assert isinstance(done.exception, error)
    assert said in str(done.exception)
    assert FakeTaskTime.opened == []
