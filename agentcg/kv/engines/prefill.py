# SPDX-License-Identifier: Apache-2.0
"""What a prefill costs here, from those that were seen."""

from __future__ import annotations

from collections import deque

__all__ = ["MeasuredPrefill"]

_KEPT = 64
_LEAST_TOKENS = 256
"""Of a shorter one, most is the step that it ran in."""
_GUESS_SEC_PER_TOKEN = 1e-4
"""Until one was seen: a model of 8 billion parameters on an A100."""


class MeasuredPrefill:
    """A :class:`agentcg.kv.reload.Reload`: as many seconds a token as the last 64 prefills took, together.

    They did not run alone. What others in the same steps cost is in it, and it has to be: who has to compute a context
    again does so among the same others.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[int, float]] = deque(maxlen=_KEPT)
        self._sec_per_token = _GUESS_SEC_PER_TOKEN

    def observe(self, tokens: int, sec: float) -> None:
        """Learn how long one took, from its start until the first token of the answer was there."""
        if tokens >= _LEAST_TOKENS and sec > 0:
            self._seen.append((tokens, sec))
            self._sec_per_token = sum(sec for _, sec in self._seen) / sum(tokens for tokens, _ in self._seen)

    def sec(self, tokens: int) -> float:
        """Return the seconds that it takes to have ``tokens`` of context back."""
        return max(0, tokens) * self._sec_per_token
