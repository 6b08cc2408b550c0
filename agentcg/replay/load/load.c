// SPDX-License-Identifier: Apache-2.0
//
// agentcg-load follows a demand: it holds as much memory and uses as much CPU time as it is told, when it is told.
//
//   agentcg-load [--procs FD] [--oom-score-adj N] [--cached PERCENT --directory DIR]
//                [--compressible PERCENT] [--hot PERCENT]
//
// Standard input has one point a line, "TIME MEMORY CPU": microseconds since the start, bytes held, and microseconds of
// CPU time used since the start. For each point, in order, it first grows or shrinks to MEMORY, then burns CPU up to
// CPU, then waits for TIME. A point that is reached late shifts all that follow by as much: a process that is held up
// does the rest of its work later, not faster. At the end of the input it exits, and its memory is free.
//
// Standard output has "g BYTES MICROSECONDS" for each growth step, and "d ROUNDS" when a point is done, with the rounds
// of its loop that burning the CPU took, written at once: a SIGKILL loses no more than the step under way. "e TEXT"
// says why it gives up, with exit status 2.
//
// With --cached that part of what it holds is page cache: pages of a file in DIR, which has to be on a file system that
// is not memory itself. They can be reclaimed; it reads all of them at each point, so that those it has lost come back.
//
// Where there is swap, two things count that do not otherwise. With --compressible that part of each page is zeros and
// the rest is noise, which nothing makes smaller; without, a page is zeros but for a byte. With --hot it reads that part
// of its anonymous memory at each point; without, it never comes back to a page.
//
// With --procs it first moves itself into the cgroup whose cgroup.procs FD is. The CPU time that growing takes counts
// as burnt, so that a recorded page fault is not paid for twice. One thread: demand above one CPU takes longer.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define SPACE (UINT64_C(1) << 38) // Address space set aside, 256 GiB: the most it can hold.
#define PIECE (UINT64_C(1) << 20)
#define MILLION INT64_C(1000000)

static char *space;
static uint64_t held;
static uint64_t page;

static int file = -1; // What is page cache: the first `cached` bytes of this file.
static const volatile char *mapped;
static uint64_t cached;
static uint64_t percent;

static uint64_t *noise; // What the first `noisy` bytes of each page are filled with.
static uint64_t noisy;
static uint64_t hot; // Per cent of what is no page cache.

static void put(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void put(const char *format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length < 0)
        _exit(2);
    if (length > (int)sizeof line - 2)
        length = sizeof line - 2;
    line[length++] = '\n';
    // A line is shorter than PIPE_BUF, so it is written whole or not at all.
    if (write(STDOUT_FILENO, line, (size_t)length) != length)
        _exit(2);
}

__attribute__((noreturn)) static void fail(const char *doing) {
    put("e %s: %s", doing, strerror(errno));
    _exit(2);
}

__attribute__((noreturn)) static void misused(const char *what, const char *text) {
    put("e %s: %.200s", what, text);
    _exit(2);
}

static int64_t now(clockid_t clock) {
    struct timespec time;
    if (clock_gettime(clock, &time))
        fail("clock_gettime");
    return time.tv_sec * MILLION + time.tv_nsec / 1000;
}

static void wait_until(int64_t time) {
    struct timespec until = {.tv_sec = time / MILLION, .tv_nsec = time % MILLION * 1000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
    }
}

static void read_all(const volatile char *memory, uint64_t from, uint64_t to) {
    for (; from < to; from += page)
        (void)memory[from];
}

static void fill(char *at) {
    if (!noisy) {
        *(volatile char *)at = 1;
        return;
    }
    noise[0]++; // No two pages are the same.
    // Word by word: once memcpy has used vector registers, each page fault may have to save more of them than it copied.
    for (uint64_t i = 0; i < noisy / sizeof *noise; i++)
        ((volatile uint64_t *)at)[i] = noise[i];
}

static void grow(uint64_t target) {
    while (held < target) {
        uint64_t size = target - held < PIECE ? target - held : PIECE;
        if (mprotect(space + held, size, PROT_READ | PROT_WRITE))
            fail("mprotect");
        for (uint64_t at = 0; at < size; at += page)
            fill(space + held + at);
        held += size;
    }
}

// Page by page, as the recordings grew: a huge page would be a step of its own.
static void no_huge_pages(void *from, uint64_t size) {
    madvise(from, size, MADV_NOHUGEPAGE); // Refused by a kernel without huge pages, where it is not needed.
}

static void shrink(uint64_t target) {
    // Mapping anew gives back the page tables too, which MADV_DONTNEED would keep.
    if (mmap(space + target, held - target, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0)
        == MAP_FAILED)
        fail("mmap");
    no_huge_pages(space + target, held - target);
    held = target;
}

static void forget(uint64_t target) {
    // Only pages that nobody has mapped are given back.
    if (madvise((void *)(uintptr_t)(mapped + target), cached - target, MADV_DONTNEED))
        fail("madvise");
    posix_fadvise(file, (off_t)target, (off_t)(cached - target), POSIX_FADV_DONTNEED);
}

static void hold(uint64_t memory) {
    memory = (memory + page - 1) / page * page;
    uint64_t of_file = memory / 100 * percent / page * page;
    uint64_t before = held + cached;
    if (memory - of_file < held)
        shrink(memory - of_file);
    if (of_file < cached)
        forget(of_file);
    int64_t began = now(CLOCK_MONOTONIC);
    grow(memory - of_file);
    if (of_file > cached)
        read_all(mapped, cached, of_file);
    cached = of_file;
    if (memory > before)
        put("g %" PRIu64 " %" PRId64, memory - before, now(CLOCK_MONOTONIC) - began);
    read_all(mapped, 0, cached);
    read_all(space, 0, held / 100 * hot);
}

static uint64_t burn(int64_t until) {
    volatile unsigned sum = 0;
    uint64_t rounds = 0;
    for (; now(CLOCK_THREAD_CPUTIME_ID) < until; rounds++)
        for (unsigned i = 0; i < 2000; i++)
            sum += i;
    return rounds;
}

static void place(int procs) {
    if (write(procs, "0", 1) != 1)
        fail("moving into the cgroup");
    close(procs);
}

static void set_oom_score(const char *text) {
    int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (file < 0 || write(file, text, strlen(text)) < 0)
        fail("writing oom_score_adj");
    close(file);
}

static void open_file(const char *directory) {
    char path[4096];
    snprintf(path, sizeof path, "%s/agentcg-load-XXXXXX", directory);
    file = mkostemp(path, O_CLOEXEC); // Not every file system has O_TMPFILE: virtio-fs may lack it.
    if (file < 0 || unlink(path) || ftruncate(file, SPACE))
        fail("making a file to read");
    mapped = mmap(NULL, SPACE, PROT_READ, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED)
        fail("mapping a file");
}

// Drawn once (Marsaglia, "Xorshift RNGs", 2003) and copied: what compresses a page looks at no other.
static void draw_noise(uint64_t zeros) {
    noisy = page * (100 - zeros) / 100 / sizeof *noise * sizeof *noise;
    noise = malloc(page);
    if (!noise)
        fail("malloc");
    uint64_t state = UINT64_C(88172645463325252);
    for (uint64_t i = 0; i < page / sizeof *noise; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise[i] = state;
    }
}

static void follow(void) {
    char *line = NULL;
    size_t size = 0;
    int64_t start = now(CLOCK_MONOTONIC);
    int64_t cpu_start = now(CLOCK_THREAD_CPUTIME_ID);
    for (ssize_t length; (length = getline(&line, &size, stdin)) > 0;) {
        line[length - (line[length - 1] == '\n')] = 0;
        int64_t time, cpu;
        uint64_t memory;
        char more;
        if (sscanf(line, "%" SCNd64 " %" SCNu64 " %" SCNd64 " %c", &time, &memory, &cpu, &more) != 3)
            misused("not a point, TIME MEMORY CPU", line);
        if (memory > SPACE)
            misused("more memory than this program can hold", line);
        hold(memory);
        uint64_t rounds = burn(cpu_start + cpu);
        int64_t late = now(CLOCK_MONOTONIC) - (start + time);
        if (late > 0)
            start += late;
        else
            wait_until(start + time);
        put("d %" PRIu64, rounds);
    }
    if (ferror(stdin))
        fail("reading the points");
}

int main(int argc, char **argv) {
    // Whoever steers it is gone: it must not go on by itself.
    if (prctl(PR_SET_PDEATHSIG, SIGKILL))
        fail("prctl");
    int procs = -1;
    uint64_t compressible = 100;
    const char *oom_score = NULL, *directory = NULL;
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 < argc && !strcmp(argv[i], "--procs"))
            procs = atoi(argv[i + 1]);
        else if (i + 1 < argc && !strcmp(argv[i], "--oom-score-adj"))
            oom_score = argv[i + 1];
        else if (i + 1 < argc && !strcmp(argv[i], "--cached"))
            percent = strtoul(argv[i + 1], NULL, 10);
        else if (i + 1 < argc && !strcmp(argv[i], "--directory"))
            directory = argv[i + 1];
        else if (i + 1 < argc && !strcmp(argv[i], "--compressible"))
            compressible = strtoul(argv[i + 1], NULL, 10);
        else if (i + 1 < argc && !strcmp(argv[i], "--hot"))
            hot = strtoul(argv[i + 1], NULL, 10);
        else
            misused("usage: agentcg-load [--procs FD] [--oom-score-adj N] [--cached PERCENT --directory DIR] "
                    "[--compressible PERCENT] [--hot PERCENT], not", argv[i]);
    }
    if (percent > 100 || (percent && !directory))
        misused("--cached", "it takes 0 to 100, and a --directory");
    if (compressible > 100 || hot > 100)
        misused("--compressible and --hot", "they take 0 to 100");
    if (procs >= 0)
        place(procs);
    if (oom_score)
        set_oom_score(oom_score);
    page = (uint64_t)sysconf(_SC_PAGESIZE);
    space = mmap(NULL, SPACE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED)
        fail("mmap");
    no_huge_pages(space, SPACE);
    if (compressible < 100)
        draw_noise(compressible);
    if (percent)
        open_file(directory);
    follow();
    return 0;
}
