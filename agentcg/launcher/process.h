/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command as a child in the same process group, watched from outside its cgroup.
 *
 * While it runs, every signal that ends or stops a process by default is blocked here and taken one by one. What the
 * terminal sends reaches the child by itself; what another process sends to us is handed on. A signal that is sent to
 * the whole group by kill(2) may reach the child twice: nothing tells it from one sent to us alone.
 */
#ifndef AGENTCG_PROCESS_H
#define AGENTCG_PROCESS_H

#include <signal.h>
#include <sys/types.h>

struct process {
	pid_t pid;
	int status;             /* of waitpid, once over */
	const int *entry_error; /* shared with the child: why it could not enter its cgroup, or 0 */
	sigset_t old_mask;
	struct sigaction old_child_action;
};

/* How the child becomes the call. */
struct place {
	int procs;                 /* of the call's cgroup.procs, write-only; -1 if `ask` is the way in */
	int (*ask)(void);          /* asks the daemon to move the process that calls it; 0 or an error number */
	const char *oom_score_adj; /* for /proc/self/oom_score_adj; empty to leave it */
	char **environment;
};

/* Move this process into the cgroup, where it may have to wait. Returns 0 or an error number. */
int process_enter(const struct place *place);

/*
 * Fork, enter the cgroup, execute. Returns 0 or an error number, and then there is no child. The child leaves `socket`
 * before it enters. It exits with 126 or 127 when the command cannot be executed.
 */
int process_start(struct process *process, const char *program, char **command, const struct place *place,
		  int socket);

/* Wait for the end, handing on signals and following stops. Signals are as before then, but SIGPIPE is blocked. */
void process_wait(struct process *process);

/* Execute `program` in place of this process; returns 126 or 127 after a line on standard error. */
int process_execute(const char *program, char **command);

/* Undo what process_start changed here. */
void process_restore(const struct process *process);

/* End as the child did: the same exit status or the same signal, without a core dump of our own. */
_Noreturn void process_end_like(int status);

#endif
