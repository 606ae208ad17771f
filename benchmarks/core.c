/* SPDX-License-Identifier: Apache-2.0 */
/* Operations of the core, without Python: what a transport gives, beside perftest.
 *
 *   bench_core TRANSPORT ARG OP NBYTES[,NBYTES...] [RANKS [SECONDS [CHUNK [PLACE]]]]
 *
 *   TRANSPORT ARG   shm "", tcp ADDRESS, or verbs "rails=DEV/PORT/GID addr=ADDRESS"
 *   OP              all_reduce, broadcast, send (rank 0 to rank 1) or barrier
 *
 * CHUNK, PLACE     of tuning.h, in bytes
 *
 * RANKS processes (2), tensors of float32 in the arena. Each size is checked before it is timed, then
 * repeated for SECONDS (1), with at least MIN_REPEATS calls. Rank 0 prints a JSON line a size: seconds
 * of the median call and of the mean one, and the bytes that the CPU copied for all its calls. An
 * all_reduce ends on all ranks at once; a broadcast and a send are timed to the receiver's answer, an
 * empty message.
 */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arena/arena.h"
#include "base/clock.h"
#include "rdmatrain/coll.h"

#define MAX_RANKS 16
#define MAX_SIZES 32
#define MIN_REPEATS 7
#define MAX_REPEATS 20000
#define WARM_UPS 3
#define TIMEOUT_NS (60 * RDT_NS_PER_S)

typedef struct {
    uint8_t token[RDT_COMM_TOKEN_BYTES];
    _Atomic uint32_t listening;
    rdt_peer_info_t infos[MAX_RANKS];
    uint32_t repeats; /* of the current size: rank 0 decides */
} shared_t;

typedef struct {
    const char *transport, *arg;
    rdt_coll_t coll;
    uint32_t rank, world;
    double seconds;
    rdt_tuning_t tuning;
    shared_t *shared;
    rdt_comm_t *comm;
} job_t;

static void die(const job_t *job, const char *what, const char *why)
{
    fprintf(stderr, "bench_core: rank %u: %s: %s\n", job->rank, what, why);
    exit(1);
}

static void must(const job_t *job, const char *what, rdt_status_t st)
{
    if (st != RDT_OK) die(job, what, rdt_last_error());
}

static void wait_for(const job_t *job, rdt_work_t *work)
{
    if (rdt_work_wait(work, RDT_NO_TIMEOUT) != RDT_OK) die(job, "call", rdt_work_text(work));
    rdt_work_free(work);
}

static void run(const job_t *job, const rdt_call_t *call)
{
    rdt_work_t *work;

    must(job, "post", rdt_post(job->comm, call, &work));
    wait_for(job, work);
}

static rdt_call_t make_call(const job_t *job, float *data, uint64_t count)
{
    rdt_call_t call = {.coll = job->coll,
                       .dtype = RDT_F32,
                       .op = RDT_SUM,
                       .count = count,
                       .in = data,
                       .out = data,
                       .timeout_ns = TIMEOUT_NS};

    if (job->coll == RDT_SEND) {
        call.coll = job->rank == 0 ? RDT_SEND : RDT_RECV;
        call.peer = 1 - job->rank;
    }
    return call;
}

/* What tells a sender that the last byte is there. */
static void answer(const job_t *job)
{
    rdt_call_t call = {.coll = RDT_BARRIER, .timeout_ns = TIMEOUT_NS};

    if (job->coll == RDT_SEND || job->coll == RDT_BROADCAST) run(job, &call);
}

static float value(uint32_t rank, uint64_t i)
{
    return (float)(i % 1000 * (rank + 1)); /* exact in float32, also as a sum */
}

static float expected(const job_t *job, uint64_t i)
{
    float sum = 0;

    if (job->coll != RDT_ALL_REDUCE) return value(0, i);
    for (uint32_t r = 0; r < job->world; r++)
        sum += value(r, i);
    return sum;
}

static void check(const job_t *job, float *data, uint64_t count)
{
    rdt_call_t call = make_call(job, data, count);

    for (uint64_t i = 0; i < count; i++)
        data[i] = value(job->rank, i);
    run(job, &call);
    answer(job);
    for (uint64_t i = 0; i < count; i++)
        if (data[i] != expected(job, i)) die(job, "check", "a wrong value");
    memset(data, 0, count * sizeof(*data));
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double time_one(const job_t *job, const rdt_call_t *call)
{
    uint64_t start = rdt_now_ns();

    run(job, call);
    answer(job);
    return (double)(rdt_now_ns() - start) * 1e-9;
}

static uint64_t staged(const job_t *job)
{
    uint64_t sum = 0;

    for (uint32_t r = 0; r < job->world; r++) {
        rdt_peer_stats_t stats;

        must(job, "stats", rdt_comm_stats(job->comm, r, &stats));
        sum += stats.staged_bytes;
    }
    return sum;
}

static void report(const job_t *job, uint64_t nbytes, double *seconds, uint32_t num,
                   uint64_t staged_bytes)
{
    double sum = 0;

    for (uint32_t i = 0; i < num; i++)
        sum += seconds[i];
    qsort(seconds, num, sizeof(*seconds), by_value);
    printf(
        "{\"op\": \"%s\", \"transport\": \"%s\", \"ranks\": %u, \"nbytes\": %llu, "
        "\"calls\": %u, \"seconds_p50\": %.9f, \"seconds_mean\": %.9f, \"staged_bytes\": %llu}\n",
        rdt_coll_name(job->coll), job->transport, job->world, (unsigned long long)nbytes, num,
        seconds[num / 2], sum / num, (unsigned long long)staged_bytes);
    fflush(stdout);
}

static void measure(const job_t *job, uint64_t nbytes)
{
    static double seconds[MAX_REPEATS];
    uint64_t count = nbytes / sizeof(float), before;
    float *data = rdt_arena_alloc(nbytes > 0 ? nbytes : 1);
    rdt_call_t call = make_call(job, data, count), barrier = {.coll = RDT_BARRIER};
    double warm = 0;

    if (data == NULL) die(job, "memory", "the arena is full");
    barrier.timeout_ns = TIMEOUT_NS;
    if (job->coll != RDT_BARRIER) check(job, data, count);
    for (int i = 0; i < WARM_UPS; i++)
        warm = time_one(job, &call);
    if (job->rank == 0) {
        double wanted = job->seconds / warm;

        job->shared->repeats = wanted < MIN_REPEATS   ? MIN_REPEATS
                               : wanted > MAX_REPEATS ? MAX_REPEATS
                                                      : (uint32_t)wanted;
    }
    run(job, &barrier); /* orders repeats, too */
    before = staged(job);
    for (uint32_t i = 0; i < job->shared->repeats; i++)
        seconds[i] = time_one(job, &call);
    if (job->rank == 0) report(job, nbytes, seconds, job->shared->repeats, staged(job) - before);
    rdt_arena_free(data);
}

static void join(job_t *job)
{
    rdt_comm_cfg_t cfg = {
        .rank = job->rank, .world = job->world, .spin_ns = 50000, .timeout_ns = TIMEOUT_NS};
    rdt_peer_info_t *mine = &job->shared->infos[job->rank];

    memcpy(cfg.token, job->shared->token, sizeof(cfg.token));
    must(job, "arena", rdt_arena_open());
    must(job, "open", rdt_comm_open(&cfg, &job->comm));
    must(job, "listen",
         rdt_comm_listen(job->comm, job->transport, job->arg, mine->wire, &mine->wire_len));
    mine->transport = job->transport;
    snprintf(mine->label, sizeof(mine->label), "rank %u", job->rank);
    atomic_fetch_add(&job->shared->listening, 1);
    while (atomic_load(&job->shared->listening) < job->world)
        usleep(1000);
    must(job, "connect", rdt_comm_connect(job->comm, job->shared->infos, TIMEOUT_NS));
}

static int run_rank(job_t job, const uint64_t *sizes, uint32_t num_sizes)
{
    rdt_call_t barrier = {.coll = RDT_BARRIER, .timeout_ns = TIMEOUT_NS};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    join(&job);
    for (uint32_t i = 0; i < num_sizes; i++)
        measure(&job, sizes[i]);
    run(&job, &barrier);
    rdt_comm_close(job.comm);
    return 0;
}

static bool parse_op(const char *name, rdt_coll_t *coll_p)
{
    const rdt_coll_t known[] = {RDT_ALL_REDUCE, RDT_BROADCAST, RDT_SEND, RDT_BARRIER};

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strcmp(rdt_coll_name(known[i]), name) == 0) {
            *coll_p = known[i];
            return true;
        }
    return false;
}

static uint32_t parse_sizes(char *list, uint64_t *sizes)
{
    uint32_t num = 0;
    char *rest;

    for (char *item = strtok_r(list, ",", &rest); item != NULL && num < MAX_SIZES;
         item = strtok_r(NULL, ",", &rest))
        sizes[num++] = strtoull(item, NULL, 10);
    return num;
}

static int wait_for_ranks(uint32_t world)
{
    int failed = 0, status;

    for (uint32_t r = 0; r < world; r++)
        if (wait(&status) < 0 || status != 0) failed = 1;
    return failed;
}

static bool parse(int argc, char **argv, job_t *job, uint64_t *sizes, uint32_t *num_sizes_p)
{
    if (argc < 5 || !parse_op(argv[3], &job->coll)) return false;
    job->transport = argv[1];
    job->arg = argv[2];
    *num_sizes_p = parse_sizes(argv[4], sizes);
    if (argc > 5) job->world = (uint32_t)strtoul(argv[5], NULL, 10);
    if (argc > 6) job->seconds = strtod(argv[6], NULL);
    job->tuning = rdt_tuning_default(job->world);
    if (argc > 7) job->tuning.chunk = strtoull(argv[7], NULL, 10);
    if (argc > 8) job->tuning.place = strtoull(argv[8], NULL, 10);
    return job->world >= 2 && job->world <= MAX_RANKS && (job->coll != RDT_SEND || job->world == 2);
}

int main(int argc, char **argv)
{
    uint64_t sizes[MAX_SIZES];
    uint32_t num_sizes;
    job_t job = {.world = 2, .seconds = 1};

    if (!parse(argc, argv, &job, sizes, &num_sizes)) {
        fprintf(stderr,
                "usage: bench_core TRANSPORT ARG OP NBYTES[,NBYTES...] [RANKS [SECONDS [CHUNK "
                "[PLACE]]]]\n"
                "2 to %d ranks; a send has 2\n",
                MAX_RANKS);
        return 2;
    }
    job.shared =
        mmap(NULL, sizeof(*job.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (job.shared == MAP_FAILED ||
        getrandom(job.shared->token, sizeof(job.shared->token), 0) < 0) {
        fprintf(stderr, "bench_core: %s\n", strerror(errno));
        return 1;
    }
    for (job.rank = 0; job.rank < job.world; job.rank++)
        if (fork() == 0) return run_rank(job, sizes, num_sizes);
    return wait_for_ranks(job.world);
}
