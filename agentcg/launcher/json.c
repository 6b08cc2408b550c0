/* SPDX-License-Identifier: Apache-2.0 */
#include "json.h"

#include <stdint.h>
#include <string.h>

#define DEPTH_MAX 64

size_t json_utf8_length(const char *bytes, size_t available)
{
	const unsigned char *b = (const unsigned char *)bytes;
	unsigned char low = 0x80, high = 0xbf;
	size_t length;

	if (!available)
		return 0;
	if (b[0] < 0x80)
		return 1;
	if (b[0] >= 0xc2 && b[0] <= 0xdf)
		length = 2;
	else if (b[0] >= 0xe0 && b[0] <= 0xef)
		length = 3;
	else if (b[0] >= 0xf0 && b[0] <= 0xf4)
		length = 4;
	else
		return 0;
	if (length > available)
		return 0;
	/* The second byte rules out overlong forms, surrogates and what lies above U+10FFFF. */
	if (b[0] == 0xe0)
		low = 0xa0;
	else if (b[0] == 0xed)
		high = 0x9f;
	else if (b[0] == 0xf0)
		low = 0x90;
	else if (b[0] == 0xf4)
		high = 0x8f;
	if (b[1] < low || b[1] > high)
		return 0;
	for (size_t i = 2; i < length; i++)
		if (b[i] < 0x80 || b[i] > 0xbf)
			return 0;
	return length;
}

static bool at(const struct json *cursor, char wanted)
{
	return cursor->at < cursor->end && *cursor->at == wanted;
}

static void skip_space(struct json *cursor)
{
	while (at(cursor, ' ') || at(cursor, '\n') || at(cursor, '\t') || at(cursor, '\r'))
		cursor->at++;
}

static bool skip_literal(struct json *cursor, const char *literal)
{
	size_t length = strlen(literal);

	if ((size_t)(cursor->end - cursor->at) < length || memcmp(cursor->at, literal, length))
		return false;
	cursor->at += length;
	return true;
}

static bool skip_digits(struct json *cursor)
{
	const char *first = cursor->at;

	while (cursor->at < cursor->end && *cursor->at >= '0' && *cursor->at <= '9')
		cursor->at++;
	return cursor->at > first;
}

static bool skip_number(struct json *cursor)
{
	if (at(cursor, '-'))
		cursor->at++;
	if (at(cursor, '0'))
		cursor->at++;
	else if (!skip_digits(cursor))
		return false;
	if (at(cursor, '.')) {
		cursor->at++;
		if (!skip_digits(cursor))
			return false;
	}
	if (at(cursor, 'e') || at(cursor, 'E')) {
		cursor->at++;
		if (at(cursor, '+') || at(cursor, '-'))
			cursor->at++;
		return skip_digits(cursor);
	}
	return true;
}

/* Four hexadecimal digits, or -1. */
static int32_t take_hex(struct json *cursor)
{
	int32_t value = 0;

	if (cursor->end - cursor->at < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		char c = *cursor->at++;

		if (c >= '0' && c <= '9')
			value = value << 4 | (c - '0');
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			value = value << 4 | ((c | 0x20) - 'a' + 10);
		else
			return -1;
	}
	return value;
}

static size_t encode(uint32_t point, char *out)
{
	if (point < 0x80) {
		out[0] = (char)point;
		return 1;
	}
	if (point < 0x800) {
		out[0] = (char)(0xc0 | point >> 6);
		out[1] = (char)(0x80 | (point & 0x3f));
		return 2;
	}
	if (point < 0x10000) {
		out[0] = (char)(0xe0 | point >> 12);
		out[1] = (char)(0x80 | (point >> 6 & 0x3f));
		out[2] = (char)(0x80 | (point & 0x3f));
		return 3;
	}
	out[0] = (char)(0xf0 | point >> 18);
	out[1] = (char)(0x80 | (point >> 12 & 0x3f));
	out[2] = (char)(0x80 | (point >> 6 & 0x3f));
	out[3] = (char)(0x80 | (point & 0x3f));
	return 4;
}

/* One escape behind its backslash, as UTF-8; the length, or 0 if it is not one. */
static size_t take_escape(struct json *cursor, char out[4])
{
	static const char plain[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
	const char *found;
	int32_t high, low;

	if (cursor->at >= cursor->end)
		return 0;
	if (*cursor->at != 'u') {
		found = *cursor->at ? strchr(plain, *cursor->at) : NULL;
		if (!found)
			return 0;
		cursor->at++;
		out[0] = meant[found - plain];
		return 1;
	}
	cursor->at++;
	high = take_hex(cursor);
	if (high < 0)
		return 0;
	if (high >= 0xd800 && high <= 0xdbff) {
		struct json ahead = *cursor;

		if (skip_literal(&ahead, "\\u")) {
			low = take_hex(&ahead);
			if (low >= 0xdc00 && low <= 0xdfff) {
				*cursor = ahead;
				return encode(0x10000 + ((uint32_t)(high - 0xd800) << 10) + (uint32_t)(low - 0xdc00), out);
			}
		}
	}
	if (high >= 0xd800 && high <= 0xdfff)
		high = 0xfffd;
	return encode((uint32_t)high, out);
}

/* One character of a string as UTF-8; its length, or 0 if there is none. Stands before the character. */
static size_t take_character(struct json *cursor, char out[4])
{
	size_t length;

	if (cursor->at >= cursor->end || (unsigned char)*cursor->at < 0x20)
		return 0;
	if (*cursor->at == '\\') {
		cursor->at++;
		return take_escape(cursor, out);
	}
	length = json_utf8_length(cursor->at, (size_t)(cursor->end - cursor->at));
	memcpy(out, cursor->at, length);
	cursor->at += length;
	return length;
}

static bool skip_string(struct json *cursor)
{
	char character[4];

	if (!at(cursor, '"'))
		return false;
	cursor->at++;
	while (!at(cursor, '"'))
		if (!take_character(cursor, character))
			return false;
	cursor->at++;
	return true;
}

static bool skip_name(struct json *cursor)
{
	skip_space(cursor);
	if (!skip_string(cursor))
		return false;
	skip_space(cursor);
	return skip_literal(cursor, ":");
}

static bool skip_scalar(struct json *cursor)
{
	switch (*cursor->at) {
	case '"':
		return skip_string(cursor);
	case 't':
		return skip_literal(cursor, "true");
	case 'f':
		return skip_literal(cursor, "false");
	case 'n':
		return skip_literal(cursor, "null");
	default:
		return skip_number(cursor);
	}
}

/* One value of any kind. What is open is kept in the bits of `objects`, the innermost in the lowest: 1 is an object. */
static bool skip_value(struct json *cursor)
{
	uint64_t objects = 0;
	unsigned depth = 0;

	for (;;) {
		skip_space(cursor);
		if (cursor->at >= cursor->end)
			return false;
		if (at(cursor, '{') || at(cursor, '[')) {
			bool object = *cursor->at++ == '{';

			if (depth == DEPTH_MAX)
				return false;
			skip_space(cursor);
			if (!at(cursor, object ? '}' : ']')) {
				if (object && !skip_name(cursor))
					return false;
				depth++;
				objects = objects << 1 | object;
				continue;
			}
			cursor->at++;
		} else if (!skip_scalar(cursor)) {
			return false;
		}
		/* A value is complete: close what ends here, or go on behind the comma. */
		for (;;) {
			if (!depth)
				return true;
			skip_space(cursor);
			if (at(cursor, ',')) {
				cursor->at++;
				if ((objects & 1) && !skip_name(cursor))
					return false;
				break;
			}
			if (!at(cursor, objects & 1 ? '}' : ']'))
				return false;
			cursor->at++;
			objects >>= 1;
			depth--;
		}
	}
}

bool json_parse(const char *text, size_t length, struct json *value)
{
	struct json cursor = {text, text + length};

	skip_space(&cursor);
	value->at = cursor.at;
	if (!skip_value(&cursor))
		return false;
	value->end = cursor.at;
	skip_space(&cursor);
	return cursor.at == cursor.end;
}

bool json_is_object(struct json value)
{
	return at(&value, '{');
}

bool json_is_null(struct json value)
{
	return at(&value, 'n');
}

bool json_members(struct json object, struct json_members *members)
{
	members->rest = object;
	members->started = false;
	if (!json_is_object(object))
		return false;
	members->rest.at++;
	return true;
}

bool json_next(struct json_members *members, struct json *name, struct json *value)
{
	struct json *rest = &members->rest;

	skip_space(rest);
	if (members->started) {
		if (!skip_literal(rest, ","))
			return false;
		skip_space(rest);
	}
	members->started = true;
	name->at = rest->at;
	if (!skip_string(rest))
		return false;
	name->end = rest->at;
	skip_space(rest);
	if (!skip_literal(rest, ":"))
		return false;
	skip_space(rest);
	value->at = rest->at;
	if (!skip_value(rest))
		return false;
	value->end = rest->at;
	return true;
}

bool json_get(struct json object, const char *name, struct json *value)
{
	struct json_members members;
	struct json key, candidate;
	char text[64];
	bool found = false;

	if (!json_members(object, &members))
		return false;
	while (json_next(&members, &key, &candidate)) {
		if (json_text(key, text, sizeof(text), NULL) && !strcmp(text, name)) {
			*value = candidate;
			found = true;
		}
	}
	return found;
}

bool json_text(struct json string, char *out, size_t size, size_t *length)
{
	size_t used = 0;

	if (!at(&string, '"'))
		return false;
	string.at++;
	while (!at(&string, '"')) {
		char character[4];
		size_t taken = take_character(&string, character);

		if (!taken || !character[0] || taken >= size - used)
			return false;
		memcpy(out + used, character, taken);
		used += taken;
	}
	if (used >= size)
		return false;
	out[used] = '\0';
	if (length)
		*length = used;
	return true;
}

bool json_integer(struct json number, int *out)
{
	bool negative = at(&number, '-');
	int value = 0;

	if (negative)
		number.at++;
	if (number.at >= number.end || number.end - number.at > 9)
		return false;
	for (; number.at < number.end; number.at++) {
		if (*number.at < '0' || *number.at > '9')
			return false;
		value = value * 10 + (*number.at - '0');
	}
	*out = negative ? -value : value;
	return true;
}
