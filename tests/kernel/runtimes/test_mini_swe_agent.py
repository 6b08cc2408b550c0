# SPDX-License-Identifier: Apache-2.0
"""The real mini-swe-agent, with a model that is a script: it says what it was told to, and acts on what it reads."""

import json
import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

EAT = "python3 -S -c \"x = bytearray(b'x') * (90 << 20); print('passed')\""


@pytest.fixture
def environment(daemon: Any, minisweagent: None) -> Iterator[Any]:
    """Return one made as the runtime makes it: from the name of its class."""
    from minisweagent.environments import get_environment

    name = "agentcg.runtimes.mini_swe_agent.AgentcgEnvironment"
    made = get_environment({"environment_class": name, "socket": daemon.socket, "session": "mini", "memory": "1G"})
    yield made
    made.close()


def test_the_model_reads_why_its_command_died_and_asks_for_what_is_advised(environment: Any, agent: Any) -> None:
    def decide(said: list[str]) -> str:
        if not said:
            return f"AGENT_RESOURCE_HINT=memory:64m {EAT}"
        if len(said) == 1:
            advised = re.search(r"agentcg: .*memory limit of 64\.0 MiB.* ask for (\d+) MiB", said[0])
            assert advised is not None, said
            return f"AGENT_RESOURCE_HINT=memory:{advised[1]}m {EAT}"
        assert "<returncode>0</returncode>" in said[1], said
        return "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; echo done"

    made = agent(environment, decide)
    assert made.run("make it pass") == {"exit_status": "Submitted", "submission": "done\n"}
    assert made.n_calls == 3


def test_every_command_is_a_call_of_the_session(environment: Any, daemon: Any, agent: Any) -> None:
    commands = ["cat /proc/self/cgroup", "(sleep 0.1; cat /proc/self/cgroup) | cat", "exit 3", "no-such-command"]

    def decide(said: list[str]) -> str:
        return (*commands, "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT")[len(said)]

    made = agent(environment, decide)
    assert made.run("look around")["exit_status"] == "Submitted"
    said = [message["content"] for message in made.messages if message["role"] == "user"][1:]
    places = re.findall(r"0::\S+/shared/u0/mini/calls/(c-\w+)", "".join(said[:2]))
    assert len(places) == len(set(places)) == 2
    assert [re.search(r"<returncode>(-?\d+)", one)[1] for one in said] == ["0", "0", "3", "127"]
    asked = ["agentcg", "history", "--history", str(daemon.directory / "history.sqlite"), "--session", "u0/mini"]
    ran = subprocess.run([*asked, "--json", "--limit", "5"], capture_output=True, text=True, timeout=60, check=True)
    kept = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [one["command"] for one in reversed(kept)][:4] == [f"sh -c {shlex.quote(command)}" for command in commands]
    assert [one["exitCode"] for one in reversed(kept)] == [0, 0, 3, 127, 0]


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(environment: Any, daemon: Any) -> None:
    result = environment.execute({"command": "echo begun; setsid sleep 60 & sleep 60"}, timeout=2)
    assert result["returncode"] == -1
    assert result["output"].startswith("begun\n")
    assert "timed out after 2 seconds" in result["exception_info"]
    assert result["extra"]["agentcg"]["outcome"] == "timed_out"
    with daemon.client() as client:
        assert client.calls() == []


def test_a_hint_that_is_none_is_the_output_of_a_command_that_did_not_run(environment: Any) -> None:
    result = environment.execute({"command": "AGENT_RESOURCE_HINT=memory:lots echo ran"})
    assert result["returncode"] == 125
    assert result["output"].startswith("agentcg: ")
    assert "lots" in result["output"]
    assert "ran" not in result["output"].splitlines()


@pytest.mark.parametrize("own_daemon", [()], indirect=True)
def test_a_daemon_that_is_started_again_is_waited_for(own_daemon: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentcg.runtimes.mini_swe_agent import AgentcgEnvironment

    monkeypatch.setattr("agentcg.runtimes.session.RECONNECT_SEC", 60.0)  # The machine is emulated.
    made = AgentcgEnvironment(socket=own_daemon.socket)
    assert made.execute({"command": "echo before"})["output"] == "before\n"
    own_daemon.signal(signal.SIGKILL)
    starting = threading.Thread(target=own_daemon.start)
    starting.start()
    after = made.execute({"command": "echo after"})
    starting.join()
    assert (after["output"], after["returncode"]) == ("after\n", 0)
    made.close()
    own_daemon.clear()
