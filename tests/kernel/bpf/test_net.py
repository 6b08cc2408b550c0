# SPDX-License-Identifier: Apache-2.0
"""The network programs on a cgroup: beside those of others, and of another version of agentcg."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from agentcg.kernel import build_bpf
from agentcg.kernel.libbpf import BpfError, Object
from agentcg.kernel.net import Counters, NetworkPrograms

pytestmark = pytest.mark.kernel

SOURCES = Path(build_bpf.__file__).parents[2] / "bpf"
NAMES = ("net_connect4", "net_connect6", "net_egress", "net_ingress", "net_sendmsg4", "net_sendmsg6")


@pytest.fixture
def leaf(cgroup, objects):
    """A cgroup with its directory open, one below another."""
    child = cgroup.child("leaf")
    child.fd = os.open(child.path, os.O_RDONLY)
    yield child
    os.close(child.fd)


@pytest.fixture
def programs(objects):
    with_programs = NetworkPrograms()
    yield with_programs
    with_programs.close()


def attached(path):
    """Return the names and ids of the programs that are attached to a cgroup itself."""
    shown = subprocess.run(["bpftool", "-j", "cgroup", "show", str(path)], capture_output=True, check=True).stdout
    return sorted((one["name"], one["id"]) for one in json.loads(shown.strip() or b"[]"))


def test_they_are_on_the_cgroup_and_on_no_other_and_once(leaf, programs):
    assert programs.counters(leaf.id) is None
    for rate in (0, 1 << 20):
        programs.limit(leaf.fd, leaf.id, rate)
        assert tuple(name for name, _ in attached(leaf.path)) == NAMES
    assert attached(leaf.path.parent) == []
    assert programs.counters(leaf.id) == Counters(0, 0, 0, 0)


def test_a_cgroup_to_which_one_of_them_cannot_be_attached_is_as_before(leaf, programs, cgroup):
    programs.limit(leaf.fd, leaf.id, 0)
    other = cgroup.child("other")
    ids = dict(attached(leaf.path))
    # Without a flag it lets nobody below attach any: BPF_F_ALLOW_OVERRIDE in linux/bpf.h.
    subprocess.run(
        ["bpftool", "cgroup", "attach", str(other.path), "connect6", "id", str(ids["net_connect6"])], check=True
    )
    below = other.child("below")
    fd = os.open(below.path, os.O_RDONLY)
    try:
        with pytest.raises(BpfError, match=r"attaching net_connect6 as cgroup/connect6: Operation not permitted"):
            programs.limit(fd, below.id, 0)
    finally:
        os.close(fd)
    assert attached(below.path) == []
    assert programs.counters(below.id) is None


def test_the_next_process_finds_them_beside_those_of_others(leaf, programs, tmp_path):
    (tmp_path / "foreign.bpf.c").write_text(
        "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
        'SEC("cgroup_skb/egress") int foreign(struct __sk_buff *skb) { return 1; }\n'
    )
    with Object.open(build_bpf.build(tmp_path, tmp_path)[0]) as foreign:
        foreign.load()
        foreign.programs["foreign"].attach_cgroup(leaf.fd)
    programs.limit(leaf.fd, leaf.id, 0)
    programs.close()
    second = NetworkPrograms(beside=leaf.fd)
    try:
        assert second.counters(leaf.id) == Counters(0, 0, 0, 0)
        second.limit(leaf.fd, leaf.id, 1 << 20)
        assert [name for name, _ in attached(leaf.path)] == sorted((*NAMES, "foreign"))
    finally:
        second.close()


def test_maps_of_another_version_are_left_alone(leaf, objects, tmp_path):
    for source in SOURCES.glob("agentcg_net.*"):
        (tmp_path / source.name).write_text(source.read_text().replace("__u64 refused;", "__u64 refused, more;"))
    with Object.open(build_bpf.build(tmp_path, tmp_path)[0]) as other:
        other.load()
        for program in other.programs.values():
            program.attach_cgroup(leaf.fd)
    ours = NetworkPrograms(beside=leaf.fd)
    try:
        assert ours.counters(leaf.id) is None
    finally:
        ours.close()
