/* SPDX-License-Identifier: Apache-2.0 */
/* What the command line and the environment ask for. */
#ifndef AGENTCG_OPTIONS_H
#define AGENTCG_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

/* Exit status of our own refusals; 126 and 127 mean what they mean for env(1). */
#define EXIT_REFUSED 125

enum verdict_form { VERDICT_TEXT, VERDICT_JSON, VERDICT_NONE };

struct options {
	const char *socket;
	const char *session; /* this and the next four are NULL when not given */
	const char *id;
	const char *tool;
	const char *intent;
	const char *hint;
	bool run_without_daemon;
	enum verdict_form verdict;
	int verdict_fd;
	bool quiet;
	int64_t timeout_msec;
	const char *join; /* a call that has begun; NULL to begin one */
	int procs;        /* with join: its cgroup.procs; -1 to ask the daemon */
	const char *oom_score_adj; /* with join; empty to leave it */
	const char *program; /* what is executed: the command's first word, or the shell that is meant */
	char **command;
};

/* Read both. Ends the process: with 125 and a line that names what is wrong, or with 0 after --help. */
void options_read(struct options *options, char **argv);

/* The same for a shell: the arguments are its own. `hint` may be NULL. */
void options_for_shell(struct options *options, const char *program, char **argv, const char *hint);

#endif
