// SPDX-License-Identifier: GPL-2.0-only
/*
 * agentcg_explain: where the tasks of one cgroup spend their time. Compiled by bcc on the host, when it is asked for.
 *
 * Each task of the cgroup and of all below it is in one state at any time. When that ends, its time is added to `spent`;
 * user space adds what has not ended yet.
 *
 *	state		from						until
 *	RUNNING		it is given a CPU				it leaves it
 *	WAITING		it is woken, or is made to leave a CPU		it is given a CPU
 *	BLOCKED		it leaves its CPU to wait for something		it is woken
 *
 * The time of a state counts for what the task is in the middle of: `inside` is kept by probes at the kernel's functions.
 * The first of these that holds: FROZEN, RECLAIM, THROTTLED, IO.
 *
 *	state		FROZEN	RECLAIM	THROTTLED	IO	none of them
 *	RUNNING		RUN	RECLAIM	RUN		RUN	RUN
 *	WAITING		QUEUE	QUEUE	QUEUE		QUEUE	QUEUE
 *	BLOCKED		FROZEN	RECLAIM	THROTTLED	IO	SLEEP
 *
 * A worked example. A task at its memory.high runs for 2 ms, tries to reclaim for 5 ms of its own CPU time, and is then put
 * to sleep by mem_cgroup_handle_over_high() for 93 ms: RUN 2, RECLAIM 5, THROTTLED 93. It waits 1 ms for a CPU: QUEUE 1.
 *
 * Known limits:
 * - A task is known from the first time on that it leaves a CPU, or that user space has put it into `tasks` before. Its
 *   children are known from their first wake-up on; one that is born in the cgroup by somebody outside it is not.
 * - A cpu.max that has run out makes tasks wait in the queue. The counter in cpu.stat says how long.
 * - With more than TASKS tasks at a time, the others are not counted. With more than STACKS stacks, their time is counted,
 *   and their stacks are not.
 */
#include <linux/sched.h>
#include <linux/sched/jobctl.h>

#define TASKS 16384
#define STACKS 4096

/* Of prev_state at sched_switch (linux/sched.h): it has ended, EXIT_DEAD or EXIT_ZOMBIE; it was made to leave its CPU,
 * TASK_REPORT_MAX. */
#define ENDED 0x30
#define PREEMPTED 0x100

enum state { RUNNING, WAITING, BLOCKED };
enum inside { FROZEN = 1, RECLAIM = 2, THROTTLED = 4, IO = 8 };
enum kind { RUN, QUEUE, IN_RECLAIM, IN_THROTTLED, IN_IO, IN_FROZEN, SLEEP, KINDS };

struct task {
	u64 since;
	u32 state;
	u32 inside;
	u32 tgid;
	u32 padding;
	s32 kernel_stack;
	s32 user_stack;
};

struct stack {
	s32 kernel;
	s32 user;
	u32 tgid;
	u32 kind;
};

struct blocked {
	u64 ns;
	u64 count;
};

BPF_CGROUP_ARRAY(call, 1);
BPF_HASH(tasks, u32, struct task, TASKS);
BPF_ARRAY(spent, u64, KINDS);
BPF_HASH(stacks, struct stack, struct blocked, STACKS);
BPF_STACK_TRACE(frames, STACKS);

static __always_inline u32 kind_of(const struct task *task)
{
	if (task->state == RUNNING)
		return task->inside & RECLAIM ? IN_RECLAIM : RUN;
	if (task->state == WAITING)
		return QUEUE;
	if (task->inside & FROZEN)
		return IN_FROZEN;
	if (task->inside & RECLAIM)
		return IN_RECLAIM;
	if (task->inside & THROTTLED)
		return IN_THROTTLED;
	return task->inside & IO ? IN_IO : SLEEP;
}

/* Ends a state: its time is counted. */
static __always_inline void count(struct task *task, u64 now)
{
	struct blocked none = {}, *found;
	struct stack stack = {};
	u32 kind = kind_of(task);
	int index = kind;
	u64 *sum = spent.lookup(&index);
	u64 ns = now > task->since ? now - task->since : 0;

	if (sum)
		lock_xadd(sum, ns);
	if (task->state == BLOCKED && task->kernel_stack >= 0) {
		stack.kernel = task->kernel_stack;
		stack.user = task->user_stack;
		stack.tgid = task->tgid;
		stack.kind = kind;
		found = stacks.lookup_or_try_init(&stack, &none);
		if (found) {
			lock_xadd(&found->ns, ns);
			lock_xadd(&found->count, 1);
		}
	}
	task->since = now;
}

TRACEPOINT_PROBE(sched, sched_switch)
{
	u64 now = bpf_ktime_get_ns();
	u64 ids = bpf_get_current_pid_tgid();
	u32 pid = ids, next = args->next_pid;
	struct task *task, fresh = {};

	/* Who leaves is still the current task. */
	task = tasks.lookup(&pid);
	if (call.check_current_task(0) == 1 && !(args->prev_state & ENDED)) {
		if (!task) {
			fresh.since = now;
			task = tasks.lookup_or_try_init(&pid, &fresh);
		}
		if (task) {
			if (task->state == RUNNING)
				count(task, now);
			task->since = now;
			if (!args->prev_state || args->prev_state & PREEMPTED) {
				task->state = WAITING;
			} else {
				task->state = BLOCKED;
				task->tgid = ids >> 32;
				task->kernel_stack = frames.get_stackid(args, 0);
				task->user_stack = frames.get_stackid(args, BPF_F_USER_STACK);
			}
		}
	} else if (task) {
		tasks.delete(&pid);
	}

	task = tasks.lookup(&next);
	if (task) {
		if (task->state != RUNNING)
			count(task, now);
		task->since = now;
		task->state = RUNNING;
	}
	return 0;
}

TRACEPOINT_PROBE(sched, sched_wakeup)
{
	u32 pid = args->pid;
	struct task *task = tasks.lookup(&pid);

	if (task && task->state == BLOCKED) {
		count(task, bpf_ktime_get_ns());
		task->state = WAITING;
	}
	return 0;
}

/* A child, woken by its parent for the first time. */
TRACEPOINT_PROBE(sched, sched_wakeup_new)
{
	u32 pid = args->pid;
	struct task fresh = {.since = bpf_ktime_get_ns(), .state = WAITING};

	if (call.check_current_task(0) == 1)
		tasks.update(&pid, &fresh);
	return 0;
}

TRACEPOINT_PROBE(sched, sched_process_exit)
{
	u32 pid = bpf_get_current_pid_tgid();
	struct task *task = tasks.lookup(&pid);

	if (task) {
		count(task, bpf_ktime_get_ns());
		tasks.delete(&pid);
	}
	return 0;
}

/* From here on the current task is in the middle of something, or is not any more. */
static __always_inline int mark(u32 what, bool within)
{
	u32 pid = bpf_get_current_pid_tgid();
	struct task *task = tasks.lookup(&pid);

	if (!task)
		return 0;
	if (what == RECLAIM && task->state == RUNNING)
		count(task, bpf_ktime_get_ns());
	if (within)
		task->inside |= what;
	else
		task->inside &= ~what;
	return 0;
}

#define SPAN(name, what)                        \
	int enter_##name(struct pt_regs *ctx)   \
	{                                       \
		return mark(what, true);        \
	}                                       \
	int leave_##name(struct pt_regs *ctx)   \
	{                                       \
		return mark(what, false);       \
	}

SPAN(reclaim, RECLAIM)
SPAN(throttled, THROTTLED)
SPAN(io, IO)

/* cgroup_enter_frozen() is also for who waits where it may be frozen, for a child of vfork(2) say, and is not. */
int enter_frozen(struct pt_regs *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return task->jobctl & JOBCTL_TRAP_FREEZE ? mark(FROZEN, true) : 0;
}

int leave_frozen(struct pt_regs *ctx)
{
	return mark(FROZEN, false);
}
