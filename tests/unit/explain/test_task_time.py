# SPDX-License-Identifier: Apache-2.0
"""The face of the bcc programs, with a bcc that the test speaks for; the real one is tested on real kernels."""

import os
import re
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from agentcg.errors import AgentcgError, Unsupported
from agentcg.explain import task_time
from agentcg.explain.result import Kind
from agentcg.explain.task_time import TaskTime, check, load_bcc
from agentcg.kernel.sys import CGROUP2_SUPER_MAGIC

SECOND = 10**9


class Key:
    def __init__(self, value: int) -> None:
        self.value = value

    def __hash__(self) -> int:
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and other.value == self.value


class Tasks(dict[Any, Any]):
    Key = Key

    @staticmethod
    def Leaf(**members: int) -> Any:
        return SimpleNamespace(state=0, inside=0, tgid=0, **members)


class FakeBpf:
    """Stands for bcc.BPF."""

    lacks: frozenset[bytes] = frozenset()

    def __init__(self, text: bytes) -> None:
        self.text, self.cleaned = text, False
        self.probes: list[tuple[bytes, bytes]] = []
        self.frames = {1: [9, 10, 11], 2: [20]}
        tables = {"spent": {}, "stacks": {}, "tasks": Tasks(), "call": {}}
        self.tables: dict[str, Any] = tables | {"frames": SimpleNamespace(walk=self.frames.__getitem__)}

    def __getitem__(self, name: bytes) -> Any:
        if name == b"spent":
            return SpentByKind(self.tables["spent"])
        return self.tables[name.decode()]

    def ksymname(self, name: bytes) -> int:
        return -1 if name in self.lacks else 1

    def attach_kprobe(self, *, event: bytes, fn_name: bytes) -> None:
        self.probes.append((event, fn_name))

    attach_kretprobe = attach_kprobe

    def ksym(self, address: int) -> bytes:
        return b"__schedule" if address == 9 else b"kernel_%d" % address

    def sym(self, address: int, tgid: int) -> bytes:
        return b"user_%d_%d" % (address, tgid)

    def cleanup(self) -> None:
        self.cleaned = True


class SpentByKind:
    def __init__(self, given: dict[int, int]) -> None:
        self.given = given

    def __getitem__(self, key: Any) -> Any:
        return SimpleNamespace(value=self.given.get(key.value, 0))


@pytest.fixture
def bcc(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("bcc")
    module.BPF = FakeBpf  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bcc", module)
    monkeypatch.setattr(task_time, "check", lambda: None)
    return module


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("agentcg.cgroup.node.fs_type", lambda fd: CGROUP2_SUPER_MAGIC)
    (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 5\nthrottled_usec 1000000\n")
    (tmp_path / "cgroup.threads").write_text("")
    return tmp_path


def test_the_programs_and_python_name_the_same_kinds() -> None:
    (body,) = re.findall(r"enum kind \{(.*?)\}", task_time._source().decode())
    names = [name.strip().removeprefix("IN_") for name in body.split(",")]
    assert names == [*(kind.name for kind in Kind), "KINDS"]
    (body,) = re.findall(r"enum inside \{(.*?)\}", task_time._source().decode())
    assert dict(re.findall(r"(\w+) = (\d+)", body)) == {
        name: str(getattr(task_time, f"_{name}")) for name in ("FROZEN", "RECLAIM", "THROTTLED", "IO")
    }


def test_without_bcc_it_says_which_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", none)
    before = list(sys.path)
    with pytest.raises(Unsupported, match="no bcc") as caught:
        load_bcc()
    assert "python3-bpfcc" in caught.value.hint
    assert sys.path == before


def test_another_package_of_that_name_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bcc", ModuleType("bcc"))
    monkeypatch.setattr(task_time, "_DISTRIBUTION", "/no-such-folder")
    with pytest.raises(Unsupported, match="no bcc"):
        load_bcc()


def test_without_headers_it_says_which_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_time, "load_bcc", lambda: None)
    monkeypatch.setattr("os.path.exists", lambda path: False)
    with pytest.raises(Unsupported, match="headers of the running kernel") as caught:
        check()
    assert caught.value.hint == f"apt install linux-headers-{os.uname().release}"


def test_only_root_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_time, "load_bcc", lambda: None)
    monkeypatch.setattr("os.path.exists", lambda path: True)
    monkeypatch.setattr("os.geteuid", lambda: 7)
    with pytest.raises(Unsupported, match="root's to load"):
        check()


@pytest.mark.usefixtures("bcc")
def test_what_bcc_refuses_is_said_and_nothing_is_left(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(text: bytes) -> None:
        raise Exception("Failed to compile BPF module <text>")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(sys.modules["bcc"], "BPF", refuse)
    with pytest.raises(Unsupported, match="Failed to compile"):
        TaskTime("t/s/c", str(cgroup))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("bcc")
def test_a_call_that_is_over_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(AgentcgError, match="t/s/c is over"):
        TaskTime("t/s/c", str(tmp_path / "gone"))


@pytest.mark.usefixtures("bcc")
def test_functions_that_a_kernel_lacks_are_left_out(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeBpf, "lacks", frozenset((b"mem_cgroup_handle_over_high", b"cgroup_leave_frozen")))
    with TaskTime("t/s/c", str(cgroup)) as watched:
        probes = watched._bpf.probes
    assert (b"__mem_cgroup_handle_over_high", b"enter_throttled") in probes
    assert (b"__mem_cgroup_handle_over_high", b"leave_throttled") in probes
    assert {event for event, _ in probes}.isdisjoint(FakeBpf.lacks)


@pytest.mark.usefixtures("bcc")
@pytest.mark.parametrize("frozen", [0, 1])
def test_tasks_that_are_there_already_count_from_the_beginning(cgroup: Path, frozen: int) -> None:
    (cgroup / "cgroup.events").write_text(f"populated 1\nfrozen {frozen}\n")
    (cgroup / "below").mkdir()
    (cgroup / "below/cgroup.threads").write_text(f"{os.getpid()}\n4194305\n")  # The second has ended.
    with TaskTime("t/s/c", str(cgroup)) as watched:
        time.sleep(0.05)
        seen = watched.look(1)
        bpf = watched._bpf
    assert bpf.cleaned
    assert seen.tasks == 1
    assert seen.spent[Kind.RUN] > 0.04  # This test runs.
    assert seen.stacks == ()


@pytest.mark.usefixtures("bcc")
def test_ended_states_and_those_that_go_on_are_added(cgroup: Path) -> None:
    with TaskTime("t/s/c", str(cgroup)) as watched:
        bpf = watched._bpf
        bpf.tables["spent"] = {int(Kind.RUN): 2 * SECOND, int(Kind.THROTTLED): SECOND}
        now = time.monotonic_ns()
        at = {"tgid": 5, "user_stack": 2, "kernel_stack": 1}
        for tid, state, inside in ((1, 0, 2), (2, 1, 0), (3, 2, 4), (4, 2, 8), (5, 2, 1), (6, 2, 0), (7, 0, 0)):
            bpf[b"tasks"][Key(tid)] = SimpleNamespace(since=now - 3 * SECOND, state=state, inside=inside, **at)
        for user in (2, -1):
            where = SimpleNamespace(kind=int(Kind.THROTTLED), kernel=1, user=user, tgid=5)
            bpf[b"stacks"][user] = (where, SimpleNamespace(ns=SECOND, count=3))
        bpf.tables["stacks"] = SimpleNamespace(items=lambda given=dict(bpf[b"stacks"]): given.values())
        (cgroup / "cpu.stat").write_text("throttled_usec 1500000\n")
        seen = watched.look(2)
    expected = {
        Kind.RUN: 5,
        Kind.QUEUE: 3,
        Kind.RECLAIM: 3,
        Kind.THROTTLED: 4,
        Kind.IO: 3,
        Kind.FROZEN: 3,
        Kind.SLEEP: 3,
    }
    assert {kind: round(seconds) for kind, seconds in seen.spent.items()} == expected
    assert (seen.tasks, seen.cpu_max_seconds, seen.ended) == (7, 0.5, False)
    first = seen.stacks[0]
    assert (first.kind, round(first.seconds), first.count) == (Kind.THROTTLED, 4, 4)
    assert first.frames == ("kernel_10", "kernel_11", "user_20_5")
    assert len(seen.stacks) == 2


@pytest.mark.usefixtures("bcc")
def test_a_call_that_is_gone_is_over(cgroup: Path) -> None:
    with TaskTime("t/s/c", str(cgroup)) as watched:
        assert not watched.over
        (cgroup / "cgroup.events").unlink()
        (cgroup / "cpu.stat").unlink()
        assert watched.over
        assert watched.look().cpu_max_seconds is None
