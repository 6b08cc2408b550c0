# SPDX-License-Identifier: Apache-2.0
"""What our scheduler costs inside vLLM: steps a second of vLLM's own scheduler, with and without it.

No model runs: every step is answered at once, and what vLLM's scheduler does is timed, schedule(), add_request() and
update_from_output(). ``few`` and ``many`` are 8 and 64 requests at a time, without sessions, and they fit; ``sessions``
are agents that take turns on a cache for half of them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agentcg.errors import InvalidInput
from benches.harness import Arm, Bench, Part, Ratio, Repetition, Stage

__all__ = ["BENCH", "OURS", "Server"]

OURS = "agentcg.kv.engines.vllm.AgentcgScheduler"
BLOCKS = 4096
ANSWER_TOKENS = 150
"""The median of the sessions in docs/kv.md."""
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "vocab_size": 1000,
    "max_position_embeddings": 65536,
    "torch_dtype": "float16",
}
END_TOKEN = 999


@dataclass
class Server:
    """A vLLM scheduler whose model answers at once, with the token 7.

    :param scheduler: a path like that of ``--scheduler-cls``; vLLM's own if left out
    """

    folder: str
    scheduler: str | None = None
    blocks: int = 128
    block_tokens: int = 16
    asynchronous: bool = False
    running_max: int = 64
    step_tokens: int = 8192
    caching: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            import torch
            from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
            from vllm.utils.hashing import sha256
            from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
            from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
            from vllm.v1.structured_output import StructuredOutputManager
        except ImportError as error:
            hint = "run it in an environment that has vLLM: docs/engines.md"
            raise InvalidInput("vllm", f"cannot be imported: {error}", hint=hint) from None
        Path(self.folder, "config.json").write_text(json.dumps(MODEL))
        limits = {"max_model_len": self.blocks * self.block_tokens, "is_encoder_decoder": False}
        config = VllmConfig(
            model_config=ModelConfig(
                model=self.folder, skip_tokenizer_init=True, dtype="float16", max_model_len=limits["max_model_len"]
            ),
            scheduler_config=SchedulerConfig(
                max_num_seqs=self.running_max,
                max_num_batched_tokens=self.step_tokens,
                enable_chunked_prefill=True,
                async_scheduling=self.asynchronous,
                scheduler_cls=self.scheduler,
                **limits,
                **self.options,
            ),
            cache_config=CacheConfig(block_size=self.block_tokens, enable_prefix_caching=self.caching),
            device_config=DeviceConfig(device="cpu"),
        )
        config.cache_config.num_gpu_blocks = self.blocks
        spec = FullAttentionSpec(block_size=self.block_tokens, num_kv_heads=1, head_size=1, dtype=torch.float32)
        init_none_hash(sha256)
        self._hasher = get_request_block_hasher(self.block_tokens, sha256)
        self.made = config.scheduler_config.get_scheduler_cls()(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(self.blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
            block_size=self.block_tokens,
            structured_output_manager=StructuredOutputManager(config),
            log_stats=True,
        )
        self.requests: dict[str, Any] = {}
        self.steps, self.sec = 0, 0.0
        """How often was scheduled, and how long vLLM's scheduler has worked, in processor time."""
        self._pending: list[Any] = []

    # Processor time: what others do on the machine is not the scheduler's.
    def _timed(self, method: Callable[..., Any], *given: Any) -> Any:
        began = time.thread_time()
        found = method(*given)
        self.sec += time.thread_time() - began
        return found

    def ask(
        self, name: str, prompt: Iterable[int], *, answer: int = 4, session: str | None = None, **xargs: Any
    ) -> Any:
        """Let a request arrive; return it."""
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        sampling = SamplingParams(max_tokens=answer, ignore_eos=True, extra_args=xargs or None)
        sampling.update_from_generation_config({}, END_TOKEN)
        given = {"request_id": name, "prompt_token_ids": list(prompt), "sampling_params": sampling}
        request = Request(**given, pooling_params=None, session_id=session, block_hasher=self._hasher)
        self.requests[name] = request
        self._timed(self.made.add_request, request)
        return request

    def step(self) -> Any:
        """Schedule once, and answer what was scheduled; with asynchronous scheduling, what was the time before."""
        output = self._timed(self.made.schedule)
        self.steps += 1
        self._pending.append(output)
        while len(self._pending) > self.asynchronous:
            self._answer(self._pending.pop(0))
        return output

    def _answer(self, output: Any) -> None:
        from vllm.v1.outputs import ModelRunnerOutput

        names = list(output.num_scheduled_tokens)
        tokens: list[list[int]] = []
        for name in names:
            request = self.requests[name]
            # A prompt that is not all computed yet has no answer.
            ready = request.num_computed_tokens - request.num_in_flight_tokens + output.num_scheduled_tokens[name]
            tokens.append([7] if ready >= request.num_prompt_tokens else [])
        places = {name: place for place, name in enumerate(names)}
        self._timed(self.made.update_from_output, output, ModelRunnerOutput(names, places, tokens))
        for name in names:
            if self.requests[name].is_finished():
                del self.requests[name]


def _alone(server: Server, number: int, many: int) -> None:
    """Serve so many requests at a time, of 256 tokens and an answer."""
    for place in range(many):
        server.ask(f"r{number}-{place}", _prompt(place, 256), answer=ANSWER_TOKENS)
    while server.requests:
        server.step()


def _sessions(server: Server, number: int) -> None:
    """Serve 24 agents for three turns each, of which each needs a twelfth of the cache or more."""
    size = BLOCKS * server.block_tokens // 12
    for turn in range(3):
        for who in range(24):
            session = f"u0/s{number}-{who}"
            server.ask(
                f"{session}-{turn}", _prompt(number * 24 + who, size + 64 * turn), answer=ANSWER_TOKENS, session=session
            )
        while server.requests:
            server.step()


def _prompt(who: int, tokens: int) -> Sequence[int]:
    return [who % 900, *range(who // 900, who // 900 + tokens - 1)]


def _prepare(scheduler: str | None, serve: Callable[[Server, int], None], stage: Stage) -> Repetition:
    # No daemon is spoken to.
    stage.enter_context(_environment("AGENTCG_SOCKET", "/nonexistent"))
    server = Server(stage.enter_context(TemporaryDirectory()), scheduler, blocks=BLOCKS)
    rounds = count()

    def repeat() -> Mapping[str, float]:
        steps, sec = server.steps, server.sec
        serve(server, next(rounds))
        steps, sec = server.steps - steps, server.sec - sec
        return {"steps_per_sec": steps / sec, "step_us": sec / steps * 1e6}

    return repeat


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


_SERVE: dict[str, Callable[[Server, int], None]] = {
    "few": partial(_alone, many=8),
    "many": partial(_alone, many=64),
    "sessions": _sessions,
}


def _arms(part: str) -> Sequence[Arm]:
    schedulers = {"stock": None, "ours": OURS}
    return [Arm(f"{name}.{part}", partial(_prepare, made, _SERVE[part])) for name, made in schedulers.items()]


BENCH = Bench(
    name="vllm_steps",
    summary="vLLM's scheduler: steps a second with ours and without (needs vLLM: docs/engines.md)",
    parts=tuple(Part(part, partial(_arms, part), vm=None, quick_sec=12) for part in _SERVE),
    units={"steps_per_sec": "1/s", "step_us": "µs"},
    ratios=tuple(
        Ratio(f"ours_over_stock.{part}", f"ours.{part}", f"stock.{part}", "steps_per_sec", goal=0.97, better="higher")
        for part in _SERVE
    ),
    n=60,
    quick_n=10,
)
