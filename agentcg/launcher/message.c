/* SPDX-License-Identifier: Apache-2.0 */
#include "message.h"

#include <string.h>
#include <sys/wait.h>

#include "json.h"

#define COMMAND_MAX 4096
#define ELLIPSIS "\xe2\x80\xa6"
#define REPLACEMENT "\xef\xbf\xbd"

static void add(struct message *message, const char *raw, size_t length)
{
	if (message->full || length > sizeof(message->text) - message->length) {
		message->full = true;
		return;
	}
	memcpy(message->text + message->length, raw, length);
	message->length += length;
}

static void add_raw(struct message *message, const char *raw)
{
	add(message, raw, strlen(raw));
}

static void add_number(struct message *message, unsigned number)
{
	char digits[10];
	size_t first = sizeof(digits);

	do {
		digits[--first] = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	add(message, digits + first, sizeof(digits) - first);
}

/* Bytes of any kind: what is not valid UTF-8 becomes U+FFFD. */
static void add_string(struct message *message, const char *bytes, size_t length)
{
	static const char hex[] = "0123456789abcdef";

	add(message, "\"", 1);
	for (size_t i = 0; i < length && !message->full;) {
		unsigned char c = (unsigned char)bytes[i];
		size_t taken = json_utf8_length(bytes + i, length - i);

		if (!taken) {
			add_raw(message, REPLACEMENT);
			taken = 1;
		} else if (c == '"' || c == '\\') {
			char escape[2] = {'\\', (char)c};

			add(message, escape, sizeof(escape));
		} else if (c < 0x20 || c == 0x7f) {
			char escape[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 0xf]};

			add(message, escape, sizeof(escape));
		} else {
			add(message, bytes + i, taken);
		}
		i += taken;
	}
	add(message, "\"", 1);
}

static void add_member(struct message *message, const char *name, const char *value)
{
	if (!value)
		return;
	add_raw(message, ",\"");
	add_raw(message, name);
	add_raw(message, "\":");
	add_string(message, value, strlen(value));
}

/* The words of the command. Of more than COMMAND_MAX bytes, spaces counted, the rest is an ellipsis. */
static void add_command(struct message *message, char **command)
{
	size_t left = COMMAND_MAX + 1;

	add_raw(message, "\"command\":[");
	for (char **word = command; *word; word++) {
		size_t length = strlen(*word);
		char cut[COMMAND_MAX + sizeof(ELLIPSIS)];

		if (word > command)
			add_raw(message, ",");
		if (length < left) {
			add_string(message, *word, length);
			left -= length + 1;
			continue;
		}
		length = left ? left - 1 : 0;
		/* Not in the middle of a character, which has three bytes behind the first at most. */
		for (int i = 0; i < 3 && length && ((*word)[length] & 0xc0) == 0x80; i++)
			length--;
		memcpy(cut, *word, length);
		memcpy(cut + length, ELLIPSIS, sizeof(ELLIPSIS));
		add_string(message, cut, strlen(cut));
		break;
	}
	add_raw(message, "]");
}

void message_begin(struct message *message, const struct options *options)
{
	message->length = 0;
	message->full = false;
	add_raw(message, "{\"method\":\"dev.agentcg.Calls.Begin\",\"parameters\":{");
	add_command(message, options->command);
	add_member(message, "session", options->session);
	add_member(message, "id", options->id);
	add_member(message, "tool", options->tool);
	add_member(message, "hint", options->hint);
	if (options->intent) {
		add_raw(message, ",\"intent\":");
		add_raw(message, options->intent);
	}
	add_raw(message, "}}");
	add(message, "", 1);
}

static void begin_about(struct message *message, const char *method, const char *call)
{
	message->length = 0;
	message->full = false;
	add_raw(message, "{\"method\":\"dev.agentcg.Calls.");
	add_raw(message, method);
	add_raw(message, "\",\"parameters\":{\"call\":");
	add_raw(message, call);
}

void message_enter(struct message *message, const char *call)
{
	begin_about(message, "Enter", call);
	add_raw(message, "}}");
	add(message, "", 1);
}

void message_end(struct message *message, const char *call, int status)
{
	begin_about(message, "End", call);
	add_raw(message, WIFSIGNALED(status) ? ",\"signal\":" : ",\"exitCode\":");
	add_number(message, (unsigned)(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)));
	add_raw(message, "}}");
	add(message, "", 1);
}
