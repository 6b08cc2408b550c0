# SPDX-License-Identifier: Apache-2.0
"""vLLM's blocks, as :class:`agentcg.kv.engines.cache.Cache` wants them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from vllm.v1.kv_cache_interface import FullAttentionSpec

__all__ = ["VllmCache", "why_nothing_is_kept"]


class VllmCache:
    """The blocks of a KV cache manager whose model has one kind of attention, over the whole context.

    :param manager: vLLM's KVCacheManager
    """

    def __init__(self, manager: Any, block_tokens: int) -> None:
        self._manager, self._pool = manager, manager.block_pool
        self.block_tokens = block_tokens

    @property
    def used(self) -> float:
        """The part of it that somebody holds, 0 to 1."""
        usage: float = self._pool.get_usage()
        return usage

    def free_blocks(self) -> int:
        """Return how many could be had at once."""
        free: int = self._pool.get_num_free_blocks()
        return free

    def hold(self, blocks: Sequence[Any]) -> None:
        """Count one more holder of each, as for a request that has found them."""
        self._pool.touch(blocks)

    def release(self, blocks: Sequence[Any]) -> None:
        """Count one less. Those that nobody holds go to the end of vLLM's queue, the last of the context first."""
        self._pool.free_blocks(reversed(blocks))

    def blocks_of(self, request: str) -> Sequence[Any]:
        """Return the blocks of a request."""
        blocks: Sequence[Any] = self._manager.get_blocks(request).blocks[0]
        return blocks

    def findable(self, request: str) -> Sequence[Any]:
        """Return the blocks in which its context begins and can be found again."""
        return list(
            takewhile(lambda block: block.block_hash is not None and not block.is_null, self.blocks_of(request))
        )


def why_nothing_is_kept(kv_cache_config: Any, cache_config: Any) -> str:
    """Return why no cache can be kept with this configuration, or nothing if one can."""
    if not cache_config.enable_prefix_caching:
        return "prefix caching is off (--enable-prefix-caching)"
    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1 or not isinstance(groups[0].kv_cache_spec, FullAttentionSpec):
        return "the model does not have full attention in all of its layers"
    return ""
