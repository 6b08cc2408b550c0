# SPDX-License-Identifier: Apache-2.0
"""libbpf by ctypes on a real kernel: maps, links, pins, struct_ops, and what the verifier says."""

import ctypes
import subprocess
import time
from pathlib import Path

import pytest

from agentcg.kernel import build_bpf
from agentcg.kernel.libbpf import BpfError, Object, kernel_btf

pytestmark = pytest.mark.kernel

HEAD = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
char _license[] SEC("license") = "GPL";
"""
BROKEN = 'SEC("tracepoint/sched/sched_switch") int wild(void *ctx) { return *(volatile int *)0x1234; }'
MAPS = """
const volatile int step = 1;
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, __u32); __type(value, __u64); }
hash SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u32); }
cpus SEC(".maps");
SEC("tracepoint/sched/sched_switch") int tick(void *ctx)
{
	__u32 key = 0, *count = bpf_map_lookup_elem(&cpus, &key);
	if (count)
		*count += step;
	return 0;
}
SEC("tracepoint/no/such_event") int nowhere(void *ctx) { return 0; }
"""
OPS = """
struct sock;
struct tcp_congestion_ops {
	__u32 (*ssthresh)(struct sock *);
	void (*cong_avoid)(struct sock *, __u32, __u32);
	__u32 (*undo_cwnd)(struct sock *);
	char name[16];
};
SEC("struct_ops") __u32 BPF_PROG(ssthresh, struct sock *sk) { return 2; }
SEC("struct_ops") void BPF_PROG(cong_avoid, struct sock *sk, __u32 ack, __u32 acked) {}
SEC("struct_ops") __u32 BPF_PROG(undo_cwnd, struct sock *sk) { return 2; }
SEC(".struct_ops.link") struct tcp_congestion_ops trial = {
	.ssthresh = (void *)ssthresh, .cong_avoid = (void *)cong_avoid, .undo_cwnd = (void *)undo_cwnd, .name = "agentcg",
};
"""


@pytest.fixture
def opened(tmp_path):
    """Compile and open a source."""
    objects = []

    def make(source):
        (tmp_path / "one.bpf.c").write_text(HEAD + source)
        objects.append(Object.open(build_bpf.build(tmp_path, tmp_path / "out")[0]))
        return objects[-1]

    yield make
    for one in objects:
        one.close()


def test_a_program_that_the_verifier_refuses_comes_back_with_its_log(opened):
    with pytest.raises(BpfError, match=r"(?s)loading BPF object one.*invalid mem access") as caught:
        opened(BROKEN).load()
    assert "BEGIN PROG LOAD LOG" in caught.value.log
    assert caught.value.errno


def test_maps_programs_and_links(opened, tmp_path):
    one = opened(MAPS)
    one.set_rodata("step", 1000)
    one.load()
    table = one.map("hash", ctypes.c_uint64)
    assert table.get(7) is None
    assert not table.delete(7)
    for key in range(5):
        table.set(key, ctypes.c_uint64(key << 40))
    assert table.delete(3)
    assert {key: values[0].value for key, values in table.items()} == {key: key << 40 for key in (0, 1, 2, 4)}
    for key in range(5, 9):
        table.set(key, ctypes.c_uint64(1))
    with pytest.raises(BpfError, match="writing map hash, key 99"):
        table.set(99, ctypes.c_uint64(1))

    counts = one.map("cpus", ctypes.c_uint32)
    counts.set(0, ctypes.c_uint32(7))
    assert {value.value for value in counts.get_all(0)} == {7}
    link = one.programs["tick"].attach()
    subprocess.run(["true"], check=True)
    link.destroy()
    counted = [value.value for value in counts.get_all(0)]
    assert max(counted) > 1000
    assert all(count % 1000 == 7 for count in counted)
    link.destroy()

    with pytest.raises(BpfError, match=r"(?s)attaching nowhere to tracepoint/no/such_event.*no/such_event") as caught:
        one.programs["nowhere"].attach()
    assert caught.value.errno == 2


def test_a_pinned_struct_ops_outlives_its_object_until_it_is_unlinked(opened):
    def known():
        return "agentcg" in Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()

    mount = Path("/sys/fs/bpf")
    if not mount.is_mount():
        subprocess.run(["mount", "-t", "bpf", "bpf", mount], check=True)
    one = opened(OPS)
    one.load()
    link = one.map("trial", ctypes.c_uint64).attach_struct_ops()
    assert known()
    with pytest.raises(BpfError, match="pinning trial at /nowhere/at/all"):
        link.pin("/nowhere/at/all")
    link.pin(str(mount / "agentcg-trial"))
    link.destroy()
    one.close()
    assert known()
    (mount / "agentcg-trial").unlink()
    deadline = time.monotonic() + 10
    while known():  # The kernel frees what nothing holds any more in the background.
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_functions_are_found_in_the_kernels_types():
    types = kernel_btf()
    assert types.has_function("schedule")
    assert not types.has_function("no_such_function")
    assert types.structure("kernfs_node")["id"][1] == 8
    types.close()
