// SPDX-License-Identifier: Apache-2.0
//
// The other job of agentcg-guard: it lets go on the processes that bpf/agentcg_exec.bpf.c has stopped and the daemon has
// not come to.
//
//   agentcg-guard STOPPED AGENTS
//
// Both are descriptors of maps: STOPPED has since when each process is stopped, on CLOCK_MONOTONIC, or 0 while it is
// about to be, AGENTS the cgroups in which processes are stopped. Standard input is a pipe from the daemon, which writes
// nothing to it. What has been stopped for two seconds gets SIGCONT, and is taken from STOPPED, by which the daemon sees
// that it was late. At the end of the pipe, however it came about, AGENTS is emptied, so that nothing is stopped any more
// where the kernel has not detached the programs yet, and all that is in STOPPED gets SIGCONT, until none has come for a
// second.
//
// A process leaves STOPPED when it ends, before its number can be another's. So whoever is there with the same time after
// a pidfd of it was opened is the one that the pidfd is of.
//
// Known limit: somebody else may have stopped the process meanwhile, too. Two stops are one to the kernel, and end by one
// SIGCONT.

#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guard.h"

#define WAITING_NS 2000000000
#define LOOK_MS 100
#define QUIET_LOOKS 10 // For so many looks at the end none may have come.
#define PASS_MAX 8192 // Of keys: a walk begins anew when the one that it is at is deleted.

// linux/bpf.h, which not every C library comes with.
enum command { LOOKUP = 1, DELETE = 3, NEXT_KEY = 4 }; // BPF_MAP_LOOKUP_ELEM and so on

struct attributes { // Of these commands, in union bpf_attr.
    uint32_t map;
    _Alignas(8) uint64_t key;
    uint64_t value; // Or the next key.
    uint64_t flags;
};

static long bpf(enum command command, int map, const void *key, void *value) {
    struct attributes attributes;
    memset(&attributes, 0, sizeof attributes); // Also what lies between the members: the kernel insists.
    attributes.map = (uint32_t)map;
    attributes.key = (uintptr_t)key;
    attributes.value = (uintptr_t)value;
    return syscall(SYS_bpf, command, &attributes, sizeof attributes);
}

// 0 if it is not stopped, or only about to be.
static uint64_t stopped_since(int stopped, uint32_t pid) {
    uint64_t since = 0;
    return bpf(LOOKUP, stopped, &pid, &since) ? 0 : since;
}

// Return whether it is let go on, or gone.
static bool let_go(int stopped, uint32_t pid, uint64_t since) {
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    bool done = pidfd < 0 && errno == ESRCH;
    if (pidfd >= 0) {
        done = stopped_since(stopped, pid) != since || !syscall(SYS_pidfd_send_signal, pidfd, SIGCONT, NULL, 0);
        close(pidfd);
    }
    if (done && stopped_since(stopped, pid) == since)
        bpf(DELETE, stopped, &pid, NULL);
    return done;
}

// Let go on who has been stopped for longer than `waiting`; return how many were, or could not be let go on.
static unsigned look(int stopped, int64_t waiting, const char *why) {
    unsigned gone_on = 0, failed = 0;
    uint32_t pid = 0, next;
    bool first = true;
    for (int i = 0; i < PASS_MAX && !bpf(NEXT_KEY, stopped, first ? NULL : &pid, &next); i++) {
        uint64_t since = stopped_since(stopped, pid = next);
        first = false;
        if (!since || now_ns() - (int64_t)since < waiting)
            continue;
        if (let_go(stopped, pid, since))
            gone_on++;
        else
            failed++;
    }
    if (gone_on)
        say(STDERR_FILENO, "agentcg-guard: %s: let %u process%s go on\n", why, gone_on, gone_on == 1 ? "" : "es");
    return gone_on + failed;
}

static int finish(int stopped, int agents) {
    uint64_t agent;
    for (int i = 0; i < PASS_MAX && !bpf(NEXT_KEY, agents, NULL, &agent); i++)
        bpf(DELETE, agents, &agent, NULL);
    for (int quiet = 0; quiet < QUIET_LOOKS; poll(NULL, 0, LOOK_MS))
        quiet = look(stopped, 0, "the daemon has gone away") ? 0 : quiet + 1;
    return 0;
}

int guard_processes(int stopped, int agents) {
    for (;;) {
        struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
        if (poll(&input, 1, LOOK_MS) > 0)
            return finish(stopped, agents);
        look(stopped, WAITING_NS, "the daemon did not come to them");
    }
}
