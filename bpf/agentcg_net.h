/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The whole ABI between agentcg_net.bpf.c and agentcg/kernel/net.py, which mirrors it; a test compares the two by BTF.
 * Every member has a fixed width and is aligned to it, so there is no hidden padding.
 */
#ifndef AGENTCG_NET_H
#define AGENTCG_NET_H

/* Value of the cgroup storage `net_limits`. Zeros, with which the kernel makes it, let nothing out. */
struct agentcg_net_limit {
	__u64 rate; /* bytes a second that may be sent; 0: none */
	__u64 free_ns; /* when all that was sent so far would be gone at that rate, on CLOCK_MONOTONIC */
	struct bpf_spin_lock lock; /* of free_ns */
	__u32 reserved;
};

/* Value of the per-CPU cgroup storage `net_counters`. What goes over loopback is not counted. */
struct agentcg_net_counters {
	__u64 sent_bytes; /* of IP packets, with their headers */
	__u64 received_bytes;
	__u64 dropped_packets; /* above the rate, or sent to a call that may use none of the network */
	__u64 refused; /* connections, datagrams and packets of a call that may use none of the network */
};

#endif
