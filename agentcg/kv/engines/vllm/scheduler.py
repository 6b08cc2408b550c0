# SPDX-License-Identifier: Apache-2.0
"""vLLM's scheduler, driven by a policy: who runs next, and whose blocks stay.

Both of vLLM's schedulers are subclassed, the asynchronous one too: all of what is added happens when vLLM schedules,
and when a request comes or goes. Everything that decides is in :class:`agentcg.kv.engines.keeper.Keeper`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import inf
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import RequestStatus

from agentcg.api.types import KvQueue
from agentcg.kv.engines.coordinator import PINNED_SEC, Coordinator, describe, hear
from agentcg.kv.engines.keeper import Keeper
from agentcg.kv.engines.vllm.cache import VllmCache, why_nothing_is_kept
from agentcg.kv.engines.vllm.check import of_a_scheduler, require
from agentcg.kv.engines.vllm.options import Options
from agentcg.kv.engines.vllm.requests import told_by
from agentcg.kv.policies import POLICIES

__all__ = ["AgentcgScheduler", "KeepingAsyncScheduler", "KeepingScheduler"]

log = logging.getLogger(__name__)

_ANSWERED = (RequestStatus.FINISHED_STOPPED, RequestStatus.FINISHED_LENGTH_CAPPED)


class KeepingScheduler(Scheduler):
    """What is added to either of vLLM's schedulers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        options = Options.read()
        super().__init__(*args, **kwargs)
        require(of_a_scheduler(self))
        self._agentcg_cache = VllmCache(self.kv_cache_manager, self.block_size)
        self._agentcg = Keeper[Any](POLICIES[options.policy](), self._agentcg_cache, pin_max_sec=options.pin_max_sec)
        self._agentcg_prefills: dict[str, tuple[Any, int, int, float]] = {}
        self._agentcg_stock_slots = self.kv_cache_manager.allocate_slots
        # A step's tokens and what they may begin beyond the last full block, of a request and of its drafts.
        each = 2 + self.num_lookahead_tokens // self.block_size
        self._agentcg_step_blocks = self.max_num_scheduled_tokens // self.block_size + each * self.max_num_running_reqs
        self._agentcg_renewed = 0.0
        groups = self.kv_cache_config.kv_cache_groups
        self._agentcg_block_bytes = sum(each.kv_cache_spec.page_size_bytes * len(each.layer_names) for each in groups)
        self._agentcg_coordinator = Coordinator(
            options.engine,
            total_blocks=self.kv_cache_config.num_blocks,
            block_bytes=max(1, self._agentcg_block_bytes),
        )
        reason = why_nothing_is_kept(self.kv_cache_config, self.cache_config)
        self._agentcg_keeps = not reason
        if reason:
            log.warning("agentcg orders the requests, and keeps no cache: %s", reason)
        else:
            self._agentcg_coordinator.start()
        log.info("agentcg: the policy is %s, the engine's name %s", options.policy, options.engine)

    # Requests come and go

    def add_request(self, request: Any) -> None:
        self._agentcg_hear()
        # One that is streamed in pieces holds its blocks itself while it waits for the next piece.
        if request.request_id not in self.requests and not request.resumable:
            told = told_by(request)
            self._agentcg.arrive(request.request_id, told.session, request.num_tokens, tool=told.tool, last=told.last)
        super().add_request(request)

    def _free_blocks(self, request: Any) -> Any:
        self._agentcg_prefills.pop(request.request_id, None)
        if request.status in _ANSWERED:
            blocks = self._agentcg_cache.findable(request.request_id) if self._agentcg_keeps else ()
            self._agentcg.end(request.request_id, blocks)
        else:
            self._agentcg.cancel(request.request_id)
        return super()._free_blocks(request)

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self._agentcg_prefills.pop(request.request_id, None)
        self._agentcg.preempt(request.request_id)
        return super()._preempt_request(request, *args, **kwargs)

    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> Any:
        self._agentcg.forget()
        return super().reset_prefix_cache(*args, **kwargs)

    def shutdown(self, *args: Any, **kwargs: Any) -> Any:
        self._agentcg_coordinator.stop()
        return super().shutdown(*args, **kwargs)

    # A step

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        keeper, manager = self._agentcg, self.kv_cache_manager
        self._agentcg_hear()
        looked = keeper.look()
        if self._agentcg_prefills:
            self._agentcg_measure()
        waits = self.waiting or self.kv_holding_waiting
        # With --scheduling-policy priority the operator's order stands.
        if waits and self.policy == SchedulingPolicy.FCFS and (order := keeper.order()) is not None:
            self._agentcg_sort(order)
        # The manager is asked for every running request in every step: only where it matters by way of us.
        if waits or (keeper.pins and self._agentcg_cache.free_blocks() < self._agentcg_step_blocks):
            self._agentcg_stock_slots = manager.allocate_slots
            manager.allocate_slots = self._agentcg_slots
            try:
                output = super().schedule(*args, **kwargs)
            finally:
                manager.allocate_slots = self._agentcg_stock_slots
        else:
            output = super().schedule(*args, **kwargs)
        if keeper.pins and not output.num_scheduled_tokens and self._agentcg_stuck():
            log.warning("agentcg gives up all pins: nothing runs, and somebody waits who could")
            keeper.forget()
        waits = self.waiting or self.kv_holding_waiting
        if looked or keeper.changed or bool(waits) != bool(self._agentcg_coordinator.queue.waiting):
            self._agentcg_tell(looked)
        return output

    def _agentcg_hear(self) -> None:
        """Take to heart what was heard of calls, before anything else happens: no time runs backwards."""
        for at, event in self._agentcg_coordinator.heard():
            hear(self._agentcg, event, at)

    def _agentcg_sort(self, order: Sequence[str]) -> None:
        if len(self.waiting) < 2:
            return
        places = {request: float(place) for place, request in enumerate(order)}
        places.update(dict.fromkeys(self._agentcg.barred, inf))
        # Who is not known is served as it comes.
        ordered = sorted(self.waiting, key=lambda request: places.get(request.request_id, -1.0))
        self.waiting.clear()
        self.waiting.extend(ordered)

    def _agentcg_measure(self) -> None:
        """See who has had the first token of an answer."""
        for name, (request, before, tokens, began) in list(self._agentcg_prefills.items()):
            if request.num_output_tokens > before:
                del self._agentcg_prefills[name]
                self._agentcg.prefill.observe(tokens, self._agentcg.clock() - began)

    def _agentcg_stuck(self) -> bool:
        """Return whether nothing runs although somebody could; it has never been seen."""
        paused = self.pause_state != PauseState.UNPAUSED
        return not paused and not self.running and len(self.waiting) > len(self.deferred_waiting)

    # Blocks

    def _agentcg_slots(self, request: Any, *given: Any, **options: Any) -> Any:
        """Take the place of the manager's method: where that finds no room, there may be pins in the way."""
        runs = request.status is RequestStatus.RUNNING
        if not runs and request.request_id in self._agentcg.barred:
            return None
        blocks = self._agentcg_stock_slots(request, *given, **options)
        if blocks is not None and runs:
            return blocks
        while blocks is None and self._agentcg_make_room(request, *given, runs=runs, **options):
            blocks = self._agentcg_stock_slots(request, *given, **options)
        if blocks is not None and not runs:
            self._agentcg_start(request, *given, **options)
        return blocks

    def _agentcg_make_room(
        self,
        request: Any,
        num_new_tokens: int,
        num_new_computed_tokens: int = 0,
        new_computed_blocks: Any = None,
        *,
        runs: bool,
        **options: Any,
    ) -> bool:
        """Release pins for what is lacking; vLLM does not say how much. If it was too little, this is called again."""
        if not self._agentcg.pins:
            return False
        found = () if new_computed_blocks is None else new_computed_blocks.blocks[0]
        tokens = request.num_computed_tokens + num_new_computed_tokens + num_new_tokens
        tokens += options.get("num_external_computed_tokens", 0)
        if options.get("full_sequence_must_fit"):
            tokens = max(tokens, request.num_tokens)
        tokens = min(tokens + options.get("num_lookahead_tokens", 0), self.max_model_len)
        lacking = -(-tokens // self.block_size) + options.get("reserved_blocks", 0)
        if not runs and self.running:
            lacking += self.kv_cache_manager.watermark_blocks
        lacking -= len(self._agentcg_cache.blocks_of(request.request_id))
        lacking -= sum(block.ref_cnt > 0 for block in found)  # The others are free, and have to be taken too.
        lacking -= self._agentcg_cache.free_blocks()
        return self._agentcg.make_room(
            request.request_id, max(1, lacking), found=None if runs else found, alone=not self.running
        )

    def _agentcg_start(
        self, request: Any, num_new_tokens: int, num_new_computed_tokens: int = 0, *given: Any, **options: Any
    ) -> None:
        loaded = options.get("num_external_computed_tokens", 0)
        self._agentcg.start(request.request_id, num_new_computed_tokens + loaded)
        if not loaded and not request.num_computed_tokens:
            tokens = request.num_tokens - num_new_computed_tokens
            began = request, request.num_output_tokens, tokens, self._agentcg.clock()
            self._agentcg_prefills[request.request_id] = began

    # What is told

    def _agentcg_tell(self, looked: bool) -> None:
        keeper, coordinator = self._agentcg, self._agentcg_coordinator
        _, waiting = self.get_request_counts()
        coordinator.queue = KvQueue(waiting, self._agentcg_cache.free_blocks())
        if looked and not 0 <= keeper.clock() - self._agentcg_renewed < PINNED_SEC / 2:
            self._agentcg_renewed = keeper.clock()
            keeper.changed.update(keeper.pins)
        for session in keeper.changed:
            if (told := describe(keeper, session, self._agentcg_block_bytes)) is not None:
                coordinator.say(told)
        keeper.changed.clear()
        keeper.found.clear()

    def get_kv_cache_usage(self) -> float:
        """Return what requests hold; what is kept for nobody but its session is as good as free, as vLLM's cache is."""
        total: int = max(1, self.kv_cache_config.num_blocks - 1)
        return max(0.0, self._agentcg_cache.used - self._agentcg.pinned_blocks / total)

    def make_stats(self, *args: Any, **kwargs: Any) -> Any:
        stats = super().make_stats(*args, **kwargs)
        if stats is not None and self._agentcg.pins:
            stats.kv_cache_usage = self.get_kv_cache_usage()
        return stats


class KeepingAsyncScheduler(KeepingScheduler, AsyncScheduler):
    pass


class AgentcgScheduler:
    """What ``--scheduler-cls`` names: the one of the two that fits how vLLM was told to schedule."""

    def __new__(cls, vllm_config: Any, *args: Any, **kwargs: Any) -> Any:
        made = KeepingAsyncScheduler if vllm_config.scheduler_config.async_scheduling else KeepingScheduler
        return made(vllm_config, *args, **kwargs)
