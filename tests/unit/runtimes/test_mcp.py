# SPDX-License-Identifier: Apache-2.0
"""The proxy for servers of the Model Context Protocol: what passes, what is answered for a server that cannot."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentcg.errors import InvalidInput
from agentcg.model import Intent
from agentcg.runtimes.mcp import messages

TOP = Path(__file__).resolve().parents[3]
AGENTCG = [sys.executable, "-c", "from agentcg.cli import main; main()"]

SERVER = r"""
import json, os, signal, subprocess, sys, threading, time

def write(message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0"} | message) + "\n")
    sys.stdout.flush()

started = []
print("hello from the server", file=sys.stderr, flush=True)
for line in sys.stdin:
    message = json.loads(line)
    method, key, params = message.get("method"), message.get("id"), message.get("params") or {}
    answer = {"content": [{"type": "text", "text": f"{os.getpid()}"}]}
    if method == "initialize" and "refuse" in params:
        write({"id": key, "error": {"code": -32022, "message": "there is no initialize"}})
        continue
    elif method == "initialize":
        started.append(message["params"])
        answer = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}
    elif method == "notifications/initialized":
        started.append("initialized")
        continue
    elif method == "notifications/cancelled":
        write({"method": "notifications/message", "params": {"level": "info", "data": params["requestId"]}})
        continue
    elif method is None:  # What the client answers to a request of ours.
        key, answer = "asked", {"content": [{"type": "text", "text": json.dumps(message["result"])}]}
    elif params.get("name") == "started":
        answer = {"content": [{"type": "text", "text": json.dumps(started)}]}
    elif params.get("name") == "big":
        answer = {"content": [{"type": "text", "text": "x" * params["arguments"]["size"]}]}
    elif params.get("name") == "length":
        answer = {"content": [{"type": "text", "text": str(len(params["arguments"]["text"]))}]}
    elif params.get("name") == "raw":
        sys.stdout.write(params["arguments"]["text"])
        sys.stdout.flush()
        continue
    elif params.get("name") == "ask":
        write({"method": "notifications/progress", "params": {"progressToken": 1, "progress": 0.5}})
        write({"id": "sampling-1", "method": "sampling/createMessage", "params": {"maxTokens": 7}})
        continue
    elif params.get("name") == "nothing":
        continue
    elif params.get("name") == "exit":
        os._exit(params["arguments"]["status"])
    elif params.get("name") == "die" or method == "resources/read":
        os.kill(os.getpid(), signal.SIGKILL)
    elif params.get("name") == "leave":
        # One that is left behind holds the pipe.
        subprocess.Popen(["sleep", "30"], stderr=subprocess.DEVNULL)
        os._exit(0)
    elif params.get("name") == "close":
        os.close(1)
        time.sleep(60)
    write({"id": key, "result": answer})
"""


class Client:
    """A client at the other end of a proxy."""

    def __init__(self, *command: str, environment: dict[str, str] | None = None) -> None:
        env = os.environ | {"AGENTCG_SOCKET": "/nowhere", "PYTHONIOENCODING": "utf-8:surrogateescape"}
        self.process = subprocess.Popen(
            [*AGENTCG, "mcp", *command],
            cwd=TOP,
            env=env | (environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.lines: queue.Queue[bytes] = queue.Queue()
        self.errors = b""
        self._threads = [threading.Thread(target=self._read_lines), threading.Thread(target=self._read_errors)]
        for thread in self._threads:
            thread.start()

    def _read_lines(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)

    def _read_errors(self) -> None:
        for line in self.process.stderr:
            self.errors += line

    def write(self, *messages: dict[str, Any] | bytes) -> None:
        for message in messages:
            line = message if isinstance(message, bytes) else json.dumps(message).encode()
            self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def read(self) -> Any:
        return json.loads(self.lines.get(timeout=60))

    def call(self, tool: str, *, key: int | str = 1, meta: Any = None, **arguments: Any) -> None:
        params = {"name": tool, "arguments": arguments} | ({"_meta": meta} if meta is not None else {})
        self.write({"jsonrpc": "2.0", "id": key, "method": "tools/call", "params": params})

    def text(self) -> str:
        """Return the text in the answer to a call."""
        return str(self.read()["result"]["content"][0]["text"])

    def end(self) -> int:
        """Hang up, as a client does; return the proxy's status."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        status = self.process.wait(60)
        for thread in self._threads:
            thread.join(60)
        return status

    def remove(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.end()
        self.process.stdout.close()
        self.process.stderr.close()


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Return a function that starts the server above behind a proxy, with options of the proxy's."""
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    made: list[Client] = []

    def start(*options: str, server: tuple[str, ...] = (sys.executable, str(script)), **more: Any) -> Client:
        made.append(Client(*options, "--", *server, **more))
        return made[-1]

    yield start
    for client in made:
        client.remove()


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {"roots": {}}, "clientInfo": {"name": "c"}},
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def test_without_a_daemon_everything_passes_after_one_warning(connect: Callable[..., Client]) -> None:
    client = connect()
    client.write(INITIALIZE, INITIALIZED)
    assert client.read()["result"]["serverInfo"]["name"] == "s"
    client.call("pid")
    client.call("started", meta={messages.RESOURCES: "memory:nonsense"}, key="two")
    first, second = client.read(), client.read()
    assert (first["id"], second["id"]) == (1, "two")
    assert first["result"].keys() == second["result"].keys() == {"content"}
    assert client.end() == 0
    warned = "agentcg: no daemon at /nowhere: No such file or directory (start it with `agentcg daemon`, or name its "
    assert client.errors.decode().count("agentcg: ") == 1
    assert client.errors.decode().startswith(warned)
    assert b"running unmanaged" in client.errors
    assert b"hello from the server" in client.errors


def test_without_a_daemon_it_fails_where_it_is_told_to(connect: Callable[..., Client]) -> None:
    told = connect("--without-daemon", "fail"), connect(environment={"AGENTCG_WITHOUT_DAEMON": "fail"})
    for client in told:
        assert client.end() == 1
        assert b"agentcg: no daemon at /nowhere" in client.errors
        assert b"hello" not in client.errors


@pytest.mark.parametrize(
    "line",
    [
        '{ "id" : 77,"result":{"x":1.0,"y":[1e2 ,"\\u00e9é"]}, "jsonrpc":"2.0"}',
        '{"jsonrpc":"2.0","method":"notifications/message","params":{"data":NaN}}',
        '[{"jsonrpc":"2.0","id":1,"result":{}}, {"jsonrpc":"2.0","id":2,"result":{}}]',
        '{"level":"info"}',
    ],
    ids=["answer", "not-a-number", "batch", "no-rpc"],
)
def test_a_message_is_passed_on_byte_for_byte(connect: Callable[..., Client], line: str) -> None:
    client = connect()
    client.call("raw", text=line + "\n")
    assert client.lines.get(timeout=60) == line.encode() + b"\n"


def test_messages_of_many_megabytes_pass_in_both_directions(connect: Callable[..., Client]) -> None:
    client = connect()
    client.call("length", text="é" * (10 << 20))
    assert client.text() == str(10 << 20)
    client.call("big", size=10 << 20)
    assert len(client.text()) == 10 << 20


def test_a_message_that_is_too_long_ends_the_server_and_not_its_client(connect: Callable[..., Client]) -> None:
    client = connect()
    client.write(INITIALIZE, INITIALIZED)
    client.read()
    client.call("big", size=messages.MESSAGE_MAX)
    answer = client.read()["result"]
    assert answer["isError"] is True
    assert "the server was ended by signal 9 and is started again" in answer["content"][0]["text"]
    client.call("started")
    assert json.loads(client.text()) == [INITIALIZE["params"], "initialized"]
    client.end()
    assert b"the server wrote a message of more than 64.0 MiB" in client.errors


def test_lines_that_are_no_messages_are_told_and_do_not_reach_the_client(connect: Callable[..., Client]) -> None:
    client = connect()
    written = ["Loading model...", "12", '{"jsonrpc": "2.0", "id"', "[" * 100_000, "not utf-8: \udcff and \x1b"]
    for text in ("\n", *(f"{line}\n" for line in written)):
        client.call("raw", text=text)
    client.call("pid", key=9)
    assert client.read()["id"] == 9
    client.end()
    told = [line for line in client.errors.decode().splitlines() if "no message: " in line]
    assert [line.rpartition("no message: ")[2][:24] for line in told] == [
        "Loading model...",
        "12",
        '{"jsonrpc": "2.0", "id"',
        "[" * 24,
        "not utf-8: \N{REPLACEMENT CHARACTER} and",
    ]
    assert max(map(len, told)) < 300


def test_what_the_client_writes_passes_be_it_a_message_or_not(connect: Callable[..., Client]) -> None:
    client = connect(server=("cat",))
    for line in (
        b"no json",
        b'{"jsonrpc":"2.0", "method":"x"}',
        b'[{"id": 1}]',
        b'{"id": [1], "method": "tools/call"}',
    ):
        client.write(line)
    client.end()
    assert b"no message: no json" in client.errors
    assert [client.lines.get(timeout=60) for _ in range(3)] == [
        b'{"jsonrpc":"2.0", "method":"x"}\n',
        b'[{"id": 1}]\n',
        b'{"id": [1], "method": "tools/call"}\n',
    ]


def test_during_a_call_both_may_ask_tell_and_cancel(connect: Callable[..., Client]) -> None:
    client = connect()
    client.call("ask", key="asked")
    assert client.read()["method"] == "notifications/progress"
    asked = client.read()
    assert (asked["id"], asked["method"]) == ("sampling-1", "sampling/createMessage")
    client.write({"jsonrpc": "2.0", "id": "sampling-1", "result": {"role": "assistant"}})
    answer = client.read()
    assert (answer["id"], answer["result"]["content"][0]["text"]) == ("asked", '{"role": "assistant"}')
    client.call("nothing", key=7)
    client.write({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}})
    assert client.read()["params"]["data"] == 7
    client.write({"jsonrpc": "2.0", "method": "notifications/cancelled"})
    assert client.end() == 1  # The server does not know what to make of that one.


@pytest.mark.parametrize(
    ("tool", "how"),
    [("die", "was ended by signal 9"), ("exit", "ended with status 3"), ("leave", "ended with status 0")],
)
def test_a_server_that_dies_in_a_call_is_started_again_and_hears_of_its_client(
    connect: Callable[..., Client], tool: str, how: str
) -> None:
    client = connect()
    client.write(INITIALIZE, INITIALIZED)
    client.read()
    client.call("nothing", key="other")
    client.write({"jsonrpc": "2.0", "id": 5, "method": "ping"}, {"jsonrpc": "2.0", "id": 6, "method": "x"})
    client.call("pid")
    pid = [client.read() for _ in range(3)][2]["result"]["content"][0]["text"]
    client.call(tool, key=8, status=3)
    answers = [client.read(), client.read()]
    assert [answer["id"] for answer in answers] == ["other", 8]
    for answer in answers:
        assert answer["result"]["isError"] is True
        text = f"agentcg: the server {how} and is started again, without what it held in memory"
        assert answer["result"]["content"] == [{"type": "text", "text": text}]
    for _ in range(2):  # As often as it takes.
        client.call("started")
        assert json.loads(client.text()) == [INITIALIZE["params"], "initialized"]
        client.call("pid")
        assert client.text() != pid
        client.call("die")
        client.read()
    assert client.end() == 0


def test_what_comes_while_a_server_is_started_again_is_kept_for_it(connect: Callable[..., Client]) -> None:
    client = connect()
    client.write(INITIALIZE, INITIALIZED)
    client.call("die", key=1)
    for key in range(2, 20):
        client.call("length", key=key, text="four")
    answers = {answer["id"]: answer["result"] for answer in (client.read() for _ in range(20))}
    assert answers.keys() == set(range(20))
    # Those that it had been given are lost with it, and are answered for it.
    lost = [key for key in range(2, 20) if answers[key].get("isError")]
    assert all(answers[key]["content"][0]["text"] == "4" for key in range(2, 20) if key not in lost)
    client.call("length", key="last", text="four")
    assert client.text() == "4"
    assert client.end() == 0


def test_what_the_server_has_refused_is_not_said_again(connect: Callable[..., Client]) -> None:
    client = connect()
    client.write(INITIALIZE | {"params": {"refuse": True}})
    assert client.read()["error"]["message"] == "there is no initialize"
    client.call("die")
    client.read()
    client.call("started")
    assert client.text() == "[]"
    assert client.end() == 0
    assert b"refuses" not in client.errors


def test_an_answer_in_the_latest_revision_has_its_type(connect: Callable[..., Client]) -> None:
    client = connect()
    client.call("die", meta={"io.modelcontextprotocol/protocolVersion": "2026-07-28"})
    assert client.read()["result"]["resultType"] == "complete"
    client.call("die")
    assert "resultType" not in client.read()["result"]


def test_a_server_that_dies_outside_of_calls_again_and_again_is_given_up(connect: Callable[..., Client]) -> None:
    client = connect()
    client.write(INITIALIZE, INITIALIZED)
    client.read()
    read = {"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {}}
    client.write(read)
    first = client.read()
    assert (first["id"], first["error"]["code"]) == (1, -32603)
    assert first["error"]["message"].startswith("agentcg: the server was ended by signal 9 and is started again")
    client.write(read | {"id": 2})
    second = client.read()
    assert second["id"] == 2
    assert second["error"]["message"].endswith("is not started again: it had answered nothing")
    assert client.process.wait(60) == 137


@pytest.mark.parametrize(
    ("server", "status", "said"),
    [
        (("sh", "-c", "exit 3"), 3, b"agentcg: the server ended with status 3 and is not started again"),
        (("no-such-program",), 127, b"agentcg: no-such-program: No such file or directory"),
        (("/etc/passwd",), 126, b"agentcg: /etc/passwd: Permission denied"),
    ],
)
def test_a_server_that_does_not_start(
    connect: Callable[..., Client], server: tuple[str, ...], status: int, said: bytes
) -> None:
    client = connect(server=server)
    assert client.process.wait(60) == status
    client.end()
    assert said in client.errors


def test_a_server_that_hangs_up_is_ended_and_started_again_where_it_was_asked_something(
    connect: Callable[..., Client],
) -> None:
    client = connect()
    client.call("close")
    assert client.read()["result"]["isError"] is True
    client.call("length", text="four")
    assert client.text() == "4"
    idle = connect(server=("sh", "-c", "read line; exit 0"))
    idle.write({"jsonrpc": "2.0", "method": "notifications/initialized"})
    assert idle.process.wait(60) == 0  # It hung up on its client: nobody waits for anything.


def test_a_client_that_hangs_up_still_gets_its_answers(connect: Callable[..., Client]) -> None:
    client = connect()
    for key in range(3):
        client.call("length", key=key, text="four")
    assert client.end() == 0
    assert [client.read()["id"] for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_server_which_is_not_started_again(connect: Callable[..., Client], number: int) -> None:
    script = f"trap 'exit 7' {number}; echo '{{}}'; while :; do sleep 0.05; done"
    client = connect(server=("sh", "-c", script))
    assert client.read() == {}
    client.process.send_signal(number)
    assert client.process.wait(60) == 7


def test_standard_streams_that_cannot_be_waited_for_are_an_error(tmp_path: Path) -> None:
    ran = subprocess.run(
        [*AGENTCG, "mcp", "--", "cat"], cwd=TOP, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("agentcg: <stdin> is not a pipe, a socket or a terminal\n  hint: ")
    assert "Traceback" not in ran.stderr


# Hints and verdicts


def params(meta: object = None) -> dict[str, Any]:
    return {"name": "t"} | ({} if meta is None else {"_meta": {messages.RESOURCES: meta}})


@pytest.mark.parametrize(
    ("meta", "hint", "intent"),
    [
        (None, None, Intent()),
        ("memory:2g,cpu:batch", None, Intent(memory_max=2 << 30, cpu_class="batch")),
        ({"memoryMax": 5 << 20, "durationMaxSec": 3}, None, Intent(memory_max=5 << 20, duration_max_sec=3.0)),
        (None, "memory:64m", Intent(memory_max=64 << 20)),
        ({"memoryMax": 1 << 30}, "memory:64m,pids:9", Intent(memory_max=1 << 30, pids_max=9)),
        ("memory:64m", {"memoryExpected": 1 << 30}, Intent(memory_max=64 << 20, memory_expected=64 << 20)),
    ],
)
def test_a_request_declares_field_by_field_over_the_tools_definition(
    meta: object, hint: object, intent: Intent
) -> None:
    assert messages.intent_of("t", params(meta), hint) == intent


CALL, LIST = f'tools/call: params._meta["{messages.RESOURCES}"]', f'tools/list: t._meta["{messages.RESOURCES}"]'


@pytest.mark.parametrize(
    ("meta", "hint", "place"),
    [
        ("memory:lots", None, f"{CALL}.memory"),
        ("", None, CALL),
        (12, None, CALL),
        ([], None, CALL),
        ({"memoryMax": "2g"}, None, f"{CALL}.memoryMax"),
        ({"memoryMax": True}, None, f"{CALL}.memoryMax"),
        ({"memoryMax": -1}, None, f"{CALL}.memoryMax"),
        ({"memory": 1}, None, CALL),
        ({"cpuCores": float("nan")}, None, f"{CALL}.cpuCores"),
        ({"cpuClass": "fast"}, None, f"{CALL}.cpuClass"),
        ("memory:1g", "colour:red", LIST),
        (None, {"pidsMax": 0}, f"{LIST}.pidsMax"),
    ],
)
def test_a_hint_that_is_none_is_refused_with_its_place(meta: object, hint: object, place: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        messages.intent_of("t", params(meta), hint)
    assert caught.value.place == place
    assert caught.value.detail


@pytest.mark.parametrize(
    ("result", "hints"),
    [
        (None, {}),
        ({"tools": 3}, {}),
        ({"tools": [3, {"name": "a"}, {"name": "b", "_meta": 3}]}, {"a": None, "b": None}),
        ({"tools": [{"name": "a", "_meta": {messages.RESOURCES: "memory:1g"}}]}, {"a": "memory:1g"}),
    ],
)
def test_the_hints_of_a_list_are_those_of_its_tools(result: object, hints: dict[str, Any]) -> None:
    assert messages.hints_of(result) == hints


def test_the_verdict_and_its_advice_go_into_a_result_beside_what_is_there() -> None:
    answer = {"id": 1, "result": {"content": [{"type": "text", "text": "3 passed"}], "_meta": {"a": 1}}}
    messages.add_verdict(answer, {"outcome": "ok", "advice": ""})
    assert answer["result"]["_meta"] == {"a": 1, messages.VERDICT: {"outcome": "ok", "advice": ""}}
    assert len(answer["result"]["content"]) == 1
    messages.add_verdict(answer, {"call": "u0/s/c", "shared": True})
    assert len(answer["result"]["content"]) == 1
    messages.add_verdict(answer, {"advice": "run fewer workers."})
    assert answer["result"]["content"][1] == {"type": "text", "text": "agentcg: run fewer workers."}
    waiting = {"id": 1, "result": {"resultType": "input_required", "_meta": None}}
    messages.add_verdict(waiting, {"advice": "run fewer workers."})
    assert waiting["result"].keys() == {"resultType", "_meta"}


def test_the_verdict_and_its_advice_go_into_an_error_as_well() -> None:
    answer: dict[str, Any] = {"id": 1, "error": {"code": 1, "message": "it failed"}}
    messages.add_verdict(answer, {"advice": "run fewer workers."})
    assert answer["error"]["message"] == "it failed (agentcg: run fewer workers.)"
    assert answer["error"]["data"] == {messages.VERDICT: {"advice": "run fewer workers."}}
    answer = {"id": 1, "error": {"code": 1, "message": "it failed", "data": 3}}
    messages.add_verdict(answer, {"advice": ""})
    assert answer["error"] == {"code": 1, "message": "it failed", "data": 3}


def test_it_is_gone_when_its_client_is(connect: Callable[..., Client]) -> None:
    client = connect()
    client.call("pid")
    server = int(client.text())
    os.kill(client.process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{server}").exists() and "Z" not in Path(f"/proc/{server}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
