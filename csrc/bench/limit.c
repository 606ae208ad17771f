/* SPDX-License-Identifier: Apache-2.0 */
/* The memory limits of this machine: what is left when nothing but the bytes moves.
 *
 * A program of its own, which rdmatrain/bench/limit.py starts as the contestant "limit". It has a
 * process for each CPU that it may use, each on a CPU of its own, asleep until it is told what to do.
 * Orders are lines on standard input, each is answered by a line of JSON, and the end of the input
 * ends it.
 *
 *   prepare KIND PROCESSES NBYTES   allocate, do it once and check it
 *   time CALLS WARMUP               seconds of each call, for each process
 *   drop                            free the memory
 *
 * all_reduce: two processes with a float32 buffer of NBYTES each, both mapped by both; each adds its
 * half of the two in place into both. copy and triad, as in STREAM (a = b, a = b + 3c): every process
 * has its own arrays of NBYTES. A call begins and ends with a barrier that spins.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 128 /* adjacent lines are fetched in pairs */
#define MAX_PROCESSES 1024
#define MAX_CALLS (1 << 20)
#define GUESSES 3

/* A program that is built for any x86-64 must not be held to its oldest vectors. */
#if defined(__x86_64__) && defined(__GLIBC__)
#define FOR_EACH_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

typedef enum { ALL_REDUCE, COPY, TRIAD, NUM_KINDS } kind_t;
static const char *const kind_names[NUM_KINDS] = {"all_reduce", "copy", "triad"};

typedef enum { PREPARE, TIME, DROP } verb_t;

/* What the first process tells the others, through their pipes. */
typedef struct {
    verb_t verb;
    kind_t kind;
    int procs; /* the first so many processes do it */
    int calls, warmup;
    size_t nbytes;
    unsigned long seq; /* barriers that the first process has entered */
} order_t;

/* One writer each: the process whose place it is; the first one reads, after a barrier. */
typedef struct {
    _Alignas(LINE_BYTES) _Atomic unsigned long seq; /* barriers entered */
    _Alignas(LINE_BYTES) size_t num_wrong;
    double guess_s;
} side_t;

typedef struct {
    int me, num_procs;
    side_t *sides;     /* num_procs */
    double *samples;   /* MAX_CALLS for each process, seconds */
    int pair_fds[2];   /* memory of the two buffers that are reduced */
    int *pipes;        /* to the others, by process; of the first one only */
    order_t now;       /* what is being done, and what was prepared */
    unsigned long seq; /* barriers entered */
    float *a, *b, *c;  /* nbytes each, or NULL */
    size_t mapped;     /* bytes of each */
} self_t;

_Noreturn static void die(const char *what)
{
    fprintf(stderr, "_limit: %s: %s\n", what, strerror(errno));
    _exit(1);
}

_Noreturn static void refuse(const char *order)
{
    fprintf(stderr, "_limit: cannot do this: %s", order);
    _exit(2);
}

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void barrier(self_t *s)
{
    /* release/acquire pair up across the processes: what one wrote before, the others see. */
    atomic_store_explicit(&s->sides[s->me].seq, ++s->seq, memory_order_release);
    for (int i = 0; i < s->now.procs; i++) {
        while (atomic_load_explicit(&s->sides[i].seq, memory_order_acquire) < s->seq) {
#ifdef __x86_64__
            __builtin_ia32_pause();
#endif
        }
    }
}

/* Read two streams and write two, in place: one pass, so there is nothing to block for a cache. */
FOR_EACH_CPU static void add_into_both(float *restrict a, float *restrict b, size_t count)
{
    for (size_t i = 0; i < count; i++)
        a[i] = b[i] = a[i] + b[i];
}

FOR_EACH_CPU static void triad(float *restrict a, const float *restrict b, const float *restrict c,
                               size_t count)
{
    for (size_t i = 0; i < count; i++)
        a[i] = b[i] + 3 * c[i];
}

static void call(self_t *s)
{
    size_t count = s->now.nbytes / sizeof(float);
    size_t half = count / 2;
    size_t first = s->me ? half : 0;

    barrier(s);
    if (s->now.kind == ALL_REDUCE)
        add_into_both(s->a + first, s->b + first, s->me ? count - half : half);
    else if (s->now.kind == COPY)
        memcpy(s->a, s->b, s->now.nbytes);
    else
        triad(s->a, s->b, s->c, count);
    barrier(s);
}

static float value(int rank, size_t i)
{
    return (float)(i % 1021 + 3 * (size_t)rank);
}

static float expected(const self_t *s, size_t i)
{
    if (s->now.kind == ALL_REDUCE) return value(0, i) + value(1, i);
    return value(s->me, i) + (s->now.kind == TRIAD ? 3 * value(s->me + 1, i) : 0);
}

/* Returns the elements that are wrong after a call on values of process and index. */
static size_t check(self_t *s)
{
    size_t count = s->now.nbytes / sizeof(float);
    float *result = s->now.kind == ALL_REDUCE && s->me ? s->b : s->a;
    float *input = s->now.kind == ALL_REDUCE ? result : s->b;
    size_t num_wrong = 0;

    for (size_t i = 0; i < count; i++)
        input[i] = value(s->me, i);
    for (size_t i = 0; s->c && i < count; i++)
        s->c[i] = value(s->me + 1, i);
    call(s);
    for (size_t i = 0; i < count; i++)
        num_wrong += result[i] != expected(s, i);
    barrier(s);
    memset(input, 0, s->now.nbytes); /* repeated sums would overflow */
    return num_wrong;
}

/* Returns nbytes of memory: of the file, or of this process alone if fd is -1. */
static float *map(int fd, size_t nbytes)
{
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *at = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, flags, fd, 0);

    if (at == MAP_FAILED) die("mmap");
    (void)madvise(at, nbytes, MADV_HUGEPAGE); /* where the machine allows it */
    return at;
}

static void drop(self_t *s)
{
    float **all[] = {&s->a, &s->b, &s->c};

    for (int i = 0; i < 3; i++) {
        if (*all[i]) munmap(*all[i], s->mapped);
        *all[i] = NULL;
    }
}

static void prepare(self_t *s)
{
    side_t *side = &s->sides[s->me];
    double begin;

    drop(s);
    s->mapped = s->now.nbytes;
    s->a = map(s->now.kind == ALL_REDUCE ? s->pair_fds[0] : -1, s->mapped);
    s->b = map(s->now.kind == ALL_REDUCE ? s->pair_fds[1] : -1, s->mapped);
    if (s->now.kind == TRIAD) s->c = map(-1, s->mapped);
    side->num_wrong = check(s);
    begin = now_s();
    for (int i = 0; i < GUESSES; i++)
        call(s);
    side->guess_s = (now_s() - begin) / GUESSES;
    barrier(s);
}

static void time_calls(self_t *s)
{
    double *samples = s->samples + (size_t)s->me * MAX_CALLS;

    memset(samples, 0, (size_t)s->now.calls * sizeof(double)); /* no page fault while timing */
    for (int i = 0; i < s->now.warmup; i++)
        call(s);
    for (int i = 0; i < s->now.calls; i++) {
        double begin = now_s();

        call(s);
        samples[i] = now_s() - begin;
    }
    barrier(s);
}

static void obey(self_t *s)
{
    s->seq = s->now.seq;
    if (s->now.verb == PREPARE)
        prepare(s);
    else if (s->now.verb == TIME)
        time_calls(s);
    else
        drop(s);
}

_Noreturn static void serve(self_t *s, int from)
{
    while (read(from, &s->now, sizeof(order_t)) == (ssize_t)sizeof(order_t))
        obey(s);
    _exit(0);
}

/* Of the first process: tell those that take part, and do it too. */
static void command(self_t *s)
{
    s->now.seq = s->seq;
    for (int i = 1; i < s->now.procs; i++)
        if (write(s->pipes[i], &s->now, sizeof(order_t)) != (ssize_t)sizeof(order_t)) die("pipe");
    obey(s);
}

static kind_t kind_of(const char *name)
{
    for (int kind = 0; kind < NUM_KINDS; kind++)
        if (strcmp(name, kind_names[kind]) == 0) return (kind_t)kind;
    return NUM_KINDS;
}

static void answer_prepare(self_t *s, const char *rest)
{
    char name[16];
    size_t num_wrong = 0;
    double guess_s = 0;

    s->now = (order_t){.verb = PREPARE};
    if (sscanf(rest, "%15s %d %zu", name, &s->now.procs, &s->now.nbytes) != 3) refuse(rest);
    s->now.kind = kind_of(name);
    if (s->now.kind == NUM_KINDS || s->now.procs < 1 || s->now.procs > s->num_procs) refuse(rest);
    for (int i = 0; i < 2; i++)
        if (ftruncate(s->pair_fds[i], (off_t)s->now.nbytes) != 0) die("ftruncate");
    command(s);
    for (int i = 0; i < s->now.procs; i++) {
        num_wrong += s->sides[i].num_wrong;
        if (s->sides[i].guess_s > guess_s) guess_s = s->sides[i].guess_s;
    }
    printf("{\"nwrong\": %zu, \"guess_s\": %.9g}\n", num_wrong, guess_s);
}

static void answer_time(self_t *s, const char *rest)
{
    s->now.verb = TIME;
    if (sscanf(rest, "%d %d", &s->now.calls, &s->now.warmup) != 2 || !s->a) refuse(rest);
    if (s->now.calls < 1 || s->now.calls > MAX_CALLS) refuse(rest);
    command(s);
    printf("{\"seconds\": [");
    for (int i = 0; i < s->now.procs; i++) {
        const double *samples = s->samples + (size_t)i * MAX_CALLS;

        printf("%s[", i ? ", " : "");
        for (int k = 0; k < s->now.calls; k++)
            printf("%s%.9g", k ? ", " : "", samples[k]);
        printf("]");
    }
    printf("]}\n");
}

static void answer_drop(self_t *s)
{
    s->now.verb = DROP;
    command(s);
    for (int i = 0; i < 2; i++)
        if (ftruncate(s->pair_fds[i], 0) != 0) die("ftruncate");
    printf("{}\n");
}

static void on_child(int number)
{
    static const char text[] = "_limit: one of its processes was killed\n";

    (void)number;
    if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0) _exit(2);
    _exit(1);
}

/* Bind to the CPU of that index among those allowed; returns how many there are. */
static int pin(const cpu_set_t *allowed, int index)
{
    cpu_set_t one;
    int seen = 0;

    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, allowed) && seen++ == index) CPU_SET(cpu, &one);
    if (sched_setaffinity(0, sizeof(one), &one) != 0) die("sched_setaffinity");
    return seen < MAX_PROCESSES ? seen : MAX_PROCESSES;
}

static void start(self_t *s, const cpu_set_t *allowed, int index)
{
    int ends[2];
    pid_t parent = getpid();
    pid_t child;

    if (pipe(ends) != 0) die("pipe");
    child = fork();
    if (child < 0) die("fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* never spins on for a dead parent */
        if (getppid() != parent) _exit(1);
        for (int i = 1; i < index; i++)
            close(s->pipes[i]);
        close(ends[1]);
        s->me = index;
        pin(allowed, index);
        serve(s, ends[0]);
    }
    close(ends[0]);
    s->pipes[index] = ends[1];
}

static void *map_for_all(size_t nbytes)
{
    void *at = mmap(NULL, nbytes, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (at == MAP_FAILED) die("mmap");
    return at;
}

static void start_all(self_t *s)
{
    cpu_set_t allowed;

    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) die("sched_getaffinity");
    s->num_procs = pin(&allowed, 0);
    s->sides = map_for_all((size_t)s->num_procs * sizeof(side_t));
    s->samples = map_for_all((size_t)s->num_procs * MAX_CALLS * sizeof(double));
    for (int i = 0; i < 2; i++)
        if ((s->pair_fds[i] = memfd_create("limit", MFD_CLOEXEC)) < 0) die("memfd_create");
    signal(SIGCHLD, on_child);
    for (int i = 1; i < s->num_procs; i++)
        start(s, &allowed, i);
}

static void end_all(self_t *s)
{
    signal(SIGCHLD, SIG_DFL);
    for (int i = 1; i < s->num_procs; i++)
        close(s->pipes[i]);
    while (wait(NULL) > 0)
        continue;
}

int main(void)
{
    static int pipes[MAX_PROCESSES];
    self_t self = {.pipes = pipes};
    char line[128];

    signal(SIGINT, SIG_IGN); /* whoever started this ends it */
    start_all(&self);
    printf("{\"processes\": %d}\n", self.num_procs);
    while (fflush(stdout) == 0 && fgets(line, sizeof(line), stdin)) {
        if (strncmp(line, "prepare ", 8) == 0)
            answer_prepare(&self, line + 8);
        else if (strncmp(line, "time ", 5) == 0)
            answer_time(&self, line + 5);
        else
            answer_drop(&self);
    }
    end_all(&self);
    return 0;
}
