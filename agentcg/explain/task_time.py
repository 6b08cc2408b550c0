# SPDX-License-Identifier: Apache-2.0
"""The typed face of ``bpf/agentcg_explain.c``, which bcc compiles on this host while it is asked for.

bcc is the distribution's (Debian, Ubuntu: ``python3-bpfcc``); what has that name on PyPI is something else. Its Python
part works with any Python 3, so that it is also found from within a virtual environment.
"""

from __future__ import annotations

import ctypes
import heapq
import importlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from types import ModuleType
from typing import Any

from agentcg.cgroup.node import Inner
from agentcg.cgroup.usage import read_cpu
from agentcg.errors import AgentcgError, Unsupported
from agentcg.explain.result import Explanation, Kind, Stack
from agentcg.kernel.build_bpf import OBJECTS

__all__ = ["TaskTime", "check", "load_bcc"]

SOURCE = "agentcg_explain.c"
_PLACES = (OBJECTS, Path(__file__).resolve().parents[2] / "bpf")  # In a wheel, in a checkout.
_DISTRIBUTION = "/usr/lib/python3/dist-packages"
_SCHEDULER = frozenset(("__schedule", "schedule"))  # Where every wait is.
_RUNNING, _BLOCKED = 0, 2  # enum state
_FROZEN, _RECLAIM, _THROTTLED, _IO = 1, 2, 4, 8  # enum inside
_SPANS = (
    (b"mem_cgroup_handle_over_high", b"enter_throttled", b"leave_throttled"),
    (b"__mem_cgroup_handle_over_high", b"enter_throttled", b"leave_throttled"),
    (b"try_to_free_mem_cgroup_pages", b"enter_reclaim", b"leave_reclaim"),
    (b"try_to_free_pages", b"enter_reclaim", b"leave_reclaim"),
    (b"io_schedule", b"enter_io", b"leave_io"),
    (b"io_schedule_timeout", b"enter_io", b"leave_io"),
)
"""Functions during which a task is in the middle of something. Those that a kernel lacks are left out."""
_BORDERS = ((b"cgroup_enter_frozen", b"enter_frozen"), (b"cgroup_leave_frozen", b"leave_frozen"))
"""Functions at which it begins and ends."""


def load_bcc() -> ModuleType:
    """Return the module ``bcc``. :raises Unsupported: if it is not there, with how to get it"""
    before = list(sys.path)
    for added in ([], [_DISTRIBUTION]):
        sys.path += added
        try:
            found = importlib.import_module("bcc")
        except ImportError:
            continue
        finally:
            sys.path[:] = before
        if hasattr(found, "BPF"):
            return found
        sys.modules.pop("bcc")  # Something else of that name.
    raise Unsupported("there is no bcc for Python", hint="install it from the distribution: apt install python3-bpfcc")


def check() -> None:
    """:raises Unsupported: if this host lacks bcc, the running kernel's headers, or the right to use them"""
    load_bcc()
    release = os.uname().release
    if not os.path.exists(f"/lib/modules/{release}/build") and not os.path.exists("/sys/kernel/kheaders.tar.xz"):
        raise Unsupported(
            f"bcc needs the headers of the running kernel, {release}", hint=f"apt install linux-headers-{release}"
        )
    if os.geteuid():
        raise Unsupported("BPF programs are root's to load", hint="run it as root")


def _source() -> bytes:
    for place in _PLACES:
        if (place / SOURCE).is_file():
            return (place / SOURCE).read_bytes()
    raise Unsupported(f"there is no {SOURCE} in {_PLACES[0]}", hint="install agentcg again")


@dataclass(frozen=True, slots=True)
class _Wait:
    """Waits at one place: ended ones, or one that goes on in ``tid``."""

    kind: Kind
    ns: int
    count: int
    kernel: int
    """Stacks by their numbers, negative where none was taken."""
    user: int
    tgid: int
    tid: int = 0

    @property
    def place(self) -> tuple[object, ...]:
        """Equal for waits at the same place."""
        return (self.kind, self.kernel, self.user, self.tgid) if self.kernel >= 0 else (self.kind, "now", self.tid)


class TaskTime:
    """Looks at the tasks of one cgroup and of all below it, from here on until :meth:`close`.

    :param call: what the result is to be named
    :param cgroup: the cgroup's directory
    :raises Unsupported: see :func:`check`; or if the programs cannot be compiled, which bcc tells on standard error
    :raises AgentcgError: if there is no such cgroup
    """

    def __init__(self, call: str, cgroup: str) -> None:
        check()
        bcc = load_bcc()
        self._call = call
        self._bpf: Any = None
        try:
            self._cgroup = Inner.open_root(cgroup)
        except FileNotFoundError as error:
            raise AgentcgError(f"{call} is over: its cgroup is gone", hint="see `agentcg history`") from error
        try:
            self._bpf = bcc.BPF(text=_source())
            self._attach()
            self._bpf[b"call"][0] = self._cgroup.fd
            _, self._held_back = read_cpu(self._cgroup)
            self._began = time.monotonic_ns()
            self._seed()
        except BaseException as error:
            self.close()
            if isinstance(error, Exception):  # bcc raises nothing that is more exact.
                raise Unsupported(f"bcc refuses {SOURCE}: {error}", hint="it says more above") from error
            raise

    def _attach(self) -> None:
        for function, entered, left in _SPANS:
            if self._bpf.ksymname(function) != -1:
                self._bpf.attach_kprobe(event=function, fn_name=entered)
                self._bpf.attach_kretprobe(event=function, fn_name=left)
        for function, program in _BORDERS:
            if self._bpf.ksymname(function) != -1:
                self._bpf.attach_kprobe(event=function, fn_name=program)

    def _seed(self) -> None:
        """Have the tasks known that are there already: what they are doing counts from now on."""
        tasks = self._bpf[b"tasks"]
        inside = _FROZEN if self._cgroup.frozen else 0
        for tid in self._threads():
            try:
                state = Path(f"/proc/{tid}/stat").read_bytes().rpartition(b")")[2].split()[0]
            except OSError:
                continue  # It has ended.
            key = tasks.Key(tid)
            if key in tasks:
                continue
            leaf = tasks.Leaf(since=time.monotonic_ns(), kernel_stack=-1, user_stack=-1)
            leaf.state = _RUNNING if state == b"R" else _BLOCKED
            leaf.inside = inside
            tasks[key] = leaf

    def _threads(self) -> Iterator[int]:
        top = f"/proc/self/fd/{self._cgroup.fd}"
        for folder, _, names in os.walk(top):
            if "cgroup.threads" in names:
                try:
                    yield from map(int, Path(folder, "cgroup.threads").read_text().split())
                except OSError:
                    continue

    @property
    def over(self) -> bool:
        """Whether nothing runs in the cgroup any more, or it is gone."""
        return not self._cgroup.populated

    def look(self, stacks: int = 0) -> Explanation:
        """Return what was seen so far.

        :param stacks: how many of the longest waits to name
        """
        now = time.monotonic_ns()
        ended = self._bpf[b"spent"]
        spent = {kind: ended[ctypes.c_int(kind)].value for kind in Kind}
        waits = [
            _Wait(Kind(one.kind), blocked.ns, blocked.count, one.kernel, one.user, one.tgid)
            for one, blocked in self._bpf[b"stacks"].items()
        ]
        tasks = 0
        for tid, task in self._bpf[b"tasks"].items():
            tasks += 1
            kind, since = _kind_of(task.state, task.inside), max(0, now - task.since)
            spent[kind] += since
            if task.state == _BLOCKED:
                waits.append(_Wait(kind, since, 1, task.kernel_stack, task.user_stack, task.tgid, tid.value))
        _, held_back = read_cpu(self._cgroup)
        return Explanation(
            call=self._call,
            seconds=(now - self._began) / 1e9,
            tasks=tasks,
            spent={kind: ns / 1e9 for kind, ns in spent.items()},
            cpu_max_seconds=None if held_back is None or self._held_back is None else held_back - self._held_back,
            ended=self.over,
            stacks=self._longest(waits, stacks),
        )

    def _longest(self, waits: list[_Wait], wanted: int) -> tuple[Stack, ...]:
        """Add up waits at the same place; name ``wanted`` of these."""
        places: dict[tuple[object, ...], tuple[_Wait, int, int]] = {}
        for wait in waits:
            first, ns, count = places.get(wait.place, (wait, 0, 0))
            places[wait.place] = first, ns + wait.ns, count + wait.count
        longest = heapq.nlargest(wanted, places.values(), key=lambda place: place[1])
        return tuple(Stack(wait.kind, ns / 1e9, count, self._frames(wait)) for wait, ns, count in longest)

    def _frames(self, wait: _Wait) -> tuple[str, ...]:
        if wait.kernel < 0:
            frames = _frames_now(wait.tid)
        else:
            found = [self._bpf.ksym(address) for address in self._walk(wait.kernel)]
            found += [self._bpf.sym(address, wait.tgid) for address in self._walk(wait.user)]
            frames = [frame.decode(errors="replace") for frame in found]
        return tuple(dropwhile(_SCHEDULER.__contains__, frames))

    def _walk(self, stack_id: int) -> Iterator[int]:
        return iter(()) if stack_id < 0 else iter(self._bpf[b"frames"].walk(stack_id))

    def close(self) -> None:
        """Detach everything. Safe to call twice."""
        if self._bpf is not None:
            self._bpf.cleanup()
            self._bpf = None
        self._cgroup.close()

    def __enter__(self) -> TaskTime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _kind_of(state: int, inside: int) -> Kind:
    """``kind_of`` of the program, for what has not ended yet."""
    if state == _RUNNING:
        return Kind.RECLAIM if inside & _RECLAIM else Kind.RUN
    if state != _BLOCKED:
        return Kind.QUEUE
    for bit, kind in ((_FROZEN, Kind.FROZEN), (_RECLAIM, Kind.RECLAIM), (_THROTTLED, Kind.THROTTLED), (_IO, Kind.IO)):
        if inside & bit:
            return kind
    return Kind.SLEEP


def _frames_now(tid: int) -> list[str]:
    """Return where a task stands in the kernel; empty if it does not any more."""
    try:
        lines = Path(f"/proc/{tid}/stack").read_text().splitlines()
    except OSError:
        return []
    return [line.split("] ", 1)[-1].partition("+")[0] for line in lines]
