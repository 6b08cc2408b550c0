/* SPDX-License-Identifier: Apache-2.0 */
/* One line to standard error at a time. Control characters in it become spaces: some of the text is not ours. */
#ifndef AGENTCG_SAY_H
#define AGENTCG_SAY_H

#include <stddef.h>

/* "agentcg-exec: " and the given strings, up to a NULL. Cut after 8 KiB. */
void say(const char *first, ...) __attribute__((sentinel));

/* "agentcg: " and the given text. Cut after 8 KiB. */
void say_advice(const char *advice);

/* All of `text`, or as much as the descriptor takes. */
void write_all(int fd, const char *text, size_t length);

/* What an error number means, without a locale. */
const char *error_text(int number);

#endif
