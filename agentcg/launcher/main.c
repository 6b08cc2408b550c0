/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agentcg-exec: run a command as one tool call.
 *
 * It asks the daemon for a cgroup (dev.agentcg.Calls.Begin), forks, lets the child place itself by the descriptor that
 * came with the answer and execute the command, waits outside the cgroup, and reports the end (End), which brings the
 * verdict. The connection is the call's lease: if this process is killed, the daemon ends the call.
 *
 * With --join it does the child's part alone. Under the name of a shell it stands in for that: see shell.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "environment.h"
#include "json.h"
#include "message.h"
#include "options.h"
#include "process.h"
#include "say.h"
#include "shell.h"
#include "varlink.h"

#define RECONNECT_MSEC 10000
#define RECONNECT_PAUSE_MSEC 50

static struct options options;
static struct message request;
static struct varlink_reply reply;

/* What is kept of Begin's reply for the time when the reply's own memory is used again. */
static char call[1024]; /* as JSON: with its quotes */
static char oom_score_adj[8];
static int ask_to_enter(void);
static struct place entry = {.procs = -1, .ask = ask_to_enter, .oom_score_adj = oom_score_adj};

static const char *reason_of(enum varlink_result result)
{
	switch (result) {
	case VARLINK_TIMEOUT:
		return "no answer within the time of --timeout";
	case VARLINK_TOO_LONG:
		return "its reply is longer than 64 KiB";
	case VARLINK_NOT_A_REPLY:
		return "its reply is not one Varlink message";
	case VARLINK_TOO_MANY_DESCRIPTORS:
		return "its reply passes too many file descriptors";
	case VARLINK_OK:
	case VARLINK_CLOSED:
		break;
	}
	return "it closed the connection";
}

/*
 * No call was made, or the one that was is given back: run the command outside of any, or refuse, as was asked.
 * `reason` may be empty.
 */
static int go_on_without(const char *what, const char *reason)
{
	bool run = options.run_without_daemon;

	if (!run || !options.quiet)
		say(what, reason[0] ? " (" : "", reason, reason[0] ? ")" : "",
		    run ? ": running unmanaged" : ": not run (--without-daemon run would run it unmanaged)", NULL);
	return run ? process_execute(options.program, options.command) : EXIT_REFUSED;
}

static const char *with_socket(const char *what)
{
	static char text[256];
	size_t length = strlen(what), room = sizeof(text) - 1 - length, path = strlen(options.socket);

	memcpy(text, what, length);
	memcpy(text + length, options.socket, path < room ? path : room);
	return text;
}

/* The text of the parameter `name`, or "". */
static const char *parameter(const char *name, char *out, size_t size)
{
	struct json value;

	if (!json_get(reply.parameters, name, &value) || !json_text(value, out, size, NULL))
		out[0] = '\0';
	return out;
}

static bool is_callers_mistake(const char *error)
{
	static const char *const mistakes[] = {
		"dev.agentcg.Invalid",
		"dev.agentcg.Denied",
		"dev.agentcg.NoSuchSession",
		"org.varlink.service.InvalidParameter",
	};

	for (size_t i = 0; i < sizeof(mistakes) / sizeof(*mistakes); i++)
		if (!strcmp(error, mistakes[i]))
			return true;
	return false;
}

/* An error reply to Begin. Returns the exit status. */
static int answer_error(void)
{
	char place[256], message[2048], hint[2048];

	/* It stays in the call that it is in, under that call's limits. */
	if (!strcmp(reply.error, "dev.agentcg.NestedCall"))
		return process_execute(options.program, options.command);
	parameter("place", place, sizeof(place));
	parameter("message", message, sizeof(message));
	parameter("hint", hint, sizeof(hint));
	if (!strcmp(reply.error, "dev.agentcg.NoSuchSession")) {
		parameter("session", place, sizeof(place));
		strcpy(message, "there is no such session");
		strcpy(hint, "open it, or leave out --session and AGENTCG_SESSION");
	} else if (!message[0]) {
		/* An error of Varlink's own: its name, and the parameter that it is about. */
		parameter("parameter", place, sizeof(place));
		strcpy(message, reply.error);
	}
	if (!is_callers_mistake(reply.error))
		return go_on_without(message, hint);
	say(place, place[0] ? ": " : "", message, hint[0] ? " (" : "", hint, hint[0] ? ")" : "", NULL);
	return EXIT_REFUSED;
}

/* In the child: have the daemon move this process, which it knows by the connection that this process makes. */
static int ask_to_enter(void)
{
	message_enter(&request, call);
	return varlink_ask(options.socket, &request, options.timeout_msec, &reply);
}

/* Take the call's name and the way into it from Begin's reply. Returns NULL, or what is wrong with the reply. */
static const char *read_begin(void)
{
	struct json value;
	size_t length;
	int index;

	if (!json_get(reply.parameters, "call", &value) || value.at >= value.end || *value.at != '"')
		return "its reply names no call";
	length = (size_t)(value.end - value.at);
	if (length >= sizeof(call))
		return "its reply names a call of more than 1 KiB";
	memcpy(call, value.at, length);
	call[length] = '\0';
	if (!json_get(reply.parameters, "procs", &value))
		return "its reply does not say how to enter the call";
	if (!json_is_null(value)) {
		if (!json_integer(value, &index) || index < 0 || (unsigned)index >= reply.descriptor_count)
			return "its reply passes no cgroup.procs descriptor";
		entry.procs = reply.descriptors[index];
	}
	varlink_close_descriptors(&reply, entry.procs);
	if (json_get(reply.parameters, "oomScoreAdj", &value)) {
		length = (size_t)(value.end - value.at);
		if (!json_integer(value, &index) || length >= sizeof(oom_score_adj))
			return "its reply holds an oomScoreAdj that cannot be one";
		memcpy(oom_score_adj, value.at, length);
	}
	entry.environment = environ;
	if (json_get(reply.parameters, "environment", &value)) {
		entry.environment = environment_with(value);
		if (!entry.environment)
			return "its reply holds an environment that cannot be one";
	}
	return NULL;
}

static void pause_msec(int64_t msec)
{
	struct timespec pause = {msec / 1000, msec % 1000 * 1000000};

	nanosleep(&pause, NULL);
}

/* Report the end. A daemon that was started again meanwhile has taken the call over: find it, for a while. */
static enum varlink_result call_end(int *socket, int status)
{
	int64_t give_up = now_msec() + RECONNECT_MSEC;
	enum varlink_result result;

	message_end(&request, call, status);
	result = varlink_call(*socket, &request, now_msec() + options.timeout_msec, &reply);
	while (result == VARLINK_CLOSED && now_msec() < give_up) {
		close(*socket);
		*socket = varlink_connect(options.socket, options.timeout_msec);
		if (*socket >= 0)
			result = varlink_call(*socket, &request, now_msec() + options.timeout_msec, &reply);
		if (result == VARLINK_CLOSED)
			pause_msec(RECONNECT_PAUSE_MSEC);
	}
	varlink_close_descriptors(&reply, -1);
	return result;
}

static void print_verdict(struct json verdict)
{
	struct json advice;
	char text[8192];

	if (options.verdict == VERDICT_TEXT && !options.quiet) {
		if (json_get(verdict, "advice", &advice) && json_text(advice, text, sizeof(text), NULL) && text[0])
			say_advice(text);
	} else if (options.verdict == VERDICT_JSON) {
		size_t start = (size_t)(verdict.at - reply.text), length = (size_t)(verdict.end - verdict.at);

		/* Strings hold no line breaks, so one that stands here is space between values: keep to one line. */
		for (size_t i = start; i < start + length; i++)
			if (reply.text[i] == '\n' || reply.text[i] == '\r')
				reply.text[i] = ' ';
		reply.text[start + length] = '\n';
		write_all(options.verdict_fd, reply.text + start, length + 1);
	}
}

static void report(int *socket, int status)
{
	enum varlink_result result = call_end(socket, status);
	struct json verdict;
	char message[2048];

	if (result == VARLINK_OK && !reply.error[0] && json_get(reply.parameters, "verdict", &verdict) &&
	    json_is_object(verdict)) {
		print_verdict(verdict);
		return;
	}
	if (options.quiet)
		return;
	parameter("message", message, sizeof(message));
	if (result != VARLINK_OK)
		say("the end of call ", call, " was not taken by the daemon at ", options.socket, " (",
		    reason_of(result), ")", NULL);
	else if (reply.error[0])
		say("no verdict for call ", call, " (", reply.error, message[0] ? ": " : "", message, ")", NULL);
	else
		say("no verdict for call ", call, " (the reply holds none)", NULL);
}

static int run_managed(int socket)
{
	struct process process = {.pid = -1};
	int error = process_start(&process, options.program, options.command, &entry, socket);

	if (entry.procs >= 0)
		close(entry.procs);
	if (error) {
		call_end(&socket, EXIT_REFUSED << 8);
		close(socket);
		return go_on_without("no process can be made for the call", error_text(error));
	}
	process_wait(&process);
	error = *process.entry_error;
	if (error) {
		/* Never half managed: the call is over before anything else runs. */
		call_end(&socket, EXIT_REFUSED << 8);
		close(socket);
		process_restore(&process);
		return go_on_without("the cgroup of the call cannot be entered", error_text(error));
	}
	report(&socket, process.status);
	process_end_like(process.status);
}

/*
 * For a runtime that begins and ends the call itself: a call may be held or frozen, and whoever enters it then waits.
 * This program does, not the runtime's own fork, for whose exec the runtime waits in turn.
 */
static int join(void)
{
	int error;

	strcpy(call, "\"");
	strcat(call, options.join);
	strcat(call, "\"");
	entry.procs = options.procs;
	entry.oom_score_adj = options.oom_score_adj;
	error = process_enter(&entry);
	if (error) {
		say("the cgroup of call ", options.join, " cannot be entered (", error_text(error), ")", NULL);
		return EXIT_REFUSED;
	}
	return process_execute(options.program, options.command);
}

static int run(void)
{
	enum varlink_result result;
	const char *problem;
	int64_t deadline;
	int socket;

	deadline = now_msec() + options.timeout_msec;
	message_begin(&request, &options);
	if (request.full) {
		say("the request is longer than 64 KiB (shorten --session, --id, --tool, --intent or --hint)", NULL);
		return EXIT_REFUSED;
	}
	socket = varlink_connect(options.socket, options.timeout_msec);
	if (socket < 0)
		return go_on_without(with_socket("no daemon at "), error_text(-socket));
	result = varlink_call(socket, &request, deadline, &reply);
	if (result != VARLINK_OK) {
		/* Closing gives back a call that is made all the same: the connection is its lease. */
		close(socket);
		return go_on_without(with_socket(result == VARLINK_TIMEOUT || result == VARLINK_CLOSED
							 ? "no daemon at "
							 : "no usable daemon at "),
				     reason_of(result));
	}
	if (reply.error[0]) {
		varlink_close_descriptors(&reply, -1);
		close(socket);
		return answer_error();
	}
	problem = read_begin();
	if (problem) {
		varlink_close_descriptors(&reply, -1);
		if (entry.procs >= 0)
			close(entry.procs);
		close(socket);
		return go_on_without(with_socket("no usable daemon at "), problem);
	}
	return run_managed(socket);
}

static int as_shell(const char *name, char **argv)
{
	const char *program = shell_program(name), *command = shell_command(argv);

	if (!program) {
		say("there is no ", name, " on PATH but this program (let AGENTCG_SHELL name the shell)", NULL);
		return 127;
	}
	if (!command)
		return process_execute(program, argv);
	options_for_shell(&options, program, argv, shell_hint(command));
	return run();
}

int main(int argc, char **argv)
{
	const char *name = argc ? shell_name(*argv) : NULL;

	if (name)
		return as_shell(name, argv);
	options_read(&options, argv);
	return options.join ? join() : run();
}
