/* SPDX-License-Identifier: Apache-2.0 */
#include "shell.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HINT "AGENT_RESOURCE_HINT="
#define HINT_MAX 256
#define PLACE_MAX 4096
#define BLANKS " \t\n\r\f\v"
#define USUAL_FOLDERS "/usr/local/bin:/usr/bin:/bin"

const char *shell_name(const char *called)
{
	static const char *const shells[] = {"sh", "bash", "dash", "ash", "zsh", "ksh"};
	const char *slash = strrchr(called, '/'), *name = slash ? slash + 1 : called + (*called == '-');

	for (size_t i = 0; i < sizeof(shells) / sizeof(*shells); i++)
		if (!strcmp(name, shells[i]))
			return shells[i];
	return NULL;
}

/* Short options may stand together, and some take the next word: -eo pipefail -c COMMAND. */
const char *shell_command(char **argv)
{
	bool wanted = false;

	if (!*argv)
		return NULL;
	for (argv++; *argv && (**argv == '-' || **argv == '+') && (*argv)[1]; argv++) {
		const char *option = *argv;

		if (!strcmp(option, "--")) {
			argv++;
			break;
		}
		if (!strncmp(option, "--", 2)) {
			if ((!strcmp(option, "--rcfile") || !strcmp(option, "--init-file")) && argv[1])
				argv++;
			continue;
		}
		wanted = wanted || (*option == '-' && strchr(option, 'c'));
		if (strpbrk(option, "oO") && argv[1])
			argv++;
	}
	return wanted ? *argv : NULL;
}

const char *shell_hint(const char *command)
{
	static char hint[HINT_MAX + 1];
	const char *value = command + strspn(command, BLANKS), *end;
	size_t length;

	if (strncmp(value, HINT, sizeof(HINT) - 1))
		return NULL;
	value += sizeof(HINT) - 1;
	if (*value == '"' || *value == '\'') {
		const char quote[] = {*value, '\0'};

		length = strcspn(++value, BLANKS "\"'");
		if (value[length] != *quote)
			return NULL;
		end = value + length + 1;
	} else {
		length = strcspn(value, BLANKS "\"';&|");
		end = value + length;
	}
	/* Without a command behind it, it is a variable of the shell's. */
	if (length > HINT_MAX || !*end || !strchr(BLANKS, *end) || !end[strspn(end, BLANKS)])
		return NULL;
	memcpy(hint, value, length);
	hint[length] = '\0';
	return hint;
}

/* In the first folders of `path`, the shell of that name which is not this program. */
static const char *search(const char *path, const char *name, const struct stat *self)
{
	static char found[PLACE_MAX];
	struct stat there;

	for (const char *end; *path; path = *end ? end + 1 : end) {
		size_t length = strcspn(path, ":");

		end = path + length;
		if (!length || length + 1 + strlen(name) >= sizeof(found))
			continue;
		memcpy(found, path, length);
		found[length] = '/';
		strcpy(found + length + 1, name);
		if (!stat(found, &there) && S_ISREG(there.st_mode) && !access(found, X_OK) &&
		    (there.st_dev != self->st_dev || there.st_ino != self->st_ino))
			return found;
	}
	return NULL;
}

const char *shell_program(const char *name)
{
	const char *given = getenv("AGENTCG_SHELL"), *path = getenv("PATH"), *found;
	struct stat self;

	if (given && *given)
		return given;
	if (stat("/proc/self/exe", &self))
		return NULL;
	found = path ? search(path, name, &self) : NULL;
	return found ? found : search(USUAL_FOLDERS, name, &self);
}
