// SPDX-License-Identifier: GPL-2.0-only
/*
 * agentcg_confine: a call stays in its cgroup and leaves the tasks outside it alone, and what it tries is counted.
 *
 * To the kernel a cgroup is no fence: whoever may write to a cgroup.procs moves there, and whoever has the same uid may
 * trace. So a call that runs as root of the host could leave its limits, and any call reach into its neighbour. Here
 * LSM programs refuse that with EPERM, after the kernel's own permission checks, and whatever rights the task has:
 *
 *	hook			refused					kind
 *	file_open		to open a file of a cgroup outside	FILE
 *				the call for writing
 *	inode_mkdir, _rmdir	to make or remove a cgroup outside	DIRECTORY
 *	task_alloc		clone3 with CLONE_INTO_CGROUP		CLONE
 *	ptrace_access_check	ptrace, process_vm_readv and _writev,	TRACE
 *				/proc/PID/mem, pidfd_getfd on a task
 *				outside
 *
 * User space puts the cgroup id of each call into the map `calls`, before anything runs in it. A task is in a call if
 * its ancestor at call_level is there, so a cgroup that it makes below its own is still the call; "outside" is every
 * cgroup, and every task in one, whose own ancestor at that level is another. Everybody else, the daemon and agents
 * among them, is left after one comparison, or after one look into the map.
 *
 * The kernel's own checks come first, and what they refuse no LSM program sees. Two more programs only count that:
 * fexit of kernfs_iop_permission (EACCES: FILE, DIRECTORY), and of __ptrace_may_access (EPERM: TRACE), which sees what
 * the LSM program refuses as well and then counts in its place. Where a kernel has one of them not, it is left out.
 *
 * A worked example. The root is /agentcg, at depth 1, so calls are at depth 6: .../s/calls/a (601) and .../s/calls/b
 * (602) are in the map. A shell in /agentcg/shared/t/s/calls/a/own runs as root, and says
 * `echo 0 > /sys/fs/cgroup/cgroup.procs`. The file's mode lets root in. file_open: the mode has FMODE_WRITE, the file
 * system is a cgroup2, the task's ancestor at depth 6 is 601, which is in the map; the file is in the top, which has no
 * ancestor at depth 6. EPERM, and kind[FILE] of 601 is 1. The same shell may write to .../calls/a/cgroup.procs, and to
 * whatever it makes below that. As uid 1000 it gets the kernel's own EACCES, and kind[FILE] is 1 as well.
 *
 * Cost. file_open is run for every open(2) of the host: one load and a branch where it is not for writing, two loads
 * more where it is. The others are rare.
 *
 * Known limits:
 * - What is open stays open: a task that holds a descriptor of a cgroup.procs, since it was passed one or from before
 *   it entered the call, may write to it.
 * - A call that root of the host runs in may write to its own leaf: raise its limits up to its session's, and move
 *   others in. It may kill the daemon, with whom these programs go, load programs of its own, change owners and
 *   attributes of cgroups, and have somebody outside work for it: a service, a container engine's daemon, a kernel
 *   helper such as core_pattern's.
 * - Signals, priorities and resource limits are as free as the kernel has them, and so is reading /proc.
 * - CLONE_INTO_CGROUP is refused whatever cgroup is meant: when task_alloc is called that is not known yet.
 * - A file that is opened with O_CREAT by who may not write to its directory may be counted as two.
 * - A program of fexit that is interrupted on its CPU by a task that runs into the same one is not run for the second
 *   (bpf_prog->active): something may be refused and not counted. LSM programs are always run.
 * - Depths are those of the initial cgroup namespace.
 */
#include <linux/errno.h>

#include "compat.h"

#include "agentcg_confine.h"

char _license[] SEC("license") = "GPL";

const volatile struct agentcg_confine_config config = {
	.call_level = 6,
};

/* No code has a type that names it, so that BTF would be without it: a test compares it with user space's. */
const volatile enum agentcg_confine_kind abi_kind __attribute__((used)) = 0;

/* From the kernel's headers: linux/magic.h, linux/fs.h, linux/kernfs.h, linux/ptrace.h, linux/sched.h. */
#define CGROUP2_SUPER_MAGIC 0x63677270
#define FMODE_WRITE 0x2
#define MAY_WRITE 0x2
#define MAY_ACCESS 0x10
#define KERNFS_DIR 0x1
#define PTRACE_MODE_ATTACH 0x2
#define CLONE_INTO_CGROUP 0x200000000ULL

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct agentcg_confine_refused);
} calls SEC(".maps");

struct call {
	__u64 id;
	struct agentcg_confine_refused *refused;
};

/* Is the current task in a call that user space has told of? */
static __always_inline bool current_call(struct call *ret)
{
	ret->id = bpf_get_current_ancestor_cgroup_id(config.call_level);
	ret->refused = bpf_map_lookup_elem(&calls, &ret->id);
	return ret->refused;
}

static __always_inline bool is_outside(const struct call *call, struct cgroup *cgrp)
{
	return ancestor_id(cgrp, config.call_level) != call->id;
}

static __always_inline int refuse(const struct call *call, enum agentcg_confine_kind kind)
{
	__sync_fetch_and_add(&call->refused->kind[kind], 1);
	return -EPERM;
}

/* Control files */

static __always_inline bool is_cgroup(struct inode *inode)
{
	return inode->i_sb->s_magic == CGROUP2_SUPER_MAGIC;
}

/* Refuse to change what is in a cgroup outside the call; the inode is the cgroup's directory, or a file in it. */
static __always_inline int check_change(struct inode *inode)
{
	enum agentcg_confine_kind kind = AGENTCG_CONFINE_DIRECTORY;
	struct kernfs_node *node;
	struct cgroup *cgrp;
	struct call call;

	if (!current_call(&call))
		return 0;
	node = BPF_CORE_READ(inode, i_private);
	if (!(BPF_CORE_READ(node, flags) & KERNFS_DIR)) {
		kind = AGENTCG_CONFINE_FILE;
		node = kernfs_parent(node);
	}
	cgrp = BPF_CORE_READ(node, priv);
	if (!cgrp)
		return refuse(&call, AGENTCG_CONFINE_UNREADABLE);
	return is_outside(&call, cgrp) ? refuse(&call, kind) : 0;
}

SEC("lsm/file_open")
int BPF_PROG(confine_open, struct file *file)
{
	if (!(file->f_mode & FMODE_WRITE) || !is_cgroup(file->f_inode))
		return 0;
	return check_change(file->f_inode);
}

SEC("lsm/inode_mkdir")
int BPF_PROG(confine_mkdir, struct inode *parent)
{
	return is_cgroup(parent) ? check_change(parent) : 0;
}

SEC("lsm/inode_rmdir")
int BPF_PROG(confine_rmdir, struct inode *parent)
{
	return is_cgroup(parent) ? check_change(parent) : 0;
}

SEC("fexit/kernfs_iop_permission")
int BPF_PROG(refused_change, void *idmap, struct inode *inode, int mask, int result)
{
	/* MAY_ACCESS: access(2), which only asks. */
	if (result == -EACCES && (mask & (MAY_WRITE | MAY_ACCESS)) == MAY_WRITE && is_cgroup(inode))
		check_change(inode);
	return 0;
}

/* Tasks */

SEC("lsm/task_alloc")
int BPF_PROG(confine_clone, struct task_struct *task, __u64 flags)
{
	struct call call;

	if (!(flags & CLONE_INTO_CGROUP) || !current_call(&call))
		return 0;
	return refuse(&call, AGENTCG_CONFINE_CLONE);
}

/* Is a task outside the current one's call about to be traced? */
static __always_inline bool traces_outside(struct call *call, struct task_struct *task, unsigned int mode)
{
	return mode & PTRACE_MODE_ATTACH && current_call(call) &&
	       is_outside(call, BPF_CORE_READ(task, cgroups, dfl_cgrp));
}

SEC("lsm/ptrace_access_check")
int BPF_PROG(confine_trace, struct task_struct *task, unsigned int mode)
{
	struct call call;

	if (!traces_outside(&call, task, mode))
		return 0;
	return config.trace_seen ? -EPERM : refuse(&call, AGENTCG_CONFINE_TRACE);
}

SEC("fexit/__ptrace_may_access")
int BPF_PROG(refused_trace, struct task_struct *task, unsigned int mode, int result)
{
	struct call call;

	if (result && traces_outside(&call, task, mode))
		refuse(&call, AGENTCG_CONFINE_TRACE);
	return 0;
}
