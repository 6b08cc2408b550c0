/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The whole ABI between agentcg_mem.bpf.c and agentcg/kernel/mem.py, which mirrors it; a test compares the two by BTF.
 * Every member has a fixed width and is aligned to it, so there is no hidden padding.
 */
#ifndef AGENTCG_MEM_H
#define AGENTCG_MEM_H

/* What a cgroup's task went through. */
enum agentcg_mem_kind {
	AGENTCG_MEM_OVER_HIGH = 0, /* charged beyond a memory.high, is about to be slowed down; sent at once */
	AGENTCG_MEM_THROTTLED = 1, /* was slowed down for that; sent at its end */
	AGENTCG_MEM_RECLAIM = 2, /* looked for memory to give back because a cgroup was short of it; sent at its end */
	AGENTCG_MEM_STALL = 3, /* waited for memory, as PSI counts it; sent at its end */
	AGENTCG_MEM_OOM = 4, /* hit a limit at which reclaim gave up: the OOM killer is about to choose */
	AGENTCG_MEM_OOM_KILL = 5, /* was chosen: it is about to be killed */
	AGENTCG_MEM_GROWING = 6, /* is protected, and its session grows; sent at once */
	AGENTCG_MEM_KINDS,
};

/* Index into the per-CPU array `stats`. */
enum agentcg_mem_stat {
	AGENTCG_MEM_STAT_SENT = 0, /* events put into the ring buffer */
	AGENTCG_MEM_STAT_LOST = 1, /* events for which it had no room */
	AGENTCG_MEM_STAT_HUSHED = 2, /* counted in the totals, but too short or too soon after the last to be sent */
	AGENTCG_MEM_STAT_UNTIMED = 3, /* beginnings for which there was no memory to note the time */
	AGENTCG_MEM_STAT_HELD = 4, /* times that a call, or all, were told to be held */
	AGENTCG_MEM_STATS,
};

/* Read-only data, set before the programs are loaded. */
struct agentcg_mem_config {
	__u64 root_id; /* only this cgroup and those below it are looked at */
	__u64 protected_id; /* the group of protected sessions, one below the root; 0: nobody is held for them */
	__u64 growth_bytes; /* a protected session that grows by so much within growth_us is GROWING; 0: none is */
	__u32 root_level; /* its depth, 0 for the top of the hierarchy */
	__u32 session_level; /* the depth of sessions */
	__u32 page_shift;
	__u32 over_high_gap_us; /* one OVER_HIGH a leaf in this time */
	__u32 throttled_min_us; /* shorter ones are counted, not sent */
	__u32 reclaim_min_us;
	__u32 stall_min_us;
	__u32 hold_us; /* how long a call is held in the map `holds`; 0 for not at all */
	__u32 growth_us; /* and one GROWING a session in this time */
	__u32 growth_hold_us; /* how long all calls are held when a protected session begins to grow; 0 for not at all */
};

/* One record of the ring buffer `events`. Ids are 0 where there is none. */
struct agentcg_mem_event {
	__u64 time_ns; /* of sending, on CLOCK_MONOTONIC */
	__u64 cgroup_id; /* the leaf: where the task lives */
	__u64 session_id; /* the leaf's ancestor at session_level */
	__u64 limit_id; /* whose memory.high or memory.max it was; GROWING: none */
	__u64 bytes; /* OVER_HIGH: charged since it last was called to account; RECLAIM: given back; GROWING: by so much */
	__u64 duration_us; /* THROTTLED, RECLAIM, STALL */
	__u32 pid; /* the process (tgid), in the initial pid namespace */
	__u32 kind; /* enum agentcg_mem_kind */
};

struct agentcg_mem_total {
	__u64 count;
	__u64 duration_us;
	__u64 bytes;
};

/* Value of the hash map `totals`, keyed by cgroup id: what happened in a leaf, or in all leaves of a session. */
struct agentcg_mem_totals {
	struct agentcg_mem_total kind[AGENTCG_MEM_KINDS];
	__u64 over_high_sent_ns; /* when OVER_HIGH was last sent */
};

#endif
