# SPDX-License-Identifier: Apache-2.0
"""What the scheduler's face is, and how it steps down, without the right to load anything."""

import asyncio
import ctypes
import re
from pathlib import Path

import pytest

from agentcg.errors import Unsupported
from agentcg.kernel import build_bpf, sched, sched_abi, sched_check
from agentcg.kernel.libbpf import Object

SOURCES = Path(build_bpf.__file__).parents[2] / "bpf"


@pytest.fixture
def compiled(compiled_objects):
    return compiled_objects["agentcg_sched"]


@pytest.fixture
def kernel(tmp_path):
    """A kernel's sched_ext folder, with no scheduler loaded."""
    (tmp_path / "state").write_text("disabled\n")
    return tmp_path


def test_every_structure_of_the_header_has_its_mirror():
    header = (SOURCES / "agentcg_sched.h").read_text()
    assert set(re.findall(r"^struct (\w+) \{", header, re.M)) == set(sched_abi.STRUCTURES)


@pytest.mark.parametrize("name", sched_abi.STRUCTURES)
def test_python_and_c_agree_on_every_structure(compiled, name):
    ours = sched_abi.STRUCTURES[name]
    with Object.open(compiled) as one:
        assert one.btf.size(name) == ctypes.sizeof(ours)
        mine = {field: (getattr(ours, field).offset, getattr(ours, field).size) for field, _ in ours._fields_}
        assert one.btf.structure(name) == mine


@pytest.mark.parametrize(
    ("name", "prefix", "ours", "closed"),
    [
        ("agentcg_sched_class", "AGENTCG_SCHED_", sched_abi.Latency, False),
        ("agentcg_sched_kind", "AGENTCG_SCHED_", sched_abi.Kind, False),
        ("agentcg_sched_stat", "AGENTCG_SCHED_STAT_", sched_abi.Stat, True),
    ],
)
def test_python_and_c_agree_on_every_number(compiled, name, prefix, ours, closed):
    with Object.open(compiled) as one:
        theirs = one.btf.enumeration(name)
    if closed:
        assert theirs.pop("AGENTCG_SCHED_STATS") == len(ours)
    assert {key.removeprefix(prefix): value for key, value in theirs.items()} == {one.name: one.value for one in ours}


def test_the_bound_of_a_hold_and_the_capacity_are_those_of_the_program():
    source = (SOURCES / "agentcg_sched.bpf.c").read_text()
    assert f"#define HOLD_MAX_NS {round(sched.HOLD_MAX_SEC * 1e9)}ULL" in source
    sizes = re.findall(r"BPF_MAP_TYPE_HASH\);\n\t__uint\(max_entries, (\d+)\)", source)
    assert set(sizes) == {str(sched.CAPACITY)}


def test_a_kernel_without_sched_ext_is_named(tmp_path):
    with pytest.raises(Unsupported, match=r"this kernel has no sched_ext \(use one with CONFIG_SCHED_CLASS_EXT=y"):
        sched_check.check_kernel(tmp_path)


def test_another_scheduler_is_named(kernel):
    sched_check.check_kernel(kernel)
    (kernel / "state").write_text("enabled\n")
    (kernel / "root").mkdir()
    (kernel / "root/ops").write_text("lavd\n")
    with pytest.raises(Unsupported, match=r"another sched_ext scheduler is loaded \(lavd\)"):
        sched_check.check_kernel(kernel)
    (kernel / "root/ops").unlink()
    with pytest.raises(Unsupported, match="another sched_ext scheduler is loaded"):
        sched_check.check_kernel(kernel)


def start():
    async def main():
        sched.Scheduler(1, asyncio.get_running_loop(), print).close()

    asyncio.run(main())


def test_an_old_libbpf_is_named_before_anything_is_loaded(monkeypatch):
    def refuse(version, purpose):
        raise Unsupported(f"libbpf 1.1 is too old for {purpose}")

    monkeypatch.setattr(sched, "check_kernel", lambda: None)
    monkeypatch.setattr(sched, "require", refuse)
    with pytest.raises(Unsupported, match=r"libbpf 1\.1 is too old for sched_ext"):
        start()


def test_a_missing_object_says_how_to_build_it(monkeypatch, tmp_path):
    monkeypatch.setattr(sched, "check_kernel", lambda: None)
    monkeypatch.setattr(sched, "require", lambda *_: "1.5")
    monkeypatch.setattr(sched_check, "object_path", lambda name: tmp_path / f"{name}.bpf.o")
    with pytest.raises(Unsupported, match=r"no agentcg_sched\.bpf\.o in .*build_bpf"):
        start()


class _Types:
    def __init__(self, functions, flags):
        self._functions, self._flags = functions, flags

    def has_function(self, name):
        return name in self._functions

    def enumeration(self, name):
        return self._flags

    def close(self):
        pass


class _Programs:
    btf = _Types((), {"SCX_OPS_ENQ_LAST": 2, "SCX_OPS_SWITCH_PARTIAL": 8})


@pytest.mark.parametrize(
    ("functions", "flags", "message"),
    [
        ((), {}, r"no scx_bpf_dsq_insert_vtime \(use v6\.13"),
        (sched_check._FUNCTIONS, {"SCX_OPS_ENQ_LAST": 4, "SCX_OPS_SWITCH_PARTIAL": 8}, "another SCX_OPS_ENQ_LAST"),
        (sched_check._FUNCTIONS, {"SCX_OPS_ENQ_LAST": 2}, "another SCX_OPS_SWITCH_PARTIAL"),
    ],
)
def test_what_a_kernel_lacks_or_has_renumbered_is_named(monkeypatch, functions, flags, message):
    monkeypatch.setattr(sched_check, "kernel_btf", lambda: _Types(functions, flags))
    with pytest.raises(Unsupported, match=message):
        sched_check.check_types(_Programs)


def test_a_reason_reads_as_one_line_and_says_whether_it_failed():
    end = sched_abi.Exit(1026, 0, "runnable task stall", "sh[7] failed to run for 5.1s")
    assert str(end) == "runnable task stall: sh[7] failed to run for 5.1s"
    assert end.failed
    asked = sched_abi.Exit(64, 0, "unregistered from user space", "")
    assert (str(asked), asked.failed) == ("unregistered from user space", False)
