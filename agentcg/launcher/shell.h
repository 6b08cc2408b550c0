/* SPDX-License-Identifier: Apache-2.0 */
/*
 * This program in the place of a shell: started under a shell's name, as a link or a mount, it makes `sh -c COMMAND` a
 * call, and is that shell in all other cases.
 */
#ifndef AGENTCG_SHELL_H
#define AGENTCG_SHELL_H

/* The shell that `called` is the name of, without a folder and a login shell's dash; NULL if it is none. */
const char *shell_name(const char *called);

/* What its arguments have it run (-c); NULL if they do not. */
const char *shell_command(char **argv);

/* The hint at the head of a command, AGENT_RESOURCE_HINT=memory:2g; NULL if there is none. Kept in static memory. */
const char *shell_hint(const char *command);

/*
 * The program of the real shell: AGENTCG_SHELL, or the first of that name on PATH and in the usual folders that is not
 * this one. NULL if there is none.
 */
const char *shell_program(const char *name);

#endif
