/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "environment.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool names_same(const char *entry, const char *other)
{
	size_t length = (size_t)(strchrnul(other, '=') - other);

	return !strncmp(entry, other, length) && entry[length] == '=';
}

/* "NAME=VALUE" into `out`; its length with the NUL, or 0. */
static size_t write_entry(struct json name, struct json value, char *out, size_t size)
{
	size_t name_length, value_length;

	if (!json_text(name, out, size, &name_length) || !name_length || memchr(out, '=', name_length))
		return 0;
	out[name_length] = '=';
	if (!json_text(value, out + name_length + 1, size - name_length - 1, &value_length))
		return 0;
	return name_length + 1 + value_length + 1;
}

char **environment_with(struct json added)
{
	struct json_members members;
	struct json name, value;
	size_t existing = 0, count = 0, size = (size_t)(added.end - added.at);
	char **merged, *text;

	for (char **entry = environ; *entry; entry++)
		existing++;
	if (!json_members(added, &members))
		return NULL;
	while (json_next(&members, &name, &value))
		count++;
	/* Decoding never lengthens, and quotes and colon give more room than '=' and NUL take. */
	merged = malloc((existing + count + 1) * sizeof(*merged) + size);
	if (!merged)
		return NULL;
	text = (char *)(merged + existing + count + 1);
	count = 0;
	json_members(added, &members);
	while (json_next(&members, &name, &value)) {
		size_t length = write_entry(name, value, text, size);

		if (!length)
			return NULL;
		merged[count++] = text;
		text += length;
		size -= length;
	}
	for (char **entry = environ; *entry; entry++) {
		bool replaced = false;

		for (size_t i = 0; i < count && !replaced; i++)
			replaced = names_same(*entry, merged[i]);
		if (!replaced)
			merged[count++] = *entry;
	}
	merged[count] = NULL;
	return merged;
}
