# SPDX-License-Identifier: Apache-2.0
"""What the gateway adds to a request: a chat of one token with llama.cpp's server, without and with it in between.

The model is of random numbers and answers at once. Each arm has a session of its own, whose prompt the server has kept;
connections are made before the time counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from http.client import HTTPConnection
from urllib.parse import urlsplit

from agentcg.errors import AgentcgError
from benches.daemons import folder, start_agentcg, tail
from benches.harness import Arm, Bench, Part, Ratio, Repetition, Stage
from benches.llamacpp import LlamaServer, free_port, start_server, write_random_model

__all__ = ["BENCH", "start_gateway"]

START_SEC = 60.0
CHARACTERS = {"short": 500, "long": 6000}
"""Of a prompt, which are as many tokens here."""
CONTEXT = 8192
ARMS = {"direct": None, "gateway": "none", "gateway_slots": "llamacpp"}
"""What the gateway is told that the server is; None: there is no gateway."""
GOAL_MS = 2.0


def start_gateway(stage: Stage, upstream: str, *options: str, socket: str = "") -> str:
    """Start a gateway that goes with ``stage``, and return its URL. :param socket: the daemon's, if there is one"""
    where = folder(stage)
    log, port = where / "gateway.log", free_port()
    arguments = ["gateway", "--upstream", upstream, "--listen", f"127.0.0.1:{port}"]
    arguments += ["--socket", socket or f"{where}/nobody", *options]
    process = start_agentcg(stage, arguments, log)
    deadline = time.monotonic() + START_SEC
    while process.poll() is None and time.monotonic() < deadline:
        if b"serving on" in log.read_bytes():
            return f"http://127.0.0.1:{port}"
        time.sleep(0.05)
    raise AgentcgError(f"the gateway did not start: {tail(log)}")


def _server(stage: Stage) -> LlamaServer:
    if "server" not in stage.shared:
        where = folder(stage)
        write_random_model(where / "random.gguf")
        slots = len(ARMS) * len(CHARACTERS)
        server = LlamaServer(where / "random.gguf", where, slots, slots * CONTEXT, free_port())
        stage.shared["server"] = start_server(stage, server)
    found: LlamaServer = stage.shared["server"]
    return found


def _prepare(arm: str, size: str, stage: Stage) -> Repetition:
    server, engine = _server(stage), ARMS[arm]
    url = server.url if engine is None else start_gateway(stage, server.url, "--engine", engine)
    prompt = f"{arm} {size} " * (CHARACTERS[size] // len(f"{arm} {size} "))
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 1, "stream": True, "temperature": 0}
    data = json.dumps(body).encode()
    return lambda: _ask(url, data, f"bench/{arm}-{size}")


def _ask(url: str, body: bytes, session: str) -> Mapping[str, float]:
    connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.connect()
    headers = {"Content-Type": "application/json", "X-Session-ID": session}
    try:
        start = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        first = answer.read(1)
        began = time.perf_counter()
        rest = answer.read()
        ended = time.perf_counter()
    finally:
        connection.close()
    if answer.status != 200 or not (first + rest).rstrip().endswith(b"[DONE]"):
        raise AgentcgError(f"the server answered {answer.status}: {(first + rest)[:200]!r}")
    return {"first_byte_ms": 1000 * (began - start), "total_ms": 1000 * (ended - start)}


def _arms(size: str) -> Sequence[Arm]:
    return [Arm(f"{name}.{size}", partial(_prepare, name, size)) for name in ARMS]


def _ratios(size: str) -> list[Ratio]:
    return [
        Ratio(f"{name}_adds_{metric}.{size}", f"{name}.{size}", f"direct.{size}", metric, GOAL_MS, difference=True)
        for name in ("gateway", "gateway_slots")
        for metric in ("first_byte_ms", "total_ms")
    ]


BENCH = Bench(
    name="gateway",
    summary="what the gateway adds to a request",
    parts=tuple(Part(size, partial(_arms, size), vm=None, quick_sec=8, full_sec=60) for size in CHARACTERS),
    units={"first_byte_ms": "ms", "total_ms": "ms"},
    ratios=tuple(ratio for size in CHARACTERS for ratio in _ratios(size)),
)
