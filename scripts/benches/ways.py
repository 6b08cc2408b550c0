# SPDX-License-Identifier: Apache-2.0
"""What each way into a call costs, around ``sh -c true``, beside that command alone and in a container."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from agentcg.api.client import Client
from agentcg.errors import AgentcgError
from agentcg.launcher import launcher_path
from agentcg.sandbox.docker import Engine
from agentcg.sandbox.docker_exec import run as run_in_container
from benches.containers import start_container
from benches.daemons import folder, start_daemon
from benches.harness import Arm, Bench, Part, Ratio, Repetition, Stage
from benches.place import CHECKOUT

__all__ = ["BENCH"]

COMMAND = ("sh", "-c", "true")
SETTLE_SEC = 0.5
"""dockerd goes on for a while after its client has ended."""
WAIT_SEC = 60.0
_AGENT = "import subprocess, sys\nfor _ in sys.stdin:\n    print(subprocess.call(['sh', '-c', 'true']), flush=True)\n"
_MAIN = "from agentcg.cli import main; main()"


def _socket(stage: Stage) -> str:
    if "socket" not in stage.shared:
        # Where the containers are is for the daemon to know, too.
        stage.shared["docker"] = start_container(stage, ("sh", "true", "sleep"))
        os.environ["DOCKER_HOST"] = stage.shared["docker"][2]
        stage.shared["socket"] = start_daemon(stage)
    found: str = stage.shared["socket"]
    return found


def _environment(stage: Stage) -> dict[str, str]:
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    given = {"AGENTCG_SOCKET": _socket(stage), "AGENTCG_WITHOUT_DAEMON": "fail", "PYTHONPATH": os.pathsep.join(paths)}
    return os.environ | given


def _timed(work: Callable[[], int]) -> Repetition:
    def repeat() -> Mapping[str, float | None]:
        began = time.perf_counter()
        if status := work():
            raise AgentcgError(f"it ended with status {status}")
        return {"total_ms": 1000 * (time.perf_counter() - began)}

    repeat()  # What is wrong with it shows before it is measured.
    return repeat


def _process(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Repetition:
    return _timed(lambda: subprocess.call(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment))


def _prepare_sh(stage: Stage) -> Repetition:
    return _process(COMMAND)


def _prepare_socket(stage: Stage) -> Repetition:
    client = stage.enter_context(Client(_socket(stage)))
    session = client.session("ways")

    def work() -> int:
        with session.call(COMMAND) as call:
            return call.run()

    return _timed(work)


def _prepare_launcher(stage: Stage) -> Repetition:
    return _process([launcher_path(), *COMMAND], _environment(stage))


def _prepare_shim(stage: Stage) -> Repetition:
    shells, environment = folder(stage), _environment(stage)
    subprocess.run([sys.executable, "-c", _MAIN, "shim", str(shells)], env=environment, check=True, timeout=WAIT_SEC)
    return _process([str(shells / "sh"), *COMMAND[1:]], environment)


def _prepare_hook(stage: Stage) -> Repetition:
    environment, numbers = _environment(stage), itertools.count()

    def hook(name: str, payload: Mapping[str, object]) -> str:
        return subprocess.run(
            [sys.executable, "-c", _MAIN, "hook", name],
            input=json.dumps(payload),
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            check=True,
            timeout=WAIT_SEC,
        ).stdout

    def work() -> int:
        payload: dict[str, object] = {"session_id": "s", "tool_name": "Bash", "tool_use_id": f"toolu_{next(numbers)}"}
        payload["tool_input"] = {"command": COMMAND[2]}
        answer = json.loads(hook("pre-tool-use", payload | {"hook_event_name": "PreToolUse"}))
        command = answer["hookSpecificOutput"]["updatedInput"]["command"]
        status = subprocess.call(["sh", "-c", command], stdin=subprocess.DEVNULL, env=environment)
        hook("post-tool-use", payload | {"hook_event_name": "PostToolUse"})
        return status

    return _timed(work)


def _prepare_agent(stage: Stage, *options: str) -> Repetition:
    """An agent that runs the command when it is told, in a session of its own."""
    session = [sys.executable, "-c", _MAIN, "session", "run", *options, "--", sys.executable, "-S", "-c", _AGENT]
    agent = subprocess.Popen(session, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment(stage))
    stage.callback(agent.wait, WAIT_SEC)
    assert agent.stdin is not None
    assert agent.stdout is not None
    stage.callback(agent.stdin.close)
    told, said = agent.stdin, agent.stdout

    def work() -> int:
        told.write("\n")
        told.flush()
        return int(said.readline())

    return _timed(work)


def _docker(stage: Stage) -> list[str]:
    _socket(stage)
    words: list[str] = stage.shared["docker"]
    return words


def _prepare_docker_exec(stage: Stage) -> Repetition:
    return _process([*_docker(stage), *COMMAND])


def _prepare_docker_call(stage: Stage) -> Repetition:
    container = _docker(stage)[-1]
    client = stage.enter_context(Client(_socket(stage)))
    session = client.attach(container).session
    stage.callback(client.detach, container)
    engine = Engine()
    stage.callback(engine.close)

    def work() -> int:
        with client.call(COMMAND, session=session) as call:
            status = run_in_container(engine, container, call, stdout=io.BytesIO(), stderr=io.BytesIO())
            call.end(exit_code=status)
        return status

    return _timed(work)


def _arms() -> Sequence[Arm]:
    return (
        Arm("sh", _prepare_sh),
        Arm("socket", _prepare_socket),
        Arm("launcher", _prepare_launcher),
        Arm("shim", _prepare_shim),
        Arm("hook", _prepare_hook),
        Arm("agent", _prepare_agent),
        Arm("transparent", lambda stage: _prepare_agent(stage, "--transparent")),
        Arm("docker-exec", _prepare_docker_exec, settle_sec=SETTLE_SEC),
        Arm("docker-call", _prepare_docker_call, settle_sec=SETTLE_SEC),
    )


BENCH = Bench(
    name="ways",
    summary="what each way into a call costs, around sh -c true",
    parts=(Part("ways", _arms, vm=("--memory", "2G"), quick_sec=50),),
    units={"total_ms": "ms"},
    ratios=(
        Ratio("socket_over_sh", "socket", "sh"),
        Ratio("launcher_over_sh", "launcher", "sh"),
        Ratio("shim_over_sh", "shim", "sh"),
        Ratio("hook_over_sh", "hook", "sh"),
        Ratio("transparent_over_agent", "transparent", "agent"),
        Ratio("docker_call_over_docker_exec", "docker-call", "docker-exec"),
    ),
    n=40,
    quick_n=3,
)
