/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The whole ABI between agentcg_memcg.bpf.c and agentcg/kernel/memcg_ops.py, which mirrors it; a test compares the two
 * by BTF.
 */
#ifndef AGENTCG_MEMCG_H
#define AGENTCG_MEMCG_H

/* The one value of the array `urgent`, written by user space alone. */
struct agentcg_memcg_urgent {
	__u64 until_ns; /* on CLOCK_MONOTONIC; nothing is done from then on */
	__u32 delay_ms; /* what the others wait at each charge; 0: nothing is urgent; the most is below */
	__u32 reserved;
};

/* As short as the holds of the scheduler, and for the same reason: a charge may be made with locks held. */
#define AGENTCG_MEMCG_DELAY_MAX_MS 50

#endif
