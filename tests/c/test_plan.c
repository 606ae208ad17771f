/* SPDX-License-Identifier: Apache-2.0 */
/* Plays every plan for 1 to 16 ranks on paper: an element is the set of ranks that are in it. */
#include <string.h>

#include "check.h"
#include "coll/plan.h"

#define MAX_WORLD 16
#define MAX_COUNT 5000
#define CHUNK_BYTES 256u
#define ELEM_BYTES 4u

/* out[rank][element]: a bit for each rank whose input is in it, counted so that twice shows. */
static uint32_t out[MAX_WORLD][MAX_WORLD * MAX_COUNT];
static uint32_t twice[MAX_WORLD];

static rdt_plan_t plan_for(rdt_coll_t coll, uint32_t rank, uint32_t world, uint32_t root,
                           uint64_t count)
{
    rdt_call_t call = {.coll = coll, .peer = root, .count = count};
    rdt_tuning_t tuning = rdt_tuning_default(world);

    tuning.chunk = CHUNK_BYTES;
    return rdt_plan_make(&call, rank, world, ELEM_BYTES, &tuning);
}

static void add(uint32_t rank, uint64_t element, uint32_t who)
{
    twice[rank] |= out[rank][element] & who;
    out[rank][element] |= who;
}

static bool takes_shards(rdt_coll_t coll)
{
    return coll == RDT_REDUCE_SCATTER || coll == RDT_SCATTER || coll == RDT_ALL_TO_ALL;
}

static bool gives_shards(rdt_coll_t coll)
{
    return coll == RDT_ALL_GATHER || coll == RDT_GATHER || coll == RDT_ALL_TO_ALL;
}

static bool has_root(rdt_coll_t coll)
{
    return coll == RDT_REDUCE || coll == RDT_BROADCAST || coll == RDT_GATHER || coll == RDT_SCATTER;
}

/* The own part: what a rank contributes to its own output without a message. */
static void play_own(const rdt_plan_t *plan, rdt_coll_t coll)
{
    uint32_t me = plan->rank;

    if (coll == RDT_BROADCAST && me == plan->root)
        for (uint64_t i = 0; i < plan->count; i++)
            add(me, i, 1u << me);
    if (plan->algo == RDT_ALGO_EXCHANGE) {
        rdt_piece_t from = rdt_plan_exchange_source(plan, me, me);
        rdt_piece_t to = rdt_plan_exchange_target(plan, me, me);

        CHECK_EQ(from.count, to.count);
        CHECK_EQ(from.shard, takes_shards(coll) ? me : 0);
        for (uint64_t i = 0; i < to.count; i++)
            add(me, to.shard * plan->count + to.first + i, 1u << me);
    }
    for (uint32_t c = 0; c < rdt_plan_num_reduced(plan); c++) {
        rdt_piece_t in = rdt_plan_own_input(plan, c), to = rdt_plan_own_output(plan, c);

        CHECK_EQ(in.count, to.count);
        CHECK(in.count > 0, "an empty chunk is reduced");
        for (uint64_t i = 0; i < to.count; i++)
            add(me, to.first + i, 1u << me);
    }
}

static void play_input(const rdt_plan_t *sender, uint32_t from, uint32_t to, uint32_t world,
                       uint64_t max_bytes)
{
    uint32_t num = rdt_plan_num_chunks(sender, from, to, RDT_STREAM_INPUT);

    CHECK(num > 0, "rank %u sends nothing to rank %u of %u", from, to, world);
    for (uint32_t c = 0; c < num; c++) {
        rdt_piece_t src = rdt_plan_source(sender, from, to, RDT_STREAM_INPUT, c);
        rdt_piece_t dst = rdt_plan_target(sender, from, to, RDT_STREAM_INPUT, c);

        CHECK_EQ(src.count, dst.count);
        if (src.count > 0) CHECK_EQ(src.shard, takes_shards(sender->coll) ? to : 0);
        CHECK(src.count * ELEM_BYTES <= max_bytes, "a chunk of %llu elements",
              (unsigned long long)src.count);
        for (uint64_t i = 0; i < dst.count; i++)
            add(to, dst.shard * sender->count + dst.first + i, 1u << from);
    }
}

/* Results carry whatever the sender has there. */
static void play_result(const rdt_plan_t *sender, uint32_t from, uint32_t to)
{
    uint32_t num = rdt_plan_num_chunks(sender, from, to, RDT_STREAM_RESULT);

    for (uint32_t c = 0; c < num; c++) {
        rdt_piece_t src = rdt_plan_source(sender, from, to, RDT_STREAM_RESULT, c);
        rdt_piece_t dst = rdt_plan_target(sender, from, to, RDT_STREAM_RESULT, c);

        CHECK_EQ(src.first, dst.first);
        for (uint64_t i = 0; i < dst.count; i++)
            add(to, dst.first + i, out[from][src.first + i]);
    }
}

static uint32_t expected(const rdt_plan_t *plan, uint64_t i)
{
    switch (plan->coll) {
    case RDT_BROADCAST:
    case RDT_SCATTER:
        return 1u << plan->root;
    case RDT_GATHER:
        return plan->rank == plan->root ? 1u << (i / plan->count) : 0;
    case RDT_ALL_GATHER:
    case RDT_ALL_TO_ALL:
        return 1u << (i / plan->count);
    case RDT_REDUCE:
        return plan->rank == plan->root ? (1u << plan->world) - 1 : 0;
    default:
        return (1u << plan->world) - 1;
    }
}

static void check_output(const rdt_plan_t *plan)
{
    uint64_t total = plan->count * (gives_shards(plan->coll) ? plan->world : 1);
    uint32_t rank = plan->rank;

    CHECK_EQ(twice[rank], 0);
    for (uint64_t i = 0; i < total; i++)
        CHECK(out[rank][i] == expected(plan, i),
              "coll %d, %u ranks, root %u, count %llu: element %llu of rank %u is %#x", plan->coll,
              plan->world, plan->root, (unsigned long long)plan->count, (unsigned long long)i, rank,
              out[rank][i]);
}

static void play(rdt_coll_t coll, uint32_t world, uint32_t root, uint64_t count)
{
    uint64_t total = gives_shards(coll) ? world * count : count;
    rdt_plan_t plans[MAX_WORLD];

    memset(twice, 0, sizeof(twice));
    for (uint32_t r = 0; r < world; r++) {
        plans[r] = plan_for(coll, r, world, root, count);
        CHECK_EQ(plans[r].algo, plans[0].algo);
        memset(out[r], 0, total * sizeof(out[r][0]));
        play_own(&plans[r], coll);
    }
    for (uint32_t from = 0; from < world; from++)
        for (uint32_t to = 0; to < world; to++)
            if (from != to) play_input(&plans[from], from, to, world, CHUNK_BYTES);
    for (uint32_t from = 0; from < world; from++)
        for (uint32_t to = 0; to < world; to++)
            if (from != to) play_result(&plans[from], from, to);
    for (uint32_t r = 0; r < world; r++)
        check_output(&plans[r]);
}

/* Both ends of a pair must count the same messages, or one of them waits for ever. */
static void both_ends_count_the_same(rdt_coll_t coll, uint32_t world, uint64_t count)
{
    rdt_plan_t a = plan_for(coll, 0, world, 0, count);
    rdt_plan_t b = plan_for(coll, world - 1, world, 0, count);

    for (uint32_t from = 0; from < world; from++)
        for (uint32_t to = 0; to < world; to++)
            for (int s = 0; from != to && s < RDT_NUM_STREAMS; s++)
                CHECK_EQ(rdt_plan_num_chunks(&a, from, to, s),
                         rdt_plan_num_chunks(&b, from, to, s));
}

static void every_element_gets_every_rank_once(void)
{
    static const uint64_t counts[] = {0, 1, 15, 16, 17, 63, 64, 65, 1000, MAX_COUNT};
    static const rdt_coll_t colls[] = {RDT_ALL_REDUCE,     RDT_REDUCE,    RDT_BROADCAST,
                                       RDT_ALL_GATHER,     RDT_GATHER,    RDT_SCATTER,
                                       RDT_REDUCE_SCATTER, RDT_ALL_TO_ALL};

    for (size_t k = 0; k < sizeof(colls) / sizeof(colls[0]); k++)
        for (uint32_t world = 1; world <= MAX_WORLD; world++)
            for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++)
                for (uint32_t root = 0; root < (has_root(colls[k]) ? world : 1); root++) {
                    play(colls[k], world, root, counts[c]);
                    both_ends_count_the_same(colls[k], world, counts[c]);
                }
}

/* Sizes of real tensors, where playing element by element would take too long. */
static void large_plans_send_the_bytes_that_the_header_promises(void)
{
    const uint64_t count = 1u << 24, p = 8;
    rdt_plan_t plan = plan_for(RDT_ALL_REDUCE, 3, p, 0, count);
    rdt_plan_t bcast = plan_for(RDT_BROADCAST, 3, p, 2, count);
    uint64_t sent = 0, root_sent = 0;

    CHECK_EQ(plan.algo, RDT_ALGO_TWO_PHASE);
    CHECK_EQ(bcast.algo, RDT_ALGO_SCATTERED_BROADCAST);
    for (uint32_t to = 0; to < p; to++)
        for (int s = 0; s < RDT_NUM_STREAMS; s++) {
            for (uint32_t c = 0; to != 3 && c < rdt_plan_num_chunks(&plan, 3, to, s); c++)
                sent += rdt_plan_source(&plan, 3, to, s, c).count;
            for (uint32_t c = 0; to != 2 && c < rdt_plan_num_chunks(&bcast, 2, to, s); c++)
                root_sent += rdt_plan_source(&bcast, 2, to, s, c).count;
        }
    CHECK_EQ(sent, 2 * (p - 1) * count / p);
    CHECK_EQ(root_sent, count);
}

static void small_all_reduces_take_one_step(void)
{
    CHECK_EQ(plan_for(RDT_ALL_REDUCE, 0, 2, 0, 2).algo, RDT_ALGO_ONE_SHOT);
    /* One shot must fit in one chunk: in place it could not overwrite what is still to be sent. */
    CHECK_EQ(plan_for(RDT_ALL_REDUCE, 0, 2, 0, CHUNK_BYTES / ELEM_BYTES).algo, RDT_ALGO_ONE_SHOT);
    CHECK_EQ(plan_for(RDT_ALL_REDUCE, 0, 2, 0, CHUNK_BYTES / ELEM_BYTES + 1).algo,
             RDT_ALGO_TWO_PHASE);
}

int main(void)
{
    every_element_gets_every_rank_once();
    large_plans_send_the_bytes_that_the_header_promises();
    small_all_reduces_take_one_step();
    return 0;
}
