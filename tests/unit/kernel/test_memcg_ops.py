# SPDX-License-Identifier: Apache-2.0
"""Whether a kernel's types are those that the memory controller's operations are written for."""

import ctypes
from pathlib import Path

import pytest

from agentcg.errors import Unsupported
from agentcg.kernel import build_bpf, memcg_ops
from agentcg.kernel.libbpf import Object, library

HEAD = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct mem_cgroup;
"""
RFC6 = """
struct memcg_bpf_ops {
	void (*handle_cgroup_online)(struct mem_cgroup *memcg);
	void (*handle_cgroup_offline)(struct mem_cgroup *memcg);
	_Bool (*below_low)(struct mem_cgroup *memcg);
	_Bool (*below_min)(struct mem_cgroup *memcg);
	unsigned int (*get_high_delay_ms)(struct mem_cgroup *memcg);
};
"""
RFC7 = """
struct memcg_bpf_ops {
	_Bool (*below_low)(struct mem_cgroup *memcg);
	_Bool (*below_min)(struct mem_cgroup *memcg);
	unsigned int (*memcg_charged)(struct mem_cgroup *memcg, unsigned int nr_pages);
	void (*memcg_uncharged)(struct mem_cgroup *memcg, unsigned int nr_pages);
};
"""
NONE = "struct memcg_bpf_ops_of_another_kind { int below_low; int get_high_delay_ms; };"


@pytest.fixture
def types(tmp_path):
    """Return the types of a kernel that has this in its headers."""
    opened = []

    def make(text):
        name = text.split()[1]
        (tmp_path / "kernel.bpf.c").write_text(f"{HEAD}{text}\nstruct {name} used = {{}};\n")
        try:
            library()
            opened.append(Object.open(build_bpf.build(tmp_path, tmp_path)[0]))
        except Unsupported as error:
            pytest.skip(str(error))
        return opened[-1].btf

    yield make
    for one in opened:
        one.close()


def test_the_members_that_are_needed_are_enough(types):
    memcg_ops.check_types(types(RFC6))


def test_another_version_of_the_structure_is_left_alone(types):
    with pytest.raises(Unsupported, match=r"memcg_bpf_ops has no get_high_delay_ms \(it is of another version"):
        memcg_ops.check_types(types(RFC7))


def test_a_kernel_without_it_says_that_none_has_it(types):
    with pytest.raises(Unsupported, match=r"no struct memcg_bpf_ops \(no released kernel"):
        memcg_ops.check_types(types(NONE))


def test_this_kernel_or_this_libbpf_is_refused_before_anything_is_opened():
    with pytest.raises(Unsupported):
        memcg_ops.MemcgOps(-1, -1)


def test_both_sides_have_the_same_structures(tmp_path):
    sources = Path(build_bpf.__file__).parents[2] / "bpf"
    for name in ("agentcg_memcg.bpf.c", "agentcg_memcg.h", "compat.h"):
        (tmp_path / name).write_text((sources / name).read_text())
    try:
        library()
        (built,) = build_bpf.build(tmp_path, tmp_path)
    except Unsupported as error:
        pytest.skip(str(error))
    with Object.open(built) as one:
        fields = memcg_ops.Urgent._fields_
        assert one.btf.structure("agentcg_memcg_urgent") == {
            name: (getattr(memcg_ops.Urgent, name).offset, ctypes.sizeof(kind)) for name, kind in fields
        }
        assert set(one.btf.structure(memcg_ops.STRUCTURE)) == set(memcg_ops.MEMBERS)
        assert {program.section for program in one.programs.values()} == {
            f"struct_ops/{name}" for name in memcg_ops.MEMBERS
        }
