/* SPDX-License-Identifier: Apache-2.0 */
/* Plays a trace of alloc_trace.py against torch's default CPU allocator (posix_memalign of 64 bytes,
 * glibc) and against the arena as it is installed: blocks of 64 KiB and up, the others glibc's.
 *
 *   build/c-plain/tests/c/bench_alloc_replay benchmarks/traces/gpt-11m.csv
 *
 * Every page of every block is written when it comes. Each run is a process of its own, and the two
 * alternate: the first pass through the trace is cold, then the mean of PASSES more; all that is left
 * is freed between passes. Prints medians over the runs, and the peak of resident memory over what
 * the process had before.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arena/arena.h"
#include "base/clock.h"

#define MIN_ARENA_BYTES (64u << 10)
#define PASSES 5
#define RUNS 15

typedef struct event {
    unsigned block;
    size_t bytes; /* 0: it is freed */
} event_t;

typedef struct trace {
    event_t *events;
    size_t num_events, num_blocks, peak_bytes;
} trace_t;

typedef struct sample {
    double cold_ms, warm_ms, peak_mib;
} sample_t;

static void die(const char *what)
{
    fprintf(stderr, "alloc_replay: %s\n", what);
    exit(1);
}

static void append(trace_t *t, event_t event)
{
    if (t->num_events % 1024 == 0)
        t->events = realloc(t->events, (t->num_events + 1024) * sizeof(event_t));
    if (event.block >= t->num_blocks) t->num_blocks = event.block + 1;
    t->events[t->num_events++] = event;
}

static trace_t read_trace(const char *path)
{
    FILE *file = fopen(path, "r");
    trace_t t = {0};
    size_t bytes, alive = 0;
    unsigned block;
    char name[8];

    if (file == NULL) die("no such trace");
    if (fscanf(file, "%*[^\n]") < 0) die("empty trace");
    while (fscanf(file, " %7[a-z],%u,%zu", name, &block, &bytes) == 3) {
        if (strcmp(name, "step") == 0) continue;
        alive += name[0] == 'a' ? bytes : -bytes;
        if (alive > t.peak_bytes) t.peak_bytes = alive;
        append(&t, (event_t){block, name[0] == 'a' ? bytes : 0});
    }
    if (!feof(file)) die("a line that is no event");
    fclose(file);
    return t;
}

static void *take(size_t bytes, bool arena)
{
    void *addr = NULL;

    if (arena && bytes >= MIN_ARENA_BYTES) addr = rdt_arena_alloc(bytes);
    if (addr == NULL && posix_memalign(&addr, 64, bytes) != 0) die("out of memory");
    for (size_t i = 0; i < bytes; i += RDT_ARENA_PAGE)
        ((volatile char *)addr)[i] = 1;
    ((volatile char *)addr)[bytes - 1] = 1;
    return addr;
}

static void give(void *addr)
{
    if (!rdt_arena_free(addr)) free(addr);
}

static double pass_ms(const trace_t *t, void **blocks, bool arena)
{
    uint64_t begin = rdt_now_ns(), end;

    for (size_t i = 0; i < t->num_events; i++) {
        const event_t *e = &t->events[i];

        if (e->bytes > 0) {
            blocks[e->block] = take(e->bytes, arena);
        } else {
            give(blocks[e->block]);
            blocks[e->block] = NULL;
        }
    }
    end = rdt_now_ns();
    for (size_t i = 0; i < t->num_blocks; i++) {
        if (blocks[i] != NULL) give(blocks[i]);
        blocks[i] = NULL;
    }
    return (double)(end - begin) / 1e6;
}

static double status_mib(const char *field)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[128];
    double kib = 0;

    while (file != NULL && fgets(line, sizeof(line), file) != NULL)
        if (strncmp(line, field, strlen(field)) == 0) kib = atof(line + strlen(field));
    if (file != NULL) fclose(file);
    return kib / 1024;
}

static sample_t run(const trace_t *t, bool arena)
{
    void **blocks = calloc(t->num_blocks, sizeof(*blocks));
    double before = status_mib("VmRSS:");
    sample_t s = {0};

    if (blocks == NULL || (arena && rdt_arena_open() != RDT_OK)) die(rdt_last_error());
    s.cold_ms = pass_ms(t, blocks, arena);
    for (int i = 0; i < PASSES; i++)
        s.warm_ms += pass_ms(t, blocks, arena) / PASSES;
    s.peak_mib = status_mib("VmHWM:") - before;
    return s;
}

static sample_t run_in_a_process(const trace_t *t, bool arena)
{
    sample_t s;
    int fds[2], status;
    pid_t pid;

    if (pipe(fds) < 0 || (pid = fork()) < 0) die("no process");
    if (pid == 0) {
        s = run(t, arena);
        _exit(write(fds[1], &s, sizeof(s)) == sizeof(s) ? 0 : 1);
    }
    close(fds[1]);
    if (read(fds[0], &s, sizeof(s)) != sizeof(s)) die("a run failed");
    close(fds[0]);
    waitpid(pid, &status, 0);
    return s;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(sample_t *samples, size_t offset)
{
    double values[RUNS];

    for (int i = 0; i < RUNS; i++)
        memcpy(&values[i], (char *)&samples[i] + offset, sizeof(double));
    qsort(values, RUNS, sizeof(double), compare);
    return values[RUNS / 2];
}

static void print_row(const char *name, sample_t samples[2][RUNS], size_t offset)
{
    double glibc = median(samples[0], offset), arena = median(samples[1], offset);

    printf("%-14s %10.2f %10.2f %8.3f\n", name, glibc, arena, arena / glibc);
}

int main(int argc, char **argv)
{
    static sample_t samples[2][RUNS];
    trace_t t;

    if (argc != 2) die("usage: alloc_replay TRACE.csv");
    t = read_trace(argv[1]);
    for (int i = 0; i < RUNS; i++)
        for (int arena = 0; arena < 2; arena++)
            samples[arena][i] = run_in_a_process(&t, arena);
    printf("%s: %zu events, at most %.2f MiB at once\n", argv[1], t.num_events,
           (double)t.peak_bytes / (1 << 20));
    printf("%-14s %10s %10s %8s\n", "", "glibc", "arena", "ratio");
    print_row("cold ms", samples, offsetof(sample_t, cold_ms));
    print_row("warm ms", samples, offsetof(sample_t, warm_ms));
    print_row("peak MiB", samples, offsetof(sample_t, peak_mib));
    return 0;
}
