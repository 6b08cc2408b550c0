# SPDX-License-Identifier: Apache-2.0
"""Importer for the runs of the AgentCgroup data set that an eBPF tracer sampled every 100 ms: a directory with
``ebpf_trace.jsonl`` and, in ``swebench/``, the calls as in every attempt.

What its files do not say plainly, and what is made of it:

- Events carry nanoseconds of the monotonic clock; ``CLOCK_SYNC`` pairs them with the wall clock, which calls use.
- ``cgroup_memory_bytes`` and ``cgroup_cpu_usage_usec`` are of another cgroup (tens of gigabytes in a container that may
  have four). They are not used.
- Memory is the sum of the processes' resident sets: pages that several map count several times, and the page cache does
  not count. In the published runs its median lies 16 to 17 % above that of what podman said of the container.
- ``total_cpu_user_ms`` and its like are of the processes that live, and fall when one ends. CPU time is added up over
  processes (``RESOURCE_DETAIL``) instead. What one used after it was last seen, and one that was never seen, is lost:
  in the published runs 11 to 15 % of what podman counted.
- Samples without any process at the end were taken when the container had gone. They are left out.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from agentcg.errors import InvalidInput
from agentcg.trace.agentcgroup import read_calls, read_transcript_of, without_start
from agentcg.trace.assemble import assemble
from agentcg.trace.importer import Importer, Source
from agentcg.trace.model import Recording, Sample
from agentcg.trace.source import from_nanoseconds, head, load_lines

__all__ = ["IMPORTER"]

_TRACE = "ebpf_trace.jsonl"
_CALLS = "swebench/tool_calls.json"


class _Event(msgspec.Struct):
    event: str
    timestamp: int
    mono_ns: int = 0
    wall_time_ns: int = 0
    total_rss_kb: int = 0
    num_processes: int = 0
    pid: int = 0
    cpu_user_ms: int = 0
    cpu_sys_ms: int = 0


def _find(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    traces = sorted(path.rglob(_TRACE))
    return [
        trace.parent for trace in traces if (trace.parent / _CALLS).exists() and b'"RESOURCE_SAMPLE"' in head(trace)
    ]


def _read(source: Source) -> list[Recording]:
    path = source.path
    warnings: list[str] = []
    transcript = read_transcript_of(path / _CALLS, warnings)
    samples = _samples(path / _TRACE, warnings)
    calls = read_calls(path / _CALLS, transcript)
    if not source.include_start:
        samples = without_start(samples, transcript.first_answer, calls)
    recording = assemble(
        str(path / _CALLS),
        source.name,
        calls,
        began=samples[0].t_sec,
        ended=samples[-1].t_sec,
        samples=samples,
        source="AgentCgroup, eBPF samples of resident sets",
        model=transcript.model,
        warnings=warnings,
    )
    return [recording]


def _samples(path: Path, warnings: list[str]) -> list[Sample]:
    """The samples, with seconds since the epoch and cumulative CPU seconds."""
    offset: int | None = None
    used: dict[int, int] = {}  # By process, ms of those that live.
    total = 0
    found: list[Sample] = []
    for place, event in load_lines(path, _Event):
        if event.event == "CLOCK_SYNC" and offset is None:
            offset = event.wall_time_ns - event.mono_ns
        elif event.event == "RESOURCE_DETAIL":
            now = event.cpu_user_ms + event.cpu_sys_ms
            before = used.get(event.pid, 0)
            total += now - before if now >= before else now  # Less than before: a new process has the number.
            used[event.pid] = now
        elif event.event == "RESOURCE_SAMPLE":
            if offset is None:
                raise InvalidInput(place, "a sample comes before CLOCK_SYNC, so its time is not known")
            if event.num_processes and not used:
                raise InvalidInput(place, "there is no RESOURCE_DETAIL before it, so its CPU time is not known")
            at = from_nanoseconds(f"{place}: timestamp", event.timestamp + offset)
            if found and at <= found[-1].t_sec:
                raise InvalidInput(place, f"time runs backwards: {at} s comes after {found[-1].t_sec} s")
            found.append(Sample(at, event.total_rss_kb * 1024, total / 1000))
    last = max((number for number, sample in enumerate(found, 1) if sample.memory_bytes), default=0)
    if not last:
        raise InvalidInput(str(path), "there are no samples of a process", hint="--format agentcgroup reads the calls")
    if last < len(found):
        warnings.append(f"{path}: samples left out at the end: {len(found) - last}, taken when the container had gone")
    return found[:last]


IMPORTER = Importer(
    name="agentcgroup-ebpf",
    looks_for=f"directories with {_TRACE} that has RESOURCE_SAMPLE, and {_CALLS}",
    find=_find,
    read=_read,
)
