# SPDX-License-Identifier: Apache-2.0
"""What passes through, and what becomes of it when something is wrong. The server answers with given bytes."""

import asyncio
import gzip
import json
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import pytest
from yarl import URL

from agentcg.gateway import proxy as module
from agentcg.gateway.turns import Turns
from tests.unit.gateway.upstream import gateway, raw, reply

Run = Callable[[Coroutine[Any, Any, None]], None]
CHAT = {"messages": [{"role": "user", "content": "fix it"}]}
OK = b'{"choices":[{"message":{"content":"done"}}]}'


def test_a_request_and_its_answer_pass_unchanged(run: Run) -> None:
    async def story() -> None:
        answer = reply(OK, "Content-Type: application/json", "X-A: 1", "Set-Cookie: a=1", "Set-Cookie: b=2")
        async with gateway(answer) as served:
            body = b' {"messages" : [{"role":"user","content":"\\u00fc"}],  "n":1e0}'
            headers = {"Content-Type": "application/json", "Authorization": "Bearer k", "X-B": "2"}
            url = URL(served.url + "/v1/chat/completions?a=b%2Fc", encoded=True)
            async with served.http.post(url, data=body, headers=headers) as got:
                assert (got.status, await got.read()) == (200, OK)
                assert got.headers.getall("Set-Cookie") == ["a=1", "b=2"]
                assert got.headers["X-A"] == "1"
            assert served.upstream.bodies == [body]
            (head,) = served.upstream.heads
            assert head.startswith("POST /v1/chat/completions?a=b%2Fc HTTP/1.1\r\n")
            for line in ("Authorization: Bearer k", "X-B: 2", f"Host: {served.upstream.url[7:]}"):
                assert line in head
            assert head.count("Content-Length") == 1

    run(story())


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "429 Slow Down", "500 Oh", "503 Loading"])
def test_errors_pass_unchanged(run: Run, status: str) -> None:
    async def story() -> None:
        error = b'{"error":{"message":"no"}}'
        async with gateway(reply(error, "Retry-After: 7", status=status)) as served:
            async with served.http.post(served.url + "/v1/chat/completions", json=CHAT) as got:
                assert (f"{got.status} {got.reason}", await got.read()) == (status, error)
                assert got.headers["Retry-After"] == "7"
            assert len(served.upstream.bodies) == 1

    run(story())


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_everything_else_passes(run: Run, method: str) -> None:
    async def story() -> None:
        body = b"" if method == "HEAD" else b"[]"
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: 1\r\n\r\n"
        async with gateway(raw(head + body)) as served:
            async with served.http.request(method, served.url + "/v1/models") as got:
                assert (got.status, got.headers["X-A"], await got.read()) == (200, "1", body)
                assert got.headers["Content-Length"] == "2"
            assert served.upstream.heads[0].startswith(f"{method} /v1/models HTTP/1.1")

    run(story())


def test_an_answer_without_a_body_passes(run: Run) -> None:
    async def story() -> None:
        async with gateway(raw(b"HTTP/1.1 204 No Content\r\n\r\n")) as served:
            assert await served.post(CHAT) == (204, b"")

    run(story())


def test_a_redirect_is_the_clients_to_follow(run: Run) -> None:
    async def story() -> None:
        async with (
            gateway(reply(b"", "Location: /elsewhere", status="307 Temporary Redirect")) as served,
            served.http.get(served.url + "/", allow_redirects=False) as got,
        ):
            assert (got.status, got.headers["Location"]) == (307, "/elsewhere")

    run(story())


def test_the_first_byte_of_a_stream_arrives_before_the_last_is_made(run: Run) -> None:
    seen = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            writer.write(b"9\r\ndata: %d\n\n\r\n" % number)
            await writer.drain()
            await asyncio.wait_for(seen.wait(), 10)  # Nothing more is made until the client has this.
            seen.clear()
        writer.write(b"0\r\n\r\n")

    async def story() -> None:
        async with (
            gateway(answer) as served,
            served.http.post(served.url + "/v1/chat/completions", json=CHAT | {"stream": True}) as got,
        ):
            for number in range(3):
                assert await got.content.readany() == b"data: %d\n\n" % number
                seen.set()
            assert await got.content.read() == b""

    run(story())


def test_compressed_bodies_pass_as_they_are(run: Run) -> None:
    async def story() -> None:
        answer, asked = gzip.compress(OK), gzip.compress(json.dumps(CHAT).encode())
        async with gateway(reply(answer, "Content-Encoding: gzip", "Content-Type: application/json")) as served:
            headers = {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
            async with served.http.post(served.url + "/v1/chat/completions", data=asked, headers=headers) as got:
                assert (await got.read(), got.headers["Content-Encoding"]) == (answer, "gzip")
            assert served.upstream.bodies == [asked]
            assert "Accept-Encoding: gzip" in served.upstream.heads[0]
            assert await served.post(CHAT) == (200, answer)  # One that was understood, whose answer is not.

    run(story())


def test_a_body_too_large_to_read_passes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_MAX", 1000)
    body = json.dumps(CHAT | {"pad": "x" * 5_000_000}).encode()

    async def pieces() -> Any:
        for begin in range(0, len(body), 100_000):
            yield body[begin : begin + 100_000]

    async def story() -> None:
        async with gateway(reply(OK)) as served:
            assert await served.post(body) == (200, OK)
            assert (await served.post(pieces()))[0] == 200
            assert served.upstream.bodies == [body, body]
            assert "Content-Length" in served.upstream.heads[0]
            assert "chunked" in served.upstream.heads[1]

    run(story())


def test_a_body_that_comes_in_pieces_is_read(run: Run) -> None:
    async def pieces() -> Any:
        for byte in json.dumps(CHAT).encode():
            yield bytes([byte])

    async def story() -> None:
        async with gateway(reply(OK), engine="vllm") as served:
            assert (await served.post(pieces()))[0] == 200
            assert served.upstream.bodies == [json.dumps(CHAT).encode()]
            assert "X-Session-ID: unnamed-1" in served.upstream.heads[0]

    run(story())


@pytest.mark.parametrize("body", [b"", b"{", b"null", b'{"messages":"\xff"}', b'{"messages":[]}', b"\x00" * 50])
def test_bodies_that_make_no_sense_pass(run: Run, body: bytes) -> None:
    async def story() -> None:
        async with gateway(reply(b"no", status="400 Bad Request")) as served:
            assert await served.post(body) == (400, b"no")
            assert served.upstream.bodies == [body]

    run(story())


def test_vllm_is_told_who_asks_unless_the_client_says_so(run: Run) -> None:
    async def story() -> None:
        async with gateway(reply(OK), engine="vllm") as served:
            await served.post(CHAT)
            await served.post(CHAT, headers={"X-Session-ID": "u7/mine"})
            await served.post(CHAT, headers={"X-Session-ID": "what ever"})
            await served.post(CHAT, headers={"Authorization": "Bearer u0/fix-123"})
            told = [head.partition("X-Session-ID: ")[2].split("\r\n")[0] for head in served.upstream.heads]
            assert told == ["unnamed-1", "u7/mine", "what ever", "u0/fix-123"]

    run(story())


@pytest.mark.parametrize("stream", [False, True])
def test_vllm_is_told_what_a_session_has_called(run: Run, stream: bool) -> None:
    call = {"tool_calls": [{"index": 0, "function": {"name": "bash", "arguments": "{}"}}]}
    said = json.dumps({"choices": [{"delta" if stream else "message": call}]}).encode()
    kind = "text/event-stream" if stream else "application/json"
    answer = reply(b"data: %s\n\ndata: [DONE]\n\n" % said if stream else said, f"Content-Type: {kind}")

    async def story() -> None:
        async with gateway(answer, engine="vllm") as served:
            messages = list(CHAT["messages"])
            for _ in range(2):
                await served.post({"messages": messages, "stream": stream})
                messages += [{"role": "assistant", **call}, {"role": "tool", "content": "ok"}]
            mine = {"messages": messages, "vllm_xargs": {"a": 1}}
            await served.post(mine)
            first, second, third = map(json.loads, served.upstream.bodies)
            assert "vllm_xargs" not in first
            assert second["vllm_xargs"] == {"agentcg_tool": "bash"}
            assert third == mine

    run(story())


def test_a_server_that_is_not_there_is_said_to_be(run: Run) -> None:
    async def story() -> None:
        async with gateway(reply(OK), url="http://127.0.0.1:1") as served:
            status, body = await served.post(CHAT)
            assert status == 502
            assert "does not answer" in json.loads(body)["error"]["message"]

    run(story())


def test_an_answer_that_breaks_off_does_not_look_whole(run: Run) -> None:
    async def story() -> None:
        broken = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin"
        async with gateway(raw(broken)) as served:
            with pytest.raises(aiohttp.ClientPayloadError):
                await served.post(CHAT)
            stream = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n"
            served.upstream.answer = raw(stream)
            with pytest.raises(aiohttp.ClientPayloadError):
                await served.post(CHAT)
            served.upstream.answer = reply(OK)
            assert await served.post(CHAT) == (200, OK)

    run(story())


def test_a_connection_that_was_closed_while_idle_is_no_error(run: Run) -> None:
    async def story() -> None:
        async with gateway(reply(OK)) as served:
            for _ in range(5):  # The server closes each connection after its answer without saying so before.
                assert await served.post(CHAT) == (200, OK)

    run(story())


def test_who_hangs_up_is_hung_up_for(run: Run) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"1\r\nx\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def story() -> None:
        async with gateway(answer) as served:
            async with served.http.post(served.url + "/v1/chat/completions", json=CHAT) as got:
                await got.content.readany()
                got.close()
            await asyncio.wait_for(served.upstream.hung_up.wait(), 10)
            served.upstream.answer = reply(OK)
            assert await served.post(CHAT) == (200, OK)

    run(story())


def test_who_hangs_up_before_the_answer_begins_is_hung_up_for(run: Run) -> None:
    async def never(writer: asyncio.StreamWriter) -> None:
        await writer.drain()
        await asyncio.Event().wait()

    async def story() -> None:
        async with gateway(never) as served:
            with pytest.raises(TimeoutError):
                await served.post(CHAT, timeout=aiohttp.ClientTimeout(total=0.3))
            served.upstream.answer = reply(OK)
            assert await served.post(CHAT) == (200, OK)

    run(story())


@pytest.mark.parametrize("where", ["_begin", "feed"])
def test_our_own_faults_are_nobodys_errors(run: Run, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def fault(*_: Any) -> Any:
        raise ZeroDivisionError("ours")

    if where == "feed":
        monkeypatch.setattr("agentcg.gateway.answered.Answered.feed", fault)
    else:
        monkeypatch.setattr(Turns, "_begin", fault)

    async def story() -> None:
        async with gateway(reply(OK), engine="vllm") as served:
            for _ in range(3):
                assert await served.post(CHAT) == (200, OK)

    run(story())


def test_headers_of_a_connection_are_not_passed(run: Run) -> None:
    async def story() -> None:
        async with gateway(reply(OK, "Keep-Alive: timeout=5", "X-Hop: 1", "Connection: X-Hop, keep-alive")) as served:
            headers = {"Connection": "X-Mine", "X-Mine": "1", "TE": "trailers", "Expect": "100-continue"}
            async with served.http.post(served.url + "/v1/chat/completions", json=CHAT, headers=headers) as got:
                assert await got.read() == OK
                assert "Keep-Alive" not in got.headers
                assert "X-Hop" not in got.headers
            head = served.upstream.heads[0].lower()
            for name in ("x-mine", "te: ", "expect"):
                assert f"\r\n{name}" not in head

    run(story())


def test_large_headers_pass(run: Run) -> None:
    async def story() -> None:
        async with gateway(reply(OK, "X-Large: " + "a" * 30_000)) as served:
            headers = {"X-Large": "b" * 30_000}
            async with served.http.post(
                served.url + "/v1/chat/completions", json=CHAT, headers=headers, max_field_size=1 << 16
            ) as got:
                assert (await got.read(), len(got.headers["X-Large"])) == (OK, 30_000)
            assert "b" * 30_000 in served.upstream.heads[0]

    run(story())
