# SPDX-License-Identifier: Apache-2.0
"""What ``bpf/agentcg_sched.h`` says, in Python: the structures and numbers that :mod:`agentcg.kernel.sched` shares with
the program.
"""

from __future__ import annotations

import ctypes
import enum
from ctypes import c_char, c_int64, c_uint32, c_uint64
from dataclasses import dataclass

__all__ = ["STRUCTURES", "Config", "Exit", "Kind", "Latency", "RawCall", "RawEvent", "RawExit", "RawFlow", "RawGroup"]
__all__ += ["Stat"]

_EXPECTED = 1024  # SCX_EXIT_ERROR: kinds below are ends that somebody asked for.


class Latency(enum.IntEnum):
    """How soon a call needs a CPU; enum agentcg_sched_class."""

    NORMAL = 0
    INTERACTIVE = 1
    BATCH = 2


class Kind(enum.IntEnum):
    """What the scheduler tells; enum agentcg_sched_kind."""

    ENTERED = 0
    LEFT = 1
    EXITED = 2


class Stat(enum.IntEnum):
    """What the scheduler counts; enum agentcg_sched_stat."""

    IDLE = 0
    QUEUED = 1
    INTERACTIVE = 2
    PREEMPTED = 3
    DEMOTED = 4
    HELD = 5
    RELEASED = 6
    UNKNOWN = 7
    LOST = 8


class Config(ctypes.Structure):
    """struct agentcg_sched_config: read-only once the programs are loaded."""

    _fields_ = (
        ("call_level", c_uint32),
        ("stall", c_uint32),
        ("normal_slice_ns", c_uint64),
        ("interactive_slice_ns", c_uint64),
        ("batch_slice_ns", c_uint64),
        ("credit_max_ns", c_uint64),
        ("credit_percent", c_uint32),
        ("favour_unknown", c_uint32),
        ("cpus", c_uint32),
        ("reserved", c_uint32),
    )


class RawCall(ctypes.Structure):
    """struct agentcg_sched_call."""

    _fields_ = (
        ("session", c_uint64),
        ("tenant", c_uint64),
        ("boost_until_ns", c_uint64),
        ("weight", c_uint32),
        ("session_weight", c_uint32),
        ("tenant_weight", c_uint32),
        ("boost_percent", c_uint32),
        ("latency", c_uint32),
        ("reserved", c_uint32),
    )


class RawFlow(ctypes.Structure):
    """struct agentcg_sched_flow."""

    _fields_ = (
        ("finish", c_uint64),
        ("served", c_uint64),
        ("counted", c_uint64),
        ("runnable", c_int64),
        ("used_ns", c_uint64),
        ("hold_end_ns", c_uint64),
        ("hold_free_ns", c_uint64),
    )


class RawGroup(ctypes.Structure):
    """struct agentcg_sched_group."""

    _fields_ = (
        ("sum", c_int64),
        ("counted", c_uint64),
        ("credit_ns", c_int64),
        ("credit_at_ns", c_uint64),
        ("demoted", c_uint64),
    )


class RawEvent(ctypes.Structure):
    """struct agentcg_sched_event."""

    _fields_ = (
        ("cgroup_id", c_uint64),
        ("pid", c_uint32),
        ("kind", c_uint32),
        ("whole", c_uint32),
        ("reserved", c_uint32),
    )


class RawExit(ctypes.Structure):
    """struct agentcg_sched_exit."""

    _fields_ = (
        ("code", c_int64),
        ("kind", c_uint32),
        ("reserved", c_uint32),
        ("reason", c_char * 128),
        ("message", c_char * 1024),
    )


STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "agentcg_sched_config": Config,
    "agentcg_sched_call": RawCall,
    "agentcg_sched_flow": RawFlow,
    "agentcg_sched_group": RawGroup,
    "agentcg_sched_event": RawEvent,
    "agentcg_sched_exit": RawExit,
}
"""Ours, by the name that bpf/agentcg_sched.h has for them."""


@dataclass(frozen=True, slots=True)
class Exit:
    """Why the scheduler has ended. Its tasks are with the kernel's own one."""

    kind: int
    """The kernel's enum scx_exit_kind."""
    code: int
    reason: str
    message: str

    @property
    def failed(self) -> bool:
        """The kernel threw it out, rather than somebody having asked for its end."""
        return self.kind >= _EXPECTED

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.message else self.reason
