# SPDX-License-Identifier: Apache-2.0
"""What agentcg-exec does when the daemon is away, refuses, answers nonsense or goes away meanwhile."""

import contextlib
import json
import os
import socket
import subprocess
import time

import pytest
from asyncvarlink import GenericVarlinkErrorReply

from agentcg.api.interfaces import Denied, Failed, Invalid, NestedCall, NoSuchSession

FAIL = ("--without-daemon", "fail")
NOT_RUN = ": not run (--without-daemon run would run it unmanaged)\n"


def test_no_daemon_runs_in_place_with_one_warning(run, socket_path):
    ran = run("sh", "-c", "echo out; exit 3")
    assert (ran.returncode, ran.stdout) == (3, "out\n")
    assert ran.stderr == f"agentcg-exec: no daemon at {socket_path} (No such file or directory): running unmanaged\n"
    assert run("--quiet", "true").stderr == ""


def test_no_daemon_fails_if_so_chosen(run, socket_path):
    ran = run("echo", "x", env={"AGENTCG_WITHOUT_DAEMON": "fail"})
    assert (ran.returncode, ran.stdout) == (125, "")
    assert ran.stderr == f"agentcg-exec: no daemon at {socket_path} (No such file or directory){NOT_RUN}"
    assert run("--without-daemon", "run", "true", env={"AGENTCG_WITHOUT_DAEMON": "fail"}).returncode == 0
    assert "no daemon" in run(*FAIL, "--quiet", "true").stderr, "a refusal is always explained"


def test_socket_path_that_cannot_be_one(run):
    ran = run(*FAIL, "--socket", "/" + "x" * 300, "true")
    assert ran.returncode == 125
    assert "(File name too long)" in ran.stderr


def test_daemon_that_never_answers(run, tools, socket_path):
    started = time.monotonic()
    with tools.scripted(socket_path, tools.read_message):
        ran = run("--timeout", "0.2", *FAIL, "true")
    assert ran.returncode == 125
    assert ran.stderr == f"agentcg-exec: no daemon at {socket_path} (no answer within the time of --timeout){NOT_RUN}"
    assert 0.2 <= time.monotonic() - started < 5


def test_daemon_that_answers_byte_by_byte_has_no_longer(run, tools, socket_path):
    def drip(connection):
        tools.read_message(connection)
        with contextlib.suppress(OSError):
            for _ in range(100):
                connection.sendall(b" ")
                time.sleep(0.05)

    started = time.monotonic()
    with tools.scripted(socket_path, drip):
        assert run("--timeout", "0.3", *FAIL, "true").returncode == 125
    assert time.monotonic() - started < 3


def test_full_backlog_is_not_waited_for_forever(run, tools, socket_path, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(socket_path)
        listener.listen(0)
        first.connect(socket_path)
        ran = run("--timeout", "0.2", *FAIL, "true")
    assert (ran.returncode, "(Connection timed out)" in ran.stderr) == (125, True)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Invalid(place="intent.memoryMax", message="0 is low", hint="more"), "intent.memoryMax: 0 is low (more)"),
        (Denied(message="not yours", hint=""), "not yours"),
        (
            NoSuchSession(session="a/b"),
            "a/b: there is no such session (open it, or leave out --session and AGENTCG_SESSION)",
        ),
        (
            GenericVarlinkErrorReply("org.varlink.service.InvalidParameter", {"parameter": "id"}),
            "id: org.varlink.service.InvalidParameter",
        ),
    ],
)
def test_callers_mistake_never_runs_unmanaged(run, daemon, error, line):
    daemon.begin_error = error
    ran = run("--without-daemon", "run", "--quiet", "echo", "x")
    assert (ran.returncode, ran.stdout, ran.stderr) == (125, "", f"agentcg-exec: {line}\n")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Failed(message="mkdir: No space", hint="remove some"), "mkdir: No space (remove some)"),
        (GenericVarlinkErrorReply("org.varlink.service.MethodNotFound"), "org.varlink.service.MethodNotFound"),
        (GenericVarlinkErrorReply("com.example.New", {"message": "a\nb" * 2000}), None),
    ],
)
def test_daemons_failure_goes_as_chosen(run, daemon, error, words):
    daemon.begin_error = error
    ran = run("echo", "x")
    assert (ran.returncode, ran.stdout) == (0, "x\n")
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.endswith(": running unmanaged\n")
    failed = run(*FAIL, "echo", "x")
    assert (failed.returncode, failed.stdout) == (125, "")
    if words:
        assert ran.stderr == f"agentcg-exec: {words}: running unmanaged\n"
        assert failed.stderr == f"agentcg-exec: {words}{NOT_RUN}"


def test_nested_call_stays_where_it_is(launcher, environment, daemon):
    daemon.begin_error = NestedCall(call="a/b/c")
    process = subprocess.Popen(
        [launcher, *FAIL, "sh", "-c", "echo $$; exit 9"], env=environment, stdout=-1, stderr=-1, text=True
    )
    # The same process: nothing is between the caller and the command.
    assert process.communicate(timeout=10) == (f"{process.pid}\n", "")
    assert process.returncode == 9
    assert daemon.ended == []


def test_call_that_the_daemon_does_not_let_in_is_given_back(run, daemon):
    daemon.passes_procs, daemon.enter_error = False, Denied(message="no", hint="")
    ran = run(*FAIL, "sh", "-c", "echo x")
    assert (ran.returncode, ran.stdout) == (125, "")
    assert "the cgroup of the call cannot be entered (Operation not permitted)" in ran.stderr
    assert daemon.ended == [{"call": "me/work/c1", "exitCode": 125, "signal": None}]


def test_cgroup_that_cannot_be_entered_gives_the_call_back(run, daemon):
    daemon.procs_flags = os.O_RDONLY
    ran = run("sh", "-c", "echo x; exit 2")
    assert (ran.returncode, ran.stdout) == (2, "x\n")
    assert ran.stderr == (
        "agentcg-exec: the cgroup of the call cannot be entered (Bad file descriptor): running unmanaged\n"
    )
    assert daemon.ended == [{"call": "me/work/c1", "exitCode": 125, "signal": None}]
    failed = run(*FAIL, "echo", "x")
    assert (failed.returncode, failed.stdout) == (125, "")


GOOD = {"parameters": {"call": "a/b/c", "procs": 0, "environment": {}}}


def _begin_with(**changes):
    return {"parameters": GOOD["parameters"] | changes}


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"", "it closed the connection"),
        (json.dumps(GOOD).encode(), "it closed the connection"),
        (b"{]\0", "its reply is not one Varlink message"),
        (b"[]\0", "its reply is not one Varlink message"),
        (b'{"parameters":3}\0', "its reply is not one Varlink message"),
        (b'{"error":""}\0', "its reply is not one Varlink message"),
        (b'{"parameters":{"a":"\xff"}}\0', "its reply is not one Varlink message"),
        (json.dumps(GOOD).encode() + b"\0{}\0", "its reply is not one Varlink message"),
        (b" " * 70_000 + b"\0", "its reply is longer than 64 KiB"),
        (b"[" * 60_000 + b"\0", "its reply is not one Varlink message"),
        (b"{}\0", "its reply names no call"),
        (_begin_with(call=5), "its reply names no call"),
        (_begin_with(call="x" * 2000), "its reply names a call of more than 1 KiB"),
        (_begin_with(procs=1), "its reply passes no cgroup.procs descriptor"),
        (_begin_with(procs=-1), "its reply passes no cgroup.procs descriptor"),
        (_begin_with(oomScoreAdj="5"), "its reply holds an oomScoreAdj that cannot be one"),
        (_begin_with(environment=["x"]), "its reply holds an environment that cannot be one"),
        (_begin_with(environment={"A=B": "x"}), "its reply holds an environment that cannot be one"),
        (_begin_with(environment={"": "x"}), "its reply holds an environment that cannot be one"),
        (_begin_with(environment={"A": "x\0y"}), "its reply holds an environment that cannot be one"),
    ],
)
def test_broken_reply_is_no_daemon(run, tools, socket_path, tmp_path, reply, why):
    data = reply if isinstance(reply, bytes) else json.dumps(reply).encode() + b"\0"
    procs = os.open(tmp_path / "procs", os.O_WRONLY | os.O_CREAT)

    def talk(connection):
        tools.read_message(connection)
        if data:
            tools.send_with_fd(connection, data[:1], procs)
            with contextlib.suppress(OSError):  # it may have heard enough
                connection.sendall(data[1:])
        connection.shutdown(2)

    with tools.scripted(socket_path, talk):
        ran = run(*FAIL, "true")
    os.close(procs)
    assert ran.returncode == 125
    assert ran.stderr.startswith("agentcg-exec: no ")
    assert ran.stderr.endswith(f"daemon at {socket_path} ({why}){NOT_RUN}")
    assert (tmp_path / "procs").read_text() == ""


@pytest.mark.parametrize(("count", "why"), [(0, "passes no cgroup.procs descriptor"), (40, "passes too many")])
def test_reply_with_a_wrong_number_of_descriptors(run, tools, socket_path, count, why):
    def talk(connection):
        tools.read_message(connection)
        data = json.dumps(GOOD).encode() + b"\0"
        tools.send_with_fd(connection, data, *[2] * count) if count else connection.sendall(data)

    with tools.scripted(socket_path, talk):
        ran = run(*FAIL, "true")
    assert ran.returncode == 125
    assert why in ran.stderr


def test_reply_in_pieces_is_put_together(run, tools, socket_path, tmp_path):
    procs = os.open(tmp_path / "procs", os.O_WRONLY | os.O_CREAT)
    spare = os.open("/dev/null", os.O_RDONLY)
    begin = json.dumps(_begin_with(procs=1, environment={"FILL": "x" * 60_000})).encode() + b"\0"
    end = b'{"parameters": {"verdict": {"advice":\n "\\ud83d\\ude42 \\u0041\\ud800"}}}\0'

    def talk(connection):
        tools.read_message(connection)
        tools.send_with_fd(connection, begin[:7], spare)
        tools.send_with_fd(connection, begin[7:9], procs)
        for at in range(9, len(begin), 30_000):
            time.sleep(0.02)
            connection.sendall(begin[at : at + 30_000])
        tools.read_message(connection)
        for at in range(0, len(end), 5):
            time.sleep(0.005)
            connection.sendall(end[at : at + 5])

    with tools.scripted(socket_path, talk):
        ran = run("cat", str(tmp_path / "procs"))
    os.close(procs)
    os.close(spare)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "0", "agentcg: 🙂 A�\n")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (None, "(no answer within the time of --timeout)"),
        (b"{}}\0", "(its reply is not one Varlink message)"),
        (b'{"parameters":{"verdict":[]}}\0', "(the reply holds none)"),
        (b'{"error":"dev.agentcg.Failed","parameters":{"message":"rmdir"}}\0', "(dev.agentcg.Failed: rmdir)"),
    ],
)
def test_trouble_at_the_end_is_one_warning_and_the_commands_status(run, tools, socket_path, tmp_path, reply, words):
    procs = os.open(tmp_path / "procs", os.O_WRONLY | os.O_CREAT)

    def talk(connection):
        tools.read_message(connection)
        tools.send_with_fd(connection, json.dumps(GOOD).encode() + b"\0", procs)
        ended = json.loads(tools.read_message(connection))
        assert ended == {"method": "dev.agentcg.Calls.End", "parameters": {"call": "a/b/c", "exitCode": 4}}
        if reply:
            connection.sendall(reply)

    with tools.scripted(socket_path, talk):
        ran = run("--timeout", "0.5", "sh", "-c", "exit 4")
    os.close(procs)
    assert ran.returncode == 4
    assert ran.stderr.count("\n") == 1
    assert words in ran.stderr
    assert '"a/b/c"' in ran.stderr


@pytest.mark.parametrize("back_after", [0, 0.5])
def test_daemon_that_comes_back_takes_the_end(launcher, environment, tools, socket_path, tmp_path, back_after):
    procs = tmp_path / "procs"
    procs.touch()
    with tools.Daemon(socket_path, procs).serving():
        process = subprocess.Popen(
            [launcher, "sh", "-c", "echo ready; read line; exit 5"],
            env=environment,
            stdin=-1,
            stdout=-1,
            stderr=-1,
            text=True,
        )
        assert process.stdout.readline() == "ready\n"
    second = tools.Daemon(socket_path, procs, verdict=tools.verdict(advice="welcome back"))
    if back_after:
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(back_after)
    with second.serving():
        assert process.communicate("\n" if not back_after else None, timeout=10)[1] == "agentcg: welcome back\n"
    assert process.returncode == 5
    assert second.ended == [{"call": tools.CALL, "exitCode": 5, "signal": None}]


def test_daemon_that_stays_away_costs_ten_seconds_and_a_warning(launcher, environment, tools, socket_path, tmp_path):
    procs = tmp_path / "procs"
    procs.touch()
    with tools.Daemon(socket_path, procs).serving():
        process = subprocess.Popen(
            [launcher, "sh", "-c", "echo ready; read line; kill -TERM $$"],
            env=environment,
            stdin=-1,
            stdout=-1,
            stderr=-1,
            text=True,
        )
        assert process.stdout.readline() == "ready\n"
    started = time.monotonic()
    _, errors = process.communicate("\n", timeout=20)
    assert 9.9 < time.monotonic() - started < 13
    assert process.returncode == -15
    assert errors == (
        f'agentcg-exec: the end of call "me/work/c1" was not taken by the daemon at {socket_path} '
        "(it closed the connection)\n"
    )
