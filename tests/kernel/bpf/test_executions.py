# SPDX-License-Identifier: Apache-2.0
"""What an agent executes is stopped on a real kernel before it has run an instruction, and told; all else is left."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from agentcg.kernel.executions import Ended, Executions, Match, Stopped

pytestmark = pytest.mark.kernel

SECONDS = 60  # The machine is emulated.
SHELLS = dict.fromkeys(("sh", "bash", "dash"), Match.WITH_COMMAND)


class Agent:
    """Runs scripts as agents; moves what is stopped to another cgroup and lets it go on, as a daemon does."""

    def __init__(self, cgroup: Any, folder: Path) -> None:
        self.own, self.calls, self._folder = cgroup.child("agent"), cgroup.child("calls"), folder
        self.began: list[str] = []
        """The words of what was stopped."""
        self.ended: list[int] = []
        """Exit codes, negative for signals."""
        self.unmanaged: list[int] = []
        self.ignore = False
        """Read nothing, as a daemon that is busy."""

    def run(self, script: str, **options: Any) -> int:
        """Run a script to its end and return its exit status, when all that was stopped has ended, too."""
        path = self._folder / "agent"
        path.write_text(script)
        return asyncio.run(self._run(["sh", str(path)], {"programs": SHELLS} | options))

    async def _run(self, command: list[str], options: dict[str, Any]) -> int:
        loop = asyncio.get_running_loop()
        options |= {"on_unmanaged": lambda _, count: self.unmanaged.append(count)}
        with Executions(loop, self._told, **options) as made:
            self.executions = made
            made.add_agent(self.own.id)
            process = self.own.run(*command)
            if self.ignore:
                process.wait(SECONDS)
            status = await loop.run_in_executor(None, process.wait, SECONDS)
            async with asyncio.timeout(SECONDS):
                while self._is_going_on():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert list(made.stopped.items()) == []
        return int(status)

    def _is_going_on(self) -> bool:
        if self.ignore:  # A ring that was full may have had no room for the end of the process that is just let go on.
            return "populated 1" in (self.calls.path / "cgroup.events").read_text()
        return len(self.ended) < len(self.began)

    def _told(self, event: Stopped | Ended) -> None:
        if isinstance(event, Ended):
            self.ended.append(os.waitstatus_to_exitcode(event.status))
            return
        assert event.cgroup_id == self.own.id
        assert self.executions.is_stopped(event)
        self.began.append(Path(f"/proc/{event.pid}/cmdline").read_bytes().decode().replace("\0", " ").strip())
        self.handle(event.pid)
        self.executions.released(event.pid)

    def handle(self, pid: int) -> None:
        (self.calls.path / "cgroup.procs").write_text(str(pid))
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def agent(cgroup: Any, objects: Path, tmp_path: Path) -> Agent:
    return Agent(cgroup, tmp_path)


def test_it_is_moved_before_its_first_instruction(agent: Agent, first_instructions: Any) -> None:
    results = first_instructions(agent.own.id)
    assert agent.run("for i in $(seq 40); do sh -c true; done; for i in $(seq 20); do sh -c true & done; wait") == 0
    found = results()
    longest = found.pop("longest_ns")
    print(f"stopped for {longest / 1e6:.1f} ms at most")
    # One more `sh` ends where it began: the agent itself.
    assert found == {"untouched": 60, "ran": 0, "on_cpu": 0, "left": 1}
    assert agent.began == ["sh -c true"] * 60
    assert agent.ended == [0] * 60


def test_that_check_sees_a_process_that_ran_before(agent: Agent, first_instructions: Any) -> None:
    results = first_instructions(agent.own.id)
    reading, writing = os.pipe()
    process = subprocess.Popen(
        ["sh", "-c", "echo; read line"],
        preexec_fn=lambda: (agent.own.path / "cgroup.procs").write_text("0"),
        stdin=subprocess.PIPE,
        stdout=writing,
    )
    os.close(writing)
    assert os.read(reading, 1) == b"\n"
    (agent.calls.path / "cgroup.procs").write_text(str(process.pid))
    process.communicate(b"\n", timeout=SECONDS)
    os.close(reading)
    found = results()
    assert (found["untouched"], found["ran"] + found["on_cpu"]) == (0, 1)


def test_what_is_a_call_and_what_is_not(agent: Agent, tmp_path: Path) -> None:
    script, rc = tmp_path / "script", tmp_path / "rc"
    script.write_text("#!/bin/sh\ntrue -c\n")
    script.chmod(0o755)
    rc.write_text("")
    calls = [
        "sh -c true",
        "/bin/sh -ec true",
        "bash -lc true",
        "bash -c -e true",
        "bash -eo pipefail -c true",
        "bash -o pipefail -c true",
        "bash +e -c true",
        f"bash --rcfile {rc} -c true",
        "bash --norc --noprofile -c true",
        f"sh -c {'x' * 5000}=;true",
    ]
    others = [
        f"sh {script} -c",
        str(script),
        "python3 -S -c pass",
        f"bash +c {script}",
        f"bash -e -- {script} -c",
        f"bash -o pipefail {script} -c",
        f"bash --rcfile -c {script}",
        "sh -e",
        "env -i true -c",
    ]
    quoted = [line if ";" not in line else "sh -c '{}'".format(line.removeprefix("sh -c ")) for line in calls]
    assert agent.run("\n".join(f"{line} </dev/null || exit 1" for line in quoted + others)) == 0
    assert agent.began == calls
    assert agent.ended == [0] * len(calls)


def test_the_ways_of_starting_something(agent: Agent, tmp_path: Path) -> None:
    shell = shutil.copy("/bin/dash", tmp_path / "dash")
    Path(shell).chmod(0o4755)
    tmp_path.chmod(0o755)
    for above in tmp_path.parents[:2]:
        above.chmod(0o755)
    ways = {
        "vfork": "python3 -S -c \"import os; os.waitpid(os.posix_spawn('/bin/sh', ['sh', '-c', ': vfork'], {}), 0)\"",
        "thread": "python3 -S -c \"import os, threading; threading.Thread(target=os.execv, args=('/bin/sh', "
        "['sh', '-c', ': thread'])).start(); threading.Event().wait()\"",
        "env": "env sh -c ': env'",
        "setuid": f"setpriv --reuid 65534 --clear-groups {shell} -c ': setuid'",
        "empty": "exec 3<&-; sh -c ': empty' <&- >&- 2>&-",
        "orphan": "(sh -c 'sleep 0.3; exec sh -c \": never alone\"; :' & ) ; (sleep 0.3; exec sh -c ': orphan') & ",
    }
    assert agent.run("\n".join(ways.values()) + "\nwait\nsleep 1") == 0
    assert {line.rpartition(": ")[2].rstrip("'\"; :") for line in agent.began} == {*ways, "never alone"}
    assert agent.ended == [0] * len(agent.began)


def test_what_a_call_starts_and_executes_itself_is_not_told_again(agent: Agent) -> None:
    assert agent.run("sh -c 'sh -c true; bash -c true; exec sh -c \"exit 4\"' || exit $?") == 4
    assert len(agent.began) == 1
    assert agent.ended == [4]


def test_the_status_is_the_one_that_the_parent_gets(agent: Agent) -> None:
    threaded = "import os, threading; threading.Timer(0.2, os._exit, (9,)).start(); threading.Event().wait()"
    commands = ["exit 0", "exit 3", "kill -9 $$", "kill -15 $$", f"exec python3 -S -c '{threaded}'"]
    quoted = "\n".join('sh -c "{}"; echo $? >>$0.said'.format(one.replace("$", "\\$")) for one in commands)
    assert agent.run(quoted) == 0
    assert agent.ended == [0, 3, -9, -15, 9]
    said = (agent._folder / "agent.said").read_text().split()
    assert [int(one) for one in said] == [0, 3, 128 + 9, 128 + 15, 9]


def test_an_agents_own_process_is_no_call_whatever_it_executes(agent: Agent) -> None:
    assert agent.run('[ -n "$AGAIN" ] || exec env AGAIN=1 sh -c \'. "$0"\' "$0"; sh -c \'exit 3\'') == 3
    assert agent.began == ["sh -c exit 3"]


def test_programs_and_new_sessions(agent: Agent) -> None:
    programs = {"sleep": Match.ALWAYS, "a-name-of-more-than-15": Match.ALWAYS}
    (agent._folder / "a-name-of-more-than-15").symlink_to("/bin/true")
    script = 'sh -c "sleep 0"\nsleep 0.01\n"$(dirname $0)"/a-name-of-more-than-15\nsetsid -w sh -c "exit 5"'
    assert agent.run(script, programs=programs, new_session=True) == 5
    assert [line.rsplit("/", 1)[-1] for line in agent.began] == [
        "sleep 0",
        "sleep 0.01",
        "a-name-of-more-than-15",
        "sh -c exit 5",
    ]


def test_one_that_is_killed_while_it_is_stopped_is_forgotten(agent: Agent) -> None:
    agent.handle = lambda pid: os.kill(pid, signal.SIGKILL)  # type: ignore[method-assign]
    assert agent.run("sh -c 'touch $0.ran'") == 128 + 9
    assert agent.ended == [-9]
    assert not (agent._folder / "agent.ran").exists()


def test_without_room_for_an_event_nothing_is_stopped_and_it_is_counted(agent: Agent) -> None:
    room = 4095 // (32 + 8)  # Eight bytes a header; never quite full.
    agent.ignore = True
    full = f'[ "$(grep -l "^State:.T" /proc/[0-9]*/status 2>/dev/null | wc -l)" -ge {room} ]'
    script = f"""
        for i in $(seq {room}); do sh -c true & done
        until {full}; do sleep 0.1; done
        for i in $(seq 7); do sh -c 'exit 3'; done
    """
    assert agent.run(script, ring_bytes=4096) == 3
    assert len(agent.began) == room
    assert agent.unmanaged == [7]


def test_nothing_is_stopped_in_other_cgroups_nor_after_the_end(agent: Agent) -> None:
    before = _loaded()  # A daemon of other tests may have its own.
    assert agent.run("sh -c true") == 0
    assert agent.calls.run("sh", "-c", "sh -c 'exit 3'").wait(SECONDS) == 3
    assert agent.own.run("sh", "-c", "sh -c 'exit 3'; exit $?").wait(SECONDS) == 3
    assert agent.began == ["sh -c true"]
    began = time.monotonic()
    while _loaded() > before:
        assert time.monotonic() < began + SECONDS
        time.sleep(0.05)


def _loaded() -> int:
    """Return how many of these programs the kernel has."""
    lines = subprocess.run(["bpftool", "prog"], capture_output=True, text=True, check=True).stdout.splitlines()
    return sum(" name executed_" in line or " name ended_" in line for line in lines)
