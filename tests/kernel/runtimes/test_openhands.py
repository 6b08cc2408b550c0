# SPDX-License-Identifier: Apache-2.0
"""The real OpenHands, with a model that is a script: it acts on what it reads.

The guest has it in an environment of its own, since it needs other versions than its neighbours here. So this file is
run by itself.
"""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(300)  # The machine is emulated, and the runtime has thousands of modules.

EAT = "python3 -S -c \"x = bytearray(b'x') * (90 << 20); print('passed')\""
CGROUP = "cat /proc/self/cgroup"


@pytest.fixture(scope="module", autouse=True)
def _openhands() -> Iterator[None]:
    assert "mcp" not in sys.modules, "run this file by itself"
    (packages,) = Path(sys.prefix, "openhands/lib").glob("python3*/site-packages")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(packages)
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # It would be downloaded.
        patch.setenv("OPENHANDS_SUPPRESS_BANNER", "1")
        yield


@pytest.fixture(scope="module")
def model(_openhands: None) -> Callable[[Callable[[list[str]], str | None]], Any]:
    """Return a function that makes a model, whose next command is what a script makes of all that it has read."""
    from openhands.sdk.llm import Message, MessageToolCall
    from openhands.sdk.testing import TestLLM

    class Scripted(TestLLM):
        def completion(self, messages: list[Any], *args: Any, **options: Any) -> Any:
            said = ["".join(part.text for part in message.content) for message in messages if message.role == "tool"]
            command = decide(said)
            tool, given = ("finish", {"message": "done"}) if command is None else ("terminal", {"command": command})
            call = MessageToolCall(id=f"call-{len(said)}", name=tool, arguments=json.dumps(given), origin="completion")
            self._scripted_responses.append(Message(role="assistant", content=[], tool_calls=[call]))
            return super().completion(messages, *args, **options)

    def decide(said: list[str]) -> str | None:
        return decisions[-1](said)

    decisions: list[Callable[[list[str]], str | None]] = []

    def make(script: Callable[[list[str]], str | None]) -> Any:
        decisions.append(script)
        return Scripted.from_messages([])

    return make


def converse(model: Any, directory: Path, **params: Any) -> Any:
    """Return a conversation whose agent has the terminal."""
    from openhands.sdk import Agent, Conversation, Tool

    import agentcg.runtimes.openhands

    assert agentcg.runtimes.openhands.AgentcgTerminalTool.name == "terminal"
    agent = Agent(llm=model, tools=[Tool(name="terminal", params=params)])
    return Conversation(agent=agent, workspace=str(directory), visualizer=None)


@pytest.fixture
def conversation(daemon: Any, model: Any, tmp_path: Path) -> Iterator[Any]:
    """Return one whose model says nothing, for commands that are given to :func:`run`."""
    with closing(
        converse(model(lambda said: None), tmp_path, socket=daemon.socket, session="hands", memory="1G")
    ) as made:
        yield made
    daemon.clear()


def run(conversation: Any, command: str, **options: Any) -> Any:
    from openhands.tools.terminal import TerminalAction

    return conversation.execute_tool("terminal", TerminalAction(**({"command": command, "timeout": 60} | options)))


def read(observation: Any) -> str:
    """Return what a model reads of it."""
    return "".join(part.text for part in observation.to_llm_content)


def places(observation: Any) -> list[str]:
    """Return the cgroups below the session that are in its text."""
    return re.findall(r"0::\S+/hands/(?:calls/)?(\S+)", observation.text)


def history(daemon: Any) -> list[dict[str, Any]]:
    """Return what is kept of the session's calls, the oldest first."""
    asked = ["agentcg", "history", "--history", str(daemon.directory / "history.sqlite"), "--session", "u0/hands"]
    ran = subprocess.run([*asked, "--json"], capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in ran.stdout.splitlines()][::-1]


def test_the_model_reads_why_its_command_died_and_asks_for_what_is_advised(
    daemon: Any, model: Any, tmp_path: Path
) -> None:
    read_by_model: list[str] = []

    def decide(said: list[str]) -> str | None:
        read_by_model[:] = said
        if not said:
            return "cd /var/tmp && export tries=1"
        if len(said) == 1:
            return f"AGENT_RESOURCE_HINT=memory:64m {EAT}"
        if len(said) == 2:
            advised = re.search(r"agentcg: .*memory limit of 64\.0 MiB.* ask for (\d+) MiB", said[1])
            return advised and f"AGENT_RESOURCE_HINT=memory:{advised[1]}m {EAT} && tries=$((tries + 1))"
        return "sleep 600 & sh -c 'echo $PWD after $tries in $PPID'" if len(said) == 3 else None

    with closing(converse(model(decide), tmp_path, socket=daemon.socket, session="hands", memory="1G")) as made:
        made.send_message("make it pass")
        made.run()
        assert len(read_by_model) == 4, read_by_model
        with daemon.client() as client:
            assert [call.command.split()[0] for call in client.calls()] == ["sleep"]
    daemon.clear()
    _, died, passed, after = read_by_model
    assert "[Command finished with exit code 137]" in died
    assert "passed" not in died
    assert "passed" in passed
    assert "agentcg: " not in passed
    assert "[Command finished with exit code 0]" in passed
    shell = re.search(r"/var/tmp after 2 in (\d+)", after)
    assert shell is not None, after
    assert not Path("/proc", shell[1]).exists()
    kept = [(one["outcome"], one["exitCode"]) for one in history(daemon)]
    assert kept[:3] == [("ok", 0), ("memory_limit", 137), ("ok", 0)]


def test_each_command_is_a_call_and_the_shell_is_in_none(conversation: Any, daemon: Any) -> None:
    before = len(history(daemon))
    conversation.update_secrets({"TOKEN": "not-to-be-seen"})
    kinds = [CGROUP, f"true | {CGROUP}", f"({CGROUP}; sh -c '{CGROUP}')", f"echo $({CGROUP}) $TOKEN"]
    ran = [run(conversation, command) for command in kinds]
    assert "<secret-hidden>" in ran[-1].text
    seen = [places(one) for one in ran]
    assert [len(set(calls)) for calls in seen] == [1] * len(kinds)
    assert len({calls[0] for calls in seen}) == len(kinds)
    assert all(re.fullmatch(r"c-\w+", calls[0]) for calls in seen)
    assert places(run(conversation, "cat /proc/$$/cgroup")) == ["agent"]
    assert run(conversation, "(exit 3)").exit_code == 3
    refused = run(conversation, "AGENT_RESOURCE_HINT=memory:lots echo ran")
    assert (refused.exit_code, refused.is_error) == (125, True)
    assert "lots" in read(refused)
    assert "Cannot execute multiple commands" in read(run(conversation, "echo first\necho second"))
    kept = history(daemon)[before:]
    assert [(one["command"], one["exitCode"]) for one in kept] == [
        *((command, 0) for command in kinds),
        ("cat /proc/$$/cgroup", 0),
        ("(exit 3)", 3),
    ]
    with daemon.client() as client:
        assert client.calls() == []


def test_a_command_that_goes_on_is_given_input_in_its_call_and_can_be_ended(
    conversation: Any, daemon: Any, tools: Any
) -> None:
    def the_call() -> Any:
        with daemon.client() as client:
            (call,) = client.calls()
        return call

    begun = run(conversation, "export A=1; read line; echo got $line; sleep 600", timeout=2)
    assert begun.exit_code == -1
    first = the_call().call
    assert "is NOT executed" in read(run(conversation, "echo other"))
    assert "got it" in read(run(conversation, "it", is_input=True, timeout=3))
    assert the_call().call == first
    assert run(conversation, "C-c", is_input=True).metadata.exit_code == 130

    run(conversation, "sleep 600", timeout=1)
    with daemon.client() as client:
        client.kill(the_call().call, "somebody else needs the room")
    ended = run(conversation, "")
    assert ended.metadata.exit_code == 137
    assert "somebody else needs the room" in read(ended)

    run(conversation, "sleep 600", timeout=1)
    leaf = daemon.top / "shared" / the_call().call.replace("/hands/", "/hands/calls/")
    (leaf / "cgroup.freeze").write_text("1")
    tools.wait_for(lambda: tools.keyed(leaf, "cgroup.events")["frozen"])
    assert "it was interrupted while it stood still" in read(run(conversation, "C-c", is_input=True))
    assert "A is 1." in run(conversation, "echo A is $A.").text

    run(conversation, "sleep 600", timeout=1)
    (place,) = places(run(conversation, f"echo A is $A.; {CGROUP}", reset=True))
    assert place.startswith("c-")
    assert "A is ." in run(conversation, "echo A is $A.").text
    with daemon.client() as client:
        assert client.calls() == []


def test_a_daemon_that_is_not_there_is_an_error_before_the_first_command(model: Any, tmp_path: Path) -> None:
    from agentcg.api.client import RemoteError

    with (
        closing(converse(model(lambda said: "echo ran"), tmp_path, socket=str(tmp_path / "none.sock"))) as made,
        pytest.raises(RemoteError, match=r"no daemon at .*/none.sock.*start it with `agentcg daemon`"),
    ):
        made.send_message("go")


@pytest.mark.parametrize("own_daemon", [()], indirect=True)
def test_a_daemon_that_went_away_is_an_error_that_the_model_reads(
    own_daemon: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_by_model: list[str] = []

    def decide(said: list[str]) -> str | None:
        read_by_model[:] = said
        if len(said) == 1:
            own_daemon.signal(signal.SIGKILL)
        return f"touch {tmp_path}/{len(said)}" if len(said) < 2 else None

    monkeypatch.setattr("agentcg.runtimes.session.RECONNECT_SEC", 0.0)
    with closing(converse(model(decide), tmp_path, socket=own_daemon.socket, session="hands")) as made:
        made.send_message("go")
        made.run()
    assert len(read_by_model) == 2, read_by_model
    assert "no daemon at" in read_by_model[1], read_by_model
    assert (tmp_path / "0").exists()
    assert not (tmp_path / "1").exists()
