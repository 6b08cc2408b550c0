# SPDX-License-Identifier: Apache-2.0
"""Servers of the Model Context Protocol behind the proxy: each tools/call a call of a real daemon.

The first tests use the protocol's own library at both ends; the others a server and a client of a few lines, which
start sooner.
"""

import asyncio
import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentcg.launcher import launcher_path

pytestmark = pytest.mark.timeout(600)  # The machine is emulated, and the library is large.

NOBODY = 65534
RESOURCES, VERDICT = "dev.agentcg/resources", "dev.agentcg/verdict"
EAT = "x = bytearray(b'x') * (64 << 20); print('passed')"

LIBRARY_SERVER = f"""
import asyncio, os, subprocess
from mcp.server.mcpserver import MCPServer

server = MCPServer("tests")

@server.tool(meta={{"{RESOURCES}": "memory:64m"}})
def run_tests() -> str:
    return subprocess.run(["python3", "-S", "-c", {EAT!r}], capture_output=True, text=True).stdout

@server.tool()
async def where() -> str:
    await asyncio.sleep(0.5)
    return open("/proc/self/cgroup").read()

server.run()
"""

# Its tools are Python: what "text" is after the code has run is the answer, unless it is None. "kept" stays.
SERVER = r"""
import json, os, subprocess, sys, time

kept = {}
helper = subprocess.Popen(["sleep", "1000"])
def place(pid="self"):
    return open(f"/proc/{pid}/cgroup").read().strip().rpartition("/agentcg-")[2].partition("/")[2]
def run(code):
    return subprocess.run(["python3", "-S", "-c", code], capture_output=True, text=True, check=True).stdout
for line in sys.stdin:
    message = json.loads(line)
    key, params = message.get("id"), message.get("params", {})
    if key is None:
        continue
    result = {}
    if message["method"] == "tools/list":
        result = {"tools": [{"name": "small", "_meta": {"dev.agentcg/resources": "memory:64m,pids:77"}}]}
    if message["method"] in ("tools/call", "run"):
        names = globals() | {"text": "done", "failed": False}
        exec(params["arguments"]["code"], names)
        if names["text"] is None:
            continue
        result = {"content": [{"type": "text", "text": str(names["text"])}], "isError": names["failed"]}
    print(json.dumps({"jsonrpc": "2.0", "id": key, "result": result}), flush=True)
"""


class Client:
    """A client with a proxy and its server behind it. ``run`` is a request to the server that is no tools/call."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        self._key = 0

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line)

    def ask(self, method: str, code: str, *, tool: str = "tool", resources: Any = None) -> int:
        self._key += 1
        params: dict[str, Any] = {"name": tool, "arguments": {"code": code}}
        if resources is not None:
            params["_meta"] = {RESOURCES: resources}
        self.write({"id": self._key, "method": method, "params": params})
        return self._key

    def write(self, message: dict[str, Any]) -> None:
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0"} | message).encode() + b"\n")
        self.process.stdin.flush()

    def read(self) -> Any:
        return json.loads(self._lines.get(timeout=120))

    def call(self, code: str, **options: Any) -> Any:
        """Run ``code`` in a tools/call and return its result."""
        key = self.ask("tools/call", code, **options)
        answer = self.read()
        assert answer["id"] == key, answer
        return answer["result"]

    def text(self, code: str) -> str:
        """Run ``code`` in the server outside of a tools/call and return its text."""
        self.ask("run", code)
        return str(self.read()["result"]["content"][0]["text"])

    def finish(self, key: int) -> Any:
        """Have the server answer a tools/call that it has left unanswered; return its result."""
        self.ask("run", f"print(json.dumps({{'id': {key}, 'result': {{}}}}), flush=True)")
        answer, _ = self.read(), self.read()
        assert answer["id"] == key
        return answer["result"]

    def remove(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait(60)
            self._thread.join(60)
            self.process.stdout.close()


@pytest.fixture
def server(tmp_path: Path) -> Path:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    return script


@pytest.fixture
def behind(server: Path) -> Iterator[Callable[..., Client]]:
    """Return a function that starts the server behind a proxy of a daemon's."""
    made: list[Client] = []

    def start(daemon: Any, *options: str, before: tuple[str, ...] = (), **more: Any) -> Client:
        proxy = ["agentcg", "mcp", "--socket", daemon.socket, *options, "--", "python3", "-S", str(server)]
        made.append(Client([*before, *proxy], **more))
        return made[-1]

    yield start
    for client in made:
        client.remove()


def outcome(result: Any) -> str:
    return str(result["_meta"][VERDICT]["outcome"])


@pytest.mark.parametrize("mode", [pytest.param("legacy", marks=pytest.mark.long), "auto"])
def test_the_model_reads_why_its_call_died_and_asks_for_what_is_advised(daemon: Any, tmp_path: Path, mode: str) -> None:
    from mcp.client.client import Client as Library
    from mcp.client.stdio import StdioServerParameters, stdio_client

    script = tmp_path / "library.py"
    script.write_text(LIBRARY_SERVER)
    proxied = ["mcp", "--socket", daemon.socket, "--", sys.executable, str(script)]
    parameters = StdioServerParameters(command="agentcg", args=proxied, env=dict(os.environ))

    def decide(said: list[str]) -> dict[str, Any]:
        """Be the model: the next call, from all that it has read."""
        if not said:
            return {}  # The tool's definition says 64 MiB.
        advised = re.search(r"`run_tests` was stopped at its memory limit of 64\.0 MiB.* ask for (\d+) MiB", said[-1])
        assert advised is not None, said
        return {RESOURCES: f"memory:{advised[1]}m"}

    async def agent() -> list[Any]:
        results: list[Any] = []
        async with Library(stdio_client(parameters), mode=mode, read_timeout_seconds=300) as client:
            listed = await client.list_tools()
            assert {tool.name for tool in listed.tools} == {"run_tests", "where"}
            for _ in range(2):
                said = ["\n".join(part.text for part in result.content) for result in results]
                results.append(await client.call_tool("run_tests", {}, meta=decide(said)))
            results += await asyncio.gather(client.call_tool("where", {}), client.call_tool("where", {}))
        return results

    died, passed, *shared = asyncio.run(agent())
    assert died.is_error is True
    assert "the server was ended by signal 9 and is started again" in died.content[0].text
    assert died.meta[VERDICT]["outcome"] == "memory_limit"
    assert passed.is_error is False
    assert [part.text for part in passed.content] == ["passed\n"]
    assert passed.meta[VERDICT]["outcome"] == "ok"
    assert 64 << 20 < passed.meta[VERDICT]["usage"]["memoryPeak"] <= passed.meta[VERDICT]["limits"]["memoryMax"]
    assert ("io.modelcontextprotocol/serverInfo" in passed.meta) is (mode == "auto")
    for result in shared:
        assert (
            result.content[0]
            .text.strip()
            .endswith(f"/shared/{result.meta[VERDICT]['call'].replace('/c-', '/calls/c-')}")
        )


def test_the_server_is_in_a_call_while_one_runs_and_with_its_agent_otherwise(
    daemon: Any, behind: Callable[..., Client], tools: Any
) -> None:
    client = behind(daemon)
    look = "text = json.dumps([place(), place(helper.pid), open(f'/proc/{helper.pid}/oom_score_adj').read().strip()])"
    leave = "kept['left'] = subprocess.Popen(['setsid', 'sleep', '1000'])"
    home = json.loads(client.text(look))
    assert re.fullmatch(r"shared/u0/s-\w+/agent", home[0])
    assert home == [home[0], home[0], "0"]
    session = home[0].removeprefix("shared/").removesuffix("/agent")
    for tool in ("first", "second"):
        result = client.call(f"{leave}; {look}", tool=tool)
        verdict = result["_meta"][VERDICT]
        place, of_helper, adjusted = json.loads(result["content"][0]["text"])
        assert f"{session}/{place.rpartition('/')[2]}" == verdict["call"]
        assert place.startswith(f"shared/{session}/calls/c-")
        assert (of_helper, adjusted) == (place, "975")
        assert (verdict["outcome"], verdict["tool"], verdict["exitCode"]) == ("ok", tool, 0)
        assert "shared" not in verdict
        assert len(result["content"]) == 1
        # What it has started is gone with the call; the server and what it had before are back.
        assert not (daemon.top / place).exists()
        assert json.loads(client.text(look)) == home
        assert client.text("text = kept['left'].wait(20)") == str(-signal.SIGKILL)
    failed = client.call("failed, text = True, 'no'")
    assert (outcome(failed), failed["_meta"][VERDICT]["exitCode"]) == ("exit_status", 1)
    asked = [
        "agentcg",
        "history",
        "--history",
        str(daemon.directory / "history.sqlite"),
        "--session",
        session,
        "--json",
    ]
    ran = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)
    assert [json.loads(line)["tool"] for line in ran.stdout.splitlines()] == ["tool", "second", "first"]


def test_a_tools_definition_says_what_its_calls_get_unless_they_say_it(
    daemon: Any, behind: Callable[..., Client]
) -> None:
    client = behind(daemon)
    client.ask("tools/list", "")
    assert client.read()["result"]["tools"][0]["name"] == "small"
    given = client.call("", tool="small", resources={"memoryMax": 80 << 20})["_meta"][VERDICT]["limits"]
    assert (given["memoryMax"], given["pidsMax"]) == (80 << 20, 77)
    given = client.call("", tool="small")["_meta"][VERDICT]["limits"]
    assert given["memoryMax"] == 64 << 20
    assert client.call("", tool="other")["_meta"][VERDICT]["limits"]["pidsMax"] != 77


def test_a_hint_that_is_none_is_answered_and_the_call_is_not_run(
    daemon: Any, behind: Callable[..., Client], tmp_path: Path
) -> None:
    client = behind(daemon)
    for bad, place in (
        ("memory:lots", ".memory"),
        ({"memoryMax": "1g"}, ".memoryMax"),
        ({"priority": 200}, ".priority"),
    ):
        result = client.call(f"open({str(tmp_path / 'ran')!r}, 'w')", resources=bad)
        assert result["isError"] is True
        assert f'agentcg: tools/call: params._meta["{RESOURCES}"]{place}: ' in result["content"][0]["text"]
        assert result["content"][0]["text"].endswith(": it was not run")
    assert not (tmp_path / "ran").exists()
    assert outcome(client.call("")) == "ok"


def test_a_call_that_takes_too_long_ends_and_the_server_is_started_again(
    daemon: Any, behind: Callable[..., Client]
) -> None:
    client = behind(daemon)
    before = client.text("text = os.getpid()")
    result = client.call("time.sleep(1000)", resources="time:1s")
    assert outcome(result) == "timed_out"
    assert "`tool` was stopped after 1.0 s, its longest allowed duration" in result["content"][0]["text"]
    assert client.text("text = os.getpid()") != before
    assert outcome(client.call("")) == "ok"


def test_calls_at_the_same_time_share_one_and_its_memory_is_raised_for_them(
    daemon: Any, behind: Callable[..., Client]
) -> None:
    client = behind(daemon)
    first = client.ask("tools/call", "text = None", resources="memory:64m")
    second = client.ask("tools/call", "text = place()", resources="memory:256m")
    answer = client.read()
    assert answer["id"] == second
    verdict = answer["result"]["_meta"][VERDICT]
    assert verdict == {"call": verdict["call"], "shared": True}
    with daemon.client() as asking:
        (running,) = asking.calls()
        assert (running.call, running.limits.memoryMax) == (verdict["call"], 256 << 20)
    # What is asked for less than there is changes nothing.
    client.call("", resources="memory:32m")
    verdict = client.finish(first)["_meta"][VERDICT]
    assert (verdict["call"], verdict["shared"], verdict["outcome"]) == (running.call, True, "ok")
    assert verdict["limits"]["memoryMax"] == 256 << 20


def test_all_that_share_a_call_are_told_of_its_end(daemon: Any, behind: Callable[..., Client]) -> None:
    client = behind(daemon)
    first = client.ask("tools/call", "text = None", resources="memory:64m")
    second = client.ask("tools/call", f"run({EAT!r})")
    answers = [client.read(), client.read()]
    assert [answer["id"] for answer in answers] == [first, second]
    for answer in answers:
        assert outcome(answer["result"]) == "memory_limit"
        assert "memory limit of 64.0 MiB" in answer["result"]["content"][0]["text"]
        assert answer["result"]["_meta"][VERDICT]["shared"] is True
    assert outcome(client.call("")) == "ok"


def test_a_call_that_is_cancelled_is_ended_and_its_server_lives_on(
    daemon: Any, behind: Callable[..., Client], tools: Any
) -> None:
    client = behind(daemon)
    before = client.text("text = os.getpid()")
    key = client.ask("tools/call", "kept['left'] = subprocess.Popen(['sleep', '1000']); text = None")
    assert "/calls/c-" in client.text("text = place(kept['left'].pid)")
    client.write({"method": "notifications/cancelled", "params": {"requestId": key}})
    with daemon.client() as asking:
        tools.wait_for(lambda: asking.calls() == [], 60)
    assert client.text("text = kept['left'].wait(20)") == str(-signal.SIGKILL)
    assert client.text("text = os.getpid()") == before
    assert outcome(client.call("")) == "ok"
    ran = subprocess.run(
        ["agentcg", "history", "--history", str(daemon.directory / "history.sqlite"), "--json", "--limit", "2"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    cancelled = json.loads(ran.stdout.splitlines()[1])
    assert (cancelled["outcome"], cancelled["reason"]) == ("killed", "the client cancelled it")


def test_in_a_session_its_calls_are_of_that_session(daemon: Any, behind: Callable[..., Client], tools: Any) -> None:
    before = ("agentcg", "session", "run", "--socket", daemon.socket, "--name", "agent", "--")
    client = behind(daemon, before=before)
    home = client.text("text = place()")
    assert home == "shared/u0/agent/agent"
    # A call that the server has made itself is left alone.
    client.text(f"kept['own'] = subprocess.Popen([{launcher_path()!r}, '--id', 'own', '--', 'sleep', '1000']).pid")
    find = "text = open('/proc/{0}/task/{0}/children'.format(kept['own'])).read().strip()"
    own = tools.wait_for(lambda: client.text(find), 60)
    tools.wait_for(lambda: client.text(f"text = place({own})") == "shared/u0/agent/calls/own", 60)
    result = client.call(f"text = json.dumps([place(), place({own})])")
    place, of_own = json.loads(result["content"][0]["text"])
    assert f"u0/agent/{place.rpartition('/')[2]}" == result["_meta"][VERDICT]["call"]
    assert of_own == "shared/u0/agent/calls/own"
    assert client.text("text = place()") == home
    other = [*before[:-2], "other", "--", "agentcg", "mcp", "--socket", daemon.socket, "--memory", "1G", "--", "cat"]
    ran = subprocess.run(other, input="", capture_output=True, text=True, timeout=100)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "--memory: this process lives in a session" in ran.stderr


def test_in_a_call_it_stays_there(daemon: Any, behind: Callable[..., Client]) -> None:
    for more in ((), ("--one-call",), ("--without-daemon", "fail")):
        client = behind(daemon, *more, before=("agentcg", "run", "--socket", daemon.socket, "--id", "outer", "--"))
        result = client.call("text = place()")
        assert result["content"][0]["text"] == "shared/u0/adhoc/calls/outer"
        assert "_meta" not in result
        client.remove()


@pytest.mark.parametrize("uid", [0, NOBODY])
def test_a_server_may_be_one_call(
    daemon: Any, behind: Callable[..., Client], uid: int, tmp_path: Path, server: Path
) -> None:
    if uid:  # Who may not move processes has no choice.
        for folder in (tmp_path, *tmp_path.parents[:2]):
            folder.chmod(0o755)
        client = behind(daemon, "--memory", "256M", user=uid, group=uid, extra_groups=[])
    else:
        client = behind(daemon, "--memory", "256M", "--one-call")
    place = client.text("text = place()")
    assert re.fullmatch(rf"shared/u{uid}/s-\w+/calls/c-\w+", place)
    result = client.call("kept['left'] = subprocess.Popen(['sleep', '1000']); text = place(kept['left'].pid)")
    assert result["content"][0]["text"] == place
    name = place.removeprefix("shared/").replace("/calls/", "/")
    assert result["_meta"][VERDICT] == {"call": name, "shared": True}
    assert client.text("text = str(kept['left'].poll())") == "None"
    with daemon.client() as asking:
        limits = asking.calls()[0].limits
        assert (limits.memoryMax, limits.durationMaxSec) == (256 << 20, 4 * 3600)  # The session's, and the policy's.
        client.call("", resources="memory:64m,time:1s")
        assert asking.calls()[0].limits == limits
    # It is not moved, so what it allocates itself is what it dies of.
    result = client.call("big = bytearray(b'x') * (300 << 20)", resources="memory:512m")
    assert outcome(result) in ("memory_limit", "oom_killed")
    assert result["isError"] is True
    again = client.text("text = place()")
    assert again != place
    assert re.fullmatch(rf"shared/u{uid}/s-\w+/calls/c-\w+", again)


@pytest.mark.parametrize("own_daemon", [()], indirect=True)
def test_a_daemon_that_is_started_again_still_judges_the_call(
    own_daemon: Any, behind: Callable[..., Client], tools: Any
) -> None:
    client = behind(own_daemon)
    key = client.ask("tools/call", "text = None")
    assert "/calls/c-" in client.text("text = place()")
    own_daemon.signal(signal.SIGKILL)
    own_daemon.start()
    assert "/calls/c-" in client.text("text = place()")
    assert outcome(client.finish(key)) == "ok"
    assert client.text("text = place()").endswith("/agent")
    assert outcome(client.call("")) == "ok"
    client.remove()
    own_daemon.clear()


@pytest.mark.parametrize("own_daemon", [()], indirect=True)
@pytest.mark.parametrize("without", ["run", "fail"])
def test_where_the_daemon_stays_away_calls_go_on_without_or_not_at_all(
    own_daemon: Any, behind: Callable[..., Client], without: str
) -> None:
    client = behind(own_daemon, "--without-daemon", without)
    assert outcome(client.call("")) == "ok"
    own_daemon.signal(signal.SIGKILL)
    for _ in range(2):
        result = client.call("text = place()")
        assert "_meta" not in result
        if without == "run":
            assert result["content"][0]["text"].endswith("/agent")
        else:
            assert result["isError"] is True
            assert "no daemon at " in result["content"][0]["text"]
    own_daemon.start()
    assert outcome(client.call("")) == "ok"
    client.remove()
    own_daemon.clear()


def test_nothing_is_left_of_a_proxy_that_is_killed(daemon: Any, behind: Callable[..., Client]) -> None:
    client = behind(daemon)
    client.ask("tools/call", "subprocess.Popen(['setsid', 'sleep', '1000']); text = None")
    server = int(client.text("text = os.getpid()"))
    client.process.send_signal(signal.SIGKILL)
    daemon.clear()
    assert not Path(f"/proc/{server}").exists() or "Z" in Path(f"/proc/{server}/stat").read_text()
