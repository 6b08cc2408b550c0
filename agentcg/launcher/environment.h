/* SPDX-License-Identifier: Apache-2.0 */
#ifndef AGENTCG_ENVIRONMENT_H
#define AGENTCG_ENVIRONMENT_H

#include "json.h"

/*
 * The process's environment with the members of `added` in it, which win; NULL if a name or a value cannot be one.
 * What is returned is never freed: it is for execve.
 */
char **environment_with(struct json added);

#endif
