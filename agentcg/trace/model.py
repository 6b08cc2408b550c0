# SPDX-License-Identifier: Apache-2.0
"""A recording: one agent session, its tool calls, and what it used over time.

Times are seconds since the session's start, memory is in bytes, CPU is in seconds of CPU time since the start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from agentcg.errors import InvalidInput
from agentcg.model import Intent

__all__ = ["CallKind", "RecordedCall", "RecordedTurn", "Recording", "Sample", "Timing"]

CallKind = Literal["tool", "subagent"]
"""``subagent``: the call hands over to another agent, so its time is a language model's, not a tool's."""

Timing = Literal["clock", "durations"]
"""``clock``: times are the session's. ``durations``: how long each call took is known, when it ran is not; the calls
stand one behind the other, and the time between two, which was the language model's, is left out."""


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One tool call of a session."""

    id: str
    tool: str
    command: str
    start_sec: float
    end_sec: float
    kind: CallKind = "tool"
    end_estimated: bool = False
    """The source did not say how long the call took: it ran somewhere between ``start_sec`` and ``end_sec``."""
    call_class: str = ""
    exit_code: int | None = None
    intent: Intent | None = None
    """What the agent declared."""

    @property
    def duration_sec(self) -> float:
        return self.end_sec - self.start_sec


@dataclass(frozen=True, slots=True)
class RecordedTurn:
    """One request to the language model, and its answer."""

    start_sec: float
    """When all that it waited for was there."""
    end_sec: float
    """When it was answered, or the first call of the answer began."""
    prompt_tokens: int
    """Of the whole context that was sent."""
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What the session, or one call of it, held and had used at one moment."""

    t_sec: float
    memory_bytes: int
    cpu_sec: float
    call: str | None = None
    """The call it was taken of; None for the whole session, the agent itself included."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One session. Calls are in the order they began, samples in the order they were taken."""

    name: str
    started: float | None
    """The session's start, seconds since the epoch; None if the source did not say."""
    calls: tuple[RecordedCall, ...]
    samples: tuple[Sample, ...] = ()
    source: str = ""
    """Where it came from, for people."""
    model: str | None = None
    """The language model that drove the session."""
    timing: Timing = "clock"
    base_memory: int | None = None
    """What the agent itself holds when it idles, if the recorder knew."""
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """What was repaired or left out when this was read or imported. Not kept in the file."""
    turns: tuple[RecordedTurn, ...] = field(default=(), compare=False)
    """What was asked of the language model, where the source says so. Not kept in the file."""

    @property
    def session_samples(self) -> tuple[Sample, ...]:
        """The samples of the whole session."""
        return tuple(sample for sample in self.samples if sample.call is None)

    def require_samples(self) -> tuple[Sample, ...]:
        """Return the samples of the whole session.

        :raises InvalidInput: if there are none, for nothing can be replayed then
        """
        samples = self.session_samples
        if not samples:
            raise InvalidInput(
                self.source or self.name,
                "the recording has no samples of the session, so there is no memory and no CPU time to replay",
                hint="record it again with 'agentcg record', or replay another one",
            )
        return samples

    @property
    def duration_sec(self) -> float:
        """From the start to the last thing that was recorded."""
        return max((*(call.end_sec for call in self.calls), *(sample.t_sec for sample in self.samples)), default=0.0)

    @property
    def memory_peak(self) -> int | None:
        """The most that the session was seen to hold; None without samples."""
        return max((sample.memory_bytes for sample in self.session_samples), default=None)
