# SPDX-License-Identifier: Apache-2.0
"""Scrapes over real sockets, on the loop of the daemon's own server."""

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentcg import daemon
from agentcg.api.client import Client
from agentcg.errors import AgentcgError, InvalidInput, Unsupported
from agentcg.metrics import serve
from agentcg.metrics.collect import Metrics
from agentcg.metrics.serve import Scrapes, bind_address, load_metrics, parse_address


@pytest.fixture(params=["tcp", "unix"])
def scraped(request, served, tmp_path: Path) -> Iterator[socket.socket]:  # type: ignore[no-untyped-def]
    """Serve metrics too, on a socket of either kind; return it."""
    address = "127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/metrics"
    sock = daemon._bind_metrics(parse_address("--metrics", address))

    def start() -> Scrapes:
        return Scrapes(sock, Metrics(served.registry, None, None).text)

    scrapes = served.on_loop(start)
    asyncio.run_coroutine_threadsafe(scrapes.start(), served.loop).result(10)
    yield sock
    served.on_loop(scrapes.close)
    assert not (tmp_path / "metrics").exists()


def connect(listening: socket.socket) -> socket.socket:
    sock = socket.socket(listening.family, socket.SOCK_STREAM)
    sock.settimeout(10)
    sock.connect(listening.getsockname())
    return sock


def ask(listening: socket.socket, method: str = "GET", path: str = "/metrics") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("metrics", timeout=10)
    connection.sock = connect(listening)
    connection.request(method, path)
    return connection.getresponse()


def test_calls_over_the_socket_are_in_the_next_scrape(served, scraped: socket.socket) -> None:  # type: ignore[no-untyped-def]
    with served.client() as client:
        session = client.session("a")
        session.call(["pytest"]).end(exit_code=1)
        session.call(["pytest"])
        response = ask(scraped)
    assert (response.status, response.getheader("Content-Type")) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = {one.name: one for one in text_string_to_metric_families(response.read().decode())}
    ended = {tuple(one.labels.values()): one.value for one in families["agentcg_calls_ended"].samples}
    assert ended["test", "exit_status"] == 1
    (begun,) = families["agentcg_calls_begun"].samples
    assert begun.value == 2
    assert families["agentcg_call_duration_seconds"].type == "histogram"


def test_one_scrape_after_the_other(scraped: socket.socket) -> None:
    answers = [ask(scraped).read() for _ in range(20)]
    assert answers[0].startswith(b"# HELP agentcg_")
    assert len({len(answer.splitlines()) for answer in answers}) == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/metrics?name=x", 200), ("POST", "/metrics", 405), ("HEAD", "/metrics", 200)],
)
def test_other_requests(scraped: socket.socket, method: str, path: str, status: int) -> None:
    response = ask(scraped, method, path)
    assert response.status == status
    assert bool(response.read()) == (method != "HEAD")


@pytest.mark.parametrize(
    "text", [b"\r\n\r\n", b"\0" * 100_000, b"GET /metrics HTTP/1.1\r\n" + b"x: y\r\n" * 9000, b"GET"]
)
def test_garbage_ends_its_own_connection_alone(scraped: socket.socket, text: bytes) -> None:
    with connect(scraped) as sock:
        try:
            sock.sendall(text)
            sock.shutdown(socket.SHUT_WR)
            answer = sock.recv(65_536)
        except ConnectionError:
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 405 ")
    assert ask(scraped).status == 200


def test_who_says_nothing_is_hung_up_on_and_holds_nobody_up(
    scraped: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "REQUEST_SEC", 0.3)
    with connect(scraped) as silent:
        assert ask(scraped).status == 200
        began = time.monotonic()
        try:
            assert silent.recv(1) == b""
        except ConnectionError:
            pass
        assert time.monotonic() - began < 5


def test_only_so_many_at_a_time(scraped: socket.socket) -> None:
    waiting = [connect(scraped) for _ in range(serve.CLIENTS_MAX)]
    with connect(scraped) as late:
        try:
            assert late.recv(1) == b""
        except ConnectionError:
            pass
    for sock in waiting:
        sock.close()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert ask(scraped).status == 200
            break
        except (ConnectionError, http.client.RemoteDisconnected):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_what_cannot_be_read_is_an_error_of_the_server(tmp_path: Path) -> None:
    def text() -> bytes:
        raise OSError("no such file")

    async def run() -> bytes:
        path = str(tmp_path / "metrics")
        scrapes = Scrapes(daemon._bind(path), text)
        await scrapes.start()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        line = await asyncio.wait_for(reader.readline(), 10)
        writer.close()
        scrapes.close()
        return line

    assert asyncio.run(run()).startswith(b"HTTP/1.1 500 ")


def test_the_daemon_serves_them_until_it_ends(cgroups, root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """The whole daemon, but for what only a kernel can be: the hierarchy, and the wait for its files."""
    monkeypatch.setattr(daemon, "open_root", lambda path, observe: root)
    monkeypatch.setattr(daemon, "EventPoll", lambda loop: cgroups.poll)
    monkeypatch.setattr(cgroups.poll, "close", lambda: None, raising=False)
    monkeypatch.setattr("agentcg.daemon.gc.freeze", lambda: None)
    options = daemon.Options(
        socket=str(tmp_path / "sock"), history=str(tmp_path / "history"), metrics=f"unix:{tmp_path}/metrics", root="/"
    )

    async def run() -> bytes:
        serving = asyncio.create_task(daemon.serve(options))
        async with asyncio.timeout(20):
            while not (tmp_path / "sock").exists():
                assert not serving.done(), await serving
                await asyncio.sleep(0.01)
            with await asyncio.to_thread(Client, options.socket) as client:
                call = await asyncio.to_thread(client.call, ["pytest"])
                await asyncio.to_thread(call.end, exit_code=0)
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "metrics"))
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
            text = await reader.read()
            writer.close()
            os.kill(os.getpid(), signal.SIGTERM)
            await serving
        return text

    text = asyncio.run(run())
    lines = text.splitlines()
    assert b'agentcg_calls_ended_total{class="test",outcome="ok"} 1.0' in lines
    assert b"agentcg_memory_capacity_bytes " in text
    assert b'agentcg_controller_actions_total{action="freeze"} 0.0' in lines
    assert not (tmp_path / "metrics").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:9464", ("127.0.0.1", 9464)), ("[::1]:0", ("::1", 0)), ("unix:/run/x:y", "/run/x:y")],
)
def test_addresses(text: str, expected: object) -> None:
    assert parse_address("--metrics", text) == expected


@pytest.mark.parametrize(
    "text", ["", "9464", ":9464", "unix:", "0.0.0.0:9464", "8.8.8.8:1", "127.0.0.1:65536", "127.0.0.1:-1"]
)
def test_what_is_no_address_of_this_host(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"--metrics: .* is not an address to listen on"):
        parse_address("--metrics", text)


def test_an_address_that_is_taken() -> None:
    with bind_address(("127.0.0.1", 0)) as first:
        first.listen()
        with pytest.raises(AgentcgError, match=r"cannot listen on 127\.0\.0\.1 port"):
            bind_address(first.getsockname())


def test_without_the_package_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "agentcg.metrics.collect", raising=False)
    with pytest.raises(Unsupported, match="--metrics needs the Python package prometheus_client") as caught:
        load_metrics()
    assert caught.value.hint == "pip install 'agentcg[metrics]'"
    with pytest.raises(Unsupported):
        asyncio.run(daemon.serve(daemon.Options(metrics="127.0.0.1:0", history="/nowhere/at/all")))


def test_who_does_not_scrape_does_not_load_it() -> None:
    code = "import agentcg.daemon, agentcg.cli.daemon, sys; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
