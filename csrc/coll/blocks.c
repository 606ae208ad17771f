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
    const uint8_t *first = callers_block(st, 0);

    if ((is_gather(st) ? (const void *)st->whole->out_shards : st->whole->in_shards) == NULL)
        return true;
    for (uint32_t r = 1; r < st->layout->grid.world; r++)
        if (callers_block(st, r) != first + r * block_bytes(st)) return false;
    return true;
}

/* The levels of hosts in the order that a reduce_scatter takes; an all_gather goes back. Neighbours first, as
 * an all_reduce does; but those that are far apart where blocks have to lie in the order of the hosts. */
static uint32_t level_at(const rdt_stages_t *st, uint32_t step)
{
    return st->levels.has_host ? 1 + step : st->levels.num - 1 - step;
}

/* Where a host's block lies among those of a rail, so that what a member of a step has or takes is in a row:
 * by the places at all the steps, the first of which counts most. */
static uint32_t position_of(const rdt_stages_t *st, uint32_t host)
{
    const uint32_t rank = st->layout->rank_at[host * st->layout->grid.per_host];
    uint32_t position = 0;

    for (uint32_t step = 0; step < num_host_levels(st); step++) {
        const uint32_t level = level_at(st, step);

        position = position * st->levels.sizes[level] +
                   rdt_levels_place(&st->levels, st->layout, level, rank);
    }
    return position;
}

/* Positions that a step leaves to a member of it; the first one of this rank's, and of all the members'. */
typedef struct run {
    uint32_t num, mine, first;
} run_t;

static run_t run_of(const rdt_stages_t *st, uint32_t step)
{
    const uint32_t me = position_of(st, my_host(st));
    uint32_t num = 1, all;

    for (uint32_t later = step + 1; later < num_host_levels(st); later++)
        num *= st->levels.sizes[level_at(st, later)];
    all = num * st->levels.sizes[level_at(st, step)];
    return (run_t){num, me / num * num, me / all * all};
}

static void meet_at(rdt_stages_t *st, uint32_t step)
{
    st->members = rdt_levels_members(&st->levels, st->layout, level_at(st, step), st->met);
}

/* -- all_gather -- */

/* The caller's tensor has them in a row, or apart where one host's are all that a member has. A list of
 * tensors may name one twice, and what comes to lie there is passed on: not from there. */
static bool gathers_in_place(const rdt_stages_t *st)
{
    return !st->is_packed && (!st->levels.has_host || num_host_levels(st) == 1);
}

/* The blocks of this rank's rail, from a position on. Where they are the caller's, it is the host. */
static uint8_t *gathered_from(const rdt_stages_t *st, uint32_t position)
{
    if (gathers_in_place(st)) return block_at(st, position, st->layout->host.me);
    return st->scratch + position * block_bytes(st);
}

static void gather_between_hosts(rdt_stages_t *st, uint32_t step)
{
    const run_t run = run_of(st, step);

    meet_at(st, step);
    st->call.count = run.num * st->whole->count;
    if (st->at > 0) st->call.in = gathered_from(st, run.mine);
    for (uint32_t m = 0; m < st->members.num; m++)
        rdt_stages_out_shard(st, m, gathered_from(st, run.first + m * run.num), st->call.count);
}

static void gather_in_host(rdt_stages_t *st, uint32_t host)
{
    st->members = st->layout->host;
    st->call.in = gathered_from(st, position_of(st, host));
    for (uint32_t m = 0; m < st->members.num; m++)
        rdt_stages_out_shard(st, m, block_at(st, host, m), st->whole->count);
}

/* -- reduce_scatter -- */

/* Partial sums of what is for this rank's rail, from a position on: of all hosts, or, where the first sums
 * are those of the first step, of what that leaves. */
static uint8_t *partial_from(const rdt_stages_t *st, uint32_t position)
{
    if (!st->levels.has_host) position -= run_of(st, 0).mine;
    return st->scratch + position * partial_bytes(st);
}

/* A list of blocks, in a row: behind the partial sums. */
static uint8_t *packed(const rdt_stages_t *st)
{
    return st->scratch + run_of(st, 0).num * partial_bytes(st);
}

/* Of hosts of one rank. */
static uint8_t *input_from(const rdt_stages_t *st, uint32_t position)
{
    return st->is_packed ? packed(st) + position * block_bytes(st) : callers_block(st, position);
}

static void reduce_in_host(rdt_stages_t *st, uint32_t host)
{
    const rdt_call_t *whole = st->whole;

    st->members = st->layout->host;
    st->step = rdt_step_first(st->kernels, whole->dtype, whole->op, whole->factor);
    st->call.out = partial_from(st, position_of(st, host));
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

static void reduce_between_hosts(rdt_stages_t *st, uint32_t step)
{
    const run_t run = run_of(st, step);

    meet_at(st, step);
    st->step = step_between_hosts(st);
    st->call.dtype = st->step.from;
    st->call.count = run.num * st->whole->count;
    if (st->at + 1 < st->num) st->call.out = partial_from(st, run.mine);
    for (uint32_t m = 0; m < st->members.num; m++) {
        const uint32_t position = run.first + m * run.num;
        uint8_t *from = st->at == 0 ? input_from(st, position) : partial_from(st, position);

        rdt_stages_in_shard(st, m, from, st->call.count);
    }
}

/* -- both -- */

uint32_t rdt_blocks_num_stages(const rdt_stages_t *st)
{
    return num_in_host(st) + num_host_levels(st);
}

/* Sizes are given largest first. But the last level is the first step here, which has most to move, and
 * moves it before it becomes partial sums. */
static void largest_last(rdt_levels_t *levels)
{
    for (uint32_t i = 0; i < levels->num / 2; i++) {
        const uint32_t size = levels->sizes[i];

        levels->sizes[i] = levels->sizes[levels->num - 1 - i];
        levels->sizes[levels->num - 1 - i] = size;
    }
}

/* Of a list of tensors, where hosts have one rank: all of it is copied into a row, or out of one. */
static bool has_copy(const rdt_stages_t *st)
{
    return st->is_packed && !st->levels.has_host;
}

size_t rdt_blocks_plan(rdt_stages_t *st)
{
    const uint32_t num_hosts = st->layout->grid.num_hosts;

    st->is_packed = !is_in_a_row(st);
    if (!st->levels.has_host) largest_last(&st->levels);
    if (is_gather(st)) return gathers_in_place(st) ? 0 : num_hosts * block_bytes(st);
    if (st->levels.has_host) return num_hosts * partial_bytes(st);
    return run_of(st, 0).num * partial_bytes(st) +
           (st->is_packed ? num_hosts * block_bytes(st) : 0);
}

void rdt_blocks_begin(const rdt_stages_t *st)
{
    if (is_gather(st) || block_bytes(st) == 0 || !has_copy(st)) return;
    for (uint32_t r = 0; r < st->layout->grid.world; r++)
        memcpy(packed(st) + r * block_bytes(st), callers_block(st, r), block_bytes(st));
}

void rdt_blocks_set_stage(rdt_stages_t *st)
{
    const uint32_t num_levels = num_host_levels(st), num_hosts = num_in_host(st);

    if (is_gather(st) && st->at < num_levels)
        gather_between_hosts(st, num_levels - 1 - st->at);
    else if (is_gather(st))
        gather_in_host(st, st->at - num_levels);
    else if (st->at < num_hosts)
        reduce_in_host(st, st->at);
    else
        reduce_between_hosts(st, st->at - num_hosts);
}

void rdt_blocks_end(const rdt_stages_t *st)
{
    if (!is_gather(st) || block_bytes(st) == 0 || !has_copy(st)) return;
    for (uint32_t r = 0; r < st->layout->grid.world; r++)
        memcpy(callers_block(st, r), st->scratch + r * block_bytes(st), block_bytes(st));
}
