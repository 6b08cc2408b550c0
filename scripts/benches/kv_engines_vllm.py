# SPDX-License-Identifier: Apache-2.0
"""vLLM's engine for the bench ``kv_engines``: it computes, with random weights, and schedules in the same process.

Run as a program it does one round: ``python -m benches.kv_engines_vllm FOLDER POLICY SEED``. It reads the sessions from
``FOLDER/work.json`` and writes ``FOLDER/result.json``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from agentcg.errors import AgentcgError
from agentcg.kv.simulation.machine import Served
from agentcg.kv.simulation.script import Arrival
from benches.daemons import end, folder, start_python, tail
from benches.harness import Stage
from benches.kv_engines_work import Answer, Ask, Group, Scale, calibrate, play
from benches.vllm_steps import OURS

__all__ = ["BLOCKS", "BLOCK_TOKENS", "SCALE", "STEP_TOKENS", "Result", "run"]

MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_attention_heads": 8,
    "num_hidden_layers": 4,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "torch_dtype": "float32",
}
"""14 million weights: a token takes long enough for a step's own costs to be small."""
BLOCKS, BLOCK_TOKENS, STEP_TOKENS = 81, 32, 256
SCALE = Scale(tokens=1 / 64, answers=1 / 24, sec=0.3, context=1280, many=5, fitted=2)
LIMIT_SEC = 480.0
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


class Result(msgspec.Struct):
    """What a round came to."""

    groups: list[Group]
    served: list[Served]


class VllmEngine:
    """vLLM's own engine; with another policy than ``lru``, our scheduler in it. Its clock counts its steps alone."""

    def __init__(self, where: Path, policy: str) -> None:
        from vllm import LLM

        (where / "config.json").write_text(json.dumps(MODEL))
        options = {} if policy == "lru" else {"scheduler_cls": OURS}
        self._engine = LLM(
            model=str(where),
            load_format="dummy",
            skip_tokenizer_init=True,
            enforce_eager=True,
            dtype="float32",
            max_model_len=2 * SCALE.context,
            block_size=BLOCK_TOKENS,
            num_gpu_blocks_override=BLOCKS,
            max_num_seqs=16,
            max_num_batched_tokens=STEP_TOKENS,
            enable_chunked_prefill=True,
            enable_prefix_caching=True,
            **options,
        ).llm_engine
        self.now = 0.0
        self._open: set[str] = set()
        scheduler: Any = self._engine.engine_core.engine_core.scheduler
        if (keeper := getattr(scheduler, "_agentcg", None)) is not None:
            keeper.clock = lambda: self.now

    def ask(self, asked: Ask) -> None:
        from vllm import SamplingParams

        told = {"session_id": asked.session, "agentcg_tool": asked.tool, "agentcg_last": int(asked.last)}
        sampling = SamplingParams(
            max_tokens=asked.output, ignore_eos=True, temperature=0.0, detokenize=False, extra_args=told
        )
        self._engine.add_request(asked.name, {"prompt_token_ids": list(asked.prompt)}, sampling)
        self._open.add(asked.name)

    def work(self, until: float) -> list[Answer]:
        if not self._open:
            self.now = max(self.now, until)
            return []
        while True:
            begun = time.process_time()
            outputs = self._engine.step()
            self.now += time.process_time() - begun
            done = [each for each in outputs if each.finished]
            if done or self.now >= until:
                self._open -= {each.request_id for each in done}
                return [
                    Answer(each.request_id, each.outputs[0].token_ids, each.num_cached_tokens, self.now)
                    for each in done
                ]

    def forget(self) -> None:
        """Begin with an empty cache."""
        if not self._engine.reset_prefix_cache():
            raise AgentcgError("vLLM did not forget its cache")


def run(stage: Stage, policy: str, sessions: list[Arrival], seed: int) -> Result:
    """Do a round in a process of its own: an engine that has just started has learned nothing."""
    where = folder(stage)
    (where / "work.json").write_bytes(msgspec.json.encode(sessions))
    own = {"AGENTCG_SOCKET": str(where / "nobody"), "AGENTCG_VLLM_POLICY": policy}
    arguments = ["-m", "benches.kv_engines_vllm", str(where), policy, str(seed)]
    process = start_python(arguments, where / "log", **ENVIRONMENT | own)
    try:
        process.wait(timeout=LIMIT_SEC)
    finally:
        end(process)
    if process.returncode or not (where / "result.json").is_file():
        hint = "run it in an environment that has a vLLM with a device: docs/engines.md"
        raise AgentcgError(f"the engine ended with status {process.returncode}: {tail(where / 'log')}", hint=hint)
    return msgspec.json.decode((where / "result.json").read_bytes(), type=Result)


def main(where: Path, policy: str, seed: int) -> None:
    """Do a round in this process."""
    sessions = msgspec.json.decode((where / "work.json").read_bytes(), type=list[Arrival])
    engine = VllmEngine(where, policy)
    groups = calibrate(engine, SCALE, f"{seed}, before")
    engine.forget()
    served = play(engine, sessions, knows_last=policy != "lru")
    engine.forget()
    groups += calibrate(engine, SCALE, f"{seed}, after")
    (where / "result.json").write_bytes(msgspec.json.encode(Result(groups, served)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
