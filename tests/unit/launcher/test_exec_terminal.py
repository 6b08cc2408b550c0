# SPDX-License-Identifier: Apache-2.0
"""agentcg-exec at a terminal: the interrupt key, and a shell's job control."""

import shutil
import time

import pytest


def test_interrupt_key_reaches_the_command_once(open_terminal, launcher, environment, daemon):
    script = "trap 'echo hit' INT; echo ready; for i in $(seq 25); do sleep 0.02; done; echo over; exit 3"
    terminal = open_terminal([launcher, "sh", "-c", script], environment)
    terminal.expect("ready")
    terminal.type(b"\x03")
    assert terminal.expect("over").count("hit") == 1
    assert terminal.wait() == 3


def test_interrupt_key_ends_both_by_the_signal(open_terminal, launcher, environment, daemon):
    terminal = open_terminal([launcher, "sh", "-c", "echo ready; exec sleep 10"], environment)
    terminal.expect("ready")
    terminal.type(b"\x03")
    assert terminal.wait() == -2
    assert daemon.ended == [{"call": "me/work/c1", "exitCode": None, "signal": 2}]


def test_hangup_of_the_terminal_reaches_the_command(open_terminal, launcher, environment, daemon, tmp_path):
    script = f"trap 'echo x > {tmp_path}/heard; exit 0' HUP; echo ready; while :; do sleep 0.02; done"
    terminal = open_terminal([launcher, "sh", "-c", script], environment)
    terminal.expect("ready")
    assert terminal.hang_up() == 0
    assert (tmp_path / "heard").exists()


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is the shell with job control here")
@pytest.mark.parametrize(
    ("stop", "status"),
    [("kill -TSTP $$", 148), ("kill -STOP $$", 147), ("read key", 148)],
    ids=["stops itself", "is stopped", "suspend key"],
)
def test_stopped_command_gives_the_terminal_back_and_goes_on(
    open_terminal, launcher, environment, daemon, stop, status
):
    command = f"echo ready; {stop}; read line; echo got $line; exit 5"
    script = f"set -m; {launcher} sh -c '{command}'; echo status $?; fg; echo then $?"
    terminal = open_terminal(["bash", "--norc", "-c", script], environment)
    terminal.expect("ready")
    if stop == "read key":
        time.sleep(0.1)
        terminal.type(b"\x1a")
    terminal.expect(f"status {status}")
    if stop == "read key":
        terminal.type(b"\n")
    terminal.type(b"hello\n")
    terminal.expect("got hello")
    terminal.expect("then 5")
    assert terminal.wait() == 0
    assert daemon.ended == [{"call": "me/work/c1", "exitCode": 5, "signal": None}]
