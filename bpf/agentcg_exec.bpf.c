// SPDX-License-Identifier: GPL-2.0-only
/*
 * agentcg_exec: stops what an agent executes before it runs an instruction, so that user space can give it a cgroup.
 *
 * `agents` has the cgroups in which agents live. When a process there has executed a program that is to be a call, it
 * is sent SIGSTOP while it is still in execve(2): the signal takes effect on the way back to user space, so the new
 * program stands at its first instruction. User space hears of it by the ring buffer, moves the process, and lets it
 * go on with SIGCONT. Its end is told, too, with the status that its parent gets from wait(2).
 *
 *	tracepoint		when						told
 *	sched_process_exec	the new program is in place, nothing of it ran	STOPPED
 *	sched_process_exit	a thread ends; here, the last one of a process	ENDED
 *
 * What is a call: a program whose name, that of the file that was named to execve(2), is in `programs`, a shell only
 * with -c among its options; and, if config.new_session says so, whatever leads a session of its own. An agent's own
 * process is not: one that entered the cgroup, and whose parent therefore lives outside.
 *
 * A worked example. The agent, pid 100, lives in cgroup 700, and was started by pid 90 in another. It forks pid 101,
 * which executes /bin/sh with the words sh, -c and "make". 700 is in `agents`; the parent of 101 lives in 700; `programs`
 * has "sh" with WITH_COMMAND, and the second word has a c. `stopped` gets 101, SIGSTOP is sent, and
 *
 *	STOPPED  pid=101 cgroup_id=700 time_ns=T
 *
 * 101 returns from execve(2) and stops. User space moves it to cgroup 812, sends SIGCONT and takes 101 from `stopped`.
 * The shell executes make, in cgroup 812, which is not in `agents`. At the end: ENDED pid=101 status=512, exit code 2.
 *
 * Nothing stays stopped. Whoever is in `stopped` with a time is stopped since then and nobody has let it go on;
 * agentcg-guard looks there, and lets go what user space did not in time. Where there is no room for an event or an
 * entry, nothing is stopped, and `unmanaged` of the agent counts it.
 *
 * Each program is there several times. A kernel may preempt a task inside a tracepoint (include/linux/tracepoint.h of
 * v7.3 has guard(srcu_fast_notrace) where v6.12 disables preemption), and then another task on that CPU passes by the
 * program (bpf_prog->active). What passes by the first is seen by the next. In a storm of 1,000 executions, 16 at a time,
 * on one CPU that QEMU emulates, one passed by two programs, and so did one of 60 ends; so there are eight of each.
 *
 * Known limits:
 * - A parent sees the stop: SIGCHLD with CLD_STOPPED unless it has SA_NOCLDSTOP, and wait(2) with WUNTRACED returns.
 * - Whoever may signal the process can let it go on before it is moved.
 * - A process group that loses its last parent in the session while one of it is stopped gets SIGHUP, as ever
 *   (kill_orphaned_pgrp in kernel/exit.c).
 * - A program that is executed by its descriptor, fexecve(3), may have the descriptor's number for a name.
 * - A process that executes while eight others are preempted on its CPU, one inside each program, is not stopped.
 * - An ENDED for which there is no room, or that passes by all eight, is lost: user space has to see by other means that
 *   nothing runs any more.
 * - An agent's own process whose parent is the init or the subreaper of its processes passes for an orphan.
 * - Options that stand behind the first 256 bytes of a shell's words are not seen.
 */
#include "compat.h"

#include "agentcg_exec.h"

char _license[] SEC("license") = "GPL";

const volatile struct agentcg_exec_config config = {};

/* No code has a type that names these, so that BTF would be without them: a test compares them with user space's. */
const volatile enum agentcg_exec_kind abi_kind __attribute__((used)) = 0;
const volatile enum agentcg_exec_match abi_match __attribute__((used)) = 0;
const volatile struct agentcg_exec_event abi_event __attribute__((used)) = {};

#define WORDS_BYTES 256 /* How much of the words of a program is read. */

/* linux/sched/signal.h, and signal(7) */
#define SIGNAL_GROUP_EXIT 0x04
#define SIGNAL_UNKILLABLE 0x40
#define SIGSTOP 19

struct name {
	char text[AGENTCG_EXEC_NAME_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct agentcg_exec_agent);
} agents SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct name);
	__type(value, __u32);
} programs SEC(".maps");

/* Since when a process is stopped, on CLOCK_MONOTONIC; 0 while it is about to be. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 512);
	__type(key, __u32);
	__type(value, __u64);
} stopped SEC(".maps");

/* Processes whose end is told, and which of their executions was told last: its number, task->self_exec_id. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, __u32);
} watched SEC(".maps");

/* The options of a shell */

enum reading {
	WORD, /* one that is no option: skipped */
	FIRST, /* at the first character of a word */
	SECOND,
	SHORT, /* inside -eo, say */
	THIRD, /* of --something */
	FOURTH,
	LONG,
};

struct words {
	char text[WORDS_BYTES];
	__u32 length;
	enum reading reading;
	char before;
	bool plus;
	bool value; /* the next word belongs to this option */
	bool command;
};

static __always_inline void read_short(struct words *words, char c)
{
	words->command = words->command || (c == 'c' && !words->plus);
	words->value = words->value || c == 'o' || c == 'O';
}

static __always_inline void read_end(struct words *words)
{
	words->reading = words->value ? WORD : FIRST;
	words->value = false;
}

/* One character. Short options may stand together, and some options take the next word: -eo pipefail -c COMMAND. */
static int read_character(__u64 at, struct words *words)
{
	char c;

	if (at >= words->length || at >= WORDS_BYTES)
		return 1;
	c = words->text[at];
	switch (words->reading) {
	case FIRST:
		if (c != '-' && c != '+')
			return 1;
		words->plus = c == '+';
		words->reading = SECOND;
		return 0;
	case SECOND:
		if (!c)
			return 1;
		words->reading = c == '-' ? THIRD : SHORT;
		if (words->reading == SHORT)
			read_short(words, c);
		return 0;
	case SHORT:
		if (c)
			read_short(words, c);
		else
			read_end(words);
		return 0;
	case THIRD:
		if (!c)
			return 1;
		words->before = c;
		words->reading = FOURTH;
		return 0;
	case FOURTH:
		/* --rcfile and --init-file */
		words->value = (words->before == 'r' && c == 'c') || (words->before == 'i' && c == 'n');
		words->reading = LONG;
		break;
	default:
		break;
	}
	if (!c)
		read_end(words);
	return 0;
}

static __always_inline bool has_command(struct task_struct *task)
{
	unsigned long start = BPF_CORE_READ(task, mm, arg_start), end = BPF_CORE_READ(task, mm, arg_end);
	struct words words = {};
	__u64 length = end - start;

	if (length > WORDS_BYTES)
		length = WORDS_BYTES;
	/* They were written a moment ago, in this system call: no page of them is missing. */
	if (bpf_probe_read_user(words.text, length, (void *)start))
		return false;
	words.length = length;
	bpf_loop(WORDS_BYTES, read_character, &words, 0);
	return words.command;
}

/* What is a call */

static __always_inline __u64 cgroup_of(struct task_struct *task)
{
	return BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
}

/* Is its parent the agent, or was it, before it ended and left it to whoever takes orphans? */
static __always_inline bool started_by(struct task_struct *task, __u64 agent)
{
	struct task_struct *parent = BPF_CORE_READ(task, real_parent);
	struct signal_struct *signal = BPF_CORE_READ(parent, signal);

	return cgroup_of(parent) == agent || BPF_CORE_READ(signal, flags) & SIGNAL_UNKILLABLE ||
	       BPF_CORE_READ_BITFIELD_PROBED(signal, is_child_subreaper);
}

static __always_inline bool is_call(struct task_struct *task)
{
	struct name name = {};
	__u32 *match;

	if (config.new_session && BPF_CORE_READ(task, signal, leader))
		return true;
	bpf_get_current_comm(&name, sizeof(name));
	match = bpf_map_lookup_elem(&programs, &name);
	return match && (*match == AGENTCG_EXEC_ALWAYS || has_command(task));
}

/* Stopping it */

/* The signal is sent before the event: whoever reads that may send SIGCONT at once, which takes back a SIGSTOP that has
 * not taken effect yet. The time is written last of all: from then on somebody else may let it go on. */
static __always_inline bool stop(__u32 pid, __u32 execution, __u64 agent)
{
	struct agentcg_exec_event *event;
	__u64 none = 0, *since;

	if (bpf_map_update_elem(&stopped, &pid, &none, BPF_ANY))
		return false;
	if (bpf_map_update_elem(&watched, &pid, &execution, BPF_ANY))
		goto undo;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		goto undo;
	*event = (struct agentcg_exec_event){
		.time_ns = bpf_ktime_get_ns(),
		.cgroup_id = agent,
		.pid = pid,
		.kind = AGENTCG_EXEC_STOPPED,
	};
	since = bpf_map_lookup_elem(&stopped, &pid);
	if (!since || bpf_send_signal(SIGSTOP)) {
		bpf_ringbuf_discard(event, 0);
		goto undo;
	}
	*since = event->time_ns;
	bpf_ringbuf_submit(event, 0);
	return true;
undo:
	bpf_map_delete_elem(&watched, &pid);
	bpf_map_delete_elem(&stopped, &pid);
	return false;
}

static __always_inline int executed(bool last)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	__u64 cgroup = bpf_get_current_cgroup_id();
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	__u32 execution = BPF_CORE_READ(task, self_exec_id);
	struct agentcg_exec_agent *agent = bpf_map_lookup_elem(&agents, &cgroup);
	__u32 *told;

	if (!agent)
		return 0;
	/* By one of the programs before this: it may be let go on, where it is, before it has come out of all of them. */
	told = bpf_map_lookup_elem(&watched, &pid);
	if ((told && *told == execution) || !started_by(task, cgroup) || !is_call(task))
		return 0;
	if (!stop(pid, execution, cgroup) && last)
		__sync_fetch_and_add(&agent->unmanaged, 1);
	return 0;
}

#define EXECUTED(number, last)                                                                                     \
	SEC("tp_btf/sched_process_exec")                                                                           \
	int BPF_PROG(executed_##number)                                                                            \
	{                                                                                                          \
		return executed(last);                                                                             \
	}

EXECUTED(1, false)
EXECUTED(2, false)
EXECUTED(3, false)
EXECUTED(4, false)
EXECUTED(5, false)
EXECUTED(6, false)
EXECUTED(7, false)
EXECUTED(8, true)

/* Its end */

static __always_inline int ended(void)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	struct signal_struct *signal = BPF_CORE_READ(task, signal);
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct agentcg_exec_event event = {};

	/* Two threads that end at the same time may both be the last one here: only one finds the entry. */
	if (BPF_CORE_READ(signal, live.counter) || bpf_map_delete_elem(&watched, &pid))
		return 0;
	bpf_map_delete_elem(&stopped, &pid);
	event.time_ns = bpf_ktime_get_ns();
	event.pid = pid;
	event.kind = AGENTCG_EXEC_ENDED;
	if (BPF_CORE_READ(signal, flags) & SIGNAL_GROUP_EXIT)
		event.status = BPF_CORE_READ(signal, group_exit_code);
	else
		event.status = BPF_CORE_READ(task, group_leader, exit_code);
	bpf_ringbuf_output(&events, &event, sizeof(event), 0);
	return 0;
}

#define ENDED(number)                                                                                              \
	SEC("tp_btf/sched_process_exit")                                                                           \
	int BPF_PROG(ended_##number)                                                                               \
	{                                                                                                          \
		return ended();                                                                                    \
	}

ENDED(1)
ENDED(2)
ENDED(3)
ENDED(4)
ENDED(5)
ENDED(6)
ENDED(7)
ENDED(8)
