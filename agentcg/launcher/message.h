/* SPDX-License-Identifier: Apache-2.0 */
/* What the launcher says to the daemon: complete Varlink messages, each with its NUL. */
#ifndef AGENTCG_MESSAGE_H
#define AGENTCG_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>

#include "options.h"

/* `full` is set when the message did not fit; it is not one then. */
struct message {
	size_t length;
	bool full;
	char text[64 * 1024];
};

/* dev.agentcg.Calls.Begin with what the options give, the first 4 KiB of the command among it. */
void message_begin(struct message *message, const struct options *options);

/* dev.agentcg.Calls.Enter; `call` is JSON text with its quotes. */
void message_enter(struct message *message, const char *call);

/* dev.agentcg.Calls.End; `call` is JSON text with its quotes, `status` is one of waitpid. */
void message_end(struct message *message, const char *call, int status);

#endif
