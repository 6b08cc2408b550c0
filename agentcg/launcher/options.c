/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "json.h"
#include "say.h"

static const char usage[] =
	"Usage: agentcg-exec [OPTION]... [--] COMMAND [ARG]...\n"
	"Run COMMAND as one tool call: in a cgroup of its own that the agentcg daemon makes.\n"
	"\n"
	"  --socket PATH                the daemon's socket [AGENTCG_SOCKET, /run/agentcg/agentcg.sock]\n"
	"  --session NAME               the session that the call belongs to [AGENTCG_SESSION]\n"
	"  --id ID                      the call's name in its session\n"
	"  --tool NAME                  the tool that the agent called\n"
	"  --intent JSON                what the call declares, such as {\"memoryMax\": 536870912}\n"
	"  --hint TEXT                  the same in one word, such as memory:512m [AGENT_RESOURCE_HINT]\n"
	"  --without-daemon run|fail    when no daemon answers: run COMMAND unmanaged, or exit with 125\n"
	"                               [AGENTCG_WITHOUT_DAEMON, run]\n"
	"  --verdict text|json|none     say how the call went: advice if there is any, all of it, or nothing\n"
	"                               [AGENTCG_VERDICT, text]\n"
	"  --verdict-fd N               where --verdict json writes [2]; COMMAND does not inherit it above 2\n"
	"  --timeout SECONDS            how long the daemon may take to answer, 0.001 to 3600 [10]\n"
	"  --quiet                      no warnings and no advice\n"
	"  --join CALL                  become COMMAND in a call that somebody else has begun, and will end\n"
	"  --procs FD                   with --join: go in by this descriptor of its cgroup.procs\n"
	"  --oom-score-adj N            with --join: as Begin said\n"
	"  --help                       this text\n"
	"\n"
	"The exit status is that of COMMAND, and a signal that ended it ends agentcg-exec too. 125: refused, the line on\n"
	"standard error says why. 126: COMMAND cannot be executed. 127: there is no such COMMAND.\n";

static _Noreturn void refuse(const char *place, const char *value, const char *problem)
{
	if (value)
		say(place, ": \"", value, "\" ", problem, NULL);
	else
		say(place, ": ", problem, NULL);
	_exit(EXIT_REFUSED);
}

static void read_without_daemon(struct options *options, const char *place, const char *value)
{
	if (!strcmp(value, "run"))
		options->run_without_daemon = true;
	else if (!strcmp(value, "fail"))
		options->run_without_daemon = false;
	else
		refuse(place, value, "is not one of run, fail");
}

static void read_verdict(struct options *options, const char *place, const char *value)
{
	if (!strcmp(value, "text"))
		options->verdict = VERDICT_TEXT;
	else if (!strcmp(value, "json"))
		options->verdict = VERDICT_JSON;
	else if (!strcmp(value, "none"))
		options->verdict = VERDICT_NONE;
	else
		refuse(place, value, "is not one of text, json, none");
}

static void read_verdict_fd(struct options *options, const char *place, const char *value)
{
	int number, flags;

	if (!json_integer((struct json){value, value + strlen(value)}, &number) || number < 0)
		refuse(place, value, "is not a file descriptor (write its number)");
	options->verdict_fd = number;
	flags = fcntl(options->verdict_fd, F_GETFD);
	if (flags < 0)
		refuse(place, value, "is not open (open it before agentcg-exec starts)");
	/* The command must not hold it open, nor write a verdict of its own to it. */
	if (number > 2 && fcntl(options->verdict_fd, F_SETFD, flags | FD_CLOEXEC))
		refuse(place, value, "cannot be closed on exec");
}

static void read_timeout(struct options *options, const char *place, const char *value)
{
	const char *digit = value;
	int64_t msec = 0;

	for (; *digit >= '0' && *digit <= '9' && msec <= 3600000; digit++)
		msec = msec * 10 + (*digit - '0') * 1000;
	if (digit > value && *digit == '.' && digit[1]) {
		digit++;
		for (int unit = 100; unit && *digit >= '0' && *digit <= '9'; unit /= 10, digit++)
			msec += unit * (*digit - '0');
	}
	if (digit == value || *digit || msec < 1 || msec > 3600000)
		refuse(place, value, "is not a time in seconds (write 0.001 to 3600, at most three decimals)");
	options->timeout_msec = msec;
}

static void read_intent(struct options *options, const char *place, const char *value)
{
	struct json parsed;

	if (!json_parse(value, strlen(value), &parsed) || !json_is_object(parsed))
		refuse(place, value, "is not a JSON object (write {\"memoryMax\": 536870912})");
	options->intent = value;
}

/* An empty variable counts as one that is not set. */
static const char *variable(const char *name)
{
	const char *value = getenv(name);

	return value && *value ? value : NULL;
}

static bool is_name(const char *text)
{
	return *text && !text[strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-/")];
}

static void read_join(struct options *options, const char *place, const char *value)
{
	if (!is_name(value) || strlen(value) > 256)
		refuse(place, value, "is not a call (write TENANT/SESSION/CALL, as Begin said)");
	options->join = value;
}

static void read_procs(struct options *options, const char *place, const char *value)
{
	if (!json_integer((struct json){value, value + strlen(value)}, &options->procs) || options->procs < 0 ||
	    fcntl(options->procs, F_SETFD, FD_CLOEXEC))
		refuse(place, value, "is not an open file descriptor (write its number)");
}

static void read_oom_score_adj(struct options *options, const char *place, const char *value)
{
	int number;

	if (!json_integer((struct json){value, value + strlen(value)}, &number) || number < -1000 || number > 1000)
		refuse(place, value, "is not between -1000 and 1000");
	options->oom_score_adj = value;
}

static void read_environment(struct options *options)
{
	const char *value = variable("AGENTCG_SOCKET");

	options->socket = value ? value : "/run/agentcg/agentcg.sock";
	options->session = variable("AGENTCG_SESSION");
	options->hint = variable("AGENT_RESOURCE_HINT");
	value = variable("AGENTCG_WITHOUT_DAEMON");
	if (value)
		read_without_daemon(options, "AGENTCG_WITHOUT_DAEMON", value);
	value = variable("AGENTCG_VERDICT");
	if (value)
		read_verdict(options, "AGENTCG_VERDICT", value);
}

static void take(struct options *options, const char *name, const char *value)
{
	if (!strcmp(name, "--socket"))
		options->socket = value;
	else if (!strcmp(name, "--session"))
		options->session = value;
	else if (!strcmp(name, "--id"))
		options->id = value;
	else if (!strcmp(name, "--tool"))
		options->tool = value;
	else if (!strcmp(name, "--intent"))
		read_intent(options, name, value);
	else if (!strcmp(name, "--hint"))
		options->hint = value;
	else if (!strcmp(name, "--without-daemon"))
		read_without_daemon(options, name, value);
	else if (!strcmp(name, "--verdict"))
		read_verdict(options, name, value);
	else if (!strcmp(name, "--verdict-fd"))
		read_verdict_fd(options, name, value);
	else if (!strcmp(name, "--timeout"))
		read_timeout(options, name, value);
	else if (!strcmp(name, "--join"))
		read_join(options, name, value);
	else if (!strcmp(name, "--procs"))
		read_procs(options, name, value);
	else if (!strcmp(name, "--oom-score-adj"))
		read_oom_score_adj(options, name, value);
	else
		refuse(name, NULL, "there is no such option (see agentcg-exec --help)");
}

static void set_defaults(struct options *options)
{
	*options = (struct options){
		.run_without_daemon = true,
		.verdict_fd = 2,
		.timeout_msec = 10000,
		.procs = -1,
		.oom_score_adj = "",
	};
	read_environment(options);
}

void options_for_shell(struct options *options, const char *program, char **argv, const char *hint)
{
	set_defaults(options);
	if (hint)
		options->hint = hint;
	options->program = program;
	options->command = argv;
}

void options_read(struct options *options, char **argv)
{
	set_defaults(options);
	/* An argument list may lack even the program's own name. */
	if (*argv)
		argv++;
	for (; *argv && !strncmp(*argv, "-", 1); argv++) {
		char name[32];
		const char *equals = strchr(*argv, '=');
		size_t length = equals ? (size_t)(equals - *argv) : strlen(*argv);

		if (!strcmp(*argv, "--")) {
			argv++;
			break;
		}
		if (!strcmp(*argv, "--help")) {
			write_all(STDOUT_FILENO, usage, sizeof(usage) - 1);
			_exit(0);
		}
		if (!strcmp(*argv, "--quiet")) {
			options->quiet = true;
			continue;
		}
		if (length >= sizeof(name))
			refuse(*argv, NULL, "there is no such option (see agentcg-exec --help)");
		memcpy(name, *argv, length);
		name[length] = '\0';
		if (equals) {
			take(options, name, equals + 1);
		} else {
			if (!argv[1])
				refuse(name, NULL, "a value is missing, or there is no such option (see agentcg-exec --help)");
			take(options, name, *++argv);
		}
	}
	if (!*argv)
		refuse("COMMAND", NULL, "is missing (see agentcg-exec --help)");
	if (!options->join && (options->procs >= 0 || *options->oom_score_adj))
		refuse("--procs, --oom-score-adj", NULL, "go with --join");
	options->command = argv;
	options->program = *argv;
}
