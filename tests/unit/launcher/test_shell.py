# SPDX-License-Identifier: Apache-2.0
"""agentcg-exec in the place of a shell: `sh -c` is a call, all else is the shell."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentcg.api.interfaces import NestedCall

Run = Callable[..., Any]


@pytest.fixture
def shims(launcher: str, tmp_path: Path) -> Path:
    """A folder with the launcher under the names of shells."""
    folder = tmp_path / "shims"
    folder.mkdir()
    for name in ("sh", "bash"):
        (folder / name).symlink_to(launcher)
    return folder


@pytest.fixture
def shell(shims: Path, environment: dict[str, str]) -> Run:
    """Run a shell as a runtime does that finds the shims on PATH."""

    def run(*words: str, env: dict[str, str] | None = None, path: str | None = None, **options: Any) -> Any:
        given = environment | {"PATH": path or f"{shims}:{environment['PATH']}"} | (env or {})
        options = {"capture_output": True, "text": True, "timeout": 30, "input": ""} | options
        found = shutil.which(words[0], path=given["PATH"])
        return subprocess.run(words, executable=found, env=given, **options)

    return run


@pytest.mark.parametrize(
    "words",
    [
        ("sh", "-c", "exit 3"),
        ("bash", "-lc", "exit 3"),
        ("bash", "-c", "exit $#", "zero", "1", "2", "3"),
        ("bash", "-eo", "pipefail", "-c", "(exit 3) | true"),
        ("bash", "+e", "-c", "false; exit 3"),
        ("bash", "--norc", "-O", "extglob", "-c", "exit 3"),
        ("bash", "--rcfile", "/dev/null", "-c", "exit 3"),
        ("bash", "-c", "--", "exit 3"),
    ],
)
def test_a_command_is_a_call(shell, daemon, words):
    assert shell(*words).returncode == 3
    assert [(one["command"], one["hint"]) for one in daemon.begun] == [(list(words), None)]
    assert daemon.ended == [{"call": "me/work/c1", "exitCode": 3, "signal": None}]


@pytest.mark.parametrize(
    ("words", "given", "printed"),
    [
        (("bash", "--version"), "", "GNU bash"),
        (("sh",), "echo from stdin", "from stdin"),
        (("bash", "-s", "-"), "echo from stdin", "from stdin"),
        (("bash", "-x"), "echo traced", "traced"),
        (("sh", "SCRIPT", "-c", "x"), "", "script -c x"),
        (("bash", "-o", "noclobber", "SCRIPT", "-c"), "", "script -c"),
    ],
)
def test_without_a_command_it_is_the_shell_itself(shell, daemon, tmp_path, words, given, printed):
    script = tmp_path / "script"
    script.write_text('echo script "$@"\n')
    words = [str(script) if word == "SCRIPT" else word for word in words]
    assert printed in shell(*words, input=given).stdout
    assert daemon.begun == []


def test_the_shell_sees_what_it_would_have_seen(shell, daemon, environment):
    # But for $BASH, which bash makes from its name and PATH.
    command = 'echo "$0|$1|$-"; cat; kill -TERM $$'
    plain = subprocess.run(
        ["bash", "-ec", command, "name", "one"], input="in", capture_output=True, text=True, env=environment, timeout=30
    )
    ours = shell("bash", "-ec", command, "name", "one", input="in")
    assert (ours.stdout, ours.returncode) == (plain.stdout, plain.returncode) == (ours.stdout, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("AGENT_RESOURCE_HINT=memory:2g true", "memory:2g"),
        (" \n\tAGENT_RESOURCE_HINT='memory:2g,cpu:batch' true", "memory:2g,cpu:batch"),
        ('AGENT_RESOURCE_HINT="memory:low" true', "memory:low"),
        ("AGENT_RESOURCE_HINT= true", ""),
        ("AGENT_RESOURCE_HINT=memory:2g; true", None),
        ("AGENT_RESOURCE_HINT=memory:2g", None),
        ("AGENT_RESOURCE_HINT=memory:2g \n", None),
        ("AGENT_RESOURCE_HINT='memory:2g true", None),
        ("AGENT_RESOURCE_HINT='memory:2g\" true", None),
        (f"AGENT_RESOURCE_HINT={'x' * 257} true", None),
        ("true AGENT_RESOURCE_HINT=memory:2g", None),
        ("", None),
    ],
)
def test_a_hint_at_the_head_of_the_command_is_declared(shell, daemon, command, hint):
    shell("sh", "-c", command)
    assert [one["hint"] for one in daemon.begun] == [hint]


def test_a_hint_at_the_head_goes_before_that_of_the_environment(shell, daemon):
    env = {"AGENT_RESOURCE_HINT": "memory:low", "AGENTCG_SESSION": "mine"}
    shell("sh", "-c", "AGENT_RESOURCE_HINT=memory:2g true", env=env)
    shell("sh", "-c", "true", env=env)
    assert [(one["hint"], one["session"]) for one in daemon.begun] == [("memory:2g", "mine"), ("memory:low", "mine")]


def test_a_shell_below_stays_in_its_call(shell, daemon):
    daemon.begin_error = NestedCall(call="a/b/c")
    assert shell("bash", "-c", "sh -c 'exit 5'; exit $?").returncode == 5
    assert daemon.ended == []


def test_which_shell_is_meant(shell, shims, daemon, environment):
    dash = shutil.which("dash") or "/bin/dash"
    assert shell("bash", "-c", "echo $BASH", env={"AGENTCG_SHELL": dash}).stdout == "\n"
    # With nothing but the shims on PATH, the usual folders are searched.
    assert shell("bash", "-c", "echo found", path=str(shims)).stdout == "found\n"
    again = shell("bash", "-c", "x", env={"AGENTCG_SHELL": "/no/such"})
    assert again.returncode == 127
    assert "/no/such" in again.stderr


def test_a_shell_that_is_not_there_is_said_so(launcher, environment, tmp_path):
    (tmp_path / "ksh").symlink_to(launcher)
    if shutil.which("ksh"):
        pytest.skip("there is a ksh")
    ran = subprocess.run([tmp_path / "ksh", "-c", "true"], env=environment, capture_output=True, text=True, timeout=30)
    assert ran.returncode == 127
    assert "there is no ksh on PATH but this program (let AGENTCG_SHELL name the shell)" in ran.stderr


def test_a_login_shells_name_is_known(launcher, daemon, environment):
    ran = subprocess.run(
        ["-bash", "-c", "shopt -q login_shell && exit 4"], executable=launcher, env=environment, timeout=30
    )
    assert ran.returncode == 4
    assert len(daemon.begun) == 1


def test_without_a_daemon_the_command_runs_after_a_warning(shell):
    ran = shell("sh", "-c", "echo ran", env={"AGENTCG_SOCKET": "/no/such"})
    assert (ran.stdout, ran.returncode) == ("ran\n", 0)
    assert ran.stderr.count("running unmanaged") == 1
    refused = shell("sh", "-c", "echo ran", env={"AGENTCG_SOCKET": "/no/such", "AGENTCG_WITHOUT_DAEMON": "fail"})
    assert (refused.stdout, refused.returncode) == ("", 125)


def test_bad_accesses_there_are_none(checked_launcher, daemon, environment, tmp_path):
    (tmp_path / "bash").symlink_to(checked_launcher)
    long = "x" * 5000
    tries = [
        ["-c"], ["-"], ["--"], ["-c", ""], ["-o"], ["-c", "--"], ["--rcfile"], ["-c", "AGENT_RESOURCE_HINT="],
        ["-c", "AGENT_RESOURCE_HINT='"], ["-c", f"AGENT_RESOURCE_HINT={long} true"], ["-c", "AGENT_RESOURCE_HINT=''"],
    ]  # fmt: skip
    for path in (environment["PATH"], "", ":", f"/{long}:{os.environ['PATH']}"):
        for words in tries:
            ran = subprocess.run(
                [tmp_path / "bash", *words], env=environment | {"PATH": path}, stdin=subprocess.DEVNULL,
                capture_output=True, timeout=30,
            )  # fmt: skip
            assert ran.returncode != 99, (words, path, ran.stderr)
