/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks as threads, so that the sanitizers see both ends: collectives, several waiters at once, works
 * that nobody waits for, a rank that leaves, a rank that differs. */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "arena/arena.h"
#include "base/clock.h"
#include "check.h"
#include "rdmatrain/coll.h"

#define MAX_WORLD 4
#define COUNT 20001u /* several chunks and a rest */
#define LIMIT_NS (60 * RDT_NS_PER_S)

typedef struct rank {
    uint32_t rank, world;
    const char *transport;
    rdt_comm_t *comm;
    rdt_peer_info_t infos[MAX_WORLD];
    void (*body)(struct rank *);
    pthread_t thread;
} rank_t;

static void *rank_main(void *arg)
{
    rank_t *me = arg;
    rdt_status_t st = rdt_comm_connect(me->comm, me->infos, LIMIT_NS);

    CHECK(st == RDT_OK, "rank %u: %s", me->rank, rdt_last_error());
    me->body(me);
    rdt_comm_close(me->comm);
    return NULL;
}

static uint64_t chunk_bytes = 4096;

static void open_rank(rank_t *me, const char *arg, uint64_t spin_ns)
{
    static uint8_t group;
    rdt_tuning_t tuning = rdt_tuning_default(me->world);
    rdt_comm_cfg_t cfg = {
        .rank = me->rank, .world = me->world, .tuning = &tuning, .spin_ns = spin_ns};
    uint8_t wire[RDT_COMM_WIRE_BYTES] = {0};
    uint32_t len = 0;

    tuning.chunk = chunk_bytes;
    tuning.scatter = 64 << 10; /* a broadcast of COUNT goes in parts, */
    tuning.bypass = 64 << 10;  /* and what is gathered or reduced to one rank past the caches */
    if (me->rank == 0) group++;
    cfg.token[0] = group;
    CHECK(rdt_comm_open(&cfg, &me->comm) == RDT_OK, "%s", rdt_last_error());
    CHECK(rdt_comm_listen(me->comm, me->transport, arg, wire, &len) == RDT_OK, "%s",
          rdt_last_error());
    for (uint32_t r = 0; r < me->world; r++) {
        rdt_peer_info_t *info = &(me - me->rank + r)->infos[me->rank];

        info->transport = me->transport;
        memcpy(info->wire, wire, sizeof(wire));
        info->wire_len = len;
        snprintf(info->label, sizeof(info->label), "thread %u", me->rank);
    }
}

static void run(const char *transport, const char *arg, uint32_t world, uint64_t spin_ns,
                void (*body)(rank_t *))
{
    static rank_t ranks[MAX_WORLD];

    memset(ranks, 0, sizeof(ranks));
    for (uint32_t r = 0; r < world; r++)
        ranks[r] = (rank_t){.rank = r, .world = world, .transport = transport, .body = body};
    for (uint32_t r = 0; r < world; r++)
        open_rank(&ranks[r], arg, spin_ns);
    for (uint32_t r = 0; r < world; r++)
        pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]);
    for (uint32_t r = 0; r < world; r++)
        pthread_join(ranks[r].thread, NULL);
}

static int64_t value(uint32_t rank, uint64_t i)
{
    return (int64_t)(7 * rank + 3 * i);
}

static int64_t sum(uint32_t world, uint64_t i)
{
    return (int64_t)(7 * world * (world - 1) / 2 + 3 * i * world);
}

static rdt_work_t *post(rank_t *me, rdt_call_t call)
{
    rdt_work_t *work;

    call.timeout_ns = LIMIT_NS;
    call.dtype = RDT_I64;
    CHECK(rdt_post(me->comm, &call, &work) == RDT_OK, "rank %u: %s", me->rank, rdt_last_error());
    return work;
}

static void finish(rdt_work_t *work)
{
    rdt_status_t st = rdt_work_wait(work, RDT_NO_TIMEOUT);

    CHECK(st == RDT_OK, "%s", rdt_work_text(work));
    rdt_work_free(work);
}

/* Which ranks have their buffers in the arena, by bit. */
static uint32_t arena_ranks;

/* Zeroes; off a page and off a cache line, as a view into a tensor is. */
static int64_t *zeroes(const rank_t *me, uint64_t count)
{
    size_t bytes = (count + 1) * sizeof(int64_t);
    int64_t *buf = (arena_ranks >> me->rank & 1) != 0 ? rdt_arena_alloc(bytes) : malloc(bytes);

    CHECK(buf != NULL, "rank %u: no memory", me->rank);
    memset(buf, 0, bytes);
    return buf + 1;
}

static void release(int64_t *buf)
{
    if (!rdt_arena_free(buf - 1)) free(buf - 1);
}

static int64_t *filled(const rank_t *me, uint64_t count)
{
    int64_t *buf = zeroes(me, count);

    for (uint64_t i = 0; i < count; i++)
        buf[i] = value(me->rank, i);
    return buf;
}

static void check_sums(const rank_t *me, const int64_t *buf, uint64_t first, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        CHECK_EQ(buf[i], sum(me->world, first + i));
}

static void all_collectives_are_right(rank_t *me)
{
    int64_t *in = filled(me, (uint64_t)COUNT * me->world);
    int64_t *out = zeroes(me, (uint64_t)COUNT * me->world);

    finish(post(me, (rdt_call_t){.coll = RDT_ALL_REDUCE, .count = COUNT, .in = in, .out = out}));
    check_sums(me, out, 0, COUNT);
    finish(
        post(me, (rdt_call_t){.coll = RDT_REDUCE_SCATTER, .count = COUNT, .in = in, .out = out}));
    check_sums(me, out, (uint64_t)COUNT * me->rank, COUNT);
    finish(post(me, (rdt_call_t){.coll = RDT_ALL_GATHER, .count = COUNT, .in = in, .out = out}));
    for (uint32_t r = 0; r < me->world; r++)
        for (uint64_t i = 0; i < COUNT; i++)
            CHECK_EQ(out[r * COUNT + i], value(r, i));
    memcpy(out + (uint64_t)COUNT * me->rank, in, COUNT * sizeof(*out)); /* in its own place */
    finish(post(me, (rdt_call_t){.coll = RDT_ALL_GATHER,
                                 .count = COUNT,
                                 .in = out + (uint64_t)COUNT * me->rank,
                                 .out = out}));
    for (uint32_t r = 0; r < me->world; r++)
        for (uint64_t i = 0; i < COUNT; i++)
            CHECK_EQ(out[r * COUNT + i], value(r, i));
    for (uint32_t root = 0; root < me->world; root++) {
        memcpy(out, in, COUNT * sizeof(*out));
        finish(post(me,
                    (rdt_call_t){.coll = RDT_BROADCAST, .peer = root, .count = COUNT, .out = out}));
        for (uint64_t i = 0; i < COUNT; i++)
            CHECK_EQ(out[i], value(root, i));
    }
    finish(post(me, (rdt_call_t){.coll = RDT_BARRIER}));
    release(in);
    release(out);
}

static void sends_find_their_recvs_by_tag(rank_t *me)
{
    int64_t *mine = filled(me, COUNT), *theirs[2];
    uint32_t next = (me->rank + 1) % me->world, prev = (me->rank + me->world - 1) % me->world;
    rdt_work_t *works[4];

    if (me->world > 1) {
        for (int t = 0; t < 2; t++) {
            theirs[t] = zeroes(me, COUNT);
            works[t] = post(me, (rdt_call_t){.coll = RDT_SEND,
                                             .peer = next,
                                             .tag = t,
                                             .count = COUNT - (uint64_t)t,
                                             .in = mine + t});
        }
        for (int t = 1; t >= 0; t--)
            works[2 + t] = post(me, (rdt_call_t){.coll = RDT_RECV,
                                                 .peer = prev,
                                                 .tag = t,
                                                 .count = COUNT - (uint64_t)t,
                                                 .out = theirs[t]});
        for (int w = 0; w < 4; w++)
            finish(works[w]);
        for (uint64_t t = 0; t < 2; t++) {
            for (uint64_t i = 0; i < COUNT - t; i++)
                CHECK_EQ(theirs[t][i], value(prev, i + t));
            release(theirs[t]);
        }
    }
    release(mine);
}

static void count_done(void *arg, rdt_status_t status, const char *text)
{
    CHECK(status == RDT_OK, "%s", text);
    atomic_fetch_add((_Atomic int *)arg, 1);
}

/* The progress thread alone finishes what nobody waits for. */
static void works_that_nobody_waits_for_get_done(rank_t *me)
{
    enum { NUM = 20 };
    int64_t *bufs[NUM];
    _Atomic int done = 0;
    uint64_t deadline = rdt_now_ns() + LIMIT_NS;

    for (int w = 0; w < NUM; w++) {
        bufs[w] = filled(me, COUNT);
        rdt_work_free(post(me, (rdt_call_t){.coll = RDT_ALL_REDUCE,
                                            .count = COUNT,
                                            .in = bufs[w],
                                            .out = bufs[w],
                                            .background = true,
                                            .done = count_done,
                                            .arg = &done}));
    }
    while (atomic_load(&done) < NUM) {
        CHECK(rdt_now_ns() < deadline, "rank %u: %d of %d done", me->rank, atomic_load(&done), NUM);
        usleep(1000); /* the progress threads need the cores */
    }
    for (int w = 0; w < NUM; w++) {
        check_sums(me, bufs[w], 0, COUNT);
        release(bufs[w]);
    }
}

static void *wait_for(void *work)
{
    finish(work);
    return NULL;
}

static void several_threads_may_wait_at_once(rank_t *me)
{
    enum { NUM = 4 };
    int64_t *bufs[NUM];
    pthread_t threads[NUM];

    for (int w = 0; w < NUM; w++) {
        bufs[w] = filled(me, COUNT);
        pthread_create(
            &threads[w], NULL, wait_for,
            post(me, (rdt_call_t){
                         .coll = RDT_ALL_REDUCE, .count = COUNT, .in = bufs[w], .out = bufs[w]}));
    }
    for (int w = 0; w < NUM; w++) {
        pthread_join(threads[w], NULL);
        check_sums(me, bufs[w], 0, COUNT);
        release(bufs[w]);
    }
}

static void many_small_ones_in_a_row(rank_t *me)
{
    for (int i = 0; i < 300; i++) {
        int64_t buf[3] = {value(me->rank, 0), value(me->rank, 1), value(me->rank, 2)};

        finish(post(me, (rdt_call_t){.coll = RDT_ALL_REDUCE, .count = 3, .in = buf, .out = buf}));
        check_sums(me, buf, 0, 3);
    }
}

static void check_halved(const rank_t *me, const double *got, uint64_t first)
{
    for (uint64_t i = 0; i < COUNT; i++)
        CHECK(got[i] == (double)sum(me->world, first + i) / 2, "rank %u: element %llu is %g",
              me->rank, (unsigned long long)i, got[i]);
}

static void factors_multiply_before_the_sum(rank_t *me)
{
    int64_t *in_block = zeroes(me, (uint64_t)COUNT * me->world), *out_block = zeroes(me, COUNT);
    double *in = (double *)in_block, *out = (double *)out_block;
    rdt_call_t call = {.coll = RDT_REDUCE_SCATTER,
                       .dtype = RDT_F64,
                       .op = RDT_PREMUL_SUM,
                       .factor = 0.5,
                       .count = COUNT,
                       .in = in,
                       .out = out,
                       .timeout_ns = LIMIT_NS};
    rdt_work_t *work;

    for (uint64_t i = 0; i < (uint64_t)COUNT * me->world; i++)
        in[i] = (double)value(me->rank, i);
    CHECK(rdt_post(me->comm, &call, &work) == RDT_OK, "%s", rdt_last_error());
    finish(work);
    check_halved(me, out, (uint64_t)COUNT * me->rank);
    call.coll = RDT_ALL_REDUCE;
    call.out = in; /* in place */
    CHECK(rdt_post(me->comm, &call, &work) == RDT_OK, "%s", rdt_last_error());
    finish(work);
    check_halved(me, in, 0);
    call.dtype = RDT_I64;
    CHECK(rdt_post(me->comm, &call, &work) == RDT_UNSUPPORTED, "integers times a factor");
    CHECK(strstr(rdt_last_error(), "PREMUL_SUM of int64") != NULL, "%s", rdt_last_error());
    release(in_block);
    release(out_block);
}

static void everything(rank_t *me)
{
    all_collectives_are_right(me);
    sends_find_their_recvs_by_tag(me);
    works_that_nobody_waits_for_get_done(me);
    several_threads_may_wait_at_once(me);
    many_small_ones_in_a_row(me);
    factors_multiply_before_the_sum(me);
}

/* Rank 0 leaves at once; the others wait for it and must be told. */
static void a_rank_that_leaves_is_named(rank_t *me)
{
    int64_t buf[2] = {1, 2};
    rdt_work_t *work;
    rdt_status_t st;

    if (me->rank == 0) return;
    if (rdt_post(me->comm,
                 &(rdt_call_t){.coll = RDT_ALL_REDUCE,
                               .dtype = RDT_I64,
                               .count = 2,
                               .in = buf,
                               .out = buf,
                               .timeout_ns = LIMIT_NS},
                 &work) != RDT_OK)
        return; /* it was faster, and the error is latched already */
    st = rdt_work_wait(work, RDT_NO_TIMEOUT);
    CHECK(st == RDT_PEER_LOST || st == RDT_REMOTE_ERROR, "rank %u: %s", me->rank,
          rdt_status_name(st));
    CHECK(strstr(rdt_work_text(work), "rank 0") != NULL, "%s", rdt_work_text(work));
    rdt_work_free(work);
}

static void ranks_that_differ_all_fail(rank_t *me)
{
    int64_t buf[2] = {1, 2};
    rdt_work_t *work = post(
        me, (rdt_call_t){
                .coll = RDT_ALL_REDUCE, .count = me->rank == 1 ? 1 : 2, .in = buf, .out = buf});
    rdt_status_t st = rdt_work_wait(work, RDT_NO_TIMEOUT);

    CHECK(st == RDT_MISMATCH || st == RDT_REMOTE_ERROR || st == RDT_PEER_LOST, "rank %u: %s",
          me->rank, rdt_status_name(st));
    rdt_work_free(work);
}

/* The reason is cut, not written beyond a slot. */
static void a_reason_longer_than_a_chunk_arrives(rank_t *me)
{
    char reason[200];
    int64_t buf[2] = {1, 2};
    rdt_call_t refused = {.coll = RDT_REFUSED, .refusal = reason};
    rdt_call_t called = {.coll = RDT_ALL_REDUCE, .count = 2, .in = buf, .out = buf};
    rdt_work_t *work;

    memset(reason, 'r', sizeof(reason) - 1);
    reason[sizeof(reason) - 1] = '\0';
    work = post(me, me->rank == 1 ? refused : called);
    CHECK(rdt_work_wait(work, RDT_NO_TIMEOUT) != RDT_OK, "rank %u", me->rank);
    CHECK(strstr(rdt_work_text(work), "ranks differ") != NULL, "%s", rdt_work_text(work));
    rdt_work_free(work);
}

static const uint32_t mixes[] = {0, ~0u, 1u << 1 | 1u << 2}; /* the root has it, or not */

/* Over shm the ranks' words to each other lie at two addresses, where the thread sanitizer does not
 * see that they order the accesses to the arena. It sees that with the fake. */
static uint32_t num_mixes(const char *transport)
{
#ifdef __SANITIZE_THREAD__
    if (strcmp(transport, "shm") == 0) return 1;
#endif
    return strcmp(transport, "tcp") == 0 ? 1 : sizeof(mixes) / sizeof(mixes[0]);
}

int main(void)
{
    static const struct {
        const char *name, *arg;
    } cases[] = {{"shm", NULL},
                 {"tcp", "127.0.0.1"},
                 {"fake", "seed=1"},
                 {"fake", "seed=2,delay=4,slots=2"}};

    CHECK(rdt_arena_open() == RDT_OK, "%s", rdt_last_error());
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        for (uint32_t world = 1; world <= MAX_WORLD; world++)
            for (uint32_t mix = 0; mix < num_mixes(cases[c].name); mix++) {
                arena_ranks = mixes[mix];
                run(cases[c].name, cases[c].arg, world, world % 2 == 0 ? 20000 : 0, everything);
            }
        run(cases[c].name, cases[c].arg, 3, 0, a_rank_that_leaves_is_named);
        run(cases[c].name, cases[c].arg, 3, 0, ranks_that_differ_all_fail);
        chunk_bytes = 64;
        run(cases[c].name, cases[c].arg, 2, 0, a_reason_longer_than_a_chunk_arrives);
        chunk_bytes = 4096;
        printf("%s %s: ok\n", cases[c].name, cases[c].arg != NULL ? cases[c].arg : "");
    }
    return 0;
}
