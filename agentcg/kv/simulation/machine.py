# SPDX-License-Identifier: Apache-2.0
"""What is simulated, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentcg.kv.simulation.cost import A100_LLAMA_8B, StepCost
from agentcg.kv.simulation.pool import Host

__all__ = ["Machine", "Outcome", "Served"]


@dataclass(frozen=True, slots=True)
class Machine:
    """The server and the host of the tools."""

    pool_tokens: int
    cost: StepCost = A100_LLAMA_8B
    chunk_tokens: int = 2048
    """Tokens that a step computes at most."""
    block_tokens: int = 16
    slots: int = 0
    """Into how many slots the pool is divided, each for one whole context, as in llama.cpp's server: with blocks of one
    token, nothing shared, and no host's memory. 0: blocks are anybody's."""
    shared_tokens: int = 0
    """What every prompt begins with: it is always cached, and not in the pool."""
    host: Host | None = None
    cpus: float = 16.0
    """For tool calls."""
    holds_calls: bool = False
    """A call that finds too few CPUs free is held until it finds them."""
    lag_sec: float = 0.1
    """From the end of a turn's last call to the next request."""
    ask_sec: float = 0.5
    """How often a request that does not fit is asked about at least."""


@dataclass(frozen=True, slots=True)
class Served:
    """One turn of a session, as it was served."""

    session: str
    turn: int
    """The first is 0."""
    arrived_sec: float
    ended_sec: float
    cached_tokens: int
    """What of its prompt did not have to be computed."""


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    completion_sec: dict[str, float] = field(default_factory=dict)
    """Of each session, from its arrival to the end of its last turn."""
    prefilled_tokens: int = 0
    loaded_tokens: int = 0
    """Copied back from the host."""
    ideal_tokens: int = 0
    """What would have been prefilled if nothing was ever taken."""
    served: list[Served] = field(default_factory=list)
    """In the order of their ends."""
    end_sec: float = 0.0
    busy_sec: float = 0.0
    """How long the engine worked."""
    events: int = 0
    """Times that the simulator did something: a measure of its own work."""

    @property
    def turns(self) -> int:
        """How many were served."""
        return len(self.served)
