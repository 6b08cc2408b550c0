# SPDX-License-Identifier: Apache-2.0
"""The policies, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from agentcg.kv.policies.base import Lru, Policy, ProgramLru
from agentcg.kv.policies.continuum import Continuum, ContinuumCode
from agentcg.kv.policies.pins import EvictLatest, FixedTtl, InferCept, SkiRental
from agentcg.kv.policies.queues import MarsAdmission, Plas
from agentcg.kv.policies.soft import Clairvoyant, SoftPins

__all__ = ["POLICIES", "Policy"]

POLICIES: dict[str, Callable[[], Policy]] = {
    "lru": Lru,
    "program_lru": ProgramLru,
    "evict_latest": EvictLatest,
    "fixed_ttl": FixedTtl,
    "ski_rental": SkiRental,
    "infercept": InferCept,
    "plas": Plas,
    "continuum": Continuum,
    "continuum_literal": partial(Continuum, literal=True),
    "continuum_code": ContinuumCode,
    "mars_admission": MarsAdmission,
    "soft_pins": SoftPins,
    "clairvoyant": Clairvoyant,
}
