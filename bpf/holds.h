/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Until when a call is not to run, on CLOCK_MONOTONIC, by cgroup id; one map for the scheduler, which obeys it, and for
 * the programs on the memory paths, which write it. It has each call that the scheduler runs, at 0 as a rule, so that
 * others can tell which these are.
 */
#ifndef AGENTCG_HOLDS_H
#define AGENTCG_HOLDS_H

/* The key for all calls: no cgroup has this id. */
#define AGENTCG_HOLD_ALL 0

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u64);
} holds SEC(".maps");

#endif
