// SPDX-License-Identifier: GPL-2.0-only
/*
 * agentcg_mem: who is charging beyond memory.high, reclaiming, stalling, or being OOM-killed, as it happens.
 *
 * Control files tell that a counter went up, some milliseconds later, and only on the cgroup whose limit it was. Here
 * the kernel's own functions are hooked, and each event carries three cgroups: the leaf that the task lives in, the
 * leaf's session (its ancestor at a fixed depth), and the cgroup whose limit was hit, which may be any of the
 * ancestors. Tasks outside agentcg's root are left after one comparison.
 *
 *	function				kind of event		time from	told
 *	[__]mem_cgroup_handle_over_high		OVER_HIGH, THROTTLED	entry, exit	beginning and end
 *	try_to_free_mem_cgroup_pages		RECLAIM			entry, exit	end
 *	psi_memstall_enter, _leave		STALL			entry of both	end
 *	mem_cgroup_out_of_memory		OOM			entry		beginning
 *	__oom_kill_process			OOM_KILL		entry		beginning
 *	page_counter_try_charge			GROWING			entry		beginning
 *
 * Memory back-pressure. `holds` has the calls that agentcg_sched runs, and until when each is not to run; it is the
 * scheduler's own map. Here it is written at the moment of need, before user space has heard of it: a call that comes
 * to the memory.high of its session, or of all, is held for hold_us, while user space freezes it; and all calls are,
 * when a task of a protected session has to reclaim for a limit that is theirs too, or when a protected session begins
 * to grow. The scheduler sees to it that none is held for too long. Who is not in the map is not held, and where there
 * is no such scheduler nothing here changes what the kernel does.
 *
 * A worked example. The root is cgroup 100 at depth 1, sessions are at depth 4, and /agentcg/shared/t/s (400) has
 * memory.high = 1 GiB over the leaves calls/a (601) and calls/b (602), which have no limit of their own. A task in 601
 * charges the page with which 400 reaches 1 GiB + 64 pages. On its way back to user space the kernel calls
 * mem_cgroup_handle_over_high: the task's ancestor at depth 1 is 100, so it is ours; memcg_nr_pages_over_high is 64;
 * from 601 upwards, the first cgroup whose usage is above its high is 400. Sent at once:
 *
 *	OVER_HIGH  cgroup_id=601 session_id=400 limit_id=400 bytes=262144
 *
 * The kernel reclaims, which took 900 us (RECLAIM, duration_us=900), and then lets the task sleep for the rest of 40
 * ms. At the exit: THROTTLED, duration_us=40000, with the same three ids. `totals` has all of it under both 601 and
 * 400; under 602, nothing.
 *
 * Growth. A CPU charges a cgroup for 64 pages at a time, as a rule, and so calls page_counter_try_charge once in 256
 * KiB. If that is a task of a protected session, the session's usage is compared with what it was at the beginning of
 * a window of growth_us: a protected session that stood at 100 MiB, and 3 ms later is at 101, is GROWING.
 *
 * Load. But for page_counter_try_charge, which is hooked only for growth_bytes, and leaves who is not protected after
 * one comparison, no function is on the path of a charge that stays within its limits. OVER_HIGH is sent at most once
 * a leaf in over_high_gap_us, the kinds with a duration only from a minimum on; `totals` counts all of them, and so
 * does AGENTCG_MEM_STAT_HUSHED. If the ring buffer is full, the event is lost, and counted per CPU.
 *
 * Known limits:
 * - A program that is interrupted on its CPU by a task that runs into the same program is not run for the second one
 *   (bpf_prog->active). Then a beginning or an end is missed: the event is not sent, or not timed. Counters in
 *   memory.events stay exact.
 * - Functions may be renamed or inlined by the next kernel: user space asks BTF which are there and leaves out the
 *   rest.
 * - Kernel threads reclaim for a cgroup too (memory.high exceeded in an interrupt). They live outside the root: such a
 *   RECLAIM names the cgroup that it was for as the leaf.
 * - The limit of OVER_HIGH is looked for when the task is called to account: if another task has freed memory
 *   meanwhile, no cgroup is above its limit, nothing is sent, and the kernel does not throttle either.
 * - What a kernel thread charges for a protected session does not make it GROWING.
 * - Depths are those of the initial cgroup namespace.
 * - `totals` forgets the least recently used cgroup when it is full. Ids are never reused on 64-bit kernels.
 */
#include "compat.h"

#include "agentcg_mem.h"
#include "holds.h"

char _license[] SEC("license") = "GPL";

const volatile struct agentcg_mem_config config = {
	.session_level = 4,
	.root_level = 1,
	.page_shift = 12,
	.over_high_gap_us = 1000,
	.throttled_min_us = 1000,
	.reclaim_min_us = 1000,
	.stall_min_us = 1000,
	.growth_us = 10000,
};

/* No code has a type that names them, so that BTF would be without them: a test compares them with user space's. */
const volatile enum agentcg_mem_kind abi_kind __attribute__((used)) = 0;
const volatile enum agentcg_mem_stat abi_stat __attribute__((used)) = 0;

#define LEVELS 16 /* How far up a limit is looked for. */
#define GROWTH_PAUSES 4 /* A session that was not seen to grow for so many times growth_us begins to grow anew. */

/* What a task is in the middle of: when it began, 0 if it is not. */
struct span {
	__u64 over_high_ns;
	__u64 over_high_limit;
	__u64 reclaim_ns;
	__u64 stall_ns;
	__u64 stall_key; /* Address of the outermost caller's flags: nested stalls have others. */
};

struct place {
	__u64 cgroup_id;
	__u64 session_id;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct agentcg_mem_totals);
} totals SEC(".maps");

/* Of a protected session, by its id: the window in which it may grow. CPUs may write it at once: no harm is done. */
struct growth {
	__u64 began_ns;
	__u64 bytes; /* the least that it held since then */
	__u64 told_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct growth);
} growths SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, AGENTCG_MEM_STATS);
	__type(key, __u32);
	__type(value, __u64);
} stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct span);
} spans SEC(".maps");

static __always_inline void count(enum agentcg_mem_stat stat)
{
	__u32 index = stat;
	__u64 *value = bpf_map_lookup_elem(&stats, &index);

	if (value)
		(*value)++;
}

/* Where things happen */

static __always_inline bool current_place(struct place *ret)
{
	if (bpf_get_current_ancestor_cgroup_id(config.root_level) != config.root_id)
		return false;
	ret->cgroup_id = bpf_get_current_cgroup_id();
	ret->session_id = bpf_get_current_ancestor_cgroup_id(config.session_level);
	return true;
}

static __always_inline bool place_of(struct cgroup *cgrp, struct place *ret)
{
	if (ancestor_id(cgrp, config.root_level) != config.root_id)
		return false;
	ret->cgroup_id = cgroup_id(cgrp);
	ret->session_id = ancestor_id(cgrp, config.session_level);
	return true;
}

static __always_inline struct cgroup_subsys_state *memory_css(struct task_struct *task)
{
	__u32 id = bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);

	return read_element(BPF_CORE_READ(task, cgroups), subsys, id);
}

static __always_inline struct mem_cgroup *memcg_of(struct cgroup_subsys_state *css)
{
	return (void *)css - bpf_core_field_offset(struct mem_cgroup, css);
}

/* The nearest cgroup of the task, upwards, that uses more than its memory.high; 0 if none does. */
static __always_inline __u64 exceeded_high(struct task_struct *task)
{
	struct cgroup_subsys_state *css = memory_css(task);

	for (int i = 0; i < LEVELS && css; i++) {
		struct mem_cgroup *memcg = memcg_of(css);
		unsigned long usage = BPF_CORE_READ(memcg, memory.usage.counter);

		if (usage > BPF_CORE_READ(memcg, memory.high))
			return cgroup_id(BPF_CORE_READ(css, cgroup));
		css = BPF_CORE_READ(css, parent);
	}
	return 0;
}

/* What the session of a task holds; 0 if it is in none. */
static __always_inline __u64 session_bytes(struct task_struct *task)
{
	struct cgroup_subsys_state *css = memory_css(task);

	for (int i = 0; i < LEVELS && css; i++) {
		if (BPF_CORE_READ(css, cgroup, level) <= (int)config.session_level)
			return (__u64)BPF_CORE_READ(memcg_of(css), memory.usage.counter) << config.page_shift;
		css = BPF_CORE_READ(css, parent);
	}
	return 0;
}

/* Back-pressure */

static __always_inline void hold(__u64 id, __u32 us)
{
	__u64 until = bpf_ktime_get_ns() + us * 1000ULL;

	if (us && !bpf_map_update_elem(&holds, &id, &until, BPF_EXIST))
		count(AGENTCG_MEM_STAT_HELD);
}

static __always_inline bool is_protected(void)
{
	return config.protected_id &&
	       bpf_get_current_ancestor_cgroup_id(config.root_level + 1) == config.protected_id;
}

/* Does a protected session's task reclaim for a limit that it shares with the others? */
static __always_inline bool suffers(struct mem_cgroup *memcg)
{
	return is_protected() &&
	       ancestor_id(BPF_CORE_READ(memcg, css.cgroup), config.root_level + 1) != config.protected_id;
}

/* Telling it */

static __always_inline struct agentcg_mem_totals *totals_of(__u64 id)
{
	static const struct agentcg_mem_totals none;
	struct agentcg_mem_totals *found = bpf_map_lookup_elem(&totals, &id);

	if (found)
		return found;
	bpf_map_update_elem(&totals, &id, &none, BPF_NOEXIST); /* Another CPU may have been faster: fine as well. */
	return bpf_map_lookup_elem(&totals, &id);
}

static __always_inline void add(struct agentcg_mem_totals *to, const struct agentcg_mem_event *event)
{
	struct agentcg_mem_total *total;

	if (!to || event->kind >= AGENTCG_MEM_KINDS)
		return;
	total = &to->kind[event->kind];
	__sync_fetch_and_add(&total->count, 1);
	__sync_fetch_and_add(&total->duration_us, event->duration_us);
	__sync_fetch_and_add(&total->bytes, event->bytes);
}

static __always_inline bool worth_sending(struct agentcg_mem_totals *leaf, const struct agentcg_mem_event *event)
{
	__u64 last;

	switch (event->kind) {
	case AGENTCG_MEM_OVER_HIGH:
		/* Two CPUs may both find that it is time: one event too many does no harm. */
		if (!leaf)
			return true;
		last = leaf->over_high_sent_ns;
		if (last && event->time_ns - last < config.over_high_gap_us * 1000ULL)
			return false;
		leaf->over_high_sent_ns = event->time_ns;
		return true;
	case AGENTCG_MEM_THROTTLED:
		return event->duration_us >= config.throttled_min_us;
	case AGENTCG_MEM_RECLAIM:
		return event->duration_us >= config.reclaim_min_us;
	case AGENTCG_MEM_STALL:
		return event->duration_us >= config.stall_min_us;
	default:
		return true;
	}
}

static __noinline int tell(struct agentcg_mem_event *event)
{
	struct agentcg_mem_totals *leaf;
	bool send;

	if (!event)
		return 0;
	leaf = totals_of(event->cgroup_id);
	add(leaf, event);
	send = worth_sending(leaf, event);
	if (event->session_id && event->session_id != event->cgroup_id)
		add(totals_of(event->session_id), event);
	if (!send)
		count(AGENTCG_MEM_STAT_HUSHED);
	else if (bpf_ringbuf_output(&events, event, sizeof(*event), 0))
		count(AGENTCG_MEM_STAT_LOST);
	else
		count(AGENTCG_MEM_STAT_SENT);
	return 0;
}

static __always_inline void event_of(struct agentcg_mem_event *ret, enum agentcg_mem_kind kind,
				     const struct place *place, __u64 began_ns)
{
	*ret = (struct agentcg_mem_event){
		.time_ns = bpf_ktime_get_ns(),
		.cgroup_id = place->cgroup_id,
		.session_id = place->session_id,
		.pid = bpf_get_current_pid_tgid() >> 32,
		.kind = kind,
	};
	if (began_ns)
		ret->duration_us = (ret->time_ns - began_ns) / 1000;
}

/* The current task's span. */
static __always_inline struct span *span_begin(void)
{
	struct span *span =
		bpf_task_storage_get(&spans, bpf_get_current_task_btf(), NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!span)
		count(AGENTCG_MEM_STAT_UNTIMED);
	return span;
}

static __always_inline struct span *span_end(void)
{
	return bpf_task_storage_get(&spans, bpf_get_current_task_btf(), NULL, 0);
}

/* Over memory.high */

static __always_inline int over_high_begins(void)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	__u64 pages = BPF_CORE_READ(task, memcg_nr_pages_over_high);
	struct agentcg_mem_event event;
	struct place place;
	struct span *span;

	if (!pages || !current_place(&place))
		return 0;
	event_of(&event, AGENTCG_MEM_OVER_HIGH, &place, 0);
	event.limit_id = exceeded_high(task);
	if (!event.limit_id)
		return 0;
	event.bytes = pages << config.page_shift;
	/* At its own limit it is slowed down by the kernel, and nobody else is the worse for it. */
	if (event.limit_id != place.cgroup_id)
		hold(place.cgroup_id, config.hold_us);
	span = span_begin();
	if (span) {
		span->over_high_ns = event.time_ns;
		span->over_high_limit = event.limit_id;
	}
	return tell(&event);
}

static __always_inline int over_high_ends(void)
{
	struct agentcg_mem_event event;
	struct place place;
	struct span *span = span_end();
	__u64 began;

	if (!span || !span->over_high_ns)
		return 0;
	began = span->over_high_ns;
	span->over_high_ns = 0;
	if (!current_place(&place))
		return 0;
	event_of(&event, AGENTCG_MEM_THROTTLED, &place, began);
	event.limit_id = span->over_high_limit;
	return tell(&event);
}

/* It returns at once where nothing is over; on kernels where that check is inlined, its name has two underscores. */
SEC("fentry/mem_cgroup_handle_over_high")
int BPF_PROG(over_high_entry)
{
	return over_high_begins();
}

SEC("fexit/mem_cgroup_handle_over_high")
int BPF_PROG(over_high_exit)
{
	return over_high_ends();
}

SEC("fentry/__mem_cgroup_handle_over_high")
int BPF_PROG(over_high_slow_entry)
{
	return over_high_begins();
}

SEC("fexit/__mem_cgroup_handle_over_high")
int BPF_PROG(over_high_slow_exit)
{
	return over_high_ends();
}

/* Reclaim */

static __always_inline bool reclaim_place(struct mem_cgroup *memcg, struct place *ret)
{
	return current_place(ret) || place_of(BPF_CORE_READ(memcg, css.cgroup), ret);
}

SEC("fentry/try_to_free_mem_cgroup_pages")
int BPF_PROG(reclaim_entry, struct mem_cgroup *memcg)
{
	struct place place;
	struct span *span;

	if (!reclaim_place(memcg, &place))
		return 0;
	if (suffers(memcg))
		hold(AGENTCG_HOLD_ALL, config.hold_us);
	span = span_begin();
	if (span)
		span->reclaim_ns = bpf_ktime_get_ns();
	return 0;
}

SEC("fexit/try_to_free_mem_cgroup_pages")
int BPF_PROG(reclaim_exit, struct mem_cgroup *memcg)
{
	struct agentcg_mem_event event;
	struct place place;
	struct span *span = span_end();
	__u64 began, pages = 0;

	if (!span || !span->reclaim_ns)
		return 0;
	began = span->reclaim_ns;
	span->reclaim_ns = 0;
	if (!reclaim_place(memcg, &place))
		return 0;
	event_of(&event, AGENTCG_MEM_RECLAIM, &place, began);
	event.limit_id = cgroup_id(BPF_CORE_READ(memcg, css.cgroup));
	/* By the helper, because the number of arguments before the value differs between kernels. */
	bpf_get_func_ret(ctx, &pages);
	event.bytes = pages << config.page_shift;
	return tell(&event);
}

/* Stalls */

SEC("fentry/psi_memstall_enter")
int BPF_PROG(stall_enter, unsigned long *flags)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	struct place place;
	struct span *span;

	if (BPF_CORE_READ_BITFIELD_PROBED(task, in_memstall) || !current_place(&place))
		return 0;
	span = span_begin();
	if (span) {
		span->stall_ns = bpf_ktime_get_ns();
		span->stall_key = (__u64)flags;
	}
	return 0;
}

SEC("fentry/psi_memstall_leave")
int BPF_PROG(stall_leave, unsigned long *flags)
{
	struct agentcg_mem_event event;
	struct place place;
	struct span *span = span_end();
	__u64 began;

	if (!span || !span->stall_ns || span->stall_key != (__u64)flags)
		return 0;
	began = span->stall_ns;
	span->stall_ns = 0;
	if (!current_place(&place))
		return 0;
	event_of(&event, AGENTCG_MEM_STALL, &place, began);
	return tell(&event);
}

/* Growth */

/* By how much it has grown in its window, if that is enough, and not told of already; and then begin anew. */
static __always_inline __u64 grown(struct growth *growth, __u64 bytes, __u64 now)
{
	__u64 window = config.growth_us * 1000ULL, more = bytes - growth->bytes;
	bool anew = bytes < growth->bytes || now - growth->began_ns >= window;

	if (!anew && more < config.growth_bytes)
		return 0;
	growth->bytes = bytes;
	growth->began_ns = now;
	return anew || now - growth->told_ns < window ? 0 : more;
}

SEC("fentry/page_counter_try_charge")
int BPF_PROG(charge_entry)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	struct agentcg_mem_event event;
	struct growth *growth, none = {};
	struct place place;
	__u64 now, more;

	if (!is_protected() || !current_place(&place))
		return 0;
	growth = bpf_map_lookup_elem(&growths, &place.session_id);
	if (!growth) {
		bpf_map_update_elem(&growths, &place.session_id, &none, BPF_NOEXIST);
		return 0;
	}
	now = bpf_ktime_get_ns();
	more = grown(growth, session_bytes(task), now);
	if (!more)
		return 0;
	/* Once, at the beginning: if it goes on, user space has heard of it. */
	if (now - growth->told_ns > GROWTH_PAUSES * config.growth_us * 1000ULL)
		hold(AGENTCG_HOLD_ALL, config.growth_hold_us);
	growth->told_ns = now;
	event_of(&event, AGENTCG_MEM_GROWING, &place, 0);
	event.bytes = more;
	return tell(&event);
}

/* The OOM killer */

SEC("fentry/mem_cgroup_out_of_memory")
int BPF_PROG(oom, struct mem_cgroup *memcg)
{
	struct cgroup *limit = BPF_CORE_READ(memcg, css.cgroup);
	struct agentcg_mem_event event;
	struct place place;

	if (!current_place(&place) && !place_of(limit, &place))
		return 0;
	event_of(&event, AGENTCG_MEM_OOM, &place, 0);
	event.limit_id = cgroup_id(limit);
	return tell(&event);
}

SEC("fentry/__oom_kill_process")
int BPF_PROG(oom_kill, struct task_struct *victim)
{
	struct agentcg_mem_event event;
	struct place place;

	if (!place_of(BPF_CORE_READ(victim, cgroups, dfl_cgrp), &place))
		return 0;
	event_of(&event, AGENTCG_MEM_OOM_KILL, &place, 0);
	event.pid = BPF_CORE_READ(victim, tgid);
	return tell(&event);
}
