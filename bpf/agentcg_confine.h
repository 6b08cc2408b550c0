/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The whole ABI between agentcg_confine.bpf.c and agentcg/kernel/confine.py, which mirrors it; a test compares the two
 * by BTF. Every member has a fixed width and is aligned to it, so there is no hidden padding.
 */
#ifndef AGENTCG_CONFINE_H
#define AGENTCG_CONFINE_H

/* What a task of a call was refused. */
enum agentcg_confine_kind {
	AGENTCG_CONFINE_FILE = 0, /* to open a control file of a cgroup that is not its call's for writing */
	AGENTCG_CONFINE_DIRECTORY = 1, /* to make or remove a cgroup below one that is not its call's */
	AGENTCG_CONFINE_CLONE = 2, /* to have a child born in a cgroup that it names */
	AGENTCG_CONFINE_TRACE = 3, /* to trace, or to change the memory of, a task that is not in its call */
	AGENTCG_CONFINE_UNREADABLE = 4, /* to change a cgroup that could not be told: impossible */
	AGENTCG_CONFINE_KINDS,
};

/* Read-only data, set before the programs are loaded. */
struct agentcg_confine_config {
	__u32 call_level; /* the depth of calls, 0 for the top of the hierarchy */
	__u32 trace_seen; /* the program that sees every refused trace is loaded */
};

/* Value of the hash map `calls`, keyed by cgroup id: how often a call was refused something. User space makes it. */
struct agentcg_confine_refused {
	__u64 kind[AGENTCG_CONFINE_KINDS];
};

#endif
