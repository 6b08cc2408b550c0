# SPDX-License-Identifier: Apache-2.0
"""What it costs to have a slot's context back, as the server itself measures it: computed, or copied from a file."""

from __future__ import annotations

from math import isfinite

__all__ = ["Costs"]

_WEIGHT = 0.3
"""Of the newest value. Chosen, not tuned."""
_LEAST_TOKENS = 32
"""What is measured on fewer says more of the server's rounds than of tokens."""
_UNKNOWN_SEC = 1e-3
"""A token's prefill until one was measured: a 7B model on a dozen cores."""


class Costs:
    """A :class:`agentcg.kv.reload.Reload` that learns. Seconds per token; what cannot be is not learned."""

    def __init__(self) -> None:
        self.saves = True
        """Whether the server can copy slots to files; it turns out when it is asked to."""
        self.bytes_per_token = 0.0
        """0 until a slot was copied."""
        self._prefill: float | None = None
        self._save: float | None = None
        self._restore: float | None = None

    def computed(self, tokens: int, sec: float) -> None:
        """Learn how long a prefill took."""
        self._prefill = _mixed(self._prefill, tokens, sec)

    def saved(self, tokens: int, size: int, sec: float) -> None:
        """Learn how long it took to write a slot of so many tokens and bytes to a file."""
        self._save = _mixed(self._save, tokens, sec)
        if tokens >= _LEAST_TOKENS and size > 0:
            self.bytes_per_token = size / tokens

    def restored(self, tokens: int, sec: float) -> None:
        """Learn how long it took to read it back."""
        self._restore = _mixed(self._restore, tokens, sec)

    def sec(self, tokens: int) -> float:
        """Return the seconds that it takes to have ``tokens`` of context back, in the cheaper way."""
        computed = self._compute_sec(tokens)
        known = self._save is not None and self._restore is not None
        return min(computed, self._copy_sec(tokens)) if self.saves and known else computed

    def saving_pays(self, tokens: int) -> bool:
        """Return whether to write so many tokens and to read them back costs less than to compute them. The first time
        that is tried: nothing else would tell."""
        return self.saves and tokens >= _LEAST_TOKENS and self._copy_sec(tokens) < self._compute_sec(tokens)

    def _compute_sec(self, tokens: int) -> float:
        return max(0, tokens) * (_UNKNOWN_SEC if self._prefill is None else self._prefill)

    def _copy_sec(self, tokens: int) -> float:
        return max(0, tokens) * ((self._save or 0.0) + (self._restore or 0.0))


def _mixed(before: float | None, tokens: int, sec: float) -> float | None:
    if tokens < _LEAST_TOKENS or not isfinite(sec) or sec < 0:
        return before
    found = sec / tokens
    return found if before is None else before + _WEIGHT * (found - before)
