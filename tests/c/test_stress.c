/* SPDX-License-Identifier: Apache-2.0 */
/* Random collectives on four ranks that are threads, while memory comes and goes.
 *
 *     test_stress NUM TRANSPORT [SCRIPT]
 *
 * All ranks draw the same sequence of collectives from one seed. What is a rank's own business, it
 * draws from a seed of its own: whether a buffer is in the arena, at which odd offset, whether the
 * call is in place, how many are in flight and who waits. None of that, and no switch point, may
 * change a bit of any result, so a tenth of the sequence is run again with each of several others; and
 * once on two hosts, where sums are made by host. */
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "arena/arena.h"
#include "base/clock.h"
#include "check.h"
#include "rdmatrain/coll.h"
#include "reduce/partial.h"
#include "stress_values.h"

#define WORLD 4
#define DEPTH 4
#define NUM_BALLAST 8
#define GUARD_BYTES 64
#define GUARD 0xA5
#define MAX_LEAD 41
#define LIMIT_NS (100 * RDT_NS_PER_S)
#define CHECK_ALL_EVERY 50

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define LARGE 30000u /* elements */
#else
#define LARGE 200000u
#endif

/* Memory that a collective uses: guards before and behind it. */
typedef struct mem {
    uint8_t *block, *data;
    size_t lead, bytes;
} mem_t;

typedef struct flight {
    op_t op;
    mem_t in, out; /* in.block is NULL when the input lies in the output */
    uint8_t *input;
    bool background;
    rdt_work_t *work;
} flight_t;

/* What the results of a run were. */
typedef struct sums {
    uint64_t common; /* of what all ranks get alike */
    uint64_t own;    /* of reduce_scatter */
} sums_t;

typedef struct rank {
    uint32_t rank;
    rdt_comm_t *comm;
    rdt_peer_info_t infos[WORLD];
    pthread_t thread;
    uint64_t shared, own; /* states of the random numbers */
    uint64_t num, seq;
    uint32_t hosts;
    flight_t ring[DEPTH];
    uint32_t num_flying;
    mem_t ballast[NUM_BALLAST];
    uint8_t tags[NUM_BALLAST];
    sums_t sums, at_mark;
    uint64_t mark;
} rank_t;

/* -- memory -- */

static mem_t take(rank_t *me, size_t bytes, size_t elem)
{
    mem_t mem = {.bytes = bytes, .lead = elem * (2 * below(&me->own, MAX_LEAD / 2) + 1)};
    size_t room = mem.lead + bytes + GUARD_BYTES;

    mem.block = below(&me->own, 2) == 0 ? rdt_arena_alloc(room) : malloc(room);
    CHECK(mem.block != NULL, "rank %u: no memory for %zu bytes", me->rank, room);
    mem.data = mem.block + mem.lead;
    memset(mem.block, GUARD, mem.lead);
    memset(mem.data + bytes, GUARD, GUARD_BYTES);
    return mem;
}

static void check_guard(const rank_t *me, const uint8_t *guard, size_t bytes, const char *where)
{
    for (size_t i = 0; i < bytes; i++)
        CHECK(guard[i] == GUARD, "rank %u, #%llu: byte %zu %s a buffer was written", me->rank,
              (unsigned long long)me->seq, i, where);
}

static void give(const rank_t *me, mem_t *mem)
{
    if (mem->block == NULL) return;
    check_guard(me, mem->block, mem->lead, "before");
    check_guard(me, mem->data + mem->bytes, GUARD_BYTES, "behind");
    if (!rdt_arena_free(mem->block)) free(mem->block);
    mem->block = NULL;
}

/* Blocks that nobody but this thread may touch: a late store of a peer would show here. */
static void churn(rank_t *me, uint32_t slot)
{
    mem_t *mem = &me->ballast[slot];

    if (mem->block == NULL) {
        mem->bytes = 1 + below(&me->own, 40000);
        mem->block = rdt_arena_alloc(mem->bytes);
        CHECK(mem->block != NULL, "rank %u: the arena is full", me->rank);
        me->tags[slot] = (uint8_t)draw(&me->own);
        memset(mem->block, me->tags[slot], mem->bytes);
        return;
    }
    for (size_t i = 0; i < mem->bytes; i++)
        CHECK(mem->block[i] == me->tags[slot], "rank %u, #%llu: a stranger wrote byte %zu of %zu",
              me->rank, (unsigned long long)me->seq, i, mem->bytes);
    CHECK(rdt_arena_free(mem->block), "rank %u: a block of the arena is not of it", me->rank);
    mem->block = NULL;
}

/* -- what to call -- */

static uint64_t draw_count(uint64_t *shared)
{
    uint64_t kind = below(shared, 256);

    if (kind < 1) return below(shared, LARGE);
    if (kind < 16) return below(shared, 4);
    return below(shared, kind < 128 ? 300 : 5000);
}

static bool reduces(rdt_coll_t coll)
{
    return coll == RDT_ALL_REDUCE || coll == RDT_REDUCE || coll == RDT_REDUCE_SCATTER;
}

/* Half types of two ranks a host are added up at once. */
static bool adds_by_host(const op_t *op)
{
    return (op->coll == RDT_ALL_REDUCE || op->coll == RDT_REDUCE_SCATTER) &&
           rdt_partial_dtype(op->dtype, op->redop) == op->dtype;
}

static op_t draw_op(rank_t *me)
{
    op_t op = {.seq = ++me->seq, .world = WORLD};

    op.coll = (rdt_coll_t)below(&me->shared, RDT_BARRIER + 2);
    if (op.coll > RDT_BARRIER) op.coll = RDT_ALL_REDUCE; /* twice as often */
    do {
        op.dtype = (rdt_dtype_t)below(&me->shared, RDT_NUM_DTYPES);
        op.redop = (rdt_redop_t)below(&me->shared, RDT_NUM_REDOPS);
    } while (reduces(op.coll) && !rdt_can_reduce(op.dtype, op.redop));
    op.root = (uint32_t)below(&me->shared, WORLD);
    op.count = draw_count(&me->shared);
    op.hosts = adds_by_host(&op) ? me->hosts : 1;
    return op;
}

static bool may_be_in_place(const rank_t *me, const op_t *op)
{
    switch (op->coll) {
    case RDT_ALL_REDUCE:
    case RDT_ALL_GATHER:
    case RDT_BARRIER:
        return true;
    case RDT_REDUCE:
    case RDT_GATHER:
        return me->rank == op->root;
    default:
        return false;
    }
}

/* In place where the call knows such a thing and the rank likes to. */
static void give_buffers(rank_t *me, flight_t *f)
{
    size_t elem = rdt_dtype_bytes(f->op.dtype);
    bool gathers = f->op.coll == RDT_ALL_GATHER || f->op.coll == RDT_GATHER;
    bool in_place =
        f->op.coll == RDT_BROADCAST || (may_be_in_place(me, &f->op) && below(&me->own, 2) == 0);

    f->out = take(me, num_out(&f->op, me->rank) * elem, elem);
    memset(f->out.data, 0x5C, f->out.bytes);
    if (!in_place) f->in = take(me, num_in(&f->op) * elem, elem);
    f->input = !in_place ? f->in.data : f->out.data;
    if (in_place && gathers) f->input += f->op.count * me->rank * elem;
    fill(&f->op, me->rank, 0, num_in(&f->op), f->input);
}

static void post_one(rank_t *me)
{
    flight_t *f = &me->ring[me->num_flying++];
    rdt_call_t call;

    *f = (flight_t){.op = draw_op(me), .background = below(&me->own, 8) == 0};
    give_buffers(me, f);
    call = (rdt_call_t){.coll = f->op.coll,
                        .dtype = f->op.dtype,
                        .op = f->op.redop,
                        .peer = f->op.root,
                        .factor = factor(&f->op),
                        .count = f->op.count,
                        .in = f->input,
                        .out = f->out.data,
                        .timeout_ns = LIMIT_NS,
                        .background = f->background};
    CHECK(rdt_post(me->comm, &call, &f->work) == RDT_OK, "rank %u, #%llu: %s", me->rank,
          (unsigned long long)f->op.seq, rdt_last_error());
}

/* -- what came of it -- */

static void check_element(const rank_t *me, const flight_t *f, uint64_t i)
{
    size_t elem = rdt_dtype_bytes(f->op.dtype);
    uint8_t want[MAX_ELEM_BYTES] = {0}, got[MAX_ELEM_BYTES] = {0};
    uint64_t want_bits[2], got_bits[2];

    expect(&f->op, me->rank, i, want);
    memcpy(got, f->out.data + i * elem, elem);
    if (memcmp(got, want, elem) == 0) return;
    memcpy(want_bits, want, sizeof(want_bits));
    memcpy(got_bits, got, sizeof(got_bits));
    CHECK(
        false,
        "rank %u, #%llu, %s(%s, %llu elements, %s, root %u): element %llu has the bits %llx, %llx "
        "instead of %llx, %llx",
        me->rank, (unsigned long long)f->op.seq, rdt_coll_name(f->op.coll),
        rdt_dtype_name(f->op.dtype), (unsigned long long)f->op.count, rdt_redop_name(f->op.redop),
        f->op.root, (unsigned long long)i, (unsigned long long)got_bits[0],
        (unsigned long long)got_bits[1], (unsigned long long)want_bits[0],
        (unsigned long long)want_bits[1]);
}

/* The first and the last ones, some between, and all of every so manyth call. */
static void check_result(rank_t *me, const flight_t *f)
{
    uint64_t num = num_out(&f->op, me->rank);

    if (f->op.seq % CHECK_ALL_EVERY == 0) {
        for (uint64_t i = 0; i < num; i++)
            check_element(me, f, i);
        return;
    }
    for (uint64_t i = 0; i < num && i < 4; i++) {
        check_element(me, f, i);
        check_element(me, f, num - 1 - i);
        check_element(me, f, below(&me->own, num));
        check_element(me, f, below(&me->own, num));
    }
}

static void check_input(rank_t *me, const flight_t *f)
{
    uint64_t num = num_in(&f->op);
    size_t elem = rdt_dtype_bytes(f->op.dtype);

    if (f->in.block == NULL) return;
    for (uint64_t k = 0; k < 4 && k < num; k++) {
        uint64_t i = below(&me->own, num);
        uint8_t want[MAX_ELEM_BYTES];

        fill(&f->op, me->rank, i, 1, want);
        CHECK(memcmp(f->in.data + i * elem, want, elem) == 0,
              "rank %u, #%llu: element %llu of the input changed", me->rank,
              (unsigned long long)f->op.seq, (unsigned long long)i);
    }
}

static uint64_t hash(uint64_t sum, const uint8_t *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
        uint64_t word = bytes - i;

        memcpy(&word, data + i, bytes - i < sizeof(word) ? bytes - i : sizeof(word));
        sum = (sum ^ word) * 0x9E3779B97F4A7C15u;
        sum ^= sum >> 29;
    }
    return sum;
}

static void finish_oldest(rank_t *me)
{
    flight_t *f = &me->ring[0];
    bool is_common =
        f->op.coll == RDT_ALL_REDUCE || f->op.coll == RDT_BROADCAST || f->op.coll == RDT_ALL_GATHER;
    uint64_t *sum = is_common ? &me->sums.common : &me->sums.own;
    rdt_status_t st = RDT_AGAIN;

    if (f->background && below(&me->own, 2) == 0)
        while ((st = rdt_work_test(f->work)) == RDT_AGAIN)
            sched_yield();
    if (st == RDT_AGAIN) st = rdt_work_wait(f->work, RDT_NO_TIMEOUT);
    CHECK(st == RDT_OK, "rank %u, #%llu: %s", me->rank, (unsigned long long)f->op.seq,
          rdt_work_text(f->work));
    rdt_work_free(f->work);
    check_result(me, f);
    check_input(me, f);
    *sum = hash(*sum ^ f->op.seq, f->out.data, f->out.bytes);
    if (f->op.seq == me->mark) me->at_mark = me->sums;
    give(me, &f->in);
    give(me, &f->out);
    memmove(f, f + 1, --me->num_flying * sizeof(*f));
}

/* -- runs -- */

static void *rank_main(void *arg)
{
    rank_t *me = arg;

    CHECK(rdt_comm_connect(me->comm, me->infos, LIMIT_NS) == RDT_OK, "rank %u: %s", me->rank,
          rdt_last_error());
    while (me->seq < me->num) {
        uint64_t depth = 1 + below(&me->own, DEPTH);

        while (me->num_flying >= depth)
            finish_oldest(me);
        if (below(&me->own, 4) == 0) churn(me, (uint32_t)below(&me->own, NUM_BALLAST));
        post_one(me);
    }
    while (me->num_flying > 0)
        finish_oldest(me);
    for (uint32_t slot = 0; slot < NUM_BALLAST; slot++)
        if (me->ballast[slot].block != NULL) churn(me, slot);
    rdt_comm_close(me->comm);
    return NULL;
}

typedef struct run {
    const char *name, *transport, *script;
    rdt_tuning_t tuning;
    uint64_t num, own_seed, spin_ns;
    uint32_t hosts; /* more than 1: what reduces is made by host */
} run_t;

static void open_rank(rank_t *ranks, uint32_t rank, const run_t *run)
{
    const uint32_t hosts[WORLD] = {0, 1 % run->hosts, 2 % run->hosts, 3 % run->hosts};
    rdt_comm_cfg_t cfg = {.rank = rank,
                          .world = WORLD,
                          .tuning = &run->tuning,
                          .hosts = hosts,
                          .token = {(uint8_t)run->own_seed, 7},
                          .spin_ns = run->spin_ns};
    uint8_t wire[RDT_COMM_WIRE_BYTES] = {0};
    uint32_t len = 0;
    rank_t *me = &ranks[rank];

    me->rank = rank;
    me->num = run->num;
    me->hosts = run->hosts;
    me->shared = 2026;
    me->own = run->own_seed * 1000 + rank;
    CHECK(rdt_comm_open(&cfg, &me->comm) == RDT_OK, "%s", rdt_last_error());
    CHECK(rdt_comm_listen(me->comm, run->transport, run->script, wire, &len) == RDT_OK, "%s",
          rdt_last_error());
    for (uint32_t r = 0; r < WORLD; r++) {
        rdt_peer_info_t *info = &ranks[r].infos[rank];

        info->transport = run->transport;
        memcpy(info->wire, wire, sizeof(wire));
        info->wire_len = len;
        snprintf(info->label, sizeof(info->label), "thread %u", rank);
    }
}

/* What all ranks got together: after mark calls, and at the end. */
static void run_once(const run_t *run, uint64_t mark, uint64_t *at_mark_p, uint64_t *at_end_p)
{
    rank_t *ranks = calloc(WORLD, sizeof(*ranks));
    uint64_t began = rdt_now_ns();

    CHECK(ranks != NULL, "no memory");
    for (uint32_t r = 0; r < WORLD; r++) {
        open_rank(ranks, r, run);
        ranks[r].mark = mark;
    }
    for (uint32_t r = 0; r < WORLD; r++)
        CHECK(pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]) == 0, "no thread");
    for (uint32_t r = 0; r < WORLD; r++)
        pthread_join(ranks[r].thread, NULL);
    *at_mark_p = ranks[0].at_mark.common;
    *at_end_p = ranks[0].sums.common;
    for (uint32_t r = 0; r < WORLD; r++) {
        CHECK(ranks[r].sums.common == ranks[0].sums.common, "rank %u has other results than rank 0",
              r);
        *at_mark_p = (*at_mark_p ^ ranks[r].at_mark.own) * 31;
        *at_end_p = (*at_end_p ^ ranks[r].sums.own) * 31;
    }
    free(ranks);
    printf("%s, %s: %llu collectives in %.1f s, results %016llx\n", run->transport, run->name,
           (unsigned long long)run->num, (double)(rdt_now_ns() - began) * 1e-9,
           (unsigned long long)*at_end_p);
    fflush(stdout);
}

static uint64_t in_use(void)
{
    rdt_arena_stats_t stats;

    rdt_arena_get_stats(&stats);
    CHECK_EQ(stats.num_refused, 0);
    return stats.in_use_bytes;
}

static void stress(uint64_t num, const char *transport, const char *script)
{
    rdt_tuning_t usual = rdt_tuning_default(WORLD);
    const run_t base = {"the default table", transport, script, usual, num, 1, 0, 1};
    run_t others[] = {base, base, base, base, base, base};
    uint64_t before = in_use(), mark = num / 10 > 0 ? num / 10 : num, want, unused;

    run_once(&base, mark, &want, &unused);
    others[0].name = "other choices of the ranks";
    if (strcmp(transport, "fake") != 0) others[0].spin_ns = 20000; /* its spinners never yield */
    others[1].name = "all in messages of 1 KiB";
    others[1].tuning.direct = others[1].tuning.place = UINT64_MAX;
    others[1].tuning.chunk = 1024;
    others[2].name = "all in place, in blocks of 64 bytes";
    others[2].tuning.direct = others[2].tuning.place = others[2].tuning.one_shot = 0;
    others[2].tuning.block = 64;
    others[3].name = "in place, parts and chunks of 4 KiB";
    others[3].tuning.direct = others[3].tuning.place = others[3].tuning.scatter = 256;
    others[3].tuning.chunk = others[3].tuning.block = 4096;
    others[4].name = "by host, on two hosts";
    others[4].tuning.way = 2;
    others[4].hosts = 2;
    others[5].name = "gathered, in chunks of 256 KiB";
    others[5].tuning.way = 3;
    others[5].tuning.chunk = 256 << 10;
    for (uint64_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        uint64_t got;

        others[i].num = mark;
        others[i].own_seed = 2 + i;
        run_once(&others[i], mark, &got, &unused);
        /* Sums by host are others, and have been compared with the oracle's. */
        CHECK(got == want || others[i].hosts > 1,
              "%s gave %016llx after %llu collectives, %s gave %016llx", others[i].name,
              (unsigned long long)got, (unsigned long long)mark, base.name,
              (unsigned long long)want);
    }
    CHECK_EQ(in_use(), before);
}

int main(int argc, char **argv)
{
    uint64_t num = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;

    CHECK(num > 0 && argc > 2, "usage: %s NUM TRANSPORT [SCRIPT]", argv[0]);
#ifdef __SANITIZE_THREAD__
    if (strcmp(argv[2], "shm") == 0) {
        printf("skipped: within one process the words of shm lie at two addresses, so that the "
               "thread sanitizer does not see what they order; it sees that with the fake\n");
        return 77;
    }
#endif
    CHECK(rdt_arena_open() == RDT_OK, "%s", rdt_last_error());
    stress(num, argv[2], argc > 3 ? argv[3] : NULL);
    return 0;
}
