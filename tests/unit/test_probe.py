# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from agentcg.probe import probe

UNIFIED = "30 23 0:26 / {} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = "31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


@pytest.fixture
def host(tmp_path):
    """A host of which only what the test writes is there."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "cgroup").mkdir()

    def make(*, mounts: str, controllers: str = "", capabilities: int = 0, btf: bytes | None = None, libbpf="none.so"):
        (tmp_path / "proc/self/mountinfo").write_text(mounts.format(tmp_path / "cgroup"))
        (tmp_path / "proc/self/status").write_text(f"Name:\tx\nCapEff:\t{capabilities:016x}\n")
        (tmp_path / "cgroup/cgroup.controllers").write_text(controllers)
        if btf is not None:
            (tmp_path / "btf").write_bytes(btf)
        found = probe(proc=str(tmp_path / "proc"), btf=str(tmp_path / "btf"), libbpf=libbpf)
        return {rung.name: rung for rung in found}

    return make


def checks(rung):
    return {check.name: check for check in rung.checks}


def test_without_any_cgroup2_nothing_holds_and_the_first_rung_says_how(host):
    ladder = host(mounts="")
    assert not ladder["observe"].holds
    assert "mount -t cgroup2" in checks(ladder["observe"])["cgroup v2"].fix
    assert not ladder["cgroup"].holds


def test_controllers_held_by_v1_are_told_from_missing_ones(host):
    ladder = host(mounts=UNIFIED + HYBRID, controllers="hugetlb")
    assert ladder["observe"].holds
    assert not ladder["cgroup"].holds
    found = checks(ladder["cgroup"])
    assert found["memory controller"].found == "held by cgroup v1"
    assert "unified_cgroup_hierarchy" in found["memory controller"].fix
    assert found["pids controller"].found == "not available"
    assert "cgroup.subtree_control" in found["pids controller"].fix


def test_a_folder_that_is_no_cgroup_is_not_taken_for_one(host, tmp_path):
    ladder = host(mounts=UNIFIED, controllers="cpu io memory pids")
    assert not ladder["cgroup"].holds
    assert not checks(ladder["cgroup"])["making a cgroup"].holds
    assert sorted(Path(tmp_path, "cgroup").iterdir()) == [tmp_path / "cgroup/cgroup.controllers"]


def test_rungs_of_bpf_come_from_the_types_of_the_kernel_and_the_rights_of_the_process(host):
    hooks = b"\0__mem_cgroup_handle_over_high\0mem_cgroup_out_of_memory\0"
    without = host(mounts=UNIFIED, btf=hooks)
    assert not without["events"].holds
    assert checks(without["events"])["CAP_BPF"].fix == "run as root"
    with_bpf = host(mounts=UNIFIED, btf=hooks, capabilities=1 << 39 | 1 << 38)
    found = checks(with_bpf["events"])
    assert found["BTF"].holds
    assert found["CAP_BPF"].holds
    assert found["memory hooks"].found == "no reclaim, stall, oom kill"
    assert not with_bpf["scheduler"].holds
    assert not with_bpf["memcg-ops"].holds
    assert host(mounts=UNIFIED, btf=b"\0memcg_bpf_ops\0", capabilities=1 << 21)["memcg-ops"].holds


def test_without_libbpf_no_events_come_from_the_kernel_and_the_fix_is_named(host):
    ladder = host(mounts=UNIFIED, btf=b"\0__oom_kill_process\0", capabilities=1 << 21)
    assert not ladder["events"].holds
    assert "libbpf1" in checks(ladder["events"])["libbpf"].fix


def test_a_name_that_is_only_part_of_another_does_not_count(host):
    ladder = host(mounts=UNIFIED, btf=b"\0not_memcg_bpf_ops_at_all\0", capabilities=1 << 21)
    assert not ladder["memcg-ops"].holds


def test_a_kernel_without_type_information_says_so(host):
    ladder = host(mounts=UNIFIED, capabilities=1 << 21)
    assert "CONFIG_DEBUG_INFO_BTF" in checks(ladder["events"])["BTF"].fix
