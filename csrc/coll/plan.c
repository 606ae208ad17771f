/* SPDX-License-Identifier: Apache-2.0 */
#include "coll/plan.h"

#include <assert.h>

/* Shards begin on multiples of this, so that two ranks never write one cache line. */
#define SHARD_ALIGN_BYTES 64u

static uint64_t ceil_div(uint64_t n, uint64_t d)
{
    return (n + d - 1) / d;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static rdt_algo_t choose(const rdt_call_t *call, uint32_t world, uint64_t bytes,
                         const rdt_tuning_t *tuning)
{
    static const rdt_algo_t of[RDT_NUM_COLLS] = {[RDT_REDUCE] = RDT_ALGO_REDUCE,
                                                 [RDT_ALL_GATHER] = RDT_ALGO_EXCHANGE,
                                                 [RDT_GATHER] = RDT_ALGO_EXCHANGE,
                                                 [RDT_SCATTER] = RDT_ALGO_EXCHANGE,
                                                 [RDT_REDUCE_SCATTER] = RDT_ALGO_REDUCE_SCATTER,
                                                 [RDT_ALL_TO_ALL] = RDT_ALGO_EXCHANGE};

    if (call->coll == RDT_ALL_REDUCE)
        /* One shot fits in one chunk: the engine may then reduce in place, see engine. */
        return bytes <= tuning->one_shot && bytes <= tuning->chunk ? RDT_ALGO_ONE_SHOT
                                                                   : RDT_ALGO_TWO_PHASE;
    if (call->coll == RDT_BROADCAST)
        return bytes >= tuning->scatter && world > 2 ? RDT_ALGO_SCATTERED_BROADCAST
                                                     : RDT_ALGO_FLAT_BROADCAST;
    return of[call->coll];
}

rdt_plan_t rdt_plan_make(const rdt_call_t *call, uint32_t rank, uint32_t world, uint32_t elem_bytes,
                         const rdt_tuning_t *tuning)
{
    rdt_plan_t plan = {.coll = call->coll,
                       .rank = rank,
                       .world = world,
                       .root = call->peer,
                       .in_counts = call->in_counts,
                       .out_counts = call->out_counts,
                       .count = call->count};
    uint64_t unit = SHARD_ALIGN_BYTES / elem_bytes;
    uint32_t owners;

    plan.algo = choose(call, world, call->count * elem_bytes, tuning);
    plan.chunk = tuning->chunk / elem_bytes;
    /* A scattered broadcast leaves the root without a shard: it has everything. */
    owners = plan.algo == RDT_ALGO_SCATTERED_BROADCAST ? world - 1 : world;
    plan.shard = ceil_div(ceil_div(call->count, owners), unit) * unit;
    return plan;
}

/* Elements of the i-th shard of a buffer of plan->count elements; the last ones may be short. */
static uint64_t cut_count(const rdt_plan_t *plan, uint32_t i)
{
    uint64_t first = min_u64(plan->shard * i, plan->count);

    return min_u64(plan->shard, plan->count - first);
}

/* Which cut rank owns: the ranks in order, without the root of a scattered broadcast. */
static uint32_t cut_of(const rdt_plan_t *plan, uint32_t rank)
{
    return plan->algo == RDT_ALGO_SCATTERED_BROADCAST && rank > plan->root ? rank - 1 : rank;
}

static uint32_t chunks_of(const rdt_plan_t *plan, uint64_t count)
{
    return (uint32_t)ceil_div(count, plan->chunk);
}

/* The root sends to each owner of a cut, which passes it on to the other owners. */
static uint64_t scattered_count(const rdt_plan_t *plan, uint32_t from, uint32_t to, bool input)
{
    if (to == plan->root || input != (from == plan->root)) return 0;
    return cut_count(plan, cut_of(plan, input ? to : from));
}

static uint64_t shard_count(const rdt_plan_t *plan, const uint64_t *counts, uint32_t shard)
{
    return counts != NULL ? counts[shard] : plan->count;
}

static uint64_t exchange_count(const rdt_plan_t *plan, uint32_t from, uint32_t to)
{
    switch (plan->coll) {
    case RDT_GATHER:
        return to == plan->root ? shard_count(plan, plan->out_counts, from) : 0;
    case RDT_SCATTER:
        return from == plan->root ? shard_count(plan, plan->in_counts, to) : 0;
    case RDT_ALL_TO_ALL:
        return from == plan->rank ? shard_count(plan, plan->in_counts, to)
                                  : shard_count(plan, plan->out_counts, from);
    default:
        return shard_count(plan, plan->out_counts, from);
    }
}

static uint64_t input_count(const rdt_plan_t *plan, uint32_t from, uint32_t to)
{
    switch (plan->algo) {
    case RDT_ALGO_ONE_SHOT:
        return plan->count;
    case RDT_ALGO_TWO_PHASE:
        return cut_count(plan, to);
    case RDT_ALGO_REDUCE:
        return to == plan->root ? plan->count : 0;
    case RDT_ALGO_REDUCE_SCATTER:
        return shard_count(plan, plan->in_counts, to);
    case RDT_ALGO_EXCHANGE:
        return exchange_count(plan, from, to);
    case RDT_ALGO_FLAT_BROADCAST:
        return from == plan->root ? plan->count : 0;
    case RDT_ALGO_SCATTERED_BROADCAST:
        return scattered_count(plan, from, to, true);
    default:
        return 0;
    }
}

static uint64_t result_count(const rdt_plan_t *plan, uint32_t from, uint32_t to)
{
    if (plan->algo == RDT_ALGO_TWO_PHASE) return cut_count(plan, from);
    if (plan->algo == RDT_ALGO_SCATTERED_BROADCAST) return scattered_count(plan, from, to, false);
    return 0;
}

uint64_t rdt_plan_count(const rdt_plan_t *plan, uint32_t from, uint32_t to, rdt_stream_t s)
{
    return s == RDT_STREAM_INPUT ? input_count(plan, from, to) : result_count(plan, from, to);
}

uint32_t rdt_plan_num_chunks(const rdt_plan_t *plan, uint32_t from, uint32_t to, rdt_stream_t s)
{
    uint32_t n = chunks_of(plan, rdt_plan_count(plan, from, to, s));

    if (s == RDT_STREAM_INPUT && n == 0) return 1; /* empty: it carries the call */
    return n;
}

static rdt_piece_t piece(const rdt_plan_t *plan, uint32_t shard, uint64_t base, uint64_t count,
                         uint32_t i)
{
    uint64_t off = min_u64(plan->chunk * i, count);

    return (rdt_piece_t){shard, base + off, min_u64(plan->chunk, count - off)};
}

/* Chunk i of the cut that rank owns, in a buffer that is one shard of plan->count elements. */
static rdt_piece_t cut_piece(const rdt_plan_t *plan, uint32_t rank, uint32_t i)
{
    uint32_t cut = cut_of(plan, rank);

    return piece(plan, 0, plan->shard * cut, cut_count(plan, cut), i);
}

rdt_piece_t rdt_plan_source(const rdt_plan_t *plan, uint32_t from, uint32_t to, rdt_stream_t s,
                            uint32_t i)
{
    uint64_t count = rdt_plan_count(plan, from, to, s);

    if (count == 0) return (rdt_piece_t){0, 0, 0};
    switch (plan->algo) {
    case RDT_ALGO_TWO_PHASE:
    case RDT_ALGO_SCATTERED_BROADCAST:
        return cut_piece(plan, s == RDT_STREAM_INPUT ? to : from, i);
    case RDT_ALGO_REDUCE_SCATTER:
        return piece(plan, to, 0, count, i);
    case RDT_ALGO_EXCHANGE:
        return piece(plan, rdt_plan_exchange_source(plan, from, to).shard, 0, count, i);
    default:
        return piece(plan, 0, 0, count, i);
    }
}

rdt_piece_t rdt_plan_target(const rdt_plan_t *plan, uint32_t from, uint32_t to, rdt_stream_t s,
                            uint32_t i)
{
    rdt_piece_t p = rdt_plan_source(plan, from, to, s, i);

    if (plan->algo == RDT_ALGO_EXCHANGE) p.shard = rdt_plan_exchange_target(plan, from, to).shard;
    if (plan->algo == RDT_ALGO_REDUCE_SCATTER) p.shard = 0;
    return p;
}

rdt_piece_t rdt_plan_exchange_source(const rdt_plan_t *plan, uint32_t from, uint32_t to)
{
    bool has_shards = plan->coll == RDT_SCATTER || plan->coll == RDT_ALL_TO_ALL;

    return (rdt_piece_t){has_shards ? to : 0, 0, exchange_count(plan, from, to)};
}

rdt_piece_t rdt_plan_exchange_target(const rdt_plan_t *plan, uint32_t from, uint32_t to)
{
    return (rdt_piece_t){plan->coll == RDT_SCATTER ? 0 : from, 0, exchange_count(plan, from, to)};
}

bool rdt_plan_reduces(const rdt_plan_t *plan, rdt_stream_t s)
{
    return s == RDT_STREAM_INPUT &&
           (plan->algo == RDT_ALGO_ONE_SHOT || plan->algo == RDT_ALGO_TWO_PHASE ||
            plan->algo == RDT_ALGO_REDUCE || plan->algo == RDT_ALGO_REDUCE_SCATTER);
}

uint64_t rdt_plan_num_written(const rdt_plan_t *plan)
{
    uint64_t sum = 0;

    switch (plan->algo) {
    case RDT_ALGO_EXCHANGE:
        for (uint32_t r = 0; r < plan->world; r++)
            sum += exchange_count(plan, r, plan->rank);
        return sum;
    case RDT_ALGO_REDUCE_SCATTER:
    case RDT_ALGO_FLAT_BROADCAST:
    case RDT_ALGO_SCATTERED_BROADCAST:
        return plan->count;
    default:
        return 0; /* all_reduce and reduce store to what they have just read */
    }
}

uint32_t rdt_plan_num_reduced(const rdt_plan_t *plan)
{
    if (!rdt_plan_reduces(plan, RDT_STREAM_INPUT)) return 0;
    if (plan->algo == RDT_ALGO_TWO_PHASE) return chunks_of(plan, cut_count(plan, plan->rank));
    if (plan->algo == RDT_ALGO_REDUCE && plan->rank != plan->root) return 0;
    return chunks_of(plan, plan->count);
}

rdt_piece_t rdt_plan_own_input(const rdt_plan_t *plan, uint32_t i)
{
    switch (plan->algo) {
    case RDT_ALGO_TWO_PHASE:
        return cut_piece(plan, plan->rank, i);
    case RDT_ALGO_REDUCE_SCATTER:
        return piece(plan, plan->rank, 0, plan->count, i);
    default:
        assert(plan->algo == RDT_ALGO_ONE_SHOT || plan->algo == RDT_ALGO_REDUCE);
        return piece(plan, 0, 0, plan->count, i);
    }
}

rdt_piece_t rdt_plan_own_output(const rdt_plan_t *plan, uint32_t i)
{
    rdt_piece_t p = rdt_plan_own_input(plan, i);

    p.shard = 0;
    return p;
}
