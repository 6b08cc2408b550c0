# SPDX-License-Identifier: Apache-2.0
"""An OpenAI-compatible server that counts words for tokens, remembers every prompt, and can be in trouble."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OPENING, EXCHANGE = 5, 3
"""Tokens that it adds to the first prompt, and for an answer and what stands behind it."""


class Llm(ThreadingHTTPServer):
    """``trouble`` is what goes wrong, with all or with the session that is ``troubled``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.trouble = ""
        self.troubled = ""
        self.knows = {"ignore_eos", "stream_options"}
        self.timings = False
        self.asked: list[tuple[str, dict[str, Any]]] = []
        """By whom, and what."""
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def of(self, session: str) -> list[dict[str, Any]]:
        return [body for name, body in self.asked if name == session]


class Handler(BaseHTTPRequestHandler):
    server: Llm

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        session = self.headers["X-Session-ID"]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        earlier = [words_of(other["messages"]) for _, other in self.server.asked]
        self.server.asked.append((session, body))
        try:
            self.reply(session, body, earlier)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def reply(self, session: str, body: dict[str, Any], earlier: list[list[str]]) -> None:
        known = {"messages", "max_tokens", "temperature", "stream", "model", *self.server.knows}
        trouble = self.server.trouble if self.server.troubled in ("", session) else ""
        if unknown := body.keys() - known:
            return self.refuse(400, f"unknown: {unknown}")
        if trouble == "status":
            return self.refuse(503, "no\tmodel is loaded")
        if trouble == "silent":
            self.server.over.wait(20)
            return None
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        if trouble == "short":
            self.send_header("Content-Length", "100000")
        self.end_headers()
        self.say({"choices": [{"delta": {"role": "assistant", "content": None}}]})
        if trouble == "nonsense":
            self.wfile.write(b"data: what?\n\n")
        if trouble == "gives_up":
            return self.say({"error": {"message": "out of memory"}})
        for number in range(body["max_tokens"]):
            self.say({"choices": [{"delta": {"content": f"{number} "}}]})
            if trouble in ("broken", "short"):
                return None
            while trouble == "drips" and not self.server.over.wait(0.05):
                self.say({"choices": [{"delta": {"content": ""}}]})
        self.say(self.usage(body, earlier, quiet=trouble == "quiet"))
        self.wfile.write(b"data: [DONE]\n\n")
        return None

    def usage(self, body: dict[str, Any], earlier: list[list[str]], *, quiet: bool) -> dict[str, Any]:
        words = words_of(body["messages"])
        prompt = OPENING + len(words) + EXCHANGE * (len(body["messages"]) // 2)
        cached = max((common(words, other) for other in earlier), default=0)
        usage = {"prompt_tokens": prompt, "completion_tokens": body["max_tokens"]}
        if self.server.timings:
            return {"choices": [], "usage": usage, "timings": {"cache_n": cached, "prompt_n": prompt - cached}}
        return (
            {"choices": []}
            if quiet
            else {
                "choices": [],
                "usage": usage | {"prompt_tokens_details": {"cached_tokens": cached}},
            }
        )

    def refuse(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def say(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())


def words_of(messages: list[dict[str, str]]) -> list[str]:
    return [word for message in messages for word in message["content"].split()]


def common(one: list[str], other: list[str]) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))


@contextmanager
def serve() -> Iterator[Llm]:
    server = Llm()
    thread = threading.Thread(target=lambda: server.serve_forever(0.05))
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join(10)
        server.server_close()
        assert not thread.is_alive()
