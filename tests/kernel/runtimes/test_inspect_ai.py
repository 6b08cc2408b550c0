# SPDX-License-Identifier: Apache-2.0
"""The real Inspect, with a model that is a script: it says what it was told to, and acts on what it reads."""

import json
import os
import re
import signal
import subprocess
import threading
import tomllib
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import agentcg

EAT = "python3 -S -c \"x = bytearray(b'x') * (90 << 20); print('passed')\""
CGROUPS = Path("/sys/fs/cgroup")

pytestmark = pytest.mark.timeout(600)  # The runtime takes a minute to start where the machine is emulated.


@pytest.fixture(scope="module", autouse=True)
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Show the runtime our entry points, as if we were installed."""
    project = tomllib.loads((Path(agentcg.__file__).parents[1] / "pyproject.toml").read_text())["project"]
    top = tmp_path_factory.mktemp("site")
    info = top / "agentcg-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: agentcg\nVersion: 0\n")
    points = [f"{name} = {target}" for name, target in project["entry-points"]["inspect_ai"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[inspect_ai]", *points, ""]))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(top)
        patch.setenv("PYTHONPATH", str(top), prepend=os.pathsep)
        yield


@pytest.fixture
def evaluate(daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return what evaluates one sample and returns its log; nothing of it may be left."""
    import inspect_ai
    from inspect_ai.dataset import Sample

    monkeypatch.setenv("AGENTCG_SOCKET", daemon.socket)

    def run(solver: Any, *, sandbox: Any = "agentcg", sample: dict[str, Any] | None = None, **options: Any) -> Any:
        dataset = [Sample(input="make it pass", **(sample or {}))]
        task = inspect_ai.Task(dataset=dataset, solver=solver, sandbox=sandbox)
        given = {"model": "mockllm/model", "display": "none", "log_dir": str(tmp_path / "logs")}
        [log] = inspect_ai.eval(task, **given | options)
        with daemon.client() as client:
            assert [session.session for session in client.sessions() if "/inspect-" in session.session] == []
        assert [path for path in daemon.left() if "inspect-" in path] == []
        assert list(Path("/tmp").glob("agentcg-inspect-*")) == []
        return log

    return run


def agent(decide: Callable[[list[str]], str | None], **options: Any) -> dict[str, Any]:
    """Return an agent whose n-th command is what ``decide`` makes of all that it has read; at None it is done."""
    from inspect_ai.agent import react
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.tool import bash

    def answer(messages: list[Any], *_: Any) -> Any:
        command = decide([message.text for message in messages if message.role == "tool"])
        call = ("submit", {"answer": "done"}) if command is None else ("bash", {"command": command})
        output = ModelOutput.for_tool_call("mockllm/model", *call)
        output.usage = ModelUsage()
        return output

    return {
        "solver": react(tools=[bash(**options)]),
        "model": get_model("mockllm/model", custom_outputs=answer, memoize=False),
    }


def acting(work: Callable[[Any], Awaitable[None]]) -> Any:
    """Return a solver that has no model: it does ``work`` in the sandbox."""
    from inspect_ai.solver import solver
    from inspect_ai.util import sandbox

    @solver(name="acting")
    def made() -> Any:
        async def solve(state: Any, generate: Any) -> Any:
            await work(sandbox())
            return state

        return solve

    return made()


def history(daemon: Any, *options: str) -> list[dict[str, Any]]:
    """Return past calls, the oldest first."""
    asked = ["agentcg", "history", "--history", str(daemon.directory / "history.sqlite"), "--json", "--limit", "20"]
    ran = subprocess.run([*asked, *options], capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in ran.stdout.splitlines()][::-1]


def test_the_model_reads_why_its_command_died_and_asks_for_what_is_advised(evaluate: Any) -> None:
    prompts: list[list[str]] = []

    def decide(read: list[str]) -> str | None:
        prompts.append(read)
        if not read:
            return f"AGENT_RESOURCE_HINT=memory:64m {EAT}"
        if len(read) == 1:
            advised = re.search(r"agentcg: .*memory limit of 64\.0 MiB.* ask for (\d+) MiB", read[0])
            return f"AGENT_RESOURCE_HINT=memory:{advised[1]}m {EAT}" if advised else None
        return None

    log = evaluate(**agent(decide, timeout=60))
    assert log.status == "success", log.error
    assert [len(read) for read in prompts] == [0, 1, 2], prompts
    assert prompts[2][1] == "passed\n"


def test_every_command_is_a_call_of_the_session_of_its_sample(evaluate: Any, daemon: Any) -> None:
    commands = ["cat /proc/self/cgroup", "(cat /proc/self/cgroup; cat note) | cat", "echo oops >&2; exit 3", "nonesuch"]
    log = evaluate(
        **agent(lambda read: (*commands, None)[len(read)]),
        sample={"files": {"note": "from the sample\n"}, "setup": "echo and set up >> note"},
    )
    assert log.status == "success", log.error
    said = [message.text for message in log.samples[0].messages if message.role == "tool"]
    places = re.findall(r"0::\S+/shared/u0/(inspect-task-\w{8})/calls/(c-\w+)", "".join(said))
    assert len(places) == len(set(places)) == 2
    assert said[1].endswith("from the sample\nand set up\n")
    assert said[2] == "oops\n\n"
    assert "nonesuch: command not found" in said[3]
    kept = {one["command"]: one["exitCode"] for one in history(daemon, "--session", f"u0/{places[0][0]}")}
    assert [kept[f"bash --login -c '{command}'"] for command in commands[:3]] == [0, 0, 3]
    assert kept[f"bash --login -c {commands[3]}"] == 127


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(evaluate: Any, daemon: Any) -> None:
    running: list[Any] = []

    def decide(read: list[str]) -> str | None:
        if read:
            with daemon.client() as client:
                running.append(client.calls())
        return None if read else "echo begun; setsid sleep 600 & sleep 600"

    log = evaluate(**agent(decide, timeout=3))
    assert log.status == "success", log.error
    [said] = [message for message in log.samples[0].messages if message.role == "tool"]
    assert said.error.type == "timeout"
    assert re.fullmatch(r"agentcg: .* was stopped after 3.0 s, .*\nbegun\n", said.text), said.text
    assert running == [[]]


def test_a_command_is_ended_with_all_that_it_started_when_nobody_waits_for_it(evaluate: Any, daemon: Any) -> None:
    seen: list[int] = []

    async def work(sandbox: Any) -> None:
        with anyio.move_on_after(3) as scope:
            # More than fits into a pipe, and nobody reads it on.
            await sandbox.exec(["sh", "-c", "setsid sleep 600 & yes"])
        assert scope.cancelled_caught
        with daemon.client() as client:
            seen.append(len(client.calls()))

    log = evaluate(acting(work))
    assert log.status == "success", log.error
    assert seen == [0]
    assert history(daemon, "--command", "yes")[-1]["signal"] == 9


def test_a_call_that_the_daemon_does_not_end_is_ended(evaluate: Any, daemon: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("agentcg.runtimes.inspect_ai.STILL_SEC", -57.0)

    async def work(sandbox: Any) -> None:
        with pytest.raises(TimeoutError):
            await sandbox.exec(["sleep", "600"], timeout=60)

    log = evaluate(acting(work))
    assert log.status == "success", log.error
    assert history(daemon, "--command", "sleep 600")[-1]["signal"] == 9


def test_nothing_is_left_of_a_sample_that_fails(evaluate: Any, daemon: Any) -> None:
    def running() -> int:
        with daemon.client() as client:
            return len(client.calls())

    async def work(sandbox: Any) -> None:
        async def wait_and_fail() -> None:
            while await anyio.to_thread.run_sync(running) < 3:  # noqa: ASYNC110
                await anyio.sleep(0.1)
            raise ValueError("as it happens")

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(sandbox.exec, ["sleep", "601"])
            group.start_soon(wait_and_fail)

    log = evaluate(acting(work), max_subprocesses=3)
    assert log.status == "error"
    assert "as it happens" in log.error.message
    assert [one["signal"] for one in history(daemon, "--command", "sleep 601")] == [9, 9, 9]


def test_nothing_is_left_of_a_sample_that_takes_too_long(evaluate: Any, daemon: Any) -> None:
    async def work(sandbox: Any) -> None:
        await sandbox.exec(["sleep", "602"])

    log = evaluate(acting(work), time_limit=20)
    assert log.samples[0].limit.type == "time"
    assert [one["signal"] for one in history(daemon, "--command", "sleep 602")] == [9]


def test_a_hint_that_is_none_is_the_output_of_a_command_that_did_not_run(evaluate: Any) -> None:
    log = evaluate(**agent(lambda read: None if read else "AGENT_RESOURCE_HINT=memory:lots echo ran"))
    [said] = [message.text for message in log.samples[0].messages if message.role == "tool"]
    assert said.startswith("agentcg: ")
    assert "lots" in said
    assert "ran" not in said.splitlines()


def test_what_a_command_is_given_and_what_it_may_not(evaluate: Any, daemon: Any) -> None:
    from inspect_ai.tool import python
    from inspect_ai.util import OutputLimitExceededError, SandboxUserUnsupportedError, override_sandbox_output_limit

    async def work(sandbox: Any) -> None:
        ran = await sandbox.exec(
            ["sh", "-c", "cat; pwd; echo $A"], input="in\n", cwd="/usr", env={"A": "a"}, user="root"
        )
        assert (ran.success, ran.stdout, ran.stderr) == (True, "in\n/usr\na\n", "")
        assert await python(timeout=60)(code="print(6 * 7)") == "42\n"
        died = await sandbox.exec(["sh", "-c", EAT], env={"AGENT_RESOURCE_HINT": "memory:64m"})
        assert (died.success, died.returncode) == (False, 137)
        assert "memory limit of 64.0 MiB" in died.stderr
        nothing = await sandbox.exec(["no-such-command"])
        assert nothing.returncode == 127
        assert "no-such-command" in nothing.stderr
        with pytest.raises(PermissionError, match="/etc/passwd"):
            await sandbox.exec(["/etc/passwd"])
        nowhere = await sandbox.exec(["true"], cwd="no-such-directory")
        assert nowhere.returncode == 127
        assert "no-such-directory" in nowhere.stderr
        with pytest.raises(SandboxUserUnsupportedError, match="nobody"):
            await sandbox.exec(["true"], user="nobody")
        with override_sandbox_output_limit(1000), pytest.raises(OutputLimitExceededError) as much:
            await sandbox.exec(["sh", "-c", "seq 10000; echo end >&2"])
        assert much.value.truncated_output.startswith("end\n")
        assert much.value.truncated_output.endswith("9999\n10000\n")
        assert len(much.value.truncated_output) == 1004

    log = evaluate(acting(work))
    assert log.status == "success", log.error
    assert history(daemon, "--command", "no-such-command")[-1]["exitCode"] == 127
    assert history(daemon, "--command", "/etc/passwd")[-1]["exitCode"] == 126


def test_as_many_run_at_once_as_subprocesses_of_the_runtime_may(evaluate: Any, tmp_path: Path) -> None:
    once = f"mkdir {tmp_path}/alone && sleep 0.3 && rmdir {tmp_path}/alone"

    async def work(sandbox: Any) -> None:
        async def run() -> None:
            assert (await sandbox.exec(["sh", "-c", once])).stderr == ""

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(run)

    log = evaluate(acting(work), max_subprocesses=1)
    assert log.status == "success", log.error


def test_the_session_gets_what_is_configured(evaluate: Any, daemon: Any, tmp_path: Path) -> None:
    from inspect_ai.log import read_eval_log
    from inspect_ai.util import SandboxEnvironmentSpec

    from agentcg.runtimes.inspect_ai import AgentcgConfig

    budgets: list[tuple[bool, int | None]] = []

    async def work(sandbox: Any) -> None:
        with daemon.client() as client:
            budgets.extend((one.protected, one.budget.memoryMax) for one in client.sessions())

    file = tmp_path / "agentcg.toml"
    file.write_text('memory = "200M"\n')
    given = AgentcgConfig(memory="256M", protected=True)
    for sandbox in (SandboxEnvironmentSpec("agentcg", given), ("agentcg", str(file))):
        log = evaluate(acting(work), sandbox=sandbox)
        assert log.status == "success", log.error
        kept = read_eval_log(log.location).eval.sandbox.config
        assert kept in (given, str(file))
    assert budgets == [(True, 256 << 20), (False, 200 << 20)]


TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.solver import solver
from inspect_ai.util import sandbox

@solver
def look():
    async def solve(state, generate):
        ran = await sandbox().exec(["sh", "-c", "cat /sys/fs/cgroup/$(cut -d: -f3 /proc/self/cgroup)/../../memory.max"])
        with open("RESULT", "w") as file:
            file.write(ran.stdout)
        return state
    return solve

@task
def look_around():
    return Task(dataset=[Sample(input="look")], solver=look())
"""


def test_the_command_line_of_the_runtime_names_the_configuration_that_is_beside_the_task(
    daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTCG_SOCKET", daemon.socket)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/task.py").write_text(TASK.replace("RESULT", f"{tmp_path}/result"))
    (tmp_path / "tasks/agentcg.toml").write_text('memory = "200M"\n')
    command = ["inspect", "eval", "tasks/task.py", "--model", "mockllm/model", "--sandbox", "agentcg:agentcg.toml"]
    subprocess.run([*command, "--display", "none"], cwd=tmp_path, check=True, timeout=500)
    assert (tmp_path / "result").read_text() == f"{200 << 20}\n"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('memory = "lots"', "'lots' is not a size"),
        ("memmory = 1", "memmory"),
        ("memory = ", "Invalid value"),
        (None, "No such file"),
    ],
)
def test_a_configuration_that_is_none_is_told_before_the_first_sample(
    evaluate: Any, tmp_path: Path, text: str | None, wrong: str
) -> None:
    file = tmp_path / "agentcg.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(agentcg.errors.InvalidInput, match=wrong):
        evaluate(acting(None), sandbox=("agentcg", str(file)))


def test_that_no_daemon_answers_is_told_before_the_first_sample(evaluate: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("AGENTCG_SOCKET", "/run/no-such.sock")
    with pytest.raises(agentcg.errors.AgentcgError, match="start it with `agentcg daemon`"):
        evaluate(acting(None))


def test_all_that_samples_have_open_can_be_closed(evaluate: Any, daemon: Any) -> None:
    async def work(sandbox: Any) -> None:
        with daemon.client() as client, client.session("other"):
            open_ = {one.session for one in client.sessions()}
            ran = await anyio.run_process(["inspect", "sandbox", "cleanup", "agentcg"])
            assert ran.returncode == 0
            assert {one.session for one in client.sessions()} == {"u0/other"} != open_

    log = evaluate(acting(work))
    assert log.status == "success", log.error


@pytest.mark.parametrize("own_daemon", [()], indirect=True)
def test_a_daemon_that_is_started_again_is_waited_for(own_daemon: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentcg.runtimes.inspect_ai import AgentcgConfig
    from agentcg.runtimes.inspect_ai import AgentcgSandboxEnvironment as Sandbox

    monkeypatch.setattr("agentcg.runtimes.inspect_ai.RECONNECT_SEC", 60.0)  # The machine is emulated.
    config = AgentcgConfig(socket=own_daemon.socket)

    async def run() -> None:
        made = await Sandbox.sample_init("task", config, {})
        assert (await made["default"].exec(["echo", "before"])).stdout == "before\n"
        own_daemon.signal(signal.SIGKILL)
        starting = threading.Thread(target=own_daemon.start)
        starting.start()
        assert (await made["default"].exec(["echo", "after"])).stdout == "after\n"
        await anyio.to_thread.run_sync(starting.join)
        await Sandbox.sample_cleanup("task", config, made, False)

    anyio.run(run)
    assert own_daemon.left() == []


def test_it_keeps_what_the_runtime_asks_of_a_sandbox(daemon: Any, tools: Any, tmp_path: Path) -> None:
    from inspect_ai.util._sandbox import self_check

    from agentcg.runtimes.inspect_ai import AgentcgConfig
    from agentcg.runtimes.inspect_ai import AgentcgSandboxEnvironment as Sandbox

    checks = {name: check for name, check in vars(self_check).items() if name.startswith("test_")}
    assert len(checks) > 30
    config = AgentcgConfig(socket=daemon.socket)

    async def run(check: Callable[[Any], Awaitable[None]]) -> None:
        made = await Sandbox.sample_init("check", config, {})
        try:
            await check(made["default"])
        finally:
            await Sandbox.sample_cleanup("check", config, made, False)

    def work() -> None:
        failed = {}
        for name, check in checks.items():
            try:
                anyio.run(run, check)
            except Exception:
                failed[name] = traceback.format_exc()
        result.write(json.dumps(failed))
        result.flush()

    # Not as root, who may read and write everything.
    with (tmp_path / "failed").open("w") as result:
        assert tools.in_cgroup(CGROUPS, work, uid=65534) == 0
    failed = json.loads((tmp_path / "failed").read_text())
    assert "SandboxUserUnsupportedError" in failed.pop("test_exec_as_user")  # It is not told apart by a capability.
    assert failed == {}
