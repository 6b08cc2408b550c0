/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the programs here know of the kernel, and nothing more.
 *
 * Each type below names only the members that are read. preserve_access_index makes clang note every access by name,
 * and libbpf puts the running kernel's offsets in when it loads the object (CO-RE), so that one object fits kernels
 * whose structures differ. Members that a kernel renamed or moved are dealt with here, with the commit cited.
 */
#ifndef AGENTCG_COMPAT_H
#define AGENTCG_COMPAT_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernfs_node {
	struct kernfs_node *parent;
	unsigned short flags;
	__u64 id;
	void *priv;
};

/* Since v6.15 `parent` is `__parent`: commit 633488947ef6 ("kernfs: Use RCU to access kernfs_node::parent."). */
struct kernfs_node___rcu {
	struct kernfs_node *__parent;
};

struct super_block {
	unsigned long s_magic;
};

struct inode {
	struct super_block *i_sb;
	void *i_private;
};

struct file {
	unsigned int f_mode;
	struct inode *f_inode;
};

struct cgroup {
	int level;
	struct kernfs_node *kn;
	/* Before v6.1 it was `u64 ancestor_ids[]`: commit 7f203bc89eb6 ("cgroup: Replace cgroup->ancestor_ids[] with
	 * ->ancestors[]"). */
	struct cgroup *ancestors[1];
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct css_set {
	struct cgroup_subsys_state *subsys[1];
	struct cgroup *dfl_cgrp;
};

typedef struct {
	long counter;
} atomic_long_t;

struct page_counter {
	atomic_long_t usage;
	unsigned long high;
};

struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory;
};

struct cpumask;

typedef struct {
	int counter;
} atomic_t;

struct signal_struct {
	atomic_t live;
	int group_exit_code;
	unsigned int flags;
	unsigned int is_child_subreaper : 1; /* a bool in v7.3: read it as a bit field */
	int leader;
};

struct mm_struct {
	unsigned long arg_start;
	unsigned long arg_end;
};

struct sched_entity {
	__u64 sum_exec_runtime;
};

/* Since v6.12, where CONFIG_SCHED_CLASS_EXT is set. */
struct sched_ext_entity {
	__u32 flags;
	__u64 slice;
	__u64 dsq_vtime;
};

struct task_struct {
	unsigned int flags;
	unsigned int policy;
	int pid;
	int tgid;
	int exit_code;
	__u64 self_exec_id;
	unsigned int in_memstall : 1;
	unsigned int memcg_nr_pages_over_high;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct mm_struct *mm;
	const struct cpumask *cpus_ptr;
	struct css_set *cgroups;
	struct signal_struct *signal;
	struct sched_entity se;
	struct sched_ext_entity scx;
};

#pragma clang attribute pop

/* Its value depends on the kernel's configuration: ask with bpf_core_enum_value. */
enum cgroup_subsys_id {
	memory_cgrp_id = 4,
};

/* Element `index` of an array of pointers inside *base, whose index CO-RE could not relocate if it is not constant. */
#define read_element(base, array, index)                                                                          \
	({                                                                                                         \
		void *__element = NULL;                                                                            \
		bpf_probe_read_kernel(&__element, sizeof(__element),                                               \
				      (void *)(base) + bpf_core_field_offset(typeof(*(base)), array) +             \
					      (__u64)(index) * sizeof(void *));                                    \
		__element;                                                                                         \
	})

static __always_inline __u64 cgroup_id(struct cgroup *cgrp)
{
	return BPF_CORE_READ(cgrp, kn, id);
}

/* 0 if it is not so deep. */
static __always_inline __u64 ancestor_id(struct cgroup *cgrp, __u32 level)
{
	if (BPF_CORE_READ(cgrp, level) < (int)level)
		return 0;
	return cgroup_id(read_element(cgrp, ancestors, level));
}

static __always_inline struct kernfs_node *kernfs_parent(struct kernfs_node *node)
{
	struct kernfs_node___rcu *renamed = (void *)node;

	if (bpf_core_field_exists(renamed->__parent))
		return BPF_CORE_READ(renamed, __parent);
	return BPF_CORE_READ(node, parent);
}

#endif
