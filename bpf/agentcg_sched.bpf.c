// SPDX-License-Identifier: GPL-2.0-only
/*
 * agentcg_sched: a sched_ext scheduler for the tasks in agentcg's calls.
 *
 * Who. `calls` has the calls that user space wants here. It loads the switch `partial`: only tasks whose policy is
 * SCHED_EXT are run here. That class stands below the kernel's own (EEVDF), so agents, protected sessions and the
 * rest of the host, which are never moved, go first wherever they want a CPU; calls get what is left, and never less
 * than the kernel's ext_server gives them (5 % of each CPU). Two tracepoints tell user space of each task that
 * enters a known call, by a move or by CLONE_INTO_CGROUP, and it gives the task SCHED_EXT; children inherit that.
 * When this scheduler ends, for whatever reason, the kernel runs SCHED_EXT tasks as ordinary ones, and nothing has
 * to be undone.
 *
 * The switch `full` takes every ordinary task of the machine, and serves those of no known call first, without
 * shares. It is there to be compared with. A sub-scheduler on the agents' subtree (v7.3, EXT_SUB_SCHED) was not
 * built: it needs a root scheduler that accepts it, and so would have to bring one for the whole machine, in a form
 * of struct_ops that no other kernel has.
 *
 * Shares. Weights are given at three levels: tenant, session, call. What a call is entitled to is the product of its
 * parts among those that have runnable tasks at this moment,
 *
 *	share = tenant / (sum of tenants) * session / (sum of its tenant's) * call / (sum of its session's)
 *
 * so that depth does not matter. A call is one flow of start-time fair queueing: it has a virtual time `finish`. A
 * task that is queued gets it as its place in the queue, and moves it on by slice / share; when the task has run,
 * what it used takes the place of the slice. All calls share one queue, ordered by place, and the CPUs take from its
 * head. The virtual time of the machine is the latest place that was served; a call that comes back from sleep
 * starts there, less LAG_NS. A task that wakes up is placed where its call stands by what it was given so far, ahead
 * of what the call has queued: it may own a lock that others wait for.
 *
 * A worked example on one CPU, slices of 8 ms. Tenant t has session x (weight 100) with a call of three busy tasks,
 * and session y (weight 300) with one of one task. x is entitled to 1/4: each slice moves it on by 32; y to 3/4: by
 * 10.7.
 *
 *	queued	x1 at 0, x2 at 32, x3 at 64 (x stands at 96); y1 at 0
 *	served	x1 (0), y1 (0), y1 (10.7), y1 (21.3), y1 (32), x2 (32), y1 (42.7), y1 (53.3), y1 (64), x3 (64)
 *
 * three slices of y to one of x, whatever number of tasks there is. y1 is served again and again although the kernel
 * asks for the next task before it has put y1 back: see goes_on().
 *
 * Classes. A task of an interactive call goes to a queue that is served first, and takes a CPU from a task that is
 * not interactive if none is idle. That is paid from a credit of the call's session: credit_max_ns of CPU time,
 * which grows back by credit_percent of one CPU. A call that claims to be interactive and computes has used it up
 * after 250 ms, and is queued with the others until half of it is back. All of them together have a credit of the
 * same kind, which grows by EVERYBODY_PERCENT of the machine. What was used counts as the call's share in any case.
 * Batch calls have longer slices. At most FAVOURED_MAX interactive tasks run on a CPU in a row while others wait.
 *
 * Wake-ups. An idle CPU is looked for first, beginning with the one where the task was, whose caches are warm (the
 * kernel's own search); then the task waits in the queue, from which any CPU takes it.
 *
 * Holds. `holds` says until when nothing of a call is to run, or of all calls, under a key of its own; agentcg_mem
 * writes it when memory is short, and user space. A running task is stopped at the next tick (4 ms at HZ=250), a queued
 * one when it comes to the head, and both wait in a queue of their own. The program ends a hold after HOLD_MAX_NS
 * whatever stands in the map, and grants the next only after the call was free for as long.
 * SCX_OPS_ENQ_LAST is set: with it a task that is held does not go on running just because its CPU has nothing else
 * to do. Exiting tasks, those of a process that is being killed, and those that may not migrate now are not held.
 *
 * Known limits:
 * - A held task may be inside the kernel, with a lock: who waits for that waits for the hold as well, at most 50 ms.
 *   cgroup.freeze stops at the border to user space, and is the means for anything longer.
 * - A process that is killed while it waits on hold dies when the hold ends.
 * - cpu.max binds EEVDF alone: the kernel does not enforce it here, only tells of it. User space leaves calls below
 *   a cpu.max to EEVDF. cpu.weight is not read: user space gives the same weights. Affinity, and cpusets with it, is
 *   honoured, but a call of which all tasks are bound to one CPU is entitled to its share of the whole machine
 *   there.
 * - Between the tasks of a call there are turns, without nice values.
 * - A share of more than one CPU per task cannot be had; the others divide what is left by their weights.
 * - A task is placed at most ROUND_NS ahead, whatever its weight: with thousands of runnable tasks of very different
 *   weights shares become more even than the weights.
 * - Where ordinary tasks keep every CPU busy, some 100 runnable tasks of calls wait longer for the ext_server than
 *   the watchdog allows (10 s): the kernel then ends this scheduler.
 * - One queue serves all CPUs. That is right for a machine with some tens of them; with several nodes it would want
 *   one each.
 * - More tasks than SIFT_MAX that are bound to other CPUs, at the head of the queue, hide a held task behind them;
 *   it is then stopped by the next tick.
 * - `calls`, `flows` and `groups` have 16384 entries. Tasks of a call that is not in them are queued without being
 *   charged.
 */
#include "scx.h"

#include "agentcg_sched.h"
#include "holds.h"

char _license[] SEC("license") = "GPL";

const volatile struct agentcg_sched_config config = {
	.call_level = 6,
	.normal_slice_ns = 8000000,
	.interactive_slice_ns = 4000000,
	.batch_slice_ns = 20000000,
	.credit_max_ns = 250000000,
	.credit_percent = 20,
	.cpus = 1,
};

/* No code has a type that names them, so that BTF would be without them: a test compares them with user space's. */
const volatile enum agentcg_sched_class abi_class __attribute__((used)) = 0;
const volatile enum agentcg_sched_kind abi_kind __attribute__((used)) = 0;
const volatile enum agentcg_sched_stat abi_stat __attribute__((used)) = 0;
const volatile struct agentcg_sched_event abi_event __attribute__((used)) = {};
const volatile enum scx_ops_flags abi_ops_flags __attribute__((used)) = 0;
/* And of this one clang would emit a mere declaration, which libbpf does not find the kernel's functions with. */
const volatile struct cpumask abi_cpumask __attribute__((used)) = {};

#define SCHED_NORMAL 0
#define SCHED_BATCH 3
#define SCHED_EXT 7
#define SIGNAL_GROUP_EXIT 0x4 /* linux/sched/signal.h */
#define CLOCK_MONOTONIC 1
#define ENOENT 2

#define ONE (1ULL << 24) /* A share of the whole machine. */
#define LAG_NS 40000000ULL /* How much virtual time a call that comes back may claim at most. */
#define ROUND_NS 1000000000ULL /* Within which every task is to have a turn, where slices of SLICE_MIN_NS allow it. */
#define SLICE_MIN_NS 2000000ULL
#define HOLD_MAX_NS 50000000ULL
#define HOLD_CHECK_NS 4000000ULL
#define FAVOURED_MAX 4 /* Interactive tasks a CPU takes in a row while others wait. */
#define EVERYBODY_PERCENT 50 /* Of the machine: what all interactive calls may have ahead of their turn. */
#define SIFT_MAX 64 /* Tasks looked at for holds in one go. */
#define WATCHDOG_MS 10000 /* The kernel's ceiling is 30 s; v7.3 warns at 4 s and below. */
#define NOBODY (~0ULL >> 1)
#define SCAN_MAX 64 /* CPUs looked at for one to take. */

enum queue {
	QUEUE_SHARED = 1,
	QUEUE_INTERACTIVE = 2,
	QUEUE_HELD = 3,
};

enum running {
	RUNNING_NONE = 0, /* or a task that is not ours */
	RUNNING_INTERACTIVE = 1,
	RUNNING_OTHER = 2,
};

/* What a task was queued with. */
struct entry {
	__u64 tag; /* where it stands in its queue */
	__u64 charged; /* virtual time that its call was charged in advance */
	__u64 charged_id; /* which call that was */
	__u64 exec_ns; /* CPU time that it had used when it was last settled */
	__u64 runnable_id; /* the call that counts it as runnable; 0 for none */
	__u32 queue;
	__u32 expired; /* 1: it ran until now, and did not just wake up */
};

struct cpu {
	__u32 running; /* enum running */
	__u32 wanted; /* 1: it is about to be taken for an interactive task */
	__u32 favoured; /* interactive tasks taken in a row */
	__u32 looked_at; /* in sift; here, so that the verifier does not follow its loop once for every value */
	__u64 head; /* the same */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct agentcg_sched_call);
} calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct agentcg_sched_flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct agentcg_sched_group);
} groups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct entry);
} entries SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cpu);
} cpus SEC(".maps");

struct timer {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct timer);
} timers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, AGENTCG_SCHED_STATS);
	__type(key, __u32);
	__type(value, __u64);
} stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct agentcg_sched_exit);
} exits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

static volatile __u64 vtime_now; /* The latest tag that began to run from the shared queue. */
static volatile __s64 root_sum; /* The weights of the tenants that have runnable tasks. */
static volatile __u32 timer_armed;
static struct agentcg_sched_group everybody; /* The credit of all interactive calls together. */

static __always_inline void count(enum agentcg_sched_stat stat)
{
	__u32 index = stat;
	__u64 *value = bpf_map_lookup_elem(&stats, &index);

	if (value)
		(*value)++;
}

static __always_inline bool before(__u64 a, __u64 b)
{
	return (__s64)(a - b) < 0;
}

/* Whose task it is */

struct owner {
	__u64 id;
	struct agentcg_sched_call *call;
	struct agentcg_sched_flow *flow;
	struct agentcg_sched_group *session;
	struct agentcg_sched_group *tenant;
};

static __always_inline struct agentcg_sched_call *call_of(struct cgroup *cgrp, __u64 *id)
{
	struct agentcg_sched_call *call;
	struct cgroup *ancestor;

	*id = BPF_CORE_READ(cgrp, kn, id);
	call = bpf_map_lookup_elem(&calls, id);
	if (call || BPF_CORE_READ(cgrp, level) <= (int)config.call_level)
		return call;
	ancestor = read_element(cgrp, ancestors, config.call_level);
	*id = BPF_CORE_READ(ancestor, kn, id);
	return bpf_map_lookup_elem(&calls, id);
}

static __always_inline bool find_rest(struct owner *ret)
{
	ret->flow = bpf_map_lookup_elem(&flows, &ret->id);
	if (!ret->flow)
		return false;
	ret->session = bpf_map_lookup_elem(&groups, &ret->call->session);
	ret->tenant = bpf_map_lookup_elem(&groups, &ret->call->tenant);
	return ret->session && ret->tenant;
}

/* False if it is in no call that user space has told of. */
static __always_inline bool find(struct task_struct *p, struct owner *ret)
{
	ret->call = call_of(BPF_CORE_READ(p, cgroups, dfl_cgrp), &ret->id);
	return ret->call && find_rest(ret);
}

/* Shares */

static __always_inline __u64 weight_of(const struct owner *owner, __u64 now)
{
	__u64 weight = owner->call->weight;

	if (before(now, owner->call->boost_until_ns))
		weight = weight * owner->call->boost_percent / 100;
	return weight ?: 1;
}

/* Have `weight` in the parent's sum, whatever was there. Additions commute, so CPUs need not agree on an order. */
static __always_inline void move_weight(__u64 *counted, volatile __s64 *sum, __u64 weight)
{
	__u64 old;

	if (*counted == weight)
		return;
	old = __sync_lock_test_and_set(counted, weight);
	__sync_fetch_and_add(sum, (__s64)(weight - old));
}

/* Two CPUs that do this at the same moment may leave an old value behind: the next one who looks puts it right. */
static __always_inline void account(const struct owner *owner, __u64 now)
{
	__u64 weight = owner->flow->runnable > 0 ? weight_of(owner, now) : 0;

	move_weight(&owner->flow->counted, &owner->session->sum, weight);
	weight = owner->session->sum > 0 ? owner->call->session_weight : 0;
	move_weight(&owner->session->counted, &owner->tenant->sum, weight);
	weight = owner->tenant->sum > 0 ? owner->call->tenant_weight : 0;
	move_weight(&owner->tenant->counted, &root_sum, weight);
}

/* A task may move from call to call, and calls may come to be known, while it is runnable. */
static __always_inline void leave(struct entry *entry, __u64 now)
{
	struct owner owner;

	if (!entry || !entry->runnable_id)
		return;
	owner.id = entry->runnable_id;
	entry->runnable_id = 0;
	owner.call = bpf_map_lookup_elem(&calls, &owner.id);
	if (!owner.call || !find_rest(&owner))
		return;
	__sync_fetch_and_add(&owner.flow->runnable, -1);
	account(&owner, now);
}

static __always_inline void join(struct entry *entry, const struct owner *owner, __u64 now)
{
	if (entry->runnable_id == owner->id)
		return;
	leave(entry, now);
	entry->runnable_id = owner->id;
	__sync_fetch_and_add(&owner->flow->runnable, 1);
	account(owner, now);
}

static __always_inline __u64 part(__u64 share, __u64 weight, __s64 sum)
{
	/* The own weight may not be in the sum yet. */
	return sum > (__s64)weight ? share * weight / (__u64)sum : share;
}

/* What a call is entitled to of the whole machine, at this moment. */
static __always_inline __u64 share_of(const struct owner *owner, __u64 now)
{
	__u64 share = ONE;

	share = part(share, owner->call->tenant_weight, root_sum);
	share = part(share, owner->call->session_weight, owner->tenant->sum);
	share = part(share, weight_of(owner, now), owner->session->sum);
	return share ?: 1;
}

/* Classes */

static __always_inline void top_up(struct agentcg_sched_group *group, __u64 percent, __u64 now)
{
	__u64 at = group->credit_at_ns;

	if (at && !before(at + 1000000, now)) /* Once in a millisecond is enough. */
		return;
	if (__sync_val_compare_and_swap(&group->credit_at_ns, at, now) != at)
		return;
	if (at)
		__sync_fetch_and_add(&group->credit_ns, (now - at) * percent / 100);
	if (!at || group->credit_ns > (__s64)config.credit_max_ns)
		group->credit_ns = config.credit_max_ns;
	if (group->demoted && group->credit_ns > (__s64)(config.credit_max_ns >> 1))
		group->demoted = 0;
}

static __always_inline void take_credit(struct agentcg_sched_group *group, __u64 used)
{
	/* No debt beyond what there can be of credit: else a hog would be punished for what nobody wanted meanwhile. */
	if (group->credit_ns > -(__s64)config.credit_max_ns)
		__sync_fetch_and_add(&group->credit_ns, -(__s64)used);
	if (group->credit_ns <= 0)
		group->demoted = 1;
}

/* Whether it is served first: it claims to be interactive, and neither its session nor all have used that up. */
static __always_inline bool is_favoured(const struct owner *owner, __u64 now)
{
	if (owner->call->latency != AGENTCG_SCHED_INTERACTIVE)
		return false;
	top_up(owner->session, config.credit_percent, now);
	top_up(&everybody, EVERYBODY_PERCENT * config.cpus, now);
	if (!owner->session->demoted && !everybody.demoted)
		return true;
	count(AGENTCG_SCHED_STAT_DEMOTED);
	return false;
}

static __always_inline void pay(const struct entry *entry, const struct owner *owner, __u64 used)
{
	if (owner->call->latency != AGENTCG_SCHED_INTERACTIVE)
		return;
	take_credit(owner->session, used);
	if (entry->queue == QUEUE_INTERACTIVE)
		take_credit(&everybody, used);
}

static __always_inline __u64 slice_of(const struct owner *owner, bool favoured)
{
	__u64 slice = config.normal_slice_ns, queued = scx_bpf_dsq_nr_queued(QUEUE_SHARED), most;

	if (favoured)
		return config.interactive_slice_ns;
	if (owner->call->latency == AGENTCG_SCHED_BATCH)
		slice = config.batch_slice_ns;
	most = ROUND_NS * config.cpus / (queued ?: 1);
	if (slice > most)
		slice = most;
	return slice > SLICE_MIN_NS ? slice : SLICE_MIN_NS;
}

/* Charging: start-time fair queueing, see above */

/* What was charged for a turn that it did not get. */
static __always_inline void refund(struct entry *entry, const struct owner *owner)
{
	if (entry->charged && entry->charged_id == owner->id)
		__sync_fetch_and_add(&owner->flow->finish, -entry->charged);
	entry->charged = 0;
}

static __always_inline __u64 no_earlier(__u64 *time, __u64 oldest)
{
	__u64 old = *time;

	if (before(old, oldest))
		__sync_val_compare_and_swap(time, old, oldest);
	return *time;
}

/*
 * Charge a whole slice in advance. A task that has used its turn is placed behind what its call has in the queue.
 * One that wakes up is placed where its call stands by what it was given: it may own a lock that many wait for.
 */
static __always_inline void charge(struct entry *entry, const struct owner *owner, __u64 slice, bool wakes,
				   __u64 now)
{
	__u64 oldest = vtime_now - LAG_NS, latest = vtime_now + ROUND_NS * config.cpus, served;

	refund(entry, owner);
	account(owner, now);
	no_earlier(&owner->flow->finish, oldest);
	served = no_earlier(&owner->flow->served, oldest);
	entry->charged = slice * ONE / share_of(owner, now);
	entry->charged_id = owner->id;
	entry->tag = __sync_fetch_and_add(&owner->flow->finish, entry->charged);
	if (wakes && before(served, entry->tag))
		entry->tag = served;
	/* The call stays in debt, but not even the smallest weight makes a task wait until the watchdog barks. */
	if (before(latest, entry->tag))
		entry->tag = latest;
}

/* Charge what it used in place of what was charged in advance. */
static __always_inline void settle(struct task_struct *p, struct entry *entry, const struct owner *owner, __u64 now)
{
	__u64 total = p->se.sum_exec_runtime, used = total - entry->exec_ns;
	__u64 advance = used * ONE / share_of(owner, now);

	entry->exec_ns = total;
	refund(entry, owner);
	__sync_fetch_and_add(&owner->flow->finish, advance);
	__sync_fetch_and_add(&owner->flow->served, advance);
	__sync_fetch_and_add(&owner->flow->used_ns, used);
	pay(entry, owner, used);
}

/* Interactive tasks run ahead of their turn: the time of the others does not follow them. */
static __always_inline void begins(const struct entry *entry, struct cpu *here)
{
	here->running = entry->queue == QUEUE_INTERACTIVE ? RUNNING_INTERACTIVE : RUNNING_OTHER;
	if (entry->queue == QUEUE_SHARED && before(vtime_now, entry->tag))
		vtime_now = entry->tag;
}

/* Holds */

/* Until when its call is not to run; 0 if it may. However long user space wants it, this is where it ends. */
static __always_inline __u64 held_until(const struct owner *owner, __u64 now)
{
	struct agentcg_sched_flow *flow = owner->flow;
	__u64 *mine = bpf_map_lookup_elem(&holds, &owner->id), everybody = AGENTCG_HOLD_ALL;
	__u64 *all = bpf_map_lookup_elem(&holds, &everybody);
	__u64 until = mine ? *mine : 0, end;

	if (all && before(until, *all))
		until = *all;
	if (!before(now, until))
		return 0;
	end = flow->hold_end_ns;
	if (!before(now, end)) {
		if (before(now, flow->hold_free_ns))
			return 0;
		end = before(until, now + HOLD_MAX_NS) ? until : now + HOLD_MAX_NS;
		flow->hold_free_ns = end + (end - now);
		flow->hold_end_ns = end;
	}
	return before(until, end) ? until : end;
}

static __always_inline bool is_dying(struct task_struct *p)
{
	return BPF_CORE_READ(p, signal, flags) & SIGNAL_GROUP_EXIT;
}

static __always_inline __u64 task_held_until(struct task_struct *p, __u64 now)
{
	struct owner owner;

	if (!find(p, &owner))
		return 0;
	return held_until(&owner, now);
}

static int wake_idle(__u32 cpu, void *context)
{
	scx_bpf_kick_cpu(cpu, scx_enum(scx_kick_flags, SCX_KICK_IDLE));
	return 0;
}

static int look_again(void *map, __u32 *key, struct timer *timer)
{
	timer_armed = 0;
	if (!scx_bpf_dsq_nr_queued(QUEUE_HELD))
		return 0;
	bpf_loop(scx_bpf_nr_cpu_ids(), wake_idle, NULL, 0);
	timer_armed = 1;
	bpf_timer_start(&timer->timer, HOLD_CHECK_NS, 0);
	return 0;
}

/* An idle CPU does not look into the queue of those on hold by itself. */
static __always_inline void arm_timer(void)
{
	struct timer *timer;
	__u32 zero = 0;

	if (timer_armed)
		return;
	timer = bpf_map_lookup_elem(&timers, &zero);
	if (!timer)
		return;
	timer_armed = 1;
	bpf_timer_start(&timer->timer, HOLD_CHECK_NS, 0);
}

/* Put aside what is on hold at the head of a queue, up to the first task that this CPU may run: return its place. */
static __always_inline __u64 sift(__u64 queue, struct cpu *here, __u32 cpu, __u64 now)
{
	struct bpf_iter_scx_dsq it;
	struct task_struct *p;
	__u64 until;

	here->looked_at = 0;
	here->head = NOBODY;
	if (!scx_bpf_dsq_nr_queued(queue))
		return NOBODY;
	bpf_iter_scx_dsq_new(&it, queue, 0);
	while ((p = bpf_iter_scx_dsq_next(&it))) {
		if (here->looked_at++ >= SIFT_MAX)
			break;
		until = task_held_until(p, now);
		if (!until) {
			if (!bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
				continue;
			here->head = p->scx.dsq_vtime;
			break;
		}
		scx_bpf_dsq_move_set_vtime(&it, until);
		if (scx_bpf_dsq_move_vtime(&it, p, QUEUE_HELD, 0)) {
			count(AGENTCG_SCHED_STAT_HELD);
			arm_timer();
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	return here->head;
}

/* Put back what was on hold until now, where it stood. */
static __always_inline void release(struct cpu *here, __u64 now)
{
	struct bpf_iter_scx_dsq it;
	struct task_struct *p;
	struct entry *entry;
	__u64 queue;

	here->looked_at = 0;
	bpf_iter_scx_dsq_new(&it, QUEUE_HELD, 0);
	while ((p = bpf_iter_scx_dsq_next(&it))) {
		if (here->looked_at++ >= SIFT_MAX || before(now, p->scx.dsq_vtime))
			break;
		entry = bpf_task_storage_get(&entries, p, NULL, 0);
		queue = entry && entry->queue == QUEUE_INTERACTIVE ? QUEUE_INTERACTIVE : QUEUE_SHARED;
		scx_bpf_dsq_move_set_vtime(&it, entry ? entry->tag : vtime_now);
		if (scx_bpf_dsq_move_vtime(&it, p, queue, 0))
			count(AGENTCG_SCHED_STAT_RELEASED);
	}
	bpf_iter_scx_dsq_destroy(&it);
}

/* Which task, and where */

static __always_inline struct cpu *this_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&cpus, &zero);
}

SEC("struct_ops/enable")
void BPF_PROG(sched_enable, struct task_struct *p)
{
	/* Where there is no memory for it, the task is queued without being charged. */
	bpf_task_storage_get(&entries, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
}

SEC("struct_ops/select_cpu")
__s32 BPF_PROG(sched_select_cpu, struct task_struct *p, __s32 prev_cpu, __u64 wake_flags)
{
	__u64 now = bpf_ktime_get_ns(), slice;
	struct entry *entry;
	struct owner owner;
	bool is_idle = false;
	__s32 cpu;

	if (config.stall)
		return prev_cpu;
	entry = bpf_task_storage_get(&entries, p, NULL, 0);
	if (!entry || !find(p, &owner))
		return scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (held_until(&owner, now) && !is_dying(p))
		return prev_cpu;
	cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &is_idle);
	if (is_idle) {
		slice = slice_of(&owner, is_favoured(&owner, now));
		charge(entry, &owner, slice, true, now);
		entry->queue = 0;
		count(AGENTCG_SCHED_STAT_IDLE);
		scx_bpf_dsq_insert(p, scx_enum(scx_dsq_id_flags, SCX_DSQ_LOCAL), slice, 0);
	}
	return cpu;
}

struct search {
	struct task_struct *p;
	__u32 cpu; /* the next one to look at */
	__u32 nr;
};

static int preempt_one(__u32 index, struct search *search)
{
	__u32 cpu = search->cpu, zero = 0;
	struct cpu *there;

	if (cpu >= search->nr)
		cpu = 0;
	search->cpu = cpu + 1;
	there = bpf_map_lookup_percpu_elem(&cpus, &zero, cpu);
	if (!there || there->running != RUNNING_OTHER || there->wanted)
		return 0;
	if (!bpf_cpumask_test_cpu(cpu, search->p->cpus_ptr))
		return 0;
	there->wanted = 1;
	count(AGENTCG_SCHED_STAT_PREEMPTED);
	scx_bpf_kick_cpu(cpu, scx_enum(scx_kick_flags, SCX_KICK_PREEMPT));
	return 1;
}

/* Take a CPU from a task that is not interactive, the nearest to where this one was. */
static __always_inline void preempt(struct task_struct *p)
{
	struct search search = {
		.p = p,
		.cpu = scx_bpf_task_cpu(p),
		.nr = scx_bpf_nr_cpu_ids(),
	};

	bpf_loop(search.nr < SCAN_MAX ? search.nr : SCAN_MAX, preempt_one, &search, 0);
}

SEC("struct_ops/enqueue")
void BPF_PROG(sched_enqueue, struct task_struct *p, __u64 enq_flags)
{
	__u64 now = bpf_ktime_get_ns(), slice, until, queue;
	struct owner owner;
	struct entry *entry;
	bool favoured, expired;
	__s32 cpu;

	if (config.stall) {
		scx_bpf_dsq_insert_vtime(p, QUEUE_SHARED, config.normal_slice_ns, vtime_now, enq_flags);
		return;
	}
	entry = bpf_task_storage_get(&entries, p, NULL, 0);
	if (!entry || !find(p, &owner)) {
		leave(entry, now);
		count(AGENTCG_SCHED_STAT_UNKNOWN);
		queue = config.favour_unknown ? QUEUE_INTERACTIVE : QUEUE_SHARED;
		if (entry)
			entry->queue = queue;
		scx_bpf_dsq_insert_vtime(p, queue, config.normal_slice_ns, vtime_now, enq_flags);
		goto kick_idle;
	}
	join(entry, &owner, now);
	expired = entry->expired;
	entry->expired = 0;
	favoured = is_favoured(&owner, now);
	slice = slice_of(&owner, favoured);
	charge(entry, &owner, slice, !expired, now);
	entry->queue = favoured ? QUEUE_INTERACTIVE : QUEUE_SHARED;
	until = is_dying(p) ? 0 : held_until(&owner, now);
	if (until) {
		count(AGENTCG_SCHED_STAT_HELD);
		scx_bpf_dsq_insert_vtime(p, QUEUE_HELD, slice, until, enq_flags);
		arm_timer();
		return;
	}
	if (enq_flags & scx_enum(scx_enq_flags, SCX_ENQ_LAST)) {
		/* Its CPU would go idle, and nothing would make it look into the queues. */
		entry->queue = 0;
		scx_bpf_dsq_insert(p, scx_enum(scx_dsq_id_flags, SCX_DSQ_LOCAL), slice, enq_flags);
		return;
	}
	count(favoured ? AGENTCG_SCHED_STAT_INTERACTIVE : AGENTCG_SCHED_STAT_QUEUED);
	scx_bpf_dsq_insert_vtime(p, favoured ? QUEUE_INTERACTIVE : QUEUE_SHARED, slice, entry->tag, enq_flags);
	if (favoured && !expired) {
		cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
		if (cpu < 0)
			preempt(p);
		else
			scx_bpf_kick_cpu(cpu, scx_enum(scx_kick_flags, SCX_KICK_IDLE));
		return;
	}
kick_idle:
	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, scx_enum(scx_kick_flags, SCX_KICK_IDLE));
}

/*
 * The kernel asks for the next task before it has put the last one back into a queue. Where that one's turn would come
 * first, it goes on: otherwise two calls on one CPU would take turns whatever their weights.
 */
static __always_inline bool goes_on(struct task_struct *p, struct entry *entry, const struct owner *owner,
				    struct cpu *here, bool favoured, __u64 head, __u64 now)
{
	__u64 slice = slice_of(owner, favoured);

	if (before(head, owner->flow->finish))
		return false;
	charge(entry, owner, slice, false, now);
	entry->queue = favoured ? QUEUE_INTERACTIVE : QUEUE_SHARED;
	begins(entry, here);
	p->scx.slice = slice;
	return true;
}

SEC("struct_ops/dispatch")
void BPF_PROG(sched_dispatch, __s32 cpu, struct task_struct *prev)
{
	__u64 now = bpf_ktime_get_ns(), interactive, shared;
	bool others_first, runnable, ours, favoured = false;
	struct entry *entry = NULL;
	struct cpu *here = this_cpu();
	struct owner owner;

	if (config.stall || !here)
		return;
	if (scx_bpf_dsq_nr_queued(QUEUE_HELD))
		release(here, now);
	interactive = sift(QUEUE_INTERACTIVE, here, cpu, now);
	shared = sift(QUEUE_SHARED, here, cpu, now);

	runnable = prev && (prev->scx.flags & scx_enum(scx_ent_flags, SCX_TASK_QUEUED));
	ours = false;
	if (runnable) {
		entry = bpf_task_storage_get(&entries, prev, NULL, 0);
		ours = entry && find(prev, &owner);
	}
	if (ours && entry) {
		settle(prev, entry, &owner, now);
		if (held_until(&owner, now))
			ours = runnable = false;
		else
			favoured = is_favoured(&owner, now);
	}

	others_first = here->favoured >= FAVOURED_MAX && shared != NOBODY;
	if (!others_first && (favoured || interactive != NOBODY)) {
		here->favoured++;
		if (favoured && entry && goes_on(prev, entry, &owner, here, true, interactive, now))
			return;
		if (scx_bpf_dsq_move_to_local(QUEUE_INTERACTIVE))
			return;
	}
	here->favoured = 0;
	if (ours && !favoured && entry && goes_on(prev, entry, &owner, here, false, shared, now))
		return;
	if (scx_bpf_dsq_move_to_local(QUEUE_SHARED) || scx_bpf_dsq_move_to_local(QUEUE_INTERACTIVE))
		return;
	/* Nobody else: let it go on, without the detour over SCX_ENQ_LAST. */
	if (runnable)
		prev->scx.slice = config.normal_slice_ns;
}

/* What it does and what it uses */

SEC("struct_ops/runnable")
void BPF_PROG(sched_runnable, struct task_struct *p, __u64 enq_flags)
{
	struct entry *entry = bpf_task_storage_get(&entries, p, NULL, 0);
	struct owner owner;

	if (entry && find(p, &owner))
		join(entry, &owner, bpf_ktime_get_ns());
}

SEC("struct_ops/quiescent")
void BPF_PROG(sched_quiescent, struct task_struct *p, __u64 deq_flags)
{
	leave(bpf_task_storage_get(&entries, p, NULL, 0), bpf_ktime_get_ns());
}

/* Another CPU may do these two on behalf of the task's own, when it changes the task. */
static __always_inline struct cpu *cpu_of(struct task_struct *p)
{
	__u32 zero = 0;

	return bpf_map_lookup_percpu_elem(&cpus, &zero, scx_bpf_task_cpu(p));
}

SEC("struct_ops/running")
void BPF_PROG(sched_running, struct task_struct *p)
{
	struct entry *entry = bpf_task_storage_get(&entries, p, NULL, 0);
	struct cpu *there = cpu_of(p);

	if (!there)
		return;
	there->wanted = 0;
	there->running = RUNNING_OTHER;
	if (!entry)
		return;
	entry->exec_ns = p->se.sum_exec_runtime;
	begins(entry, there);
}

SEC("struct_ops/stopping")
void BPF_PROG(sched_stopping, struct task_struct *p, bool runnable)
{
	struct entry *entry = bpf_task_storage_get(&entries, p, NULL, 0);
	struct cpu *there = cpu_of(p);
	struct owner owner;

	if (there)
		there->running = RUNNING_NONE;
	if (!entry)
		return;
	entry->expired = runnable;
	if (find(p, &owner))
		settle(p, entry, &owner, bpf_ktime_get_ns());
}

SEC("struct_ops/tick")
void BPF_PROG(sched_tick, struct task_struct *p)
{
	if (task_held_until(p, bpf_ktime_get_ns()) && !is_dying(p))
		p->scx.slice = 0;
}

/* With these two the kernel leaves the scheduler in place: nothing here depends on which CPUs there are. */
SEC("struct_ops/cpu_online")
void BPF_PROG(sched_cpu_online, __s32 cpu)
{
}

SEC("struct_ops/cpu_offline")
void BPF_PROG(sched_cpu_offline, __s32 cpu)
{
	__u32 zero = 0;
	struct cpu *gone = bpf_map_lookup_percpu_elem(&cpus, &zero, cpu);

	if (gone)
		gone->running = RUNNING_NONE;
}

/* Beginning and end */

static __always_inline void tell(enum agentcg_sched_kind kind, struct task_struct *p, __u64 cgroup_id, bool whole)
{
	struct agentcg_sched_event event = {
		.cgroup_id = cgroup_id,
		.pid = p ? BPF_CORE_READ(p, pid) : 0,
		.kind = kind,
		.whole = whole,
	};

	if (bpf_ringbuf_output(&events, &event, sizeof(event), 0))
		count(AGENTCG_SCHED_STAT_LOST);
}

SEC("struct_ops.s/init")
__s32 BPF_PROG(sched_init)
{
	struct timer *timer;
	__u32 zero = 0;
	__s32 error;

	error = scx_bpf_create_dsq(QUEUE_SHARED, -1);
	error = error ?: scx_bpf_create_dsq(QUEUE_INTERACTIVE, -1);
	error = error ?: scx_bpf_create_dsq(QUEUE_HELD, -1);
	if (error)
		return error;
	timer = bpf_map_lookup_elem(&timers, &zero);
	if (!timer)
		return -ENOENT;
	bpf_timer_init(&timer->timer, &timers, CLOCK_MONOTONIC);
	return bpf_timer_set_callback(&timer->timer, look_again);
}

SEC("struct_ops/exit")
void BPF_PROG(sched_exit, struct scx_exit_info *info)
{
	struct agentcg_sched_exit *ret;
	__u32 zero = 0;

	ret = bpf_map_lookup_elem(&exits, &zero);
	if (!ret)
		return;
	ret->code = info->exit_code;
	bpf_probe_read_kernel_str(ret->reason, sizeof(ret->reason), info->reason);
	bpf_probe_read_kernel_str(ret->message, sizeof(ret->message), info->msg);
	__sync_lock_test_and_set(&ret->kind, info->kind);
	tell(AGENTCG_SCHED_EXITED, NULL, 0, false);
}

/* Who is to be SCHED_EXT */

static __always_inline void watch(struct task_struct *p, struct cgroup *cgrp, bool whole)
{
	__u32 policy = BPF_CORE_READ(p, policy);
	__u64 id;

	if (call_of(cgrp, &id)) {
		if (policy == SCHED_NORMAL || policy == SCHED_BATCH)
			tell(AGENTCG_SCHED_ENTERED, p, id, whole);
	} else if (policy == SCHED_EXT) {
		tell(AGENTCG_SCHED_LEFT, p, 0, whole);
	}
}

SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(attach_task, struct cgroup *to, const char *path, struct task_struct *leader, bool threadgroup)
{
	watch(leader, to, threadgroup);
	return 0;
}

/* A child is as its parent is, unless it was born into another cgroup (CLONE_INTO_CGROUP). */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_fork, struct task_struct *parent, struct task_struct *child)
{
	watch(child, BPF_CORE_READ(child, cgroups, dfl_cgrp), false);
	return 0;
}

#define OPS(its_name, its_flags)                                       \
	SEC(".struct_ops.link") struct sched_ext_ops its_name = {      \
		.select_cpu = (void *)sched_select_cpu,                \
		.enqueue = (void *)sched_enqueue,                      \
		.dispatch = (void *)sched_dispatch,                    \
		.tick = (void *)sched_tick,                            \
		.runnable = (void *)sched_runnable,                    \
		.running = (void *)sched_running,                      \
		.stopping = (void *)sched_stopping,                    \
		.quiescent = (void *)sched_quiescent,                  \
		.enable = (void *)sched_enable,                        \
		.cpu_online = (void *)sched_cpu_online,                \
		.cpu_offline = (void *)sched_cpu_offline,              \
		.init = (void *)sched_init,                            \
		.exit = (void *)sched_exit,                            \
		.flags = its_flags,                                    \
		.timeout_ms = WATCHDOG_MS,                             \
		.name = "agentcg",                                     \
	}

OPS(partial, SCX_OPS_ENQ_LAST | SCX_OPS_SWITCH_PARTIAL);
OPS(full, SCX_OPS_ENQ_LAST);
