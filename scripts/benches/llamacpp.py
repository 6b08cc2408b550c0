# SPDX-License-Identifier: Apache-2.0
"""A llama.cpp server of our own, from the wheel ``xllamacpp``, and a model for it that is made of random numbers.

Run as a program it is that server: ``python -m benches.llamacpp MODEL PORT SLOTS CONTEXT FOLDER THREADS BATCH``.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentcg.errors import AgentcgError
from benches.daemons import end, start_python, tail
from benches.harness import Stage

__all__ = ["LlamaServer", "free_port", "serve", "write_random_model"]

START_SEC = 60.0
LAYERS, WIDTH, HEADS, FORWARD = 2, 64, 2, 128
CONTEXT = 8192


def write_random_model(path: Path) -> None:
    """Write a model with two layers and a vocabulary of bytes: what it says makes no sense, at once."""
    import gguf
    import numpy

    random = numpy.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, (random.standard_normal(shape) * 0.05).astype(numpy.float32))

    def norm(name: str) -> None:
        writer.add_tensor(name, numpy.ones(WIDTH, dtype=numpy.float32))

    tensor("token_embd.weight", len(tokens), WIDTH)
    tensor("output.weight", len(tokens), WIDTH)
    norm("output_norm.weight")
    for layer in range(LAYERS):
        norm(f"blk.{layer}.attn_norm.weight")
        norm(f"blk.{layer}.ffn_norm.weight")
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{layer}.{name}.weight", WIDTH, WIDTH)
        tensor(f"blk.{layer}.ffn_gate.weight", FORWARD, WIDTH)
        tensor(f"blk.{layer}.ffn_up.weight", FORWARD, WIDTH)
        tensor(f"blk.{layer}.ffn_down.weight", WIDTH, FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class LlamaServer:
    """A server that can be killed and started again at the same address."""

    model: Path
    folder: Path
    """For saved slots and the log."""
    slots: int
    context: int
    """Tokens, all slots together."""
    port: int
    threads: int = 1
    saves: bool = True
    batch: int = 0
    """Tokens that it computes at a time; 0: its own default."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it serves. :raises AgentcgError: with the end of its log, if it does not"""
        log = self.folder / "server.log"
        numbers = [str(number) for number in (self.port, self.slots, self.context)]
        saved = f"{self.folder}/" if self.saves else ""
        own = ["-m", "benches.llamacpp", str(self.model), *numbers, saved, str(self.threads), str(self.batch)]
        self.process = start_python(own, log)
        deadline = time.monotonic() + START_SEC
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                self.get("/health")
                return
            except OSError:
                time.sleep(0.05)
        raise AgentcgError(f"the llama.cpp server did not start: {tail(log)}")

    def kill(self) -> None:
        """End it at once, if it runs: it forgets everything but what it saved."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """Ask it to end, if it runs."""
        if self.process is not None:
            end(self.process)
            self.process = None

    def get(self, path: str) -> Any:
        """Return what it answers to a GET. :raises OSError: if it does not, or with an error"""
        with urllib.request.urlopen(self.url + path, timeout=5) as reply:
            return json.load(reply)

    def post(self, path: str, body: Mapping[str, Any], limit_sec: float = 60.0) -> Any:
        """Return what it answers to a POST. :raises OSError: if it does not, or with an error"""
        asked = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=limit_sec) as reply:
            return json.load(reply)


def start_server(stage: Stage, server: LlamaServer) -> LlamaServer:
    """Start a server that goes with ``stage``."""
    stage.callback(server.stop)
    server.start()
    return server


def serve(model: str, port: int, slots: int, context: int, folder: str, threads: int, batch: int) -> None:
    """Serve until ended."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.n_parallel = slots
    parameters.n_ctx = context
    parameters.kv_unified = False
    parameters.slot_save_path = folder
    parameters.endpoint_slots = True
    # What is overwritten would lie in the server's memory all the same, and every policy would be as good.
    parameters.cache_ram_mib = 0
    parameters.warmup = False
    if batch:
        parameters.n_batch = parameters.n_ubatch = batch
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    running = xllamacpp.Server(parameters)
    print(running.listening_address, flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    model, port, slots, context, folder, threads, batch = sys.argv[1:]
    serve(model, int(port), int(slots), int(context), folder, int(threads), int(batch))
