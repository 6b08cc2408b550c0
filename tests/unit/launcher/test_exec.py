# SPDX-License-Identifier: Apache-2.0
"""What agentcg-exec does for a command while all is well with the daemon."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcg.api.types import Intent


@pytest.mark.parametrize("status", [0, 3, 125, 255])
def test_exit_status_is_the_commands(run, daemon, status):
    assert run("--", "sh", "-c", f"exit {status}").returncode == status
    assert daemon.ended == [{"call": "me/work/c1", "exitCode": status, "signal": None}]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGPIPE, signal.SIGINT])
def test_signal_that_ends_the_command_ends_the_launcher(run, daemon, number, tmp_path):
    assert run("--", "sh", "-c", f"kill -{number.value} $$", cwd=tmp_path).returncode == -number
    assert daemon.ended == [{"call": "me/work/c1", "exitCode": None, "signal": number.value}]


def test_command_is_placed_before_it_runs(run, daemon):
    # What the command prints is the file that stands for its cgroup.procs.
    assert run("--", "cat", str(daemon.procs)).stdout == "0"


def test_command_asks_its_way_in_where_no_descriptor_is_passed(run, daemon):
    daemon.passes_procs = False
    assert run("--", "cat", str(daemon.procs)).stdout == "asked"
    assert daemon.entered == ["me/work/c1"]
    assert daemon.ended == [{"call": "me/work/c1", "exitCode": 0, "signal": None}]


def test_begin_carries_options_and_environment_gives_defaults(run, daemon):
    run(
        "--session",
        "s",
        "--id=i",
        "--tool",
        "Bash",
        "--intent",
        '{"memoryMax": 5}',
        "--hint",
        "memory:low",
        "true",
        "-x",
    )
    run("true", env={"AGENTCG_SESSION": "e", "AGENT_RESOURCE_HINT": 'memory:"high"'})
    run("--hint", "memory:1g", "true", env={"AGENT_RESOURCE_HINT": "memory:high", "AGENTCG_SESSION": ""})
    common = {"session": None, "id": None, "tool": "", "command": ["true"], "intent": None}
    assert daemon.begun == [
        {"session": "s", "id": "i", "tool": "Bash", "command": ["true", "-x"], "intent": Intent(memoryMax=5)}
        | {"hint": "memory:low"},
        common | {"session": "e", "hint": 'memory:"high"'},
        common | {"hint": "memory:1g"},
    ]


def test_command_is_given_its_oom_score(run, daemon):
    daemon.oom_score_adj = 307
    assert run("cat", "/proc/self/oom_score_adj").stdout == "307\n"
    # Refused to most: the command runs all the same.
    daemon.oom_score_adj = -1000
    assert run("true").returncode == 0


def test_environment_of_the_reply_is_added_and_wins(run, daemon):
    daemon.environment = {"WATCH": 'a=b \x01"\\ü🙂', "OLD": "new"}
    ran = run("python3", "-c", "import os, json; print(json.dumps(dict(os.environ)))", env={"OLD": "old", "KEPT": "1"})
    seen = json.loads(ran.stdout)
    assert {name: seen[name] for name in ("WATCH", "OLD", "KEPT")} == daemon.environment | {"KEPT": "1"}


def test_path_of_the_reply_is_where_the_command_is_found(run, daemon, tmp_path):
    (tmp_path / "own").write_text("#!/bin/sh\necho own\n")
    (tmp_path / "own").chmod(0o755)
    daemon.environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert run("own").stdout == "own\n"


def test_standard_streams_pass_through_and_nothing_else_is_inherited(run, daemon):
    assert run("cat", input="some\0thing\n").stdout == "some\0thing\n"
    assert run("ls", "/proc/self/fd").stdout.split() == ["0", "1", "2", "3"]  # 3 is the listing's own


def test_signals_of_the_command_are_as_the_caller_left_them(run, daemon, environment):
    def ignore() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    show = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]
    direct = subprocess.run(show, preexec_fn=ignore, capture_output=True, text=True, env=environment)
    assert run(*show, preexec_fn=ignore).stdout == direct.stdout
    # With SIGCHLD ignored the kernel would throw the status away.
    assert run("sh", "-c", "exit 4", preexec_fn=ignore).returncode == 4


@pytest.mark.parametrize(
    ("name", "status", "why"),
    [("missing-command", 127, "No such file or directory"), ("plain", 126, "Permission denied")],
)
def test_command_that_cannot_be_executed(run, daemon, tmp_path, name, status, why):
    (tmp_path / "plain").touch(0o644)
    name = str(tmp_path / name) if name == "plain" else name
    ran = run("--", name)
    assert (ran.returncode, ran.stderr) == (status, f"agentcg-exec: {name}: {why}\n")
    assert daemon.ended[0]["exitCode"] == status


def test_advice_is_one_harmless_line(run, daemon, tools):
    assert run("true").stderr == ""
    daemon.verdict = tools.verdict(advice="ask for\n1.6 GiB\x1b[31m\x9b0m")
    assert run("true").stderr == "agentcg: ask for 1.6 GiB [31m 0m\n"
    assert run("--quiet", "true").stderr == ""
    assert run("true", env={"AGENTCG_VERDICT": "none"}).stderr == ""


def test_verdict_as_json_goes_to_its_descriptor_alone(run, daemon, tools):
    daemon.verdict = tools.verdict(advice="näher\n", exitCode=1)
    read, write = os.pipe()
    with os.fdopen(read) as verdicts:
        ran = run(
            *("--verdict", "json", "--verdict-fd", str(write), "--", "test", "-e", f"/proc/self/fd/{write}"),
            pass_fds=[write],
        )
        os.close(write)
        line = verdicts.read()
    assert ran.returncode == 1, "the command holds the verdict's descriptor"
    assert ran.stderr == ""
    assert line.endswith("}\n")
    assert json.loads(line) | {"advice": "näher\n", "exitCode": 1, "call": tools.CALL} == json.loads(line)
    assert json.loads(run("--verdict=json", "true").stderr)["outcome"] == "ok"


def test_closed_standard_error_does_not_change_the_status(run, daemon, tools, launcher, environment):
    daemon.verdict = tools.verdict(advice="x")
    read, write = os.pipe()
    os.close(read)
    try:
        ran = subprocess.run([launcher, "sh", "-c", "exit 6"], env=environment, stderr=write, timeout=30)
    finally:
        os.close(write)
    assert ran.returncode == 6


def _waiting(launcher, environment, script, **options):
    process = subprocess.Popen(
        [launcher, "sh", "-c", script], env=environment, stdin=-1, stdout=-1, stderr=-1, text=True, **options
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("name", ["TERM", "HUP", "INT", "QUIT", "USR1", "USR2", "ALRM"])
def test_signal_sent_to_the_launcher_alone_reaches_the_command(launcher, environment, daemon, name):
    process = _waiting(
        launcher, environment, f"trap 'echo {name}; exit 7' {name}; echo ready; while :; do sleep 0.02; done"
    )
    process.send_signal(signal.Signals[f"SIG{name}"])
    assert process.communicate(timeout=10) == (f"{name}\n", "")
    assert process.returncode == 7


def test_command_does_not_get_its_own_signal_back(run, daemon):
    program = """if True:
        import os, signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        for _ in range(20):
            os.kill(0, signal.SIGUSR1)
            signal.sigwait({signal.SIGUSR1})
            assert signal.sigtimedwait({signal.SIGUSR1}, 0.02) is None
    """
    ran = run("python3", "-c", program, start_new_session=True)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_stopped_launcher_and_command_go_on_together(launcher, environment, daemon):
    process = _waiting(launcher, environment, "echo ready; kill -STOP $$; echo on; exit 3")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert os.WSTOPSIG(status) == signal.SIGSTOP
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=10) == ("on\n", "")
    assert process.returncode == 3


def test_no_second_core_dump(launcher, environment, daemon, tmp_path):
    def allow() -> None:
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

    process = subprocess.Popen(
        [launcher, "sh", "-c", "ulimit -c 0; kill -SEGV $$"], env=environment, preexec_fn=allow, cwd=tmp_path
    )
    _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert (process.returncode, os.WCOREDUMP(status)) == (-signal.SIGSEGV, False)


@pytest.mark.parametrize("held", [False, True], ids=["running", "held before it runs"])
def test_killed_launcher_gives_up_its_lease(launcher, environment, tools, socket_path, held):
    # A full pipe is a cgroup.procs that the child does not get through.
    read, write = os.pipe()
    if held:
        os.set_blocking(write, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(write, b"x" * 4096)
        os.set_blocking(write, True)
    reply = {"parameters": {"call": "a/b/c", "procs": 0, "environment": {}}}
    passed, closed = threading.Event(), threading.Event()

    def talk(connection):
        tools.read_message(connection)
        tools.send_with_fd(connection, json.dumps(reply).encode() + b"\0", write)
        passed.set()
        if connection.recv(1) == b"":
            closed.set()

    with tools.scripted(socket_path, talk):
        process = subprocess.Popen([launcher, "cat"], env=environment, stdin=-1)
        assert passed.wait(10)
        time.sleep(0.1)
        process.kill()
        try:
            assert closed.wait(5)
        finally:
            os.close(read)
            os.close(write)
            process.communicate(timeout=10)


def test_orphans_of_the_command_do_not_hold_the_launcher_up(run, daemon):
    started = time.monotonic()
    assert run("sh", "-c", "sleep 5 >/dev/null 2>&1 & exit 2").returncode == 2
    assert time.monotonic() - started < 4


def _as_sent(word: bytes) -> str:
    # One U+FFFD for each byte that is not part of a character.
    return "".join("�" if "\udc80" <= c <= "\udcff" else c for c in word.decode("utf-8", "surrogateescape"))


words = st.binary(max_size=40) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(str.encode)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(words.map(lambda word: word.replace(b"\0", b"\n")), max_size=8))
def test_any_bytes_in_the_command_arrive_as_text(run, daemon, arguments):
    run("true", *arguments)
    assert daemon.begun[-1]["command"] == ["true", *map(_as_sent, arguments)]


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["x" * 4091], ["x" * 4091]),
        (["x" * 4092], ["x" * 4091 + "…"]),
        (["x" * 4090 + "ü"], ["x" * 4090 + "…"]),
        (["x" * 100_000, "y"], ["x" * 4091 + "…"]),
        ([""] * 9000, [""] * 4092 + ["…"]),
        (["\x01" * 9000], ["\x01" * 4091 + "…"]),
    ],
)
def test_long_command_is_cut_for_the_daemon_and_whole_for_itself(run, daemon, arguments, kept):
    ran = run("sh", "-c", "exit $#", "sh", *arguments) if len(arguments) < 256 else run("true", *arguments)
    if len(arguments) < 256:
        assert ran.returncode == len(arguments)
        ran = run("true", *arguments)
    assert ran.returncode == 0
    assert daemon.begun[-1]["command"] == ["true", *kept]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND: is missing (see agentcg-exec --help)"),
        (["--what", "x", "true"], "--what: there is no such option (see agentcg-exec --help)"),
        (["--tool"], "--tool: a value is missing, or there is no such option (see agentcg-exec --help)"),
        (["--verdict", "xml", "true"], '--verdict: "xml" is not one of text, json, none'),
        (["--verdict-fd", "77", "true"], '--verdict-fd: "77" is not open (open it before agentcg-exec starts)'),
        (["--verdict-fd", "-1", "true"], '--verdict-fd: "-1" is not a file descriptor (write its number)'),
        (
            ["--timeout", "1e3", "true"],
            '--timeout: "1e3" is not a time in seconds (write 0.001 to 3600, at most three decimals)',
        ),
        (
            ["--intent", '{"memoryMax":1}, "x":{}', "true"],
            '--intent: "{"memoryMax":1}, "x":{}" is not a JSON object (write {"memoryMax": 536870912})',
        ),
        (
            ["--hint", "x" * 70_000, "true"],
            "the request is longer than 64 KiB (shorten --session, --id, --tool, --intent or --hint)",
        ),
    ],
)
def test_bad_usage_is_refused_before_anything_happens(run, daemon, arguments, message):
    ran = run(*arguments)
    assert (ran.returncode, ran.stdout, ran.stderr) == (125, "", f"agentcg-exec: {message}\n")
    assert daemon.begun == []


def test_bad_variable_is_named(run):
    ran = run("true", env={"AGENTCG_WITHOUT_DAEMON": "maybe"})
    assert (ran.returncode, ran.stderr) == (
        125,
        'agentcg-exec: AGENTCG_WITHOUT_DAEMON: "maybe" is not one of run, fail\n',
    )


def test_help_names_every_option(run):
    ran = run("--help")
    assert ran.returncode == 0
    source = (Path(__file__).parents[3] / "agentcg" / "launcher" / "options.c").read_text()
    taken = {part.split('"')[0] for part in source.split('strcmp(name, "')[1:]}
    assert len(taken) >= 9
    assert all(f"  {name} " in ran.stdout for name in taken)
