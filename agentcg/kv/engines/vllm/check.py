# SPDX-License-Identifier: Apache-2.0
"""What of vLLM is used, and whether it is there. vLLM's schedulers have no public interface: any version may change it.

It is looked at, and no version is compared. Found as it should be in 0.32.0 and 0.33.0.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from agentcg.errors import Unsupported

__all__ = ["PARAMETERS", "of_a_scheduler", "require", "what_is_missing"]

_CORE = "vllm.v1.core"
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    f"{_CORE}.sched.scheduler:Scheduler.__init__": ("vllm_config", "kv_cache_config"),
    f"{_CORE}.sched.scheduler:Scheduler.schedule": (),
    f"{_CORE}.sched.scheduler:Scheduler.add_request": ("request",),
    f"{_CORE}.sched.scheduler:Scheduler._free_blocks": ("request",),
    f"{_CORE}.sched.scheduler:Scheduler._preempt_request": ("request",),
    f"{_CORE}.sched.scheduler:Scheduler.reset_prefix_cache": (),
    f"{_CORE}.sched.scheduler:Scheduler.get_kv_cache_usage": (),
    f"{_CORE}.sched.scheduler:Scheduler.get_request_counts": (),
    f"{_CORE}.sched.scheduler:Scheduler.make_stats": (),
    f"{_CORE}.sched.scheduler:Scheduler.shutdown": (),
    f"{_CORE}.sched.async_scheduler:AsyncScheduler.__init__": (),
    f"{_CORE}.kv_cache_manager:KVCacheManager.allocate_slots": (
        "request",
        "num_new_tokens",
        "num_new_computed_tokens",
        "new_computed_blocks",
        "num_lookahead_tokens",
        "num_external_computed_tokens",
        "full_sequence_must_fit",
        "reserved_blocks",
    ),
    f"{_CORE}.kv_cache_manager:KVCacheManager.get_blocks": ("request_id",),
    f"{_CORE}.block_pool:BlockPool.touch": ("blocks",),
    f"{_CORE}.block_pool:BlockPool.free_blocks": ("ordered_blocks",),
    f"{_CORE}.block_pool:BlockPool.get_num_free_blocks": (),
    f"{_CORE}.block_pool:BlockPool.get_usage": (),
    f"{_CORE}.sched.request_queue:FCFSRequestQueue.clear": (),
    f"{_CORE}.sched.request_queue:FCFSRequestQueue.extend": (),
    "vllm.v1.request:Request.__init__": ("request_id", "prompt_token_ids", "sampling_params", "resumable"),
}
"""Methods, and their parameters that come by name, or in this order behind ``self``."""

ATTRIBUTES = (
    f"{_CORE}.kv_cache_manager:KVCacheBlocks.blocks",
    f"{_CORE}.kv_cache_utils:KVCacheBlock.block_hash",
    f"{_CORE}.kv_cache_utils:KVCacheBlock.ref_cnt",
    f"{_CORE}.kv_cache_utils:KVCacheBlock.is_null",
    f"{_CORE}.sched.interface:PauseState.UNPAUSED",
    f"{_CORE}.sched.request_queue:SchedulingPolicy.FCFS",
    f"{_CORE}.sched.scheduler:Scheduler.pause_state",
    "vllm.v1.kv_cache_interface:FullAttentionSpec.page_size_bytes",
    "vllm.v1.request:Request.num_output_tokens",
    "vllm.v1.request:Request.num_tokens",
    "vllm.v1.request:RequestStatus.FINISHED_LENGTH_CAPPED",
    "vllm.v1.request:RequestStatus.FINISHED_STOPPED",
    "vllm.v1.request:RequestStatus.RUNNING",
)
"""Of a class."""

OF_A_SCHEDULER = (
    "cache_config.enable_prefix_caching",
    "block_size",
    "deferred_waiting",
    "kv_cache_config.kv_cache_groups",
    "kv_cache_config.num_blocks",
    "kv_cache_manager.block_pool",
    "kv_cache_manager.watermark_blocks",
    "kv_holding_waiting",
    "max_model_len",
    "max_num_running_reqs",
    "max_num_scheduled_tokens",
    "num_lookahead_tokens",
    "policy",
    "requests",
    "running",
    "waiting",
)
"""What a scheduler has once it was made."""


def what_is_missing() -> Iterator[str]:
    """Yield what vLLM does not have as it is used here, one line each."""
    for name, parameters in PARAMETERS.items():
        found = _find(name)
        if found is None:
            yield f"{name} is not there"
            continue
        # A built-in one may have no signature.
        known = [each for each in inspect.signature(found).parameters if each != "self"] if parameters else []
        for place, parameter in enumerate(parameters):
            if parameter not in known:
                yield f"{name} has no parameter {parameter}: it has {', '.join(known)}"
            elif place < 2 and known.index(parameter) != place:
                yield f"{name} has the parameter {parameter} in another place: it has {', '.join(known)}"
    yield from (f"{name} is not there" for name in ATTRIBUTES if _find(name) is None)


def _find(name: str) -> Any:
    """Return what ``module:Class.attribute`` names, or None. A field of a dataclass counts without a default, too."""
    module, _, path = name.partition(":")
    owner, _, attribute = path.partition(".")
    try:
        found = getattr(import_module(module), owner)
    except (ImportError, AttributeError):
        return None
    fields = getattr(found, "__dataclass_fields__", {})
    return getattr(found, attribute, fields.get(attribute))


def of_a_scheduler(made: Any) -> Iterator[str]:
    """Yield what a scheduler does not have as it is used here."""
    for path in OF_A_SCHEDULER:
        found = made
        for name in path.split("."):
            if not hasattr(found, name):
                yield f"a scheduler has no {path}"
                break
            found = getattr(found, name)


def require(missing: Iterator[str]) -> None:
    """:raises Unsupported: naming all that is missing"""
    if lines := list(missing):
        hint = "start it without --scheduler-cls, or with a vLLM that agentcg was tested with: docs/engines.md"
        raise Unsupported(f"this vLLM is not as agentcg knows it: {'; '.join(lines)}", hint=hint)
