/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON without allocation: a strict scanner over text that somebody else owns.
 * Values nest at most 64 deep. Of members with the same name the last one counts, as in Python.
 */
#ifndef AGENTCG_JSON_H
#define AGENTCG_JSON_H

#include <stdbool.h>
#include <stddef.h>

/* The text of one value, or what is left of it. It ends before `end`; there is no NUL. */
struct json {
	const char *at;
	const char *end;
};

/* The members of an object still to come. */
struct json_members {
	struct json rest;
	bool started;
};

/* True if `text` is one value with nothing behind it. `value` is then that value without the space around it. */
bool json_parse(const char *text, size_t length, struct json *value);

bool json_is_object(struct json value);
bool json_is_null(struct json value);

/* Before the first json_next. False if `object` is not an object. */
bool json_members(struct json object, struct json_members *members);

/* The next member; `name` is a string value. False at the end. */
bool json_next(struct json_members *members, struct json *name, struct json *value);

/* The member `name` (at most 63 bytes) of `object`. False if there is none, or if `object` is not an object. */
bool json_get(struct json object, const char *name, struct json *value);

/*
 * Decode a string to UTF-8 with a NUL behind it. False if the value is not a string, holds a NUL or does not fit;
 * `length`, which may be NULL, is left alone then. Half of a surrogate pair becomes U+FFFD.
 */
bool json_text(struct json string, char *out, size_t size, size_t *length);

/* A whole number from -999999999 to 999999999, in digits alone. */
bool json_integer(struct json number, int *out);

/* The length of the UTF-8 character at `bytes`, 0 if there is no valid one. */
size_t json_utf8_length(const char *bytes, size_t available);

#endif
