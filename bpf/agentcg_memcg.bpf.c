// SPDX-License-Identifier: GPL-2.0-only
/*
 * agentcg_memcg: while a protected session grows, the memory controller itself spares it and slows the others down.
 *
 * EXPERIMENTAL, AND NEVER RUN. It is written against an RFC that no kernel has: "[RFC PATCH bpf-next v6 00/12] mm:
 * memcontrol: Add BPF hooks for memory controller" (Hui Zhu, Roman Gushchin, 2026-02-04). It compiles, and user space
 * loads it only where BTF shows struct memcg_bpf_ops with the two members below; later versions of the RFC have others
 * (memcg_charged in the place of get_high_delay_ms), and there it is left alone.
 *
 *	member			attached to		what the kernel does with it
 *	below_low		the reserved group	true: the cgroup counts as below its memory.low, and is not reclaimed
 *	get_high_delay_ms	the shared group	so long does the task wait at the end of a charge
 *
 * Both are inherited by every cgroup below. User space writes `urgent` when it sees a protected session grow and does
 * not have to take it back: what is urgent ends by itself.
 *
 * A worked example. until_ns is now + 100 ms, delay_ms is 20. For 100 ms reclaim passes the reserved group by, however
 * low its memory.low; each task in the shared group that charges a batch of pages (64, or what it asks for at once)
 * then sleeps 20 ms, so that it grows by 12.5 MiB/s at most. Then all is as before.
 *
 * Known limits, from reading the RFC:
 * - get_high_delay_ms is asked at every charge that misses the per-CPU stock, whether memory.high is exceeded or not,
 *   and a task waits where it stands in the kernel, possibly with locks held: hence the short maximum. The kernel
 *   leaves out waits of 10 ms or less.
 * - A cgroup that claims to be below its memory.low is still reclaimed when nothing else is left.
 * - One struct of operations for a cgroup: who else has attached some there keeps us out, and the other way round.
 */
#include "compat.h"

#include "agentcg_memcg.h"

char _license[] SEC("license") = "GPL";

/* Of the kernel's structure, what is set here; libbpf finds each member by its name. */
struct memcg_bpf_ops {
	bool (*below_low)(struct mem_cgroup *memcg);
	unsigned int (*get_high_delay_ms)(struct mem_cgroup *memcg);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct agentcg_memcg_urgent);
} urgent SEC(".maps");

static __always_inline __u32 urgent_delay_ms(void)
{
	__u32 zero = 0;
	struct agentcg_memcg_urgent *found = bpf_map_lookup_elem(&urgent, &zero);

	if (!found || bpf_ktime_get_ns() >= found->until_ns)
		return 0;
	return found->delay_ms < AGENTCG_MEMCG_DELAY_MAX_MS ? found->delay_ms : AGENTCG_MEMCG_DELAY_MAX_MS;
}

SEC("struct_ops/below_low")
bool BPF_PROG(below_low, struct mem_cgroup *memcg)
{
	return urgent_delay_ms() != 0;
}

SEC("struct_ops/get_high_delay_ms")
unsigned int BPF_PROG(get_high_delay_ms, struct mem_cgroup *memcg)
{
	return urgent_delay_ms();
}

SEC(".struct_ops.link")
struct memcg_bpf_ops spared = {
	.below_low = (void *)below_low,
};

SEC(".struct_ops.link")
struct memcg_bpf_ops slowed = {
	.get_high_delay_ms = (void *)get_high_delay_ms,
};
