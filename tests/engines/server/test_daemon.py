# SPDX-License-Identifier: Apache-2.0
"""A real daemon beside a real engine: what becomes of the calls of paused sessions decides whose cache is given up.

Two sessions pause for a call each, which are expected to take as long. Just before they will be over somebody comes who
needs the cache of one of them. As root, where cgroup v2 is mounted, with or without controllers, and with a vLLM that
has a device (docs/engines.md says how)::

    python -m pytest tests/engines/server/test_daemon.py -m long -rP
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentcg.api.client import Call, Client, Session
from agentcg.api.types import KvSession
from agentcg.cgroup.delegate import find_mounts
from agentcg.control.guard import build
from agentcg.errors import AgentcgError
from tests.engines.server.conftest import BLOCK_TOKENS, MODEL, OURS, TOP, Server, prompt

pytestmark = [pytest.mark.long, pytest.mark.timeout(420)]

LARGER = MODEL | {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "num_hidden_layers": 12,
}
"""So that a context takes seconds to compute, and keeping one is worth something beside calls of some seconds."""
CACHED = 1500 // BLOCK_TOKENS * BLOCK_TOKENS
"""What is kept of a context, in tokens: two of them leave 35 of the 127 blocks there are."""
NEWCOMER = 2580
"""Needs these, and as many more as one context has."""
LIKE_IT = 12
"""Calls that the daemon has seen before."""


def until(true: Callable[[], Any], timeout_sec: float = 60.0) -> Any:
    """Return the first true answer; fail after the time."""
    ends = time.monotonic() + timeout_sec
    while not (found := true()):
        assert time.monotonic() < ends, "it has not happened"
        time.sleep(0.02)
    return found


class Daemon:
    """`agentcg daemon --observe` on a root, a socket and a history of its own."""

    def __init__(self, folder: Path) -> None:
        unified = find_mounts(Path("/proc/self/mountinfo").read_text()).unified
        assert unified is not None, "cgroup v2 is not mounted"
        self.root = Path(unified, f"agentcg-engines-{os.getpid()}")
        self.socket, self.log = str(folder / "sock"), folder / "log"
        build(folder / "bin")  # What thaws if the daemon dies; without it, it freezes nothing.
        command = [sys.executable, "-c", "from agentcg.cli import main; main()", "daemon", "--observe", "-v"]
        command += ["--socket", self.socket, "--history", str(folder / "history.sqlite"), "--root", str(self.root)]
        given = {"PYTHONPATH": str(TOP), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | given)
        until(self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(AgentcgError), Client(self.socket):
            return True
        return False

    def close(self) -> None:
        """Stop it, and leave nothing behind."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        until(self._removed)

    def _removed(self) -> bool:
        try:
            for path in sorted((path for path in self.root.rglob("*") if path.is_dir()), reverse=True):
                path.rmdir()
            self.root.rmdir()
        except OSError:  # The guard lives for a moment longer.
            return False
        return True


@dataclass
class Paused:
    """A session that has ended a turn, and whose call runs."""

    who: int
    session: Session
    call: Call
    process: "subprocess.Popen[Any]"
    began: float


class Host:
    """Both, side by side, and a daemon that has seen calls like those to come."""

    def __init__(self, server: Server, client: Client) -> None:
        self.server, self.client = server, client
        self._who = 0
        for _ in range(2):  # The first one also pays for what is done once.
            began = time.monotonic()
            server.ask(self._new(), max_tokens=1)
            self.prefill_sec = time.monotonic() - began
        assert self.prefill_sec > 1, "to keep a cache is worth too little here: take a larger model"
        self.call_sec = max(6.0, 2 * self.prefill_sec)
        print(f"a prefill takes {self.prefill_sec:.1f} s, each call is expected to take {self.call_sec:.1f} s")
        with client.session("before") as session:
            begun = [(call := session.call(self.command, tool="Bash"), call.popen()) for _ in range(LIKE_IT)]
            for call, process in begun:
                process.wait(120)
                call.end()

    @property
    def command(self) -> list[str]:
        return ["sleep", f"{self.call_sec:.2f}"]

    def _new(self, tokens: int = 1500) -> list[int]:
        self._who += 1
        return prompt(self._who, tokens)

    def turn(self, session: Session) -> int:
        """Serve a session's first turn; return who it is."""
        given = {"session_id": session.name, "vllm_xargs": {"agentcg_tool": "Bash"}}
        assert self.server.ask(self._new(), **given) == 0
        held = until(lambda: (now := self.held(session.name)) and now.tokens and now)
        assert (held.tokens, held.turns) == (CACHED, 0)
        assert held.pinnedSec is not None
        return self._who

    def pause(self, story: str, *commands: list[str]) -> list[Paused]:
        """Have sessions end a turn, one after the other, and then begin a call each."""
        sessions = [self.client.session(f"{story}-{number}") for number in range(1, len(commands) + 1)]
        turns = [self.turn(session) for session in sessions]
        paused = []
        for who, session, command in zip(turns, sessions, commands, strict=True):
            call = session.call(command, tool="Bash")
            paused.append(Paused(who, session, call, call.popen(), time.monotonic()))
        return paused

    def wait_until_nearly_over(self, one: Paused) -> None:
        """Wait until what is left of its call, if it is as expected, is much less than its cache is worth."""
        time.sleep(max(0.0, one.began + self.call_sec - 0.2 * self.prefill_sec - time.monotonic()))

    def come(self) -> None:
        """Somebody comes who needs the cache of one of the two."""
        self.server.ask(self._new(NEWCOMER), max_tokens=1)

    def held(self, session: str) -> KvSession | None:
        """Return what the engine says that a session has in its cache; None: nothing."""
        (engine,) = self.client.kv_engines()
        return next((held for held in engine.sessions if held.session == session), None)

    def see(self, story: str, gave: Paused, kept: Paused) -> None:
        """One of the two has lost its cache, and the other has it: so the engine says, and so they find it."""
        until(lambda: self.held(gave.session.name) is None)
        held = self.held(kept.session.name)
        assert held is not None
        assert (held.tokens, held.pinnedSec is not None) == (CACHED, True)
        (before,) = self.client.kv_engines()
        for one in (kept, gave):
            one.process.wait(120)
            one.call.end()
        found = [self._again(one) for one in (gave, kept)]
        until(lambda: self.client.kv_engines()[0].hits == before.hits + 1)
        until(lambda: self.client.kv_engines()[0].misses == before.misses + 1)
        print(f"{story}: {gave.session.name} found {found[0]} tokens cached, {kept.session.name} {found[1]}")
        assert found[0] == 0
        assert found[1] >= CACHED
        for one in (gave, kept):
            one.session.close()

    def _again(self, one: Paused) -> int:
        given = {"session_id": one.session.name, "vllm_xargs": {"agentcg_last": 1}}
        return self.server.ask([*prompt(one.who), *range(100, 200)], **given)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    daemon = Daemon(tmp_path_factory.mktemp("daemon"))
    try:
        environment = {"AGENTCG_SOCKET": daemon.socket, "AGENTCG_VLLM_ENGINE": "vllm"}
        options = ("--max-model-len", "2688")
        server = Server(tmp_path_factory.mktemp("vllm"), *OURS, *options, model=LARGER, **environment)
        try:
            server.wait()
            with Client(daemon.socket) as client:
                until(client.kv_engines)
                yield Host(server, client)
        finally:
            server.close()
    finally:
        daemon.close()


def test_of_two_that_will_soon_be_over_the_later_session_gives_way(host: Host) -> None:
    first, second = host.pause("running", host.command, host.command)
    host.wait_until_nearly_over(second)
    host.come()
    host.see("both run", gave=second, kept=first)


def test_one_whose_call_is_frozen_gives_way_to_one_whose_call_goes_on(host: Host) -> None:
    first, second = host.pause("frozen", host.command, host.command)
    time.sleep(1)
    assert host.client.freeze(first.call.name) == "frozen"
    host.wait_until_nearly_over(second)
    host.come()
    assert first.process.poll() is None
    assert host.client.thaw(first.call.name) == "running"
    host.see("the first is frozen", gave=first, kept=second)
    verdict = first.call.verdict
    assert verdict is not None
    assert (verdict.usage.frozenSec or 0) > 1


def test_one_whose_call_is_over_keeps_its_cache_before_its_agent_has_heard_of_it(host: Host) -> None:
    first, second = host.pause("over", host.command, ["sleep", "1"])
    second.process.wait(60)  # Nothing is left in its cgroup. Its agent has not said End, and does not come back yet.
    host.come()
    host.see("the second is over", gave=first, kept=second)
