/* SPDX-License-Identifier: Apache-2.0 */
/* The memory limit of an all-reduce of two ranks: what is left when nothing but the bytes moves.
 *
 *   gcc -O3 -march=native -o limit limit.c && ./limit SECONDS NBYTES...
 *
 * Two processes on CPUs of their own, a float32 buffer each, both buffers mapped by both. In turn
 * for each size: spin barrier, add one's own half of the two buffers in place into both, spin
 * barrier. Prints one JSON line a size: bytes of one buffer, and the median seconds from the start
 * of the first barrier to the end of the second, of the slower process.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <immintrin.h>
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
#define MIN_REPEATS 11
#define MAX_REPEATS 20000
#define WARM_UPS 3

/* One writer each: the process whose name it bears; the other only reads. */
typedef struct {
    _Alignas(LINE_BYTES) _Atomic unsigned long seq; /* barriers entered */
    _Alignas(LINE_BYTES) double p50;                /* seconds; ordered by the barrier */
} side_t;

typedef struct {
    side_t *sides; /* two of them */
    float *a, *b;  /* the buffers of process 0 and 1 */
    int me;
    unsigned long seq;
} pair_t;

static void die(const char *what)
{
    fprintf(stderr, "limit: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void barrier(pair_t *p)
{
    /* release/acquire pair up across the two processes: what one wrote before, the other sees. */
    atomic_store_explicit(&p->sides[p->me].seq, ++p->seq, memory_order_release);
    while (atomic_load_explicit(&p->sides[!p->me].seq, memory_order_acquire) < p->seq)
        _mm_pause();
}

/* Read two streams and write two, in place: one pass, so there is nothing to block for a cache. */
static void add_into_both(float *restrict a, float *restrict b, size_t count)
{
    for (size_t i = 0; i < count; i++)
        a[i] = b[i] = a[i] + b[i];
}

static void all_reduce(pair_t *p, size_t count)
{
    size_t half = count / 2;
    size_t first = p->me ? half : 0;

    barrier(p);
    add_into_both(p->a + first, p->b + first, p->me ? count - half : half);
    barrier(p);
}

static float value(int rank, size_t i)
{
    return (float)(i % 1021 + 3 * (size_t)rank);
}

static void check(pair_t *p, size_t count)
{
    float *mine = p->me ? p->b : p->a;

    for (size_t i = 0; i < count; i++)
        mine[i] = value(p->me, i);
    all_reduce(p, count);
    for (size_t i = 0; i < count; i++) {
        if (mine[i] != value(0, i) + value(1, i)) {
            fprintf(stderr, "limit: process %d: wrong sum at %zu of %zu\n", p->me, i, count);
            exit(1);
        }
    }
    barrier(p);
    memset(mine, 0, count * sizeof(float)); /* repeated sums would overflow */
}

static int by_value(const void *x, const void *y)
{
    double a = *(const double *)x;
    double b = *(const double *)y;

    return (a > b) - (a < b);
}

/* Both processes must repeat alike: the count follows from times that both can see. */
static int choose_repeats(pair_t *p, size_t count, double budget)
{
    double begin = now();
    double repeats;

    for (int i = 0; i < WARM_UPS; i++)
        all_reduce(p, count);
    p->sides[p->me].p50 = (now() - begin) / WARM_UPS;
    barrier(p);
    repeats = budget / (p->sides[0].p50 > p->sides[1].p50 ? p->sides[0].p50 : p->sides[1].p50);
    barrier(p);
    if (repeats < MIN_REPEATS) return MIN_REPEATS;
    return repeats > MAX_REPEATS ? MAX_REPEATS : (int)repeats;
}

static void measure(pair_t *p, size_t nbytes, double budget)
{
    static double samples[MAX_REPEATS];
    size_t count = nbytes / sizeof(float);
    double slower;
    int repeats;

    check(p, count);
    repeats = choose_repeats(p, count, budget);
    for (int i = 0; i < repeats; i++) {
        double begin = now();

        all_reduce(p, count);
        samples[i] = now() - begin;
    }
    qsort(samples, (size_t)repeats, sizeof(double), by_value);
    p->sides[p->me].p50 = samples[repeats / 2];
    barrier(p);
    slower = p->sides[0].p50 > p->sides[1].p50 ? p->sides[0].p50 : p->sides[1].p50;
    barrier(p);
    if (p->me == 0)
        printf("{\"op\": \"all_reduce\", \"dtype\": \"float32\", \"nbytes\": %zu, "
               "\"seconds_p50\": %.9g}\n",
               nbytes, slower);
}

static void *map_shared(size_t nbytes)
{
    int fd = memfd_create("limit", MFD_CLOEXEC);
    void *at;

    if (fd < 0 || ftruncate(fd, (off_t)nbytes) != 0) die("memfd");
    at = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) die("mmap");
    close(fd);
    (void)madvise(at, nbytes, MADV_HUGEPAGE); /* where shmem allows it */
    return at;
}

static void pin(int index)
{
    cpu_set_t allowed, one;
    int seen = 0;

    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) die("sched_getaffinity");
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || seen++ != index) continue;
        CPU_SET(cpu, &one);
        if (sched_setaffinity(0, sizeof(one), &one) != 0) die("sched_setaffinity");
        return;
    }
    fprintf(stderr, "limit: needs two CPUs: spinning processes cannot share one\n");
    exit(1);
}

int main(int argc, char **argv)
{
    size_t largest = 0;
    pair_t pair = {0};
    pid_t child;
    int status;

    if (argc < 3) {
        fprintf(stderr, "usage: limit SECONDS NBYTES...\n");
        return 2;
    }
    for (int i = 2; i < argc; i++) {
        size_t nbytes = strtoull(argv[i], NULL, 10);

        if (nbytes > largest) largest = nbytes;
    }
    pair.sides = map_shared(2 * sizeof(side_t));
    pair.a = map_shared(largest);
    pair.b = map_shared(largest);
    child = fork();
    if (child < 0) die("fork");
    if (child == 0) {
        pair.me = 1;
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* never spins on for a dead parent */
    }
    pin(pair.me);
    for (int i = 2; i < argc; i++)
        measure(&pair, strtoull(argv[i], NULL, 10), atof(argv[1]));
    if (child == 0) return 0;
    return waitpid(child, &status, 0) == child && status == 0 ? 0 : 1;
}
