# SPDX-License-Identifier: Apache-2.0
"""The plain values everything else speaks in.

A *tenant* owns *sessions* (one agent run each), a session makes *tool calls*, a call carries an *intent*, a policy
turns it into *limits*, and the *verdict* says how the call ended.

Units throughout: memory in bytes, durations in seconds (``_sec``), points in time as seconds since the epoch.
``None`` means "not declared" in an :class:`Intent`, "not limited" in :class:`Limits` and :class:`Budget`, and
"this kernel does not say" in :class:`Usage`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from agentcg.errors import InvalidInput

__all__ = [
    "COMMAND_MAX",
    "Budget",
    "CallRef",
    "CpuClass",
    "History",
    "Intent",
    "Limits",
    "Outcome",
    "Session",
    "SessionRef",
    "ToolCall",
    "Usage",
    "Verdict",
    "check_range",
    "cut_command",
    "validate_command",
    "validate_name",
]

CpuClass = Literal["interactive", "normal", "batch"]
"""How soon the call needs a CPU or the disk; used for the CPU and for I/O."""

Outcome = Literal[
    "ok", "exit_status", "signal", "memory_limit", "oom_killed", "timed_out", "pids_limit", "killed", "unknown"
]
"""How a call ended. ``memory_limit``: the call's own limit killed it. ``oom_killed``: the OOM killer chose it for
somebody else's limit. ``killed``: agentcg or an operator ended it, and the verdict's reason says why.
``unknown``: nobody reported an exit status and no counter explains the end."""

MAX_BYTES = 2**63 - 1  # Varlink integers and SQLite integers are signed 64 bit.
COMMAND_MAX = 4096  # What is kept of a command line, characters.

# No dot: every cgroup control file has one in its name, so a name can never collide with a control file.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def validate_name(place: str, name: str) -> str:
    """Return ``name`` if it can be the name of a tenant, a session or a call.

    :raises InvalidInput: if it is empty, too long, or holds anything but letters, digits, ``_`` and ``-``
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            place,
            f"{_shown(name)} is not a name",
            hint="use 1 to 64 letters, digits, '_' and '-', starting with a letter or digit",
        )
    return name


def validate_command(place: str, argv: Sequence[str]) -> str:
    """Return the command line of ``argv`` as shell text, at most :data:`COMMAND_MAX` characters.

    Control characters are kept: the text is quoted wherever it is shown, and JSON escapes it where it is stored. What
    is not text (file names are bytes) becomes ``?``.

    :raises InvalidInput: if there is a NUL byte, which no command line can hold
    """
    for index, word in enumerate(argv):
        if "\0" in word:
            raise InvalidInput(f"{place}[{index}]", "holds a NUL byte", hint="no program can be given one")
    # A single word is a shell line already ("sh -c" text from a runtime), not a word to be quoted.
    text = argv[0] if len(argv) == 1 else shlex.join(argv)
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= COMMAND_MAX else text[: COMMAND_MAX - 1] + "…"


def cut_command(argv: Sequence[str]) -> list[str]:
    """Return the first words of ``argv``: :data:`COMMAND_MAX` characters, spaces counted, then an ellipsis."""
    words: list[str] = []
    left = COMMAND_MAX
    for word in argv:
        if len(word) > left:
            return [*words, word[: max(left - 1, 0)] + "…"]
        words.append(word)
        left -= len(word) + 1
    return words


def _shown(text: str, limit: int = 80) -> str:
    return repr(text if len(text) <= limit else text[:limit] + "…")


@dataclass(frozen=True, slots=True)
class SessionRef:
    """A session's full name, ``TENANT/SESSION``."""

    tenant: str
    session: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.session}"

    @classmethod
    def parse(cls, place: str, text: str, *, tenant: str) -> SessionRef:
        """Read ``SESSION`` (in ``tenant``) or ``TENANT/SESSION``. :raises InvalidInput: if it is neither."""
        first, slash, second = text.partition("/")
        if not slash:
            first, second = tenant, first
        return cls(validate_name(place, first), validate_name(place, second))


@dataclass(frozen=True, slots=True)
class CallRef:
    """A tool call's full name, ``TENANT/SESSION/CALL``."""

    session: SessionRef
    call: str

    def __str__(self) -> str:
        return f"{self.session}/{self.call}"

    @classmethod
    def parse(cls, place: str, text: str) -> CallRef:
        """Read ``TENANT/SESSION/CALL``. :raises InvalidInput: if it is anything else."""
        parts = text.split("/", 3)
        if len(parts) != 3:
            raise InvalidInput(place, f"{_shown(text)} is not a call", hint="write TENANT/SESSION/CALL, as begin said")
        tenant, session, call = (validate_name(place, part) for part in parts)
        return cls(SessionRef(tenant, session), call)


@dataclass(frozen=True, slots=True)
class Intent:
    """What an agent declares about a call. Every field may be left out."""

    memory_expected: int | None = None
    memory_max: int | None = None
    swap_max: int | None = None
    cpu_class: CpuClass | None = None
    cpu_cores: float | None = None
    pids_max: int | None = None
    io_class: CpuClass | None = None
    duration_expected_sec: float | None = None
    duration_max_sec: float | None = None
    network_rate: int | None = None
    """Bytes per second that it may send; 0: it uses none of the network but loopback."""
    priority: int | None = None
    """0 to 100; 50 is ordinary. A higher one gets more CPU and I/O and is the last to be ended."""

    @property
    def memory_claim(self) -> int | None:
        """What it says that it will come to, in bytes."""
        return self.memory_expected or self.memory_max

    def validate(self, place: str = "intent") -> Intent:
        """Return self. :raises InvalidInput: naming the first field out of its range."""
        check_range(place, "memoryExpected", self.memory_expected, 1, MAX_BYTES)
        check_range(place, "memoryMax", self.memory_max, 1, MAX_BYTES)
        check_range(place, "swapMax", self.swap_max, 0, MAX_BYTES)
        check_range(place, "pidsMax", self.pids_max, 1, 4_194_304)
        check_range(place, "cpuCores", self.cpu_cores, 0.01, 8192)
        check_range(place, "durationExpectedSec", self.duration_expected_sec, 0, 31_536_000)
        check_range(place, "durationMaxSec", self.duration_max_sec, 0.001, 31_536_000)
        check_range(place, "networkRate", self.network_rate, 0, MAX_BYTES)
        check_range(place, "priority", self.priority, 0, 100)
        for name, value in (("cpuClass", self.cpu_class), ("ioClass", self.io_class)):
            if value is not None and value not in get_args(CpuClass):
                raise InvalidInput(f"{place}.{name}", f"{_shown(value)} is not one of {', '.join(get_args(CpuClass))}")
        if self.memory_expected and self.memory_max and self.memory_expected > self.memory_max:
            raise InvalidInput(
                f"{place}.memoryExpected",
                f"{self.memory_expected} is above memoryMax {self.memory_max}",
                hint="raise memoryMax or lower memoryExpected",
            )
        return self


def check_range(place: str, name: str, value: float | None, low: float, high: float) -> None:
    """:raises InvalidInput: unless a number is between two others; None is not declared, and so none"""
    # bool is an int in Python, and a JSON NaN compares false to everything: refuse both.
    if value is not None and (isinstance(value, bool) or not low <= value <= high):
        raise InvalidInput(f"{place}.{name}", f"{value} is not between {low} and {high}")


@dataclass(frozen=True, slots=True)
class Budget:
    """What a tenant or a session may use in all."""

    memory_expected: int | None = None
    """What it is expected to come to: no limit, but what it is given room for, and what a protected one has reserved.
    None: ``memory_max``, or what sessions of the same name came to before."""
    memory_max: int | None = None
    swap_max: int | None = 0
    pids_max: int | None = None
    cpu_weight: int = 100
    """Share against siblings under contention, 1 to 10000 (cpu.weight)."""
    cpu_cores: float | None = None

    def validate(self, place: str = "budget") -> Budget:
        """Return self. :raises InvalidInput: naming the first field out of its range."""
        check_range(place, "memoryExpected", self.memory_expected, 1, MAX_BYTES)
        check_range(place, "memoryMax", self.memory_max, 1, MAX_BYTES)
        check_range(place, "swapMax", self.swap_max, 0, MAX_BYTES)
        check_range(place, "pidsMax", self.pids_max, 1, 4_194_304)
        check_range(place, "cpuWeight", self.cpu_weight, 1, 10_000)
        check_range(place, "cpuCores", self.cpu_cores, 0.01, 8192)
        return self


@dataclass(frozen=True, slots=True)
class Limits:
    """What the kernel enforces for one call."""

    memory_low: int | None = None
    """Protected from reclaim up to this (memory.low)."""
    memory_high: int | None = None
    """Above this the call is slowed and reclaimed from (memory.high); always below memory_max."""
    memory_max: int | None = None
    """The wall: above this the whole call is killed, and nobody else (memory.max, memory.oom.group)."""
    swap_max: int | None = 0
    pids_max: int | None = None
    cpu_weight: int = 100
    cpu_cores: float | None = None
    """CPU time per second of wall time (cpu.max)."""
    io_weight: int = 100
    duration_max_sec: float | None = None
    """Wall time after which the daemon ends the call."""
    network_rate: int | None = None
    """Bytes per second that it may send over anything but loopback; 0: nothing, and nothing is received either."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call used, from its cgroup's counters."""

    duration_sec: float
    cpu_sec: float | None = None
    cpu_user_sec: float | None = None
    cpu_system_sec: float | None = None
    cpu_throttled_sec: float | None = None
    """Held back by cpu.max."""
    memory_peak: int | None = None
    swap_peak: int | None = None
    memory_high_events: int | None = None
    memory_max_events: int | None = None
    memory_oom_events: int | None = None
    """Times the call's own memory limit ran out, not one further up."""
    memory_stall_sec: float | None = None
    """At least one task waited for memory, at memory.high among other things (PSI ``some``)."""
    oom_kills: int | None = None
    """Processes of this call that the OOM killer ended."""
    oom_group_kills: int | None = None
    pids_peak: int | None = None
    pids_limit_events: int | None = None
    """Forks refused by pids.max."""
    io_read_bytes: int | None = None
    io_written_bytes: int | None = None
    frozen_sec: float | None = None
    """Stopped by agentcg so that others could go on; part of the duration, not of its limit."""
    network_sent_bytes: int | None = None
    """In IP packets over anything but loopback; counted, like the next three, while the call has a network_rate."""
    network_received_bytes: int | None = None
    network_dropped_packets: int | None = None
    """Sent above the rate; or sent to the call, if that is 0."""
    network_refused: int | None = None
    """Connections, datagrams and packets that were refused because the rate is 0."""
    left_behind: int | None = None
    """Processes that were still there after the command had ended, and were ended with the call."""
    refusals: int | None = None
    """Attempts to leave the call, or to act on or for others, that were refused."""


@dataclass(frozen=True, slots=True)
class History:
    """What past calls of one kind came to."""

    n: int
    memory_peak_p95: int | None = None
    memory_peak_max: int | None = None
    memory_limit_hits: int = 0
    """How many of them ended at their own memory limit."""
    duration_p95_sec: float | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """One agent run."""

    ref: SessionRef
    owner_uid: int
    opened: float
    budget: Budget = field(default_factory=Budget)
    protected: bool = False
    """Its memory is reserved (memory.low) and its calls are the last to be ended."""
    leased: bool = False
    """It is closed when the connection that opened it goes away."""
    container: str | None = None
    """The id of the container whose own cgroup it is, and whose engine says what it may use."""
    transparent: bool = False
    """What its agent executes by itself becomes a call."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool call, as kept on its cgroup."""

    ref: CallRef
    owner_uid: int
    started: float
    tool: str = ""
    command: str = ""
    call_class: str = ""
    """The policy's class that the command fell into."""
    intent: Intent = field(default_factory=Intent)
    limits: Limits = field(default_factory=Limits)
    leased: bool = True
    """It is ended when the connection that began it goes away."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a call ended, what it used, and what to do differently."""

    ref: CallRef
    outcome: Outcome
    usage: Usage
    limits: Limits
    started: float
    ended: float
    tool: str = ""
    command: str = ""
    call_class: str = ""
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    """Why it was killed, when agentcg or an operator did it."""
    throttled: bool = False
    """Slowed by memory.high or cpu.max for a noticeable time, however it ended."""
    advice: str = ""
    """One or two plain sentences for the agent; empty when there is nothing to say."""
