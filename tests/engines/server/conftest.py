# SPDX-License-Identifier: Apache-2.0
"""vLLM's OpenAI server on this machine's CPUs: a real engine that computes, with random weights."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

__all__ = ["OURS", "Server", "prompt"]

TOP = Path(__file__).resolve().parents[3]
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "torch_dtype": "float32",
}
OURS = ("--scheduler-cls", "agentcg.kv.engines.vllm.AgentcgScheduler")
BLOCKS, BLOCK_TOKENS = 128, 32
OPTIONS = f"""--load-format dummy --skip-tokenizer-init --enforce-eager --dtype float32 --max-model-len 2048
--block-size {BLOCK_TOKENS} --num-gpu-blocks-override {BLOCKS} --max-num-seqs 8 --served-model-name m
--enable-prompt-tokens-details --host 127.0.0.1"""


class Server:
    """A server of its own; with ``model``, other sizes of it than :data:`MODEL` has."""

    def __init__(self, folder: Path, *options: str, model: Mapping[str, Any] = MODEL, **environment: str) -> None:
        (folder / "config.json").write_text(json.dumps(model))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = folder / "log"
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
        command += [*OPTIONS.split(), "--port", str(self.port), *options]
        given = {"PYTHONPATH": str(TOP), "AGENTCG_SOCKET": str(folder / "nobody"), "VLLM_CPU_KVCACHE_SPACE": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | given | environment, start_new_session=True
            )

    def wait(self) -> None:
        ends = time.monotonic() + 240
        while self.process.poll() is None and time.monotonic() < ends:
            try:
                self.get("/health")
            except OSError:
                time.sleep(0.5)
            else:
                return
        raise AssertionError(self.log.read_text()[-3000:])

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as reply:
            found: bytes = reply.read()
            return found

    def ask(self, prompt: list[int], *, headers: dict[str, str] | None = None, **given: Any) -> int:
        """Complete a prompt; return how many of its tokens were cached."""
        body = {"model": "m", "prompt": prompt, "max_tokens": 4, "temperature": 0, "ignore_eos": True, **given}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", **(headers or {})},
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            usage = json.load(reply)["usage"]
        return int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


@pytest.fixture
def new_server(tmp_path) -> Iterator[Callable[..., Server]]:  # type: ignore[no-untyped-def]
    made: list[Server] = []

    def new(*options: str, **environment: str) -> Server:
        made.append(Server(tmp_path, *options, **environment))
        return made[-1]

    yield new
    for server in made:
        server.close()


def prompt(who: int, tokens: int = 1500) -> list[int]:
    """Return so many tokens that nobody else's prompt begins with."""
    return [who + 1, *(10 + place % 900 for place in range(tokens - 1))]
