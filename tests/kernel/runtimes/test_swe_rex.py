# SPDX-License-Identifier: Apache-2.0
"""The real SWE-ReX, and an agent on it whose model is a script: it acts on what it reads."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EAT = "python3 -S -c \"x = bytearray(b'x') * (90 << 20); print('passed')\""
CGROUP = "cat /proc/self/cgroup"


@pytest.fixture(scope="module", autouse=True)
def _patient() -> Iterator[None]:
    """The machine is emulated: where the runtime gives its shell a second or less to answer, that is not enough."""
    import pexpect

    expect = pexpect.spawn.expect

    def patient(self: Any, pattern: Any, timeout: float | None = -1, **options: Any) -> int:
        given = 10 if timeout is not None and 0 <= timeout <= 1 else timeout
        return expect(self, pattern, timeout=given, **options)  # type: ignore[no-any-return]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pexpect.spawn, "expect", patient)
        yield


class Rex:
    """A deployment with a bash, and what asks it."""

    def __init__(self, deployment: Any) -> None:
        from swerex.runtime.abstract import CreateBashSessionRequest

        self.deployment = deployment
        asyncio.run(deployment.start())
        asyncio.run(deployment.runtime.create_session(CreateBashSessionRequest(startup_timeout=30)))

    def do(self, action: Any) -> Any:
        return asyncio.run(self.deployment.runtime.run_in_session(action))

    def run(self, command: str, timeout: float = 90, **options: Any) -> Any:
        from swerex.runtime.abstract import BashAction

        return self.do(BashAction(**({"command": command, "timeout": timeout, "check": "silent"} | options)))

    def interrupt(self, **options: Any) -> Any:
        from swerex.runtime.abstract import BashInterruptAction

        return self.do(BashInterruptAction(**options))

    def execute(self, command: Any, timeout: float = 90, **options: Any) -> Any:
        from swerex.runtime.abstract import Command

        return asyncio.run(self.deployment.runtime.execute(Command(command=command, timeout=timeout, **options)))

    def stop(self) -> None:
        asyncio.run(self.deployment.stop())

    def places(self, command: str, **options: Any) -> list[str]:
        """Return the calls in which a command runs that prints cgroups."""
        return re.findall(r"0::\S+/rex/(?:calls/)?(\S+)", self.run(command, **options).output)


def deploy(socket: str) -> Any:
    from agentcg.runtimes.swe_rex import AgentcgDeployment

    return Rex(AgentcgDeployment(socket=socket, session="rex", memory="1G"))


@pytest.fixture
def rex(daemon: Any) -> Iterator[Rex]:
    made = deploy(daemon.socket)
    yield made
    made.stop()


def verdicts(daemon: Any, limit: int = 20) -> list[dict[str, Any]]:
    """Return what is kept of the session's calls, the oldest first."""
    asked = ["agentcg", "history", "--history", str(daemon.directory / "history.sqlite"), "--session", "u0/rex"]
    ran = subprocess.run(
        [*asked, "--json", "--limit", str(limit)], capture_output=True, text=True, timeout=60, check=True
    )
    return [json.loads(line) for line in ran.stdout.splitlines()][::-1]


def test_the_model_reads_why_its_command_died_and_asks_for_what_is_advised(rex: Rex, agent: Any) -> None:
    from minisweagent.environments.local import LocalEnvironment

    class Environment(LocalEnvironment):
        """Of the runtime that is tested here, for the agent of another."""

        def execute(self, action: dict[str, Any], cwd: str = "", *, timeout: int | None = None) -> dict[str, Any]:
            ran = rex.run(action["command"])
            output = {"output": ran.output, "returncode": ran.exit_code, "exception_info": ""}
            self._check_finished(output)
            return output

    def decide(said: list[str]) -> str:
        if not said:
            return "cd /var/tmp; tries=1"
        if len(said) == 1:
            return f"AGENT_RESOURCE_HINT=memory:64m {EAT}"
        if len(said) == 2:
            assert "<returncode>137</returncode>" in said[1], said
            advised = re.search(r"agentcg: .*memory limit of 64\.0 MiB.* ask for (\d+) MiB", said[1])
            assert advised is not None, said
            return f"AGENT_RESOURCE_HINT=memory:{advised[1]}m {EAT} && tries=$((tries + 1))"
        assert "<returncode>0</returncode>" in said[2], said
        assert "passed" in said[2]
        assert "agentcg" not in said[2]
        return "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; echo $PWD after $tries"

    made = agent(Environment(), decide)
    ran = made.run("make it pass")
    assert (ran["exit_status"], ran["submission"].strip()) == ("Submitted", "/var/tmp after 2")
    assert made.n_calls == 4


def test_each_command_is_a_call_and_the_shell_is_in_none(rex: Rex, daemon: Any) -> None:
    kinds = [CGROUP, f"true | {CGROUP}", f"echo $({CGROUP})", f"({CGROUP}; sh -c '{CGROUP}')", f"cat <({CGROUP})"]
    seen = [rex.places(command) for command in kinds]
    assert [len(set(places)) for places in seen] == [1] * len(kinds)
    assert len({places[0] for places in seen}) == len(kinds)
    assert all(re.fullmatch(r"c-\w+", places[0]) for places in seen)
    assert rex.places("cat /proc/$$/cgroup") == ["agent"]
    assert rex.run("cat /proc/self/oom_score_adj /proc/$$/oom_score_adj").output.split() == ["975", "0"]
    assert rex.run("(exit 3)").exit_code == 3
    assert rex.run("no-such-command").exit_code == 127
    told = set(re.findall(r"^(AGENTCG\w*)=", rex.run("env").output, re.MULTILINE))
    assert told <= set(os.environ)
    assert rex.run("  # nothing", check="ignore").output.strip() == ""
    kept = [(one["command"], one["exitCode"]) for one in verdicts(daemon)]
    assert kept[-11:-6] == [(command, 0) for command in kinds]
    assert kept[-4:-2] == [("(exit 3)", 3), ("no-such-command", 127)]
    with daemon.client() as client:
        assert client.calls() == []


def test_what_a_shell_keeps_is_kept_also_when_a_command_ends_at_its_limit(rex: Rex) -> None:
    pid = rex.run("echo $$").output
    rex.run("cd /var/tmp\nexport A=1\nB=2\nf() { echo $A$B$1; }\nalias g='f 4'\nset -o pipefail")
    died = rex.run(f"AGENT_RESOURCE_HINT=memory:64m {EAT} | cat")
    assert died.exit_code == 137
    assert "memory limit of 64.0 MiB" in died.output
    assert rex.run("f 3; g; pwd; sh -c 'echo $A'; echo $$").output.split() == [
        "123",
        "124",
        "/var/tmp",
        "1",
        pid.strip(),
    ]
    assert rex.run("false | true").exit_code == 1


def test_time_out_interrupts_the_command_and_not_the_shell(rex: Rex, daemon: Any) -> None:
    from swerex.exceptions import CommandTimeoutError

    rex.run("A=1")
    with pytest.raises(CommandTimeoutError):
        rex.run("echo begun; sleep 600", timeout=3)
    with daemon.client() as client:
        assert [call.command for call in client.calls()] == ["echo begun; sleep 600"]
    rex.interrupt()
    assert rex.run("echo $A").output.strip() == "1"
    with daemon.client() as client:
        assert client.calls() == []
    assert [(one["outcome"], one["signal"]) for one in verdicts(daemon)[-2:]] == [("signal", 2), ("ok", None)]


def test_a_command_that_stands_still_can_be_interrupted(rex: Rex, daemon: Any, tools: Any) -> None:
    from swerex.exceptions import CommandTimeoutError

    with pytest.raises(CommandTimeoutError):
        rex.run("A=2; sleep 600", timeout=3)
    with daemon.client() as client:
        (call,) = client.calls()
    leaf = daemon.top / "shared" / call.call.replace("/rex/", "/rex/calls/")
    (leaf / "cgroup.freeze").write_text("1")
    tools.wait_for(lambda: tools.keyed(leaf, "cgroup.events")["frozen"])
    said = rex.interrupt().output
    assert "was ended: it was interrupted while it stood still" in said
    assert rex.run("echo $A").output.split()[-1] == "2"  # A terminal may have echoed the ^C before it.


def test_what_is_left_in_the_background_goes_on_in_its_call(rex: Rex, daemon: Any) -> None:
    (place,) = rex.places(f"sleep 600 & {CGROUP}")
    rex.run("true")
    with daemon.client() as client:
        assert [(call.call, call.pidsCurrent) for call in client.calls()] == [(f"u0/rex/{place}", 1)]
    assert rex.run("jobs -r | wc -l; kill %1; wait").output.split()[0] == "1"
    with daemon.client() as client:
        assert client.calls() == []
    assert [one["outcome"] for one in verdicts(daemon)[-3:]].count("ok") == 3


def test_what_is_advised_on_the_background_comes_with_a_later_command(rex: Rex, tmp_path: Path) -> None:
    waiting = f"until [ -e {tmp_path}/go ]; do sleep 0.2; done"
    assert "agentcg" not in rex.run(f"AGENT_RESOURCE_HINT=memory:64m ({waiting}; {EAT}) &").output
    (tmp_path / "go").touch()
    assert "memory limit of 64.0 MiB" in rex.run("wait").output
    assert "agentcg" not in rex.run("true").output


def test_what_is_left_ends_with_the_shell(daemon: Any, tools: Any, tmp_path: Path) -> None:
    made = deploy(daemon.socket)
    try:
        made.run(f"setsid sh -c 'echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 600' &")
        tools.wait_for((tmp_path / "pid").exists)
        process = Path("/proc", (tmp_path / "pid").read_text().strip())
        assert process.exists()
    finally:
        made.stop()
    daemon.clear()
    assert "sleep" not in [name.read_text().strip() for name in process.glob("comm")]


def test_interactive_programs_are_one_call(rex: Rex) -> None:
    begun = rex.run("python3 -Sqic 'import os, sys; sys.ps1 = \"> \"'", is_interactive_command=True, expect=["> "])
    assert begun.expect_string == "> "
    line = "print(open('/proc/self/cgroup').read())"
    first, second = (rex.run(line, is_interactive_command=True, expect=["> "]).output for _ in range(2))
    place = re.search(r"calls/(c-\w+)", first)
    assert place is not None
    assert place[1] in second
    rex.run("raise SystemExit", is_interactive_quit=True)
    assert rex.places(CGROUP) != [place[1]]


def test_a_shell_that_takes_its_own_place_is_loaded_again(rex: Rex) -> None:
    before = rex.run("echo $$").output
    rex.run("exec bash --norc")
    assert rex.run("echo $$").output.split()[-1] == before.strip()
    (place,) = rex.places(CGROUP)
    assert place.startswith("c-")


def test_a_hint_that_is_none_is_the_output_of_a_command_that_did_not_run(rex: Rex) -> None:
    from swerex.exceptions import BashIncorrectSyntaxError, NonZeroExitCodeError

    command = "AGENT_RESOURCE_HINT=memory:lots echo ran"
    refused = rex.run(command)
    assert refused.exit_code == 125
    assert refused.output.startswith("agentcg: ")
    assert "lots" in refused.output
    with pytest.raises(NonZeroExitCodeError, match="lots"):
        rex.run(command, check="raise")
    with pytest.raises(NonZeroExitCodeError, match=r"mine: 'sh -c \"exit 4\"' failed with exit code 4"):
        rex.run('sh -c "exit 4"', check="raise", error_msg="mine")
    with pytest.raises(BashIncorrectSyntaxError):
        rex.run("if then")
    assert rex.run("echo on", check="raise").output.strip() == "on"
    assert rex.run("echo on", check="ignore").exit_code is None


def test_a_command_outside_the_shell_is_a_call_too(rex: Rex, daemon: Any, tools: Any) -> None:
    from swerex.exceptions import CommandTimeoutError, NonZeroExitCodeError

    assert "/shared/u0/rex/calls/" in rex.execute(["cat", "/proc/self/cgroup"]).stdout
    ran = rex.execute("echo $A; exit 3", shell=True, env={"A": "1", "PATH": os.environ["PATH"]}, cwd="/")
    assert (ran.stdout, ran.exit_code) == ("1\n", 3)
    died = rex.execute(f"AGENT_RESOURCE_HINT=memory:64m {EAT}", shell=True)
    assert "memory limit of 64.0 MiB" in died.stderr
    with pytest.raises(NonZeroExitCodeError, match="'exit 4' failed with exit code 4"):
        rex.execute("exit 4", shell=True, check=True)
    with pytest.raises(CommandTimeoutError):
        rex.execute("sleep 600 & sleep 600", shell=True, timeout=5)
    with daemon.client() as client:
        tools.wait_for(lambda: not client.calls())


def test_sessions_of_a_runtime_are_shells_of_one_session(rex: Rex) -> None:
    from swerex.exceptions import SessionExistsError
    from swerex.runtime.abstract import BashAction, CloseBashSessionRequest, CreateBashSessionRequest

    runtime = rex.deployment.runtime
    with pytest.raises(SessionExistsError):
        asyncio.run(runtime.create_session(CreateBashSessionRequest()))
    asyncio.run(runtime.create_session(CreateBashSessionRequest(session="other", startup_timeout=30)))
    said = rex.do(BashAction(command=f"A=2; {CGROUP}", session="other", timeout=60)).output
    assert "/shared/u0/rex/calls/" in said
    assert rex.run("echo $A.").output.strip() == "."
    asyncio.run(runtime.close_session(CloseBashSessionRequest(session="other")))


def test_without_privileges(daemon: Any, tools: Any) -> None:
    def work() -> None:
        os.chdir("/")
        made = deploy(daemon.socket)
        assert re.search(r"/shared/u65534/rex/calls/c-\w+", made.run(CGROUP).output)
        died = made.run(f"AGENT_RESOURCE_HINT=memory:64m {EAT}")
        assert "memory limit of 64.0 MiB" in died.output, died
        assert made.run("sleep 600 & true").exit_code == 0
        made.stop()

    assert tools.in_cgroup(Path("/sys/fs/cgroup"), work, uid=65534) == 0
    daemon.clear()


@pytest.mark.parametrize("own_daemon", [()], indirect=True)
def test_a_daemon_that_is_started_again_while_a_command_runs(
    own_daemon: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("agentcg.runtimes.session.RECONNECT_SEC", 60.0)  # The machine is emulated.
    made = deploy(own_daemon.socket)
    said: list[Any] = []
    command = f"touch {tmp_path}/begun; until [ -e {tmp_path}/go ]; do sleep 0.2; done; sh -c 'exit 3'"
    running = threading.Thread(target=lambda: said.append(made.run(command)))
    running.start()
    while not (tmp_path / "begun").exists():
        assert running.is_alive()
    own_daemon.signal(signal.SIGKILL)
    own_daemon.start()
    (tmp_path / "go").touch()
    running.join()
    assert said[0].exit_code == 3
    assert made.run("echo after").output.strip() == "after"
    assert [one["exitCode"] for one in verdicts(own_daemon)] == [3, 0]
    made.stop()
    own_daemon.clear()


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_it_is_served_as_a_remote_deployment_to_whom_a_class_cannot_be_named(
    daemon: Any, port: int, tools: Any
) -> None:
    from swerex.deployment.config import RemoteDeploymentConfig, get_deployment

    module = [sys.executable, "-m", "agentcg.runtimes.swe_rex"]
    ours = ["--socket", daemon.socket, "--session", "rex", "--memory", "1G"]
    theirs = ["--host", "127.0.0.1", "--port", str(port), "--auth-token", "secret"]

    def answers() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    with subprocess.Popen([*module, *ours, *theirs], stdin=subprocess.DEVNULL) as server:
        try:
            tools.wait_for(lambda: answers() or server.poll() is not None, 90)
            made = Rex(get_deployment(RemoteDeploymentConfig(host="http://127.0.0.1", port=port, auth_token="secret")))
            # Its time-outs of a tenth of a second are for reading the exit code.
            first, second = (made.places(CGROUP, check="ignore") for _ in range(2))
            assert first != second
            died = made.run(f"AGENT_RESOURCE_HINT=memory:64m {EAT}", check="ignore")
            assert "memory limit of 64.0 MiB" in died.output
            made.stop()
            daemon.clear()
        finally:
            server.terminate()
            server.wait(30)
