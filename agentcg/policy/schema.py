# SPDX-License-Identifier: Apache-2.0
"""What a policy says, as plain values. The file format is described in :mod:`agentcg.policy.load`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from agentcg.model import CpuClass
from agentcg.policy.shell import SHELLS

__all__ = ["DEFAULT_CLASS", "LIMIT_FLOOR", "Background", "CallClass", "HistoryRules", "KvRules", "Policy"]
__all__ += ["PolicyBudget", "Rule", "Share", "TransparentRules"]

Background = Literal["kill", "adopt", "leave"]
"""What becomes of what a call leaves running when its command ends: see :mod:`agentcg.control.background`."""

DEFAULT_CLASS = "default"
"""The class of a call that no rule matches; it is what ``[defaults]`` says."""

LIMIT_FLOOR = 4 << 20
"""The least memory, in bytes, that a call or a session may be limited to: below it nothing can be executed."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of what is above: 0.75 of a tenant's memory, say."""

    fraction: float


@dataclass(frozen=True, slots=True)
class PolicyBudget:
    """What a tenant or a session gets, and the most it may ask for. ``None`` is no limit of its own."""

    memory: int | Share | None = None
    swap: int = 0
    pids: int | None = None
    cpu_weight: int = 100
    cpu_cores: float | None = None


@dataclass(frozen=True, slots=True)
class CallClass:
    """What a call of one class gets when it declares nothing, and how far its declaration may go."""

    name: str = DEFAULT_CLASS
    memory_expected: int | None = None
    memory_max: int | None = None
    """``None``: as much as the session's budget has."""
    memory_cap: int | None = None
    """The most an intent or history may come to; ``None``: the session's budget."""
    swap_max: int = 0
    """An intent may ask for less, never for more."""
    pids_max: int = 1024
    cpu: CpuClass = "normal"
    cores: float | None = None
    io: CpuClass = "normal"
    duration_max: float | None = None
    duration_cap: float | None = None
    """The most an intent may ask for; ``None``: duration_max."""
    network: int | None = None
    """Bytes per second that a call may send; 0: nothing but over loopback. An intent may ask for less, not for more."""
    priority: int = 50
    headroom: float = 0.9
    """memory.high as a fraction of memory.max."""
    background: Background = "kill"


@dataclass(frozen=True, slots=True)
class Rule:
    """Puts a call into a class by its tool and by the words that a command of its shell line begins with."""

    call_class: str
    tools: tuple[str, ...] = ()
    """Globs; none: any tool."""
    commands: frozenset[tuple[str, ...]] = frozenset()
    """None: any command."""
    light: bool = False
    """Counts only when every command of the line falls under some light rule."""
    lengths: tuple[int, ...] = field(init=False)
    """The lengths of ``commands`` in words, longest first."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", tuple(sorted({len(words) for words in self.commands}, reverse=True)))


@dataclass(frozen=True, slots=True)
class HistoryRules:
    """When past calls are believed, and how far above them a limit stands."""

    min_calls: int = 5
    margin: float = 1.5


@dataclass(frozen=True, slots=True)
class KvRules:
    """What goes to and fro between tool calls and the caches of LLM servers: see :mod:`agentcg.control.kv`."""

    signals: bool = True
    """Engines are told of calls."""
    weights: bool = True
    """Sessions whose cache is in the way get more of the CPUs."""
    order: bool = True
    """Held calls of such sessions start first."""


@dataclass(frozen=True, slots=True)
class TransparentRules:
    """What an agent of a transparent session executes that is then a call. Of a name the first 15 bytes count."""

    shells: tuple[str, ...] = tuple(sorted(SHELLS))
    """These with ``-c``."""
    programs: tuple[str, ...] = ()
    """These, whatever their options."""
    new_session: bool = False
    """Whatever leads a session of its own (setsid(2))."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy."""

    name: str
    source: str
    """The file it came from."""
    description: str = ""
    tenant: PolicyBudget = field(default_factory=PolicyBudget)
    session: PolicyBudget = field(default_factory=PolicyBudget)
    classes: Mapping[str, CallClass] = field(default_factory=lambda: {DEFAULT_CLASS: CallClass()})
    """By name; :data:`DEFAULT_CLASS` is always there."""
    rules: tuple[Rule, ...] = ()
    history: HistoryRules = field(default_factory=HistoryRules)
    kv: KvRules = field(default_factory=KvRules)
    transparent: TransparentRules = field(default_factory=TransparentRules)

    def background_of(self, call_class: str) -> Background:
        """Return what becomes of what a call of a class leaves running. A class of an older policy is the default."""
        return self.classes.get(call_class, self.classes[DEFAULT_CLASS]).background
