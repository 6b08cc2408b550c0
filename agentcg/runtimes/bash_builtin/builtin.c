/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agentcg_shell, a builtin that bash loads (`enable -f`, bash(1)): what a persistent shell starts runs in a call, and the
 * shell itself does not.
 *
 *   agentcg_shell FILE
 *
 * FILE is shared with a runtime, which writes to it where to go:
 *
 *   OOM_SCORE_ADJ \n CGROUP.PROCS \n SOCKET \n REQUEST \0
 *
 * The shell goes there itself when the builtin is run, into its session. From then on each child that it forks goes
 * where FILE says at that time, into the call of the command, before it does anything else: by writing to CGROUP.PROCS
 * where it may, or else by sending REQUEST to the daemon. Children of the child are born there. While FILE is empty,
 * children stay where they are born. A child that cannot go where it is to go does not run: it exits with 125 after a
 * line on standard error.
 *
 * fork(3) calls what pthread_atfork(3) was given, in objects that were loaded later, too; and bash starts all that it
 * starts by fork(3).
 *
 * Known limits: a bash that is linked statically or built without loadable builtins cannot load it. A shell that
 * executes another program in its own place is no longer this one.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../launcher/process.h"
#include "../../launcher/say.h"
#include "../../launcher/varlink.h"

#define ORDER_BYTES 8192 /* of FILE; Python knows it too */
#define TIMEOUT_MSEC 30000

/* What a builtin is to bash, and what it is called with: a list of words. */
struct word {
	char *text;
	int flags;
};

struct words {
	struct words *next;
	struct word *word;
};

struct builtin {
	const char *name;
	int (*run)(struct words *words);
	int flags;
	const char *const *description;
	const char *usage;
	void *reserved;
};

#define BUILTIN_ENABLED 1
#define EXECUTION_FAILURE 1
#define WRONG_USAGE 2

static const char *order; /* what FILE says, which changes; NULL in children */
static const char *daemon_socket;
static struct message request;
static struct varlink_reply reply;

static int ask(void)
{
	return varlink_ask(daemon_socket, &request, TIMEOUT_MSEC, &reply);
}

/* Returns 0 or an error number. */
static int go(void)
{
	static char copy[ORDER_BYTES];
	struct place place = {.ask = ask};
	char *rest = copy;
	const char *procs;
	int error;

	memcpy(copy, order, sizeof(copy) - 1);
	place.oom_score_adj = strsep(&rest, "\n");
	procs = strsep(&rest, "\n");
	daemon_socket = strsep(&rest, "\n");
	if (!rest)
		return 0;
	request.length = strlen(rest) + 1;
	memcpy(request.text, rest, request.length);
	place.procs = open(procs, O_WRONLY | O_CLOEXEC);
	error = process_enter(&place);
	if (place.procs >= 0)
		close(place.procs);
	return error;
}

static void complain(int error)
{
	char line[256];

	snprintf(line, sizeof(line), "the cgroup of this call cannot be entered (%s): not run", error_text(error));
	say_advice(line);
}

static void in_the_child(void)
{
	int error = order ? go() : 0;

	order = NULL;
	if (error) {
		complain(error);
		_exit(125);
	}
}

static int agentcg_shell(struct words *words)
{
	static int hooked;
	void *mapped;
	int fd, error;

	if (!words || words->next)
		return WRONG_USAGE;
	fd = open(words->word->text, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return EXECUTION_FAILURE;
	mapped = mmap(NULL, ORDER_BYTES, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (mapped == MAP_FAILED)
		return EXECUTION_FAILURE;
	order = mapped;
	error = go();
	if (!error && !hooked)
		error = pthread_atfork(NULL, NULL, in_the_child);
	if (error) {
		complain(error);
		return EXECUTION_FAILURE;
	}
	hooked = 1;
	return 0;
}

static const char *const description[] = {
	"What this shell starts runs where FILE says, which a runtime of agentcg writes.",
	NULL,
};

/* Found by this name. */
__attribute__((visibility("default"))) struct builtin agentcg_shell_struct = {
	.name = "agentcg_shell",
	.run = agentcg_shell,
	.flags = BUILTIN_ENABLED,
	.description = description,
	.usage = "agentcg_shell FILE",
};
