# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import pytest

from agentcg import native
from agentcg import probe as module
from agentcg.kernel import executions, oomd, sys
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
        paths = {name: str(tmp_path / name) for name in ("proc", "btf", "sched_ext")}
        found = probe(**paths, libbpf=libbpf)
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
    assert found["memory hooks"].found == "no reclaim, stall, oom kill, growing"
    assert not with_bpf["scheduler"].holds
    assert not with_bpf["memcg-ops"].holds
    members = b"\0memcg_bpf_ops\0below_low\0"
    assert host(mounts=UNIFIED, btf=members + b"get_high_delay_ms\0", capabilities=1 << 21)["memcg-ops"].holds
    other = host(mounts=UNIFIED, btf=members, capabilities=1 << 21)["memcg-ops"]
    assert not other.holds
    assert other.checks[0].found == "in BTF, without get_high_delay_ms"


def test_without_libbpf_no_events_come_from_the_kernel_and_the_fix_is_named(host):
    ladder = host(mounts=UNIFIED, btf=b"\0__oom_kill_process\0", capabilities=1 << 21)
    assert not ladder["events"].holds
    assert "libbpf1" in checks(ladder["events"])["libbpf"].fix


def test_transparent_sessions_need_somebody_who_lets_go_on_what_was_stopped(host, monkeypatch, tmp_path):
    monkeypatch.setattr(native, "BIN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(executions, "_INITIAL_PID_NAMESPACE", os.stat("/proc/self/ns/pid").st_ino)
    found = checks(host(mounts=UNIFIED, btf=b"\0", capabilities=1 << 21)["transparent"])
    assert all(check.needed and (check.holds or check.fix) for check in found.values())
    assert not found["guard"].holds
    assert found["pid namespace"].found == "the host's"
    monkeypatch.setattr(executions, "_INITIAL_PID_NAMESPACE", 1)
    found = checks(host(mounts=UNIFIED, btf=b"\0", capabilities=1 << 21)["transparent"])
    assert "--pid=host" in found["pid namespace"].fix


def test_a_name_that_is_only_part_of_another_does_not_count(host):
    ladder = host(mounts=UNIFIED, btf=b"\0not_memcg_bpf_ops_at_all\0", capabilities=1 << 21)
    assert not ladder["memcg-ops"].holds


def test_a_kernel_without_type_information_says_so(host):
    ladder = host(mounts=UNIFIED, capabilities=1 << 21)
    assert "CONFIG_DEBUG_INFO_BTF" in checks(ladder["events"])["BTF"].fix


def test_without_libbpf_nothing_limits_the_network_and_nothing_is_tried(host):
    rung = host(mounts=UNIFIED)["network"]
    assert not rung.holds
    assert "libbpf1" in checks(rung)["libbpf"].fix
    assert "loading them" not in checks(rung)


@pytest.mark.parametrize(
    ("ways", "holds", "found"),
    [
        ({"eth1": {"fq"}, "eth0": {"fq"}}, True, "eth0: fq, eth1: fq"),
        ({"eth1": {"fq", "htb"}, "eth0": {"fq"}}, False, "eth0: fq, eth1: fq and htb"),
        ({}, True, "no default route"),
    ],
)
def test_what_paces_is_fq_on_every_way_out_of_the_host(host, monkeypatch, ways, holds, found):
    monkeypatch.setattr(module, "ways_out", lambda: ways)
    check = checks(host(mounts=UNIFIED)["network"])["pacing by fq"]
    assert (check.holds, check.found, check.needed) == (holds, found, False)
    assert check.fix.startswith("" if holds else "tc qdisc replace dev eth1 root fq: ")


@pytest.fixture
def sched_ext(host, tmp_path, monkeypatch):
    """A host whose kernel has sched_ext, in a state that the test says; ``policies`` are those that were tried."""
    (tmp_path / "sched_ext/root").mkdir(parents=True)
    policies = []

    def make(state, ops=None):
        (tmp_path / "sched_ext/state").write_text(f"{state}\n")
        if ops is not None:
            (tmp_path / "sched_ext/root/ops").write_text(f"{ops}\n")
        return checks(host(mounts=UNIFIED, btf=b"\0sched_ext_ops\0", capabilities=1 << 21)["scheduler"])

    monkeypatch.setattr("os.sched_setscheduler", lambda pid, policy, param: policies.append(policy))
    make.policies = policies
    return make


def test_everything_that_the_scheduler_needs_is_looked_at(sched_ext):
    found = sched_ext("disabled")
    assert [name for name, check in found.items() if check.holds] == [
        *("BTF", "CAP_BPF", "sched_ext", "no other BPF scheduler", "SCHED_EXT policy"),
        *(["BPF programs"] if found["BPF programs"].holds else []),
    ]
    assert "libbpf1" in found["libbpf"].fix
    assert all(check.needed and (check.holds or check.fix) for check in found.values())
    assert sched_ext.policies == [7, 0]


def test_another_scheduler_is_named_and_our_own_is_none(sched_ext):
    other = sched_ext("enabled", "rusty_1.0")["no other BPF scheduler"]
    assert not other.holds
    assert other.found == "enabled: rusty_1.0"
    assert "stop the other BPF scheduler" in other.fix
    assert sched_ext("enabled", "agentcg")["no other BPF scheduler"].holds


def test_a_container_that_may_not_change_its_policy_is_told(sched_ext, monkeypatch):
    def refuse(pid, policy, param):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.sched_setscheduler", refuse)
    found = sched_ext("disabled")["SCHED_EXT policy"]
    assert not found.holds
    assert found.found == "Operation not permitted"
    assert "SYS_NICE" in found.fix


def test_a_kernel_without_sched_ext_is_not_asked_further(host):
    found = checks(host(mounts=UNIFIED, btf=b"\0sched_ext_ops\0", capabilities=1 << 21)["scheduler"])
    assert "CONFIG_SCHED_CLASS_EXT" in found["sched_ext"].fix
    assert "SCHED_EXT policy" not in found


def test_without_bpf_among_the_security_modules_calls_are_not_confined_and_the_fix_is_named(host, monkeypatch):
    def look(*modules):
        monkeypatch.setattr(sys, "security_modules", lambda: list(modules))
        return checks(host(mounts=UNIFIED, btf=b"\0", capabilities=1 << 21)["confine"])

    found = look(105)["BPF LSM"]
    assert found.needed
    assert not found.holds
    assert "lsm=" in found.fix
    assert look(105, sys.LSM_ID_BPF)["BPF LSM"].holds
    assert all(check.needed and (check.holds or check.fix) for check in look().values())


def test_what_is_missing_but_not_needed_does_not_take_the_rung_away(host, monkeypatch, tmp_path):
    monkeypatch.setattr(native, "BIN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "systemd_runs", lambda: False)
    found = checks(host(mounts=UNIFIED)["cgroup"])
    assert found["guard"].found.endswith("nor on PATH: nothing is frozen without it")
    assert "install a C compiler" in found["guard"].fix
    assert found["systemd-oomd tells first"].found == "systemd does not run here"
    assert not any(found[name].needed or found[name].holds for name in ("guard", "systemd-oomd tells first"))


def test_whether_systemd_oomd_tells_is_read_from_its_settings(host, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "systemd_runs", lambda: True)
    monkeypatch.setattr(module, "HOOKS", str(tmp_path / "hooks"))
    monkeypatch.setattr(module, "hook_timeout", lambda: None)
    found = checks(host(mounts=UNIFIED)["cgroup"])["systemd-oomd tells first"]
    assert not found.holds
    assert "PrekillHookTimeoutSec=2s" in found.fix
    monkeypatch.setattr(module, "hook_timeout", lambda: "2s")
    found = checks(host(mounts=UNIFIED)["cgroup"])["systemd-oomd tells first"]
    assert found.holds
    assert found.found == f"in {tmp_path}/hooks, and waits for 2s"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"usr/oomd.conf": "[OOM]\n#PrekillHookTimeoutSec=3\n"}, None),
        ({"usr/oomd.conf": "[OOM]\nPrekillHookTimeoutSec = 3\n"}, "3"),
        ({"usr/oomd.conf": "PrekillHookTimeoutSec=3", "etc/oomd.conf": "[OOM]\n"}, None),
        ({"etc/oomd.conf": "PrekillHookTimeoutSec=3", "usr/oomd.conf.d/9.conf": "PrekillHookTimeoutSec=0s"}, None),
        (
            {"usr/oomd.conf.d/9.conf": "PrekillHookTimeoutSec=4", "etc/oomd.conf.d/1.conf": "PrekillHookTimeoutSec=5"},
            "4",
        ),
        (
            {"usr/oomd.conf.d/9.conf": "PrekillHookTimeoutSec=4", "etc/oomd.conf.d/9.conf": "PrekillHookTimeoutSec=5"},
            "5",
        ),
    ],
)
def test_settings_of_systemd_oomd_follow_systemds_order(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert oomd.hook_timeout([str(tmp_path / "etc"), str(tmp_path / "usr")]) == expected
