/* SPDX-License-Identifier: Apache-2.0 */
#include "coll/blocks.h"

#include <string.h>

static bool is_gather(const rdt_stages_t *st)
{
    return st->whole->coll == RDT_ALL_GATHER;
}

static uint32_t my_host(const rdt_stages_t *st)
{
    return st->layout->host_of[st->layout->all.me];
}

static uint32_t num_host_levels(const rdt_stages_t *st)
{
    return st->levels.num - st->levels.has_host;
}

/* One for each host: of what its ranks give, or get. */
static uint32_t num_in_host(const rdt_stages_t *st)
{
    return st->levels.has_host ? st->layout->grid.num_hosts : 0;
}

static size_t block_bytes(const rdt_stages_t *st)
{
    return st->whole->count * rdt_dtype_bytes(st->whole->dtype);
}

static size_t partial_bytes(const rdt_stages_t *st)
{
    return st->whole->count * rdt_dtype_bytes(rdt_partial_dtype(st->whole->dtype, st->whole->op));
}

/* The block of the input, or of the output, that is for a rank, or of it. */
static uint8_t *callers_block(const rdt_stages_t *st, uint32_t rank)
{
    const rdt_call_t *whole = st->whole;
    const void *const *shards =
        is_gather(st) ? (const void *const *)whole->out_shards : whole->in_shards;
    const void *first = is_gather(st) ? whole->out : whole->in;

    if (shards != NULL) return (uint8_t *)(uintptr_t)shards[rank];
    return (uint8_t *)(uintptr_t)first + rank * block_bytes(st);
}

static uint8_t *block_at(const rdt_stages_t *st, uint32_t host, uint32_t place)
{
    return callers_block(st, st->layout->rank_at[host * st->layout->grid.per_host + place]);
}

static bool is_in_a_row(const rdt_stages_t *st)
{
    const uint32_t world = st->layout->grid.world;
    const uint8_t *first = callers_block(st, 0);

    for (uint32_t r = 1; r < world; r++)
        if (callers_block(st, r) != first + r * block_bytes(st)) return false;
    return true;
}

/* Hosts of one rank: what goes between them has to lie in a row, and does not. */
static bool is_packed(const rdt_stages_t *st)
{
    return !st->levels.has_host && !is_in_a_row(st);
}

/* Hosts that a member of a level has blocks of before it, in an all_gather, and for after it, in a
 * reduce_scatter; the first one of this rank's; and of all the members'. */
typedef struct run {
    uint32_t hosts, mine, first;
} run_t;

static run_t run_of(const rdt_stages_t *st, uint32_t level)
{
    const uint32_t hosts = rdt_levels_stride(&st->levels, level), host = my_host(st);
    const uint32_t all = hosts * st->levels.sizes[level];

    return (run_t){hosts, host / hosts * hosts, host / all * all};
}

/* -- all_gather -- */

/* The blocks of this rank's rail, from a host's on. */
static uint8_t *gathered_from(const rdt_stages_t *st, uint32_t host)
{
    if (st->levels.has_host && num_host_levels(st) == 1)
        return block_at(st, host, st->layout->host.me);
    if (st->levels.has_host || is_packed(st)) return st->scratch + host * block_bytes(st);
    return callers_block(st, host);
}

static void gather_between_hosts(rdt_stages_t *st, uint32_t level)
{
    const run_t run = run_of(st, level);

    st->members = rdt_levels_members(&st->levels, st->layout, level, st->met);
    st->call.count = run.hosts * st->whole->count;
    if (st->at > 0) st->call.in = gathered_from(st, run.mine);
    for (uint32_t m = 0; m < st->members.num; m++)
        rdt_stages_out_shard(st, m, gathered_from(st, run.first + m * run.hosts), st->call.count);
}

static void gather_in_host(rdt_stages_t *st, uint32_t host)
{
    st->members = st->layout->host;
    st->call.in = gathered_from(st, host);
    for (uint32_t m = 0; m < st->members.num; m++)
        rdt_stages_out_shard(st, m, block_at(st, host, m), st->whole->count);
}

/* -- reduce_scatter -- */

/* Partial sums of what is for this rank's rail, from a host's on: of all hosts, or, where the first sums
 * are those of the last level, of the hosts that it leaves. */
static uint8_t *partial_from(const rdt_stages_t *st, uint32_t host)
{
    if (!st->levels.has_host) host -= run_of(st, st->levels.num - 1).mine;
    return st->scratch + host * partial_bytes(st);
}

/* A list of blocks, in a row: behind the partial sums. */
static uint8_t *packed(const rdt_stages_t *st)
{
    return st->scratch + run_of(st, st->levels.num - 1).hosts * partial_bytes(st);
}

static uint8_t *input_from(const rdt_stages_t *st, uint32_t host)
{
    return is_packed(st) ? packed(st) + host * block_bytes(st) : callers_block(st, host);
}

static void reduce_in_host(rdt_stages_t *st, uint32_t host)
{
    const rdt_call_t *whole = st->whole;

    st->members = st->layout->host;
    st->step = rdt_step_first(st->kernels, whole->dtype, whole->op, whole->factor);
    st->call.out = partial_from(st, host);
    for (uint32_t m = 0; m < st->members.num; m++)
        rdt_stages_in_shard(st, m, block_at(st, host, m), whole->count);
}

static rdt_step_t step_between_hosts(const rdt_stages_t *st)
{
    const rdt_call_t *whole = st->whole;

    if (st->at == 0) return rdt_step_first(st->kernels, whole->dtype, whole->op, whole->factor);
    if (st->at + 1 < st->num) return rdt_step_middle(st->kernels, whole->dtype, whole->op);
    return rdt_step_last(st->kernels, whole->dtype, whole->op, st->layout->grid.world);
}

static void reduce_between_hosts(rdt_stages_t *st, uint32_t level)
{
    const run_t run = run_of(st, level);

    st->members = rdt_levels_members(&st->levels, st->layout, level, st->met);
    st->step = step_between_hosts(st);
    st->call.dtype = st->step.from;
    st->call.count = run.hosts * st->whole->count;
    if (st->at + 1 < st->num) st->call.out = partial_from(st, run.mine);
    for (uint32_t m = 0; m < st->members.num; m++) {
        const uint32_t host = run.first + m * run.hosts;

        rdt_stages_in_shard(st, m, st->at == 0 ? input_from(st, host) : partial_from(st, host),
                            st->call.count);
    }
}

/* -- both -- */

uint32_t rdt_blocks_num_stages(const rdt_stages_t *st)
{
    return num_in_host(st) + num_host_levels(st);
}

size_t rdt_blocks_scratch_bytes(const rdt_stages_t *st)
{
    const uint32_t num_hosts = st->layout->grid.num_hosts;

    if (is_gather(st)) {
        const bool in_place = st->levels.has_host ? num_host_levels(st) == 1 : !is_packed(st);

        return in_place ? 0 : num_hosts * block_bytes(st);
    }
    if (st->levels.has_host) return num_hosts * partial_bytes(st);
    return run_of(st, st->levels.num - 1).hosts * partial_bytes(st) +
           (is_packed(st) ? num_hosts * block_bytes(st) : 0);
}

void rdt_blocks_begin(const rdt_stages_t *st)
{
    if (is_gather(st) || block_bytes(st) == 0 || !is_packed(st)) return;
    for (uint32_t r = 0; r < st->layout->grid.world; r++)
        memcpy(packed(st) + r * block_bytes(st), callers_block(st, r), block_bytes(st));
}

void rdt_blocks_set_stage(rdt_stages_t *st)
{
    const uint32_t num_levels = num_host_levels(st), num_hosts = num_in_host(st);

    if (is_gather(st) && st->at < num_levels)
        gather_between_hosts(st, st->levels.has_host + st->at);
    else if (is_gather(st))
        gather_in_host(st, st->at - num_levels);
    else if (st->at < num_hosts)
        reduce_in_host(st, st->at);
    else
        reduce_between_hosts(st, st->levels.num - 1 - (st->at - num_hosts));
}

void rdt_blocks_end(const rdt_stages_t *st)
{
    if (!is_gather(st) || block_bytes(st) == 0 || !is_packed(st)) return;
    for (uint32_t r = 0; r < st->layout->grid.world; r++)
        memcpy(callers_block(st, r), st->scratch + r * block_bytes(st), block_bytes(st));
}
