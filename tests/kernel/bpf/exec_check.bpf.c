// SPDX-License-Identifier: GPL-2.0-only
/*
 * An independent look at whether a process ran before it was moved out of its agent's cgroup, and for how long it stood.
 *
 * When a process executes `name` in a cgroup of `agents`, the registers with which it will enter user space are noted.
 * When it is moved, they are compared: the instruction and stack pointers, and orig_ax, which is the number of
 * execve(2) only until the next entry into the kernel, be it by a system call, a fault or an interrupt. If all are the
 * same, and the process is not on a CPU, it has been in the kernel ever since: it has not executed one instruction.
 *
 * Each program is there eight times, since a task that is preempted inside one has others on its CPU pass it by
 * (bpf_prog->active). What one has seen the next leave as it is.
 */
#include "../../../bpf/compat.h"

char _license[] SEC("license") = "GPL";

enum result {
	UNTOUCHED, /* were moved before their first instruction */
	RAN, /* were moved later */
	ON_CPU, /* were moved while they ran */
	LEFT, /* ended where they began */
	LONGEST_NS, /* from the execution to SIGCONT */
	RESULTS,
};

const volatile char name[16] = "sh";
/* No code has a type that names them. */
const volatile enum result abi_result __attribute__((used)) = 0;

/* x86-64 */
struct pt_regs___x86 {
	unsigned long orig_ax;
	unsigned long ip;
	unsigned long sp;
} __attribute__((preserve_access_index));

struct task_struct___cpu {
	int on_cpu; /* a byte in v7.3: read it as a bit field */
} __attribute__((preserve_access_index));

struct image {
	__u64 time_ns;
	__u64 ip;
	__u64 sp;
	__u64 orig_ax;
	__u64 moved;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u64);
	__type(value, __u64);
} agents SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct image);
} images SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RESULTS);
	__type(key, __u32);
	__type(value, __u64);
} results SEC(".maps");

#define PROGRAM(section, name, call, ...)                                                                          \
	SEC(section)                                                                                               \
	int BPF_PROG(name, ##__VA_ARGS__)                                                                          \
	{                                                                                                          \
		return call;                                                                                       \
	}
#define EIGHT(program) program(1) program(2) program(3) program(4) program(5) program(6) program(7) program(8)

static __always_inline void count(enum result result)
{
	__u32 index = result;
	__u64 *value = bpf_map_lookup_elem(&results, &index);

	if (value)
		__sync_fetch_and_add(value, 1);
}

static __always_inline void registers(struct task_struct *task, struct image *ret)
{
	struct pt_regs___x86 *regs = (void *)bpf_task_pt_regs(task);

	ret->ip = BPF_CORE_READ(regs, ip);
	ret->sp = BPF_CORE_READ(regs, sp);
	ret->orig_ax = BPF_CORE_READ(regs, orig_ax);
}

static __always_inline int executed(void)
{
	__u64 cgroup = bpf_get_current_cgroup_id();
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct image image = {.time_ns = bpf_ktime_get_ns()};
	char comm[16] = {};

	if (!bpf_map_lookup_elem(&agents, &cgroup))
		return 0;
	bpf_get_current_comm(comm, sizeof(comm));
	for (int i = 0; i < 16; i++)
		if (comm[i] != name[i])
			return 0;
	registers(bpf_get_current_task_btf(), &image);
	bpf_map_update_elem(&images, &pid, &image, BPF_NOEXIST);
	return 0;
}

#define EXECUTED(number) PROGRAM("tp_btf/sched_process_exec", executed_##number, executed())
EIGHT(EXECUTED)

static __always_inline int moved(struct task_struct *task)
{
	struct task_struct___cpu *scheduled = (void *)task;
	struct image now = {}, *image;
	__u32 pid = task->tgid;

	image = bpf_map_lookup_elem(&images, &pid);
	if (!image || image->moved)
		return 0;
	image->moved = 1;
	registers(task, &now);
	if (BPF_CORE_READ_BITFIELD_PROBED(scheduled, on_cpu))
		count(ON_CPU);
	else if (now.ip == image->ip && now.sp == image->sp && now.orig_ax == image->orig_ax)
		count(UNTOUCHED);
	else
		count(RAN);
	return 0;
}

#define MOVED(number) PROGRAM("tp_btf/cgroup_attach_task", moved_##number, moved(task), \
	struct cgroup *to, const char *path, struct task_struct *task)
EIGHT(MOVED)

static __always_inline int signalled(int sig, struct task_struct *task)
{
	__u32 pid = task->tgid, index = LONGEST_NS;
	__u64 *longest = bpf_map_lookup_elem(&results, &index), took;
	struct image *image;

	if (sig != 18 || !longest) /* SIGCONT */
		return 0;
	image = bpf_map_lookup_elem(&images, &pid);
	if (!image)
		return 0;
	took = bpf_ktime_get_ns() - image->time_ns;
	if (took > *longest)
		*longest = took;
	return 0;
}

#define SIGNALLED(number) PROGRAM("tp_btf/signal_generate", signalled_##number, signalled(sig, task), \
	int sig, void *info, struct task_struct *task)
EIGHT(SIGNALLED)

static __always_inline int ended(struct task_struct *task)
{
	__u32 pid = task->tgid;
	struct image *image = bpf_map_lookup_elem(&images, &pid);

	if (!image || task->pid != task->tgid)
		return 0;
	if (!image->moved)
		count(LEFT);
	bpf_map_delete_elem(&images, &pid);
	return 0;
}

#define ENDED(number) PROGRAM("tp_btf/sched_process_exit", ended_##number, ended(task), struct task_struct *task)
EIGHT(ENDED)
