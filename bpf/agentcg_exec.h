/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The whole ABI between agentcg_exec.bpf.c and agentcg/kernel/executions.py, which mirrors it; a test compares the
 * two by BTF. Every member has a fixed width and is aligned to it, so there is no hidden padding.
 */
#ifndef AGENTCG_EXEC_H
#define AGENTCG_EXEC_H

#define AGENTCG_EXEC_NAME_BYTES 16 /* TASK_COMM_LEN: a longer name counts by its first 15 bytes */

/* What happened to a process that an agent started. */
enum agentcg_exec_kind {
	AGENTCG_EXEC_STOPPED = 0, /* it executed what is to be a call, and is stopped before its first instruction */
	AGENTCG_EXEC_ENDED = 1, /* one that was told as STOPPED has ended */
	AGENTCG_EXEC_KINDS,
};

/* Value of the map `programs`, keyed by a program's name: which of its executions are calls. */
enum agentcg_exec_match {
	AGENTCG_EXEC_ALWAYS = 0,
	AGENTCG_EXEC_WITH_COMMAND = 1, /* a shell's, with -c among its options */
	AGENTCG_EXEC_MATCHES,
};

/* Read-only data, set before the programs are loaded. */
struct agentcg_exec_config {
	__u32 new_session; /* 1: whatever leads a session of its own (setsid(2)) is a call */
};

/* Value of the map `agents`, keyed by the cgroup of an agent's own processes. */
struct agentcg_exec_agent {
	__u64 unmanaged; /* executions that should have been stopped, and were not for want of room */
};

/* One record of the ring buffer `events`. */
struct agentcg_exec_event {
	__u64 time_ns; /* when it was stopped, as in the map `stopped`, or ended; on CLOCK_MONOTONIC */
	__u64 cgroup_id; /* STOPPED: where it was, a key of `agents` */
	__u32 pid; /* the process (tgid), in the initial pid namespace */
	__u32 kind; /* enum agentcg_exec_kind */
	__u32 status; /* ENDED: as wait(2) has it */
	__u32 unused;
};

#endif
