/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The whole ABI between agentcg_sched.bpf.c and agentcg/kernel/sched.py, which mirrors it; a test compares the two by
 * BTF. Every member has a fixed width and is aligned to it, so there is no hidden padding.
 */
#ifndef AGENTCG_SCHED_H
#define AGENTCG_SCHED_H

/* How soon a call needs a CPU. */
enum agentcg_sched_class {
	AGENTCG_SCHED_NORMAL = 0,
	AGENTCG_SCHED_INTERACTIVE = 1,
	AGENTCG_SCHED_BATCH = 2,
};

/* What a record of the ring buffer `events` tells. */
enum agentcg_sched_kind {
	AGENTCG_SCHED_ENTERED = 0, /* a task is in a known call and not yet SCHED_EXT: user space makes it so */
	AGENTCG_SCHED_LEFT = 1, /* a SCHED_EXT task was moved out of all known calls: user space takes that back */
	AGENTCG_SCHED_EXITED = 2, /* the scheduler has ended: `exits` says why */
};

/* Index into the per-CPU array `stats`. */
enum agentcg_sched_stat {
	AGENTCG_SCHED_STAT_IDLE = 0, /* wake-ups that got an idle CPU at once */
	AGENTCG_SCHED_STAT_QUEUED = 1, /* tasks put into the shared queue */
	AGENTCG_SCHED_STAT_INTERACTIVE = 2, /* tasks put into the interactive queue */
	AGENTCG_SCHED_STAT_PREEMPTED = 3, /* CPUs taken from a running task for an interactive one */
	AGENTCG_SCHED_STAT_DEMOTED = 4, /* times that a task of an interactive call was queued with the others */
	AGENTCG_SCHED_STAT_HELD = 5, /* tasks put aside because their call was on hold */
	AGENTCG_SCHED_STAT_RELEASED = 6, /* those that were put back */
	AGENTCG_SCHED_STAT_UNKNOWN = 7, /* tasks queued that belong to no known call */
	AGENTCG_SCHED_STAT_LOST = 8, /* records for which the ring buffer had no room */
	AGENTCG_SCHED_STATS,
};

/* Read-only data, set before the programs are loaded. Times in ns of CPU time, unless said otherwise. */
struct agentcg_sched_config {
	__u32 call_level; /* the depth of calls; tasks of cgroups below count as the call's */
	__u32 stall; /* for tests: 1 queues tasks and never runs them, until the watchdog ends the scheduler */
	__u64 normal_slice_ns;
	__u64 interactive_slice_ns;
	__u64 batch_slice_ns;
	__u64 credit_max_ns; /* what a session's interactive calls may use in one go */
	__u32 credit_percent; /* of one CPU: how fast that grows back */
	__u32 favour_unknown; /* 1: tasks of no known call are served first; for the switch of all tasks */
	__u32 cpus; /* how many there are */
	__u32 reserved;
};

/* Value of the hash map `calls`, keyed by cgroup id; written by user space alone. */
struct agentcg_sched_call {
	__u64 session; /* key into `groups`; 0 for none */
	__u64 tenant; /* the same */
	__u64 boost_until_ns; /* on CLOCK_MONOTONIC */
	__u32 weight; /* among the calls of the session */
	__u32 session_weight; /* among the sessions of the tenant */
	__u32 tenant_weight;
	__u32 boost_percent; /* of the weight, until boost_until_ns; 100 for none */
	__u32 latency; /* enum agentcg_sched_class */
	__u32 reserved;
};

/* Value of the hash map `flows`, keyed by cgroup id: what the scheduler knows of a call. User space adds it zeroed. */
struct agentcg_sched_flow {
	__u64 finish; /* virtual time at which what was queued so far is over */
	__u64 served; /* the same of what has run so far */
	__u64 counted; /* its weight as it is in the sum of its session */
	__s64 runnable; /* tasks that want a CPU */
	__u64 used_ns; /* CPU time used under this scheduler */
	__u64 hold_end_ns; /* of the hold that was granted last */
	__u64 hold_free_ns; /* none is granted before */
};

/* Value of the hash map `groups`: sessions and tenants, by keys that user space chooses. It adds it zeroed. */
struct agentcg_sched_group {
	__s64 sum; /* the weights of its children that have runnable tasks */
	__u64 counted; /* its weight as it is in the sum above */
	__s64 credit_ns; /* what its interactive calls may still use */
	__u64 credit_at_ns; /* when that was last topped up; 0 at first: it is full then */
	__u64 demoted; /* 1: the credit was used up and has not grown back to half of it */
};

/* One record of the ring buffer `events`. */
struct agentcg_sched_event {
	__u64 cgroup_id;
	__u32 pid; /* the thread, in the initial pid namespace; for a whole process that moved, its first */
	__u32 kind; /* enum agentcg_sched_kind */
	__u32 whole; /* 1: all threads of the process */
	__u32 reserved;
};

/* The one value of the array `exits`. */
struct agentcg_sched_exit {
	__s64 code;
	__u32 kind; /* the kernel's enum scx_exit_kind; 0: it has not ended */
	__u32 reserved;
	char reason[128];
	char message[1024];
};

#endif
