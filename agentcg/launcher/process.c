/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "say.h"

static const int taken_signals[] = {
	SIGCHLD, SIGHUP,  SIGINT,   SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM,
	SIGCONT, SIGTSTP, SIGTTIN, SIGTTOU, SIGWINCH,
};

static sigset_t taken_mask(void)
{
	sigset_t mask;

	sigemptyset(&mask);
	for (size_t i = 0; i < sizeof(taken_signals) / sizeof(*taken_signals); i++)
		sigaddset(&mask, taken_signals[i]);
	return mask;
}

static int enter(int procs)
{
	ssize_t written;

	do {
		written = write(procs, "0", 1);
	} while (written < 0 && errno == EINTR);
	return written == 1 ? 0 : written < 0 ? errno : EIO;
}

/* Whom the OOM killer takes first is a wish: some hosts refuse it, and the limits hold without it. */
static void set_oom_score_adj(const char *value)
{
	int fd = *value ? open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC) : -1;

	if (fd >= 0) {
		write_all(fd, value, strlen(value));
		close(fd);
	}
}

int process_enter(const struct place *place)
{
	int error = place->procs >= 0 ? enter(place->procs) : place->ask();

	if (!error)
		set_oom_score_adj(place->oom_score_adj);
	return error;
}

static _Noreturn void be_the_child(const struct process *process, int *entry_error, const char *program,
				   char **command, const struct place *place, int socket)
{
	/* A child held here, frozen, must not keep the connection open when we are killed: it is the call's lease. */
	close(socket);
	*entry_error = process_enter(place);
	if (*entry_error)
		_exit(125);
	environ = place->environment;
	process_restore(process);
	_exit(process_execute(program, command));
}

int process_start(struct process *process, const char *program, char **command, const struct place *place,
		  int socket)
{
	struct sigaction by_default = {.sa_handler = SIG_DFL};
	sigset_t blocked = taken_mask();
	int *entry_error = mmap(NULL, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int error;

	if (entry_error == MAP_FAILED)
		return errno;
	process->entry_error = entry_error;
	/* A write to a pipe that nobody reads must not end us before the command's status is passed on. */
	sigaddset(&blocked, SIGPIPE);
	sigprocmask(SIG_BLOCK, &blocked, &process->old_mask);
	/* Ignored, as some callers leave it, the child's status would be lost. */
	sigaction(SIGCHLD, &by_default, &process->old_child_action);
	process->pid = fork();
	if (process->pid == 0)
		be_the_child(process, entry_error, program, command, place, socket);
	if (process->pid > 0)
		return 0;
	error = errno;
	process_restore(process);
	return error;
}

void process_restore(const struct process *process)
{
	if (process->old_child_action.sa_handler == SIG_IGN)
		sigaction(SIGCHLD, &process->old_child_action, NULL);
	sigprocmask(SIG_SETMASK, &process->old_mask, NULL);
}

/* Stop as the child did, so that the shell takes the terminal back. What continues us is handed on like any signal. */
static void stop_likewise(int signal)
{
	struct sigaction by_default = {.sa_handler = SIG_DFL}, before = by_default;
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, signal);
	sigaction(signal, &by_default, &before);
	raise(signal);
	sigprocmask(SIG_UNBLOCK, &mask, NULL);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	sigaction(signal, &before, NULL);
}

/* True once the child is over. Other children that end are reaped too: in a container we may be process 1. */
static bool reap(struct process *process)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED)) > 0) {
		if (pid != process->pid)
			continue;
		if (WIFSTOPPED(status)) {
			stop_likewise(WSTOPSIG(status));
			continue;
		}
		process->status = status;
		return true;
	}
	return false;
}

static bool is_ours_to_hand_on(const siginfo_t *info, pid_t child)
{
	/* A handler in the child that signals its whole group must not get its own signal back for ever. */
	if (info->si_pid == child && info->si_code <= 0)
		return false;
	if (info->si_code <= 0)
		return true;
	switch (info->si_signo) {
	case SIGALRM:
		return true; /* alarm() before exec: a timer set for what is executed. */
	case SIGHUP:
		return getsid(0) == getpid(); /* A hangup reaches the session's leader alone. */
	default:
		return false; /* The terminal signals the whole group. */
	}
}

void process_wait(struct process *process)
{
	sigset_t mask = taken_mask(), after = process->old_mask;
	siginfo_t info;

	for (;;) {
		if (sigwaitinfo(&mask, &info) < 0)
			continue;
		if (info.si_signo == SIGCHLD) {
			if (reap(process))
				break;
		} else if (is_ours_to_hand_on(&info, process->pid)) {
			kill(process->pid, info.si_signo);
		}
	}
	sigaddset(&after, SIGPIPE);
	sigprocmask(SIG_SETMASK, &after, NULL);
}

int process_execute(const char *program, char **command)
{
	int error;

	execvp(program, command);
	error = errno;
	say(program, ": ", error_text(error), NULL);
	return error == ENOENT ? 127 : 126;
}

_Noreturn void process_end_like(int status)
{
	struct sigaction by_default = {.sa_handler = SIG_DFL};
	sigset_t mask;
	int signal;

	if (WIFEXITED(status))
		_exit(WEXITSTATUS(status));
	signal = WTERMSIG(status);
	/* The resource limit would not stop a dump that goes to a pipe. */
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	sigaction(signal, &by_default, NULL);
	sigemptyset(&mask);
	sigaddset(&mask, signal);
	raise(signal);
	sigprocmask(SIG_UNBLOCK, &mask, NULL);
	/* Process 1 of a PID namespace is not ended by a signal of its own. */
	_exit(128 + signal);
}
