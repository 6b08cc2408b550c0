# SPDX-License-Identifier: Apache-2.0
"""What a step of an engine with continuous batching and chunked prefill costs."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, sqrt

from agentcg.kv.reload import Prefill

__all__ = ["A100_LLAMA_8B", "StepCost", "Steps"]


@dataclass(frozen=True, slots=True)
class StepCost:
    """A step takes base + what each of its prefilled tokens and each of its decoding sequences adds, in seconds."""

    base_sec: float
    """Reading the weights, launching kernels."""
    prefill_sec: float
    """Each token that is prefilled."""
    decode_sec: float
    """Each sequence that decodes, which is one token."""
    attention_sec: float = 0.0
    """Each token that is prefilled, times each token of context before it."""
    read_sec: float = 0.0
    """Each token of context of each sequence that decodes: its cache is read."""

    def reload(self, chunk_tokens: int, before_tokens: int = 0) -> Prefill:
        """Return what it takes to prefill a context alone, behind ``before_tokens`` that are always cached."""
        linear = self.prefill_sec + self.base_sec / chunk_tokens + self.attention_sec * before_tokens
        return Prefill(self.attention_sec / 2, linear)


A100_LLAMA_8B = StepCost(
    base_sec=3e-3 + 16.06e9 / (0.8 * 2.04e12),
    prefill_sec=94e-6,
    decode_sec=94e-6,
    attention_sec=3.7e-9,
    read_sec=9.2e-8,
)
"""Llama 3.1 8B in 16 bits on an A100 80 GB, from data sheets, not fitted to a server.

16.06 GB of weights are read at 80 % of 2.04 TB/s, and 3 ms go into launches; 16 GFLOP a token at 55 % of 312 TFLOP/s;
attention with 524 kFLOP a pair of tokens at 45 %; 131072 bytes of cache a token at 70 % of the bandwidth.
"""


@dataclass(frozen=True, slots=True)
class Steps:
    """Equal steps that follow each other: each prefills a chunk of one context and decodes a token of each sequence.

    Only the contexts grow, so a step costs ``growth_sec`` more than the one before, and any number of them is summed
    without looking at each.
    """

    first_sec: float
    growth_sec: float = 0.0

    def sec(self, count: int) -> float:
        """Return how long ``count`` of them take."""
        return count * self.first_sec + self.growth_sec * (count * (count - 1) / 2)

    def count_until(self, sec: float) -> float:
        """Return the least number, 1 or more, that takes ``sec`` or longer."""
        if sec <= self.first_sec:
            return 1
        if sec == inf:
            return inf
        half = self.growth_sec / 2
        linear = self.first_sec - half
        count = sec / linear if not half else (sqrt(linear * linear + 4 * half * sec) - linear) / (2 * half)
        return max(1, ceil(count - 1e-9))
