# SPDX-License-Identifier: Apache-2.0
"""The sequences that an engine serves: each step decodes one token of every sequence, and prefills with what is left.

A step has a budget of tokens. Sequences that decode come first, the rest prefills, the request that started first
before the others (Sarathi-Serve, arXiv 2403.02310; vLLM's chunked prefill does the same). The step that prefills the
last token of a prompt gives the first token of output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from agentcg.kv.simulation.cost import StepCost, Steps

__all__ = ["Batch", "Sequence"]


@dataclass(slots=True)
class Sequence:
    """A request that is served."""

    request: str
    context_tokens: int
    """What is computed of it: what was cached, what was prefilled, what was decoded."""
    prefill_tokens: int
    """What of its prompt is still to be prefilled, 1 or more at the begin."""
    output_tokens: int
    """What is still to be decoded."""
    slot: int = 0
    """Prompts in lower ones go before others, as in llama.cpp's server; in one, the first goes first."""


class Batch:
    """All of them."""

    def __init__(self, cost: StepCost, chunk_tokens: int) -> None:
        self._cost = cost
        self._chunk_tokens = chunk_tokens
        self._prefilling: list[Sequence] = []
        self._decoding: list[Sequence] = []
        self.prefilled_tokens = 0

    def __bool__(self) -> bool:
        return bool(self._prefilling or self._decoding)

    def add(self, sequence: Sequence) -> None:
        """Serve a request from the next step on."""
        self._prefilling.append(sequence)
        self._prefilling.sort(key=lambda each: each.slot)

    def advance(self, limit_sec: float) -> tuple[float, list[Sequence]]:
        """Do steps until a request is through with its prompt or its output, or ``limit_sec`` are over.

        :return: how long they took, and the requests that are done
        """
        cost, decoding = self._cost, self._decoding
        chunks = list(self._chunks())
        first = cost.base_sec + cost.decode_sec * len(decoding)
        first += cost.read_sec * sum(each.context_tokens for each in decoding)
        growth = cost.read_sec * len(decoding)
        for each, tokens in chunks:
            first += cost.prefill_sec * tokens + cost.attention_sec * tokens * (each.context_tokens + tokens / 2)
            growth += cost.attention_sec * tokens * tokens
        steps = Steps(first, growth)
        most: float = min((each.output_tokens for each in decoding), default=inf)
        if chunks:
            # All but the last chunk of a prompt are alike; where it ends, another one may have a part in the step.
            head, tokens = chunks[0]
            most = min(most, max(1, (head.prefill_tokens - 1) // tokens) if len(chunks) == 1 else 1)
        count = int(min(most, steps.count_until(limit_sec)))
        for each in decoding:
            each.context_tokens += count
            each.output_tokens -= count
        for each, tokens in chunks:
            each.context_tokens += count * tokens
            each.prefill_tokens -= count * tokens
            self.prefilled_tokens += count * tokens
            if not each.prefill_tokens:
                each.context_tokens += 1
                each.output_tokens -= 1
                decoding.append(each)
        self._prefilling = [each for each in self._prefilling if each.prefill_tokens]
        self._decoding = [each for each in decoding if each.output_tokens]
        return steps.sec(count), [each for each in decoding if not each.output_tokens]

    def _chunks(self) -> Iterator[tuple[Sequence, int]]:
        """Who is prefilled in the next step, and by how much."""
        budget = max(1, self._chunk_tokens - len(self._decoding))
        for each in self._prefilling:
            if not budget:
                return
            tokens = min(budget, each.prefill_tokens)
            budget -= tokens
            yield each, tokens
