// SPDX-License-Identifier: Apache-2.0
// What the two jobs of agentcg-guard have in common.
#ifndef AGENTCG_GUARD_H
#define AGENTCG_GUARD_H

#include <stdint.h>

void say(int fd, const char *format, ...) __attribute__((format(printf, 2, 3)));
int64_t now_ns(void); // On CLOCK_MONOTONIC.

// Lets processes go on: see processes.c. Returns the exit status.
int guard_processes(int stopped, int agents);

#endif
