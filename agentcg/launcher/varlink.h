/* SPDX-License-Identifier: Apache-2.0 */
/* The client's side of Varlink: one message there, one back, with file descriptors, within a time. */
#ifndef AGENTCG_VARLINK_H
#define AGENTCG_VARLINK_H

#include <stddef.h>
#include <stdint.h>

#include "json.h"
#include "message.h"

#define VARLINK_DESCRIPTORS_MAX 16

enum varlink_result {
	VARLINK_OK,
	VARLINK_CLOSED,
	VARLINK_TIMEOUT,
	VARLINK_TOO_LONG,
	VARLINK_NOT_A_REPLY,
	VARLINK_TOO_MANY_DESCRIPTORS,
};

struct varlink_reply {
	size_t length;
	char text[64 * 1024 + 1];
	struct json parameters; /* in `text`; empty if there are none */
	char error[128];        /* empty if it is not an error */
	unsigned descriptor_count;
	int descriptors[VARLINK_DESCRIPTORS_MAX];
};

/* Milliseconds on a clock that never jumps. */
int64_t now_msec(void);

/* A connected socket, or a negative error number. */
int varlink_connect(const char *path, int64_t timeout_msec);

/* Send `message` and wait for the reply until `deadline_msec`. */
enum varlink_result varlink_call(int fd, const struct message *message, int64_t deadline_msec,
				 struct varlink_reply *reply);

/*
 * The same on a connection of its own, whose reply is of interest only if it is an error. Returns 0 or an error number:
 * EPERM for an error reply.
 */
int varlink_ask(const char *path, const struct message *message, int64_t timeout_msec, struct varlink_reply *reply);

/* Close the descriptors that came with `reply`, all but `keep`. */
void varlink_close_descriptors(struct varlink_reply *reply, int keep);

#endif
