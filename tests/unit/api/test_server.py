# SPDX-License-Identifier: Apache-2.0
"""Bad input on the socket: a clear answer or a closed connection, and nobody else notices."""

import json
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcg.api.connection import MESSAGE_MAX

STATUS = {"method": "dev.agentcg.Monitor.GetStatus"}


def method(name: str, **parameters: Any) -> dict[str, Any]:
    return {"method": f"dev.agentcg.{name}", "parameters": parameters}


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def drain(sock: socket.socket) -> None:
    while sock.recv(1 << 20):
        pass


def settle(count: int, slack: int = 3) -> int:
    """Return how many descriptors are open, once there are about ``count`` or 2 s have passed."""
    deadline = time.monotonic() + 2
    while open_descriptors() > count + slack and time.monotonic() < deadline:
        time.sleep(0.01)
    return open_descriptors()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"hello\0", "the message is not a JSON object: Expecting value"),
        (b"\0", "the message is not a JSON object"),
        (b"[1]\0", "the message is not a JSON object: received JSON value is not an object"),
        (b"null\0", "the message is not a JSON object"),
        (b'{"method": "x\xff"}\0', "the message cannot be read: 'utf-8' codec can't decode byte 0xff"),
        (b"[" * 100_000 + b"\0", "the message cannot be read: maximum recursion depth"),
        (b'{"method":"a.B","parameters":{"x":' + b"9" * 5000 + b"}}\0", "the message cannot be read: Exceeds"),
        (b"x" * (MESSAGE_MAX + 1), f"the message is longer than {MESSAGE_MAX} bytes"),
        (b" " * MESSAGE_MAX + b"{}\0", f"the message is longer than {MESSAGE_MAX} bytes"),
    ],
    ids=["text", "empty", "array", "null", "not-utf8", "nested", "long-number", "too-long", "too-long-ended"],
)
def test_what_is_no_message_is_answered_and_hung_up_on(served, raw: bytes, message: str) -> None:  # type: ignore[no-untyped-def]
    (reply,) = served.say(raw)
    assert reply["error"] == "dev.agentcg.Invalid"
    assert reply["parameters"]["place"] == "message"
    assert message in reply["parameters"]["message"]
    assert reply["parameters"]["hint"]
    (status,) = served.say(STATUS)
    assert status["parameters"]["status"]["pid"] == os.getpid()


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"method": 5},
        {"method": "GetStatus"},
        {"method": "dev.agentcg.Monitor.GetStatus", "parameters": []},
        {"method": "dev.agentcg.Monitor.GetStatus", "more": "yes"},
        {"method": "dev.agentcg.Monitor.GetStatus", "more": True, "upgrade": True},
    ],
    ids=repr,
)
def test_an_object_that_is_no_call_is_answered_in_words(served, message: dict[str, Any]) -> None:  # type: ignore[no-untyped-def]
    (reply,) = served.say(message)
    assert reply["error"] == "dev.agentcg.Invalid", reply
    assert reply["parameters"]["place"] == "message"


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"method": "dev.agentcg.Nothing.Do"}, "org.varlink.service.InterfaceNotFound"),
        ({"method": "dev.agentcg.Calls.Restart"}, "org.varlink.service.MethodNotFound"),
        ({"method": "dev.agentcg.Calls.Errors"}, "org.varlink.service.MethodNotFound"),
        ({"method": "dev.agentcg.Monitor.Watch"}, "org.varlink.service.ExpectedMore"),
    ],
    ids=["interface", "method", "no-method", "no-more"],
)
def test_what_is_not_there_is_said_in_varlinks_own_words(served, message: dict[str, Any], error: str) -> None:  # type: ignore[no-untyped-def]
    (reply, status) = served.say(message, STATUS, expect=2)
    assert reply["error"].startswith(error.rpartition(".")[0])
    assert status["parameters"]["status"]


@pytest.mark.parametrize(
    ("message", "place"),
    [
        (method("Calls.Begin", intent={"memoryMax": "1G"}), "intent.memoryMax"),
        (method("Calls.Begin", intent={"memoryMax": 1.5}), "intent.memoryMax"),
        (method("Calls.Begin", intent={"memoryMax": True}), "intent.memoryMax"),
        (method("Calls.Begin", intent={"memoryMax": -1}), "intent.memoryMax"),
        (method("Calls.Begin", intent={"memoryMax": 0}), "intent.memoryMax"),
        (method("Calls.Begin", intent={"memoryMax": 10**100}), "intent.memoryMax"),
        (method("Calls.Begin", intent={"memoryMax": 18446744073709551615}), "intent.memoryMax"),
        (method("Calls.Begin", intent={"memoryMax": None, "pidsMax": 0}), "intent.pidsMax"),
        (method("Calls.Begin", intent={"cpuCores": 1e999}), "intent.cpuCores"),
        (method("Calls.Begin", intent={"cpuCores": float("nan")}), "intent.cpuCores"),
        (method("Calls.Begin", intent={"cpuClass": "fast"}), "intent.cpuClass"),
        (method("Calls.Begin", intent={"priority": 101}), "intent.priority"),
        (method("Calls.Begin", intent={"memoryExpected": 2 << 30, "memoryMax": 1 << 30}), "intent.memoryExpected"),
        (method("Calls.Begin", command=["a", 5]), "command.1"),
        (method("Calls.Begin", command=["a", "b\0c"]), "command[1]"),
        (method("Calls.Begin", command="ls"), "command"),
        (method("Calls.Begin", hint="memory:x[$(id)]"), "AGENT_RESOURCE_HINT.memory"),
        (method("Calls.Begin", tool="a\nb"), "tool"),
        (method("Calls.Begin", tool="x" * 4096), "tool"),
        (method("Calls.Begin", id="../../x"), "id"),
        (method("Calls.Begin", id=""), "id"),
        (method("Calls.Begin", id="cgroup.procs"), "id"),
        (method("Sessions.Open", session="a/b"), "session"),
        (method("Sessions.Open", session=".."), "session"),
        (method("Sessions.Open", session="a\n"), "session"),
        (method("Sessions.Open", session=""), "session"),
        (method("Sessions.Open", session="x" * 4096), "session"),
        (method("Sessions.Open", tenant="../x"), "tenant"),
        (method("Sessions.Open", budget={"cpuWeight": 0}), "budget.cpuWeight"),
        (method("Sessions.Open", budget={"memoryMax": 1}), "budget.memoryMax"),
        (method("Sessions.Close", session="a/b/c"), "session"),
        (method("Calls.End", call="a"), "call"),
        (method("Calls.End", call="a/b/../c"), "call"),
        (method("Calls.End", call="/".join(["x" * 4096] * 3)), "call"),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[24:70],
)
def test_a_wrong_parameter_is_named(served, message: dict[str, Any], place: str) -> None:  # type: ignore[no-untyped-def]
    (reply, status) = served.say(message, STATUS, expect=2)
    assert reply.get("error") == "dev.agentcg.Invalid", reply
    assert reply["parameters"]["place"].replace("[", ".").rstrip("]") in (place, place.replace("[", ".").rstrip("]"))
    assert len(json.dumps(reply)) < 1000
    status = status["parameters"]["status"]
    assert (status["sessions"], status["calls"]) == (0, 0)


def test_an_unknown_parameter_is_refused(served) -> None:  # type: ignore[no-untyped-def]
    (reply,) = served.say(method("Sessions.Open", session="s1", memory=5))
    assert "error" in reply
    assert "memory" in json.dumps(reply)


def test_a_name_that_is_no_text_is_refused_in_text(served) -> None:  # type: ignore[no-untyped-def]
    for message in (
        method("Sessions.Open", **{"\udcff": 1}),
        method("Sessions.Open", session="\udcff"),
        method("Calls.Begin", intent={"\udcff": 1}),
        method("Calls.Begin", intent={"cpuClass": "\udcff"}),
        method("Calls.Begin", hint="memory:\udcff"),
        method("Calls.Begin", tool="\udcff"),
        {"method": "dev.agentcg.\udcff.Open"},
    ):
        (reply,) = served.say(message)
        assert "error" in reply


def test_a_missing_parameter_is_named(served) -> None:  # type: ignore[no-untyped-def]
    (reply,) = served.say(method("Calls.End"))
    assert "error" in reply
    assert "call" in json.dumps(reply["parameters"])


def test_a_message_that_is_cut_off_changes_nothing(served) -> None:  # type: ignore[no-untyped-def]
    assert served.say(json.dumps(method("Sessions.Open", session="s1")).encode()) == []
    assert not served.registry.sessions


def test_a_message_in_single_bytes_is_understood(served) -> None:  # type: ignore[no-untyped-def]
    with served.connect() as sock:
        for byte in json.dumps(STATUS).encode() + b"\0":
            sock.send(bytes([byte]))
        assert b'"pid"' in sock.recv(65_536)


def test_requests_sent_together_are_answered_in_order(served) -> None:  # type: ignore[no-untyped-def]
    names = [f"s{number}" for number in range(20)]
    opens = [method("Sessions.Open", session=name) for name in names]
    closes = [method("Sessions.Close", session=name) for name in names]
    found = served.say(b"".join(json.dumps(item).encode() + b"\0" for item in [*opens, *closes, STATUS]), expect=41)
    assert [reply["parameters"]["session"]["session"].split("/")[1] for reply in found[:20]] == names
    assert found[-1]["parameters"]["status"]["sessions"] == 0


def test_a_peer_that_closes_its_sending_side_gets_all_its_answers(served) -> None:  # type: ignore[no-untyped-def]
    busy = threading.Thread(target=lambda: served.on_loop(lambda: time.sleep(0.3)))
    busy.start()  # So that the server finds all requests and the end at once.
    found = served.say(b"".join(json.dumps(STATUS).encode() + b"\0" for _ in range(20)))
    busy.join()
    assert len(found) == 20


def test_oneway_is_done_and_not_answered(served) -> None:  # type: ignore[no-untyped-def]
    found = served.say(method("Sessions.Open", session="s1") | {"oneway": True}, STATUS, expect=1)
    assert len(found) == 1
    assert found[0]["parameters"]["status"]["sessions"] == 1
    assert served.say(method("Calls.End", call="a/b/c") | {"oneway": True}) == []


def test_a_call_begun_oneway_holds_no_descriptor(served) -> None:  # type: ignore[no-untyped-def]
    before = open_descriptors()
    for _ in range(20):
        served.say(method("Calls.Begin") | {"oneway": True})
    assert settle(before) <= before + 3


def test_descriptors_passed_with_rubbish_are_closed(served) -> None:  # type: ignore[no-untyped-def]
    before = open_descriptors()
    with open("/dev/null") as null:
        for raw in (b"\xff\0", b"[" * 60_000 + b"\0", b"{}\0", b"nul", json.dumps(STATUS).encode() + b"\0") * 4:
            with served.connect() as sock:
                socket.send_fds(sock, [raw[:60_000]], [null.fileno()] * 1 + [os.dup(0)])
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65_536):
                    pass
    assert settle(before + 20) <= before + 20 + 3  # The 20 that this test made.


def test_a_watcher_that_hangs_up_is_forgotten(served) -> None:  # type: ignore[no-untyped-def]
    served.say(method("Sessions.Open", session="quiet"))
    before = open_descriptors()
    for _ in range(20):
        with served.connect() as sock:
            sock.sendall(json.dumps(method("Monitor.Watch", session="quiet") | {"more": True}).encode() + b"\0")
            time.sleep(0.01)
    assert settle(before) <= before + 3


def test_a_peer_that_never_reads_is_not_kept_in_memory(served) -> None:  # type: ignore[no-untyped-def]
    """What is not read has to stop somewhere: here, after 64 MiB of replies at the latest."""
    sent = 0
    with served.connect(timeout=1) as sock:
        batch = (json.dumps({"method": "org.varlink.service.GetInfo"}).encode() + b"\0") * 500
        reply = 500 * 200
        try:
            while sent * reply < 64 << 20:
                sock.sendall(batch)
                sent += 1
        except OSError:
            pass
    assert sent * reply < 64 << 20
    assert served.say(STATUS)


def test_one_peer_that_floods_does_not_keep_others_waiting(served) -> None:  # type: ignore[no-untyped-def]
    flood = os.fork()
    if not flood:
        sock = served.connect()
        threading.Thread(target=drain, args=(sock,), daemon=True).start()
        batch = (json.dumps({"method": "org.varlink.service.GetInfo"}).encode() + b"\0") * 1000
        try:
            for _ in range(20_000):
                sock.sendall(batch)
        except OSError:
            pass
        os._exit(0)
    try:
        time.sleep(0.3)
        begun = time.monotonic()
        with served.connect(timeout=10) as sock:
            sock.sendall(json.dumps(STATUS).encode() + b"\0")
            assert sock.recv(65_536)
        assert time.monotonic() - begun < 2
    finally:
        os.kill(flood, 9)
        os.waitpid(flood, 0)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Hold more descriptors than select(2) can name."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    yield
    for fd in held:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_more_than_a_thousand_descriptors_are_no_trouble(served) -> None:  # type: ignore[no-untyped-def]
    (status,) = served.say(STATUS)
    assert status["parameters"]["status"]["sessions"] == 0


def test_a_command_that_is_no_text_can_be_ended(served) -> None:  # type: ignore[no-untyped-def]
    # File names are bytes; a Python runtime sends what is not UTF-8 in them as lone surrogates.
    begin = method("Calls.Begin", id="c1", session="s1", command=["cat", "\udcff\x1b[2J"])
    end = method("Calls.End", call="u0/s1/c1", exitCode=0)
    found = served.say(method("Sessions.Open", session="s1"), begin, end, expect=3)
    assert found[2].get("parameters", {}).get("verdict", {}).get("outcome") == "ok", found[2]


# Lone surrogates among it: JSON can write them, and UTF-8 cannot.
any_text = st.text(st.characters())
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)
methods = st.sampled_from(
    [f"Sessions.{name}" for name in ("Open", "Close", "List", "Freeze")]
    + [f"Calls.{name}" for name in ("Begin", "Amend", "End", "Kill", "Freeze", "Thaw")]
)
names = st.sampled_from(
    ["session", "id", "tenant", "tool", "command", "intent", "hint", "leased", "call", "exitCode", "budget", "agent"]
)
requests = st.builds(
    lambda name, parameters, extra: {"method": f"dev.agentcg.{name}", "parameters": parameters, **extra},
    methods,
    st.dictionaries(names, json_values, max_size=4),
    st.dictionaries(st.sampled_from(["oneway", "more", "upgrade", "extra"]), json_values, max_size=1),
)
raw_messages = st.binary(max_size=200) | requests.map(lambda item: json.dumps(item).encode() + b"\0")


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(raw_messages, min_size=1, max_size=4))
def test_nothing_that_is_sent_disturbs_anybody_else(served, messages: list[bytes]) -> None:  # type: ignore[no-untyped-def]
    for reply in served.say(*messages):
        assert "internal error" not in json.dumps(reply), reply
    assert served.say(STATUS)[0]["parameters"]["status"]
    assert not served.unhandled
