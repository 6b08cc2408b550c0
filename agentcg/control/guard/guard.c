// SPDX-License-Identifier: Apache-2.0
//
// agentcg-guard lets go of what the daemon has frozen when the daemon no longer can: a dead-man's switch.
//
//   agentcg-guard FD
//   agentcg-guard STOPPED AGENTS
//
// The second is another job: see processes.c.
//
// FD is the directory of the root cgroup. Standard input is a pipe from the daemon, a byte a message: "f" when
// something is or is about to be frozen, repeated several times a second; "t" when nothing is any more. A second of
// silence after an "f", or the end of the pipe, however it came about, and it writes 0 to cgroup.freeze of every
// cgroup below FD that has a 1 there, and "max" to memory.high of every session, FD/shared/TENANT/SESSION: nobody would
// answer when it is reached, and the kernel would slow the session down more and more. At the end of the pipe it exits
// then; after a silence it looks again every second until it hears from the daemon. What it did is one line on standard
// error for people, and, as the daemon may be alive and mistaken now, the number of cgroups on a line of standard
// output.
//
// It is a session of its own and ignores the signals that end a service, so that it outlives the daemon by the moment
// that it is there for. Its pages are locked as they are touched, and a first look that changes nothing touches them
// all: it needs no memory when there is none. It holds one descriptor for each level of the tree and follows no link,
// so a cgroup that is removed meanwhile is passed over and nothing outside the tree can be reached.
//
// Known limits: it cannot tell who froze a cgroup, so one that a call froze by itself goes on, too. Cgroups more than
// 64 levels below the root are not looked at. A machine that stands still for a second looks like a silent daemon.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "guard.h"

#define SILENCE_MS 1000
#define RETRY_MS 100
#define RETRIES 20
#define LEVELS 64
#define SESSION_DEPTH 2 // Of the directory that holds it, below the root.

struct entry { // linux_dirent64, getdents64(2)
    uint64_t inode;
    int64_t offset;
    uint16_t length;
    uint8_t type;
    char name[];
};

struct level {
    int fd;
    long at, length;
    _Alignas(struct entry) char entries[4096];
};

struct result {
    unsigned thawed, failed;
    int error;
};

static struct level levels[LEVELS];

void say(int fd, const char *format, ...) {
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    // Nobody may be listening any more, or nobody who reads: to be heard matters less than to go on.
    struct pollfd output = {.fd = fd, .events = POLLOUT};
    if (length > 0 && poll(&output, 1, 0) == 1 && write(fd, line, (size_t)length) < 0)
        return;
}

int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int64_t now_ms(void) {
    return now_ns() / 1000000;
}

// Gone: the cgroup was removed meanwhile, or is the top one, which cannot be frozen.
static bool gone(void) {
    return errno == ENOENT || errno == ENODEV;
}

static void thaw(int directory, bool dry, struct result *result) {
    int file = openat(directory, "cgroup.freeze", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    char state = 0;
    ssize_t done = file < 0 ? -1 : pread(file, &state, 1, 0);
    if (done == 1 && state == '1' && !dry) {
        done = pwrite(file, "0", 1, 0);
        result->thawed += done == 1;
    }
    if (done < 0 && !gone()) {
        result->failed++;
        result->error = errno;
    }
    if (file >= 0)
        close(file);
}

static void lift(int directory, bool dry, struct result *result) {
    int file = openat(directory, "memory.high", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    char state = 0;
    if (file < 0)
        return;
    if (pread(file, &state, 1, 0) == 1 && state != 'm' && !dry && pwrite(file, "max", 3, 0) < 0 && !gone()) {
        result->failed++;
        result->error = errno;
    }
    close(file);
}

// Return the next directory at this level, or NULL.
static const char *next_child(struct level *level) {
    for (;;) {
        if (level->at >= level->length) {
            level->length = syscall(SYS_getdents64, level->fd, level->entries, sizeof level->entries);
            level->at = 0;
            if (level->length <= 0)
                return NULL;
        }
        const struct entry *entry = (const struct entry *)(level->entries + level->at);
        level->at += entry->length;
        if ((entry->type == DT_DIR || entry->type == DT_UNKNOWN) && strcmp(entry->name, ".")
            && strcmp(entry->name, ".."))
            return entry->name;
    }
}

static int open_directory(int above, const char *name) {
    return openat(above, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

static struct result thaw_all(int root, bool dry) {
    struct result result = {0};
    int depth = 0;
    bool shared = false;
    levels[0] = (struct level){.fd = open_directory(root, ".")};
    if (levels[0].fd < 0) {
        result.failed = !gone();
        result.error = errno;
        return result;
    }
    while (depth >= 0) {
        const char *name = next_child(&levels[depth]);
        if (!name) {
            close(levels[depth--].fd);
            continue;
        }
        int child = open_directory(levels[depth].fd, name);
        if (child < 0) {
            if (!gone() && errno != ENOTDIR && errno != ELOOP) {
                result.failed++;
                result.error = errno;
            }
            continue;
        }
        thaw(child, dry, &result);
        shared = depth ? shared : !strcmp(name, "shared");
        if (shared && depth == SESSION_DEPTH)
            lift(child, dry, &result);
        if (depth + 1 == LEVELS) {
            close(child);
            continue;
        }
        struct level *below = &levels[++depth];
        below->fd = child;
        below->at = below->length = 0;
    }
    return result;
}

static unsigned report(struct result result, const char *why) {
    if (result.thawed) {
        say(STDERR_FILENO, "agentcg-guard: %s: thawed %u cgroup%s\n", why, result.thawed, result.thawed == 1 ? "" : "s");
        say(STDOUT_FILENO, "%u\n", result.thawed);
    }
    return result.failed;
}

static int finish(int root) {
    const char *why = "the daemon has gone away";
    struct result result = {0};
    for (int i = 0; i < RETRIES; i++) {
        result = thaw_all(root, false);
        if (!report(result, why))
            return 0;
        poll(NULL, 0, RETRY_MS);
    }
    say(STDERR_FILENO, "agentcg-guard: %s: %u cgroups cannot be thawed: %s\n", why, result.failed,
        strerror(result.error));
    return 1;
}

static int guard(int root) {
    bool frozen = false;
    int64_t heard = now_ms();
    for (;;) {
        int64_t left = heard + SILENCE_MS - now_ms();
        struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
        int ready = poll(&input, 1, !frozen ? -1 : left > 0 ? (int)left : 0);
        if (ready > 0) {
            char messages[256];
            ssize_t length = read(STDIN_FILENO, messages, sizeof messages);
            if (length == 0 || (length < 0 && errno != EINTR))
                return finish(root);
            if (length > 0)
                frozen = messages[length - 1] == 'f';
            heard = now_ms();
        } else if (ready == 0) {
            report(thaw_all(root, false), "the daemon was silent for a second");
            heard = now_ms();
        }
    }
}

// -1 if the word does not name an open one.
static int descriptor(const char *word) {
    char *end;
    long number = strtol(word, &end, 10);
    return *word && !*end && number >= 0 && fcntl((int)number, F_GETFD) >= 0 ? (int)number : -1;
}

int main(int argc, char **argv) {
    static const int ignored[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGUSR1, SIGUSR2, SIGTSTP};
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        signal(ignored[i], SIG_IGN);
    setsid(); // Fails where it is one already.
    int first = argc == 2 || argc == 3 ? descriptor(argv[1]) : -1;
    int second = argc == 3 ? descriptor(argv[2]) : first;
    if (first < 0 || second < 0) {
        say(STDERR_FILENO, "usage: agentcg-guard FD, the directory of the root cgroup, or agentcg-guard STOPPED AGENTS,\n"
                           "two maps, with a pipe on standard input\n");
        return 2;
    }
    mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT); // As far as it may.
    if (argc == 3)
        return guard_processes(first, second);
    thaw_all(first, true);
    return guard(first);
}
