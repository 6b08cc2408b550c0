# SPDX-License-Identifier: Apache-2.0
"""Which containers are meant, and an engine that is not there."""

import threading

import pytest

from agentcg.errors import InvalidInput, Unsupported
from agentcg.sandbox import docker
from agentcg.sandbox.docker import Container, Engine, Pattern


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("one", True),
        ("on*", True),
        ("two", False),
        ("label=agent", True),
        ("label=agent=yes", True),
        ("label=agent=no", False),
        ("label=other", False),
        ("label=empty=", True),
    ],
)
def test_what_a_pattern_matches(pattern: str, matches: bool) -> None:
    container = Container("0a1b", "one", 7, False, {"agent": "yes", "empty": ""})
    assert Pattern.parse(pattern).matches(container) is matches


@pytest.mark.parametrize("text", ["", "label=", "label==x"])
def test_a_pattern_that_matches_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="matches nothing"):
        Pattern.parse(text)


def test_an_engine_that_is_down_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(Unsupported, match="does not answer") as raised:
        Engine().inspect("one")
    assert "DOCKER_HOST" in raised.value.hint


def test_an_engine_that_is_down_is_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path, caplog) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setattr(docker, "RETRY_SEC", (0.01, 0.02))
    engine = Engine()
    thread = threading.Thread(target=engine.follow, args=(lambda container: None,))
    thread.start()
    while caplog.text.count("does not answer") < 2:
        assert thread.is_alive()
    engine.close()
    thread.join(10)
    assert not thread.is_alive()
