# SPDX-License-Identifier: Apache-2.0
"""vLLM: a scheduler that serves agents' sessions by their arrival, and keeps their caches while they run tools.

::

    vllm serve MODEL --scheduler-cls agentcg.kv.engines.vllm.AgentcgScheduler
"""

from __future__ import annotations

from typing import Any

from agentcg.kv.engines.vllm.check import require, what_is_missing

__all__ = ["AgentcgScheduler"]


def __getattr__(name: str) -> Any:
    # What does not need vLLM can be had without it.
    if name == "AgentcgScheduler":
        require(what_is_missing())
        from agentcg.kv.engines.vllm.scheduler import AgentcgScheduler

        return AgentcgScheduler
    raise AttributeError(name)
