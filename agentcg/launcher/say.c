/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "say.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES 8192

struct line {
	size_t length;
	char text[LINE_MAX_BYTES + 1];
};

static void add(struct line *line, const char *text)
{
	for (; *text && line->length < LINE_MAX_BYTES; text++) {
		unsigned char c = (unsigned char)*text, next = (unsigned char)text[1];

		if (c == 0xc2 && next >= 0x80 && next <= 0x9f)
			text++; /* C1 controls are two bytes in UTF-8, and terminals obey them. */
		else if (c >= 0x20 && c != 0x7f) {
			line->text[line->length++] = (char)c;
			continue;
		}
		line->text[line->length++] = ' ';
	}
}

static void finish(struct line *line)
{
	line->text[line->length++] = '\n';
	write_all(STDERR_FILENO, line->text, line->length);
}

void say(const char *first, ...)
{
	struct line line = {.length = 0};
	va_list rest;

	add(&line, "agentcg-exec: ");
	va_start(rest, first);
	for (const char *text = first; text; text = va_arg(rest, const char *))
		add(&line, text);
	va_end(rest);
	finish(&line);
}

void say_advice(const char *advice)
{
	struct line line = {.length = 0};

	add(&line, "agentcg: ");
	add(&line, advice);
	finish(&line);
}

void write_all(int fd, const char *text, size_t length)
{
	while (length) {
		ssize_t written = write(fd, text, length);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return;
		text += written;
		length -= (size_t)written;
	}
}

const char *error_text(int number)
{
#ifdef __GLIBC__
	const char *text = strerrordesc_np(number);

	return text ? text : "unknown error";
#else
	return strerror(number);
#endif
}
