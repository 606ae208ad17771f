/* SPDX-License-Identifier: Apache-2.0 */
#include "coll/stages.h"

#include <stdlib.h>
#include <string.h>

#include "arena/arena.h"
#include "base/error.h"
#include "coll/blocks.h"
#include "reduce/fpenv.h"

#define LINE_BYTES 64u

/* A part of a buffer, in elements. */
typedef struct cut {
    uint64_t first, count;
} cut_t;

/* Cuts begin on whole lines, so that two ranks never write one. */
static cut_t cut_of(uint64_t count, uint32_t num, uint32_t i, size_t elem_bytes)
{
    const uint64_t unit = LINE_BYTES / elem_bytes;
    const uint64_t each = (count + num - 1) / num;
    const uint64_t full = (each + unit - 1) / unit * unit;
    cut_t cut = {full * i < count ? full * i : count, full};

    if (cut.count > count - cut.first) cut.count = count - cut.first;
    return cut;
}

static uint32_t place_at(const rdt_stages_t *st, uint32_t level, uint32_t rank)
{
    return rdt_levels_place(&st->levels, st->layout, level, rank);
}

/* What is left to a rank after some levels, of the whole. */
static cut_t left_to(const rdt_stages_t *st, uint32_t num_levels, uint32_t rank)
{
    const size_t bytes = rdt_dtype_bytes(st->whole->dtype);
    cut_t left = {0, st->whole->count};

    for (uint32_t level = 0; level < num_levels; level++) {
        const uint32_t place = place_at(st, level, rank);
        const cut_t cut = cut_of(left.count, st->levels.sizes[level], place, bytes);

        left = (cut_t){left.first + cut.first, cut.count};
    }
    return left;
}

static cut_t left_after(const rdt_stages_t *st, uint32_t num_levels)
{
    return left_to(st, num_levels, st->layout->all.me);
}

static uint8_t *output_at(const rdt_stages_t *st, uint64_t first)
{
    return (uint8_t *)st->whole->out + first * rdt_dtype_bytes(st->whole->dtype);
}

static rdt_dtype_t partial_dtype(const rdt_stages_t *st)
{
    return rdt_partial_dtype(st->whole->dtype, st->whole->op);
}

static bool has_levels(const rdt_stages_t *st)
{
    return st->way == RDT_WAY_BY_HOST || st->way == RDT_WAY_HALVING;
}

static bool has_blocks(const rdt_stages_t *st)
{
    return has_levels(st) &&
           (st->whole->coll == RDT_ALL_GATHER || st->whole->coll == RDT_REDUCE_SCATTER);
}

/* A partial sum has so many times the bytes of an element. */
static uint32_t widening(const rdt_stages_t *st)
{
    return (uint32_t)(rdt_dtype_bytes(partial_dtype(st)) / rdt_dtype_bytes(st->whole->dtype));
}

static bool has_wide_partials(const rdt_stages_t *st)
{
    const bool reduces = st->whole->coll == RDT_ALL_REDUCE || st->whole->coll == RDT_REDUCE_SCATTER;

    return reduces && has_levels(st) && partial_dtype(st) != st->whole->dtype;
}

/* A partial sum of a host would be no fewer bytes than the inputs of its ranks: these go to whoever adds up
 * all of them. Not by halving, which is for who should meet few. */
static bool reduces_at_once(const rdt_stages_t *st)
{
    return has_wide_partials(st) && st->way == RDT_WAY_BY_HOST &&
           st->layout->grid.per_host <= widening(st);
}

/* A reduce_scatter whose partial sums would be too many bytes: by host as above; by halving where they are
 * more than the inputs, but for half types of hosts with one rank, which have up to a fifth more to send. */
static bool reduces_best_flat(const rdt_stages_t *st)
{
    const uint32_t per_host = st->layout->grid.per_host;

    if (st->whole->coll != RDT_REDUCE_SCATTER || !has_wide_partials(st)) return false;
    return reduces_at_once(st) || widening(st) > (per_host > 2 ? per_host : 2);
}

static bool has_partials(const rdt_stages_t *st)
{
    return st->whole->coll == RDT_ALL_REDUCE && has_wide_partials(st) && !reduces_at_once(st);
}

/* The last level is a stage, and not two. */
static bool reduces_and_gathers(const rdt_stages_t *st)
{
    return st->whole->coll == RDT_ALL_REDUCE && !has_wide_partials(st);
}

/* Where a partial result lies: in scratch, which has what the first level leaves, or in the output. */
static uint8_t *partial_at(const rdt_stages_t *st, uint64_t first)
{
    if (!has_partials(st)) return output_at(st, first);
    return st->scratch + (first - left_after(st, 1).first) * rdt_dtype_bytes(partial_dtype(st));
}

void rdt_stages_in_shard(rdt_stages_t *st, uint32_t member, void *at, uint64_t count)
{
    st->in_shards[member] = at;
    st->in_counts[member] = count;
    st->call.in_shards = st->in_shards;
    st->call.in_counts = st->in_counts;
}

void rdt_stages_out_shard(rdt_stages_t *st, uint32_t member, void *at, uint64_t count)
{
    st->out_shards[member] = at;
    st->out_counts[member] = count;
    st->call.out_shards = st->out_shards;
    st->call.out_counts = st->out_counts;
}

/* -- by_host, halving -- */

static rdt_step_t step_of(const rdt_stages_t *st, uint32_t level)
{
    const rdt_call_t *whole = st->whole;

    if (level == 0) return rdt_step_first(st->kernels, whole->dtype, whole->op, whole->factor);
    if (level + 1 < st->levels.num) return rdt_step_middle(st->kernels, whole->dtype, whole->op);
    return rdt_step_last(st->kernels, whole->dtype, whole->op, st->layout->grid.world);
}

/* Of what the level before has left to them, each member reduces a cut of all their partial results, or
 * of their inputs: in place, or into partial results of another type, or, at last, from these. */
static void reduce_at(rdt_stages_t *st, uint32_t level)
{
    const rdt_call_t *whole = st->whole;
    const cut_t all = left_after(st, level), own = left_after(st, level + 1);
    const bool is_last = level + 1 == st->levels.num;
    uint8_t *from = level == 0 ? (uint8_t *)(uintptr_t)whole->in : partial_at(st, all.first);

    st->members = rdt_levels_members(&st->levels, st->layout, level, st->met);
    st->step = step_of(st, level);
    st->call.dtype = st->step.from;
    if (is_last && reduces_and_gathers(st)) {
        st->call.count = all.count;
        st->call.in = st->call.out = from;
        return;
    }
    st->call.coll = RDT_REDUCE_SCATTER;
    st->call.count = own.count;
    st->call.out = is_last ? output_at(st, own.first) : partial_at(st, own.first);
    for (uint32_t i = 0; i < st->members.num; i++) {
        const cut_t cut = cut_of(all.count, st->members.num, i, rdt_dtype_bytes(whole->dtype));

        rdt_stages_in_shard(st, i, from + cut.first * rdt_dtype_bytes(st->call.dtype), cut.count);
    }
}

/* Each rank reduces what the levels leave to it, of the inputs of all. */
static void reduce_of_all(rdt_stages_t *st)
{
    const rdt_call_t *whole = st->whole;
    const cut_t own = left_after(st, st->levels.num);

    st->members = st->layout->all;
    st->call.coll = RDT_REDUCE_SCATTER;
    st->call.count = own.count;
    st->call.out = output_at(st, own.first);
    for (uint32_t r = 0; r < st->members.num; r++) {
        const cut_t cut = left_to(st, st->levels.num, r);
        uint8_t *from = (uint8_t *)(uintptr_t)whole->in;

        rdt_stages_in_shard(st, r, from + cut.first * rdt_dtype_bytes(whole->dtype), cut.count);
    }
}

static void gather_at(rdt_stages_t *st, uint32_t level)
{
    const cut_t all = left_after(st, level);

    st->members = rdt_levels_members(&st->levels, st->layout, level, st->met);
    st->call.coll = RDT_ALL_GATHER;
    for (uint32_t i = 0; i < st->members.num; i++) {
        const cut_t cut = cut_of(all.count, st->members.num, i, rdt_dtype_bytes(st->whole->dtype));

        rdt_stages_out_shard(st, i, output_at(st, all.first + cut.first), cut.count);
    }
    st->call.in = st->out_shards[st->members.me];
    st->call.count = st->out_counts[st->members.me];
}

/* Nothing moves, and the members compare their calls. */
static void meet_at(rdt_stages_t *st, uint32_t level)
{
    st->members = rdt_levels_members(&st->levels, st->layout, level, st->met);
    st->call.coll = RDT_BARRIER;
    st->call.count = 0;
}

/* One of those that this rank meets has what the level before has left to them: the root itself, or who is
 * in its place at all the levels that are still to come. */
static bool is_fed(const rdt_stages_t *st, uint32_t level)
{
    for (uint32_t i = level + 1; i < st->levels.num; i++)
        if (place_at(st, i, st->layout->all.me) != place_at(st, i, st->whole->peer)) return false;
    return true;
}

static void scatter_at(rdt_stages_t *st, uint32_t level)
{
    const cut_t all = left_after(st, level), own = left_after(st, level + 1);

    st->members = rdt_levels_members(&st->levels, st->layout, level, st->met);
    st->call.coll = RDT_SCATTER;
    st->call.peer = place_at(st, level, st->whole->peer);
    st->call.count = own.count;
    st->call.out = output_at(st, own.first);
    if (st->call.peer != st->members.me) return;
    for (uint32_t i = 0; i < st->members.num; i++) {
        const cut_t cut = cut_of(all.count, st->members.num, i, rdt_dtype_bytes(st->whole->dtype));

        rdt_stages_in_shard(st, i, output_at(st, all.first + cut.first), cut.count);
    }
}

/* Up the levels, and down again: to the last one twice where it does not reduce and gather at once. */
static void set_level(rdt_stages_t *st)
{
    if (st->whole->coll == RDT_BARRIER)
        meet_at(st, st->at);
    else if (st->at + st->levels.num >= st->num + reduces_and_gathers(st))
        gather_at(st, st->num - 1 - st->at);
    else if (reduces_at_once(st))
        reduce_of_all(st);
    else if (st->whole->coll == RDT_ALL_REDUCE)
        reduce_at(st, st->at);
    else if (is_fed(st, st->at))
        scatter_at(st, st->at);
    else
        meet_at(st, st->at);
}

/* -- gather -- */

/* Blocks of scratch are the inputs of this rank, of the next one, and so on around. */
static void set_gather(rdt_stages_t *st)
{
    const rdt_members_t *all = &st->layout->all;
    const uint32_t have = 1u << st->at, more = all->num - have < have ? all->num - have : have;
    const uint64_t bytes = st->whole->count * rdt_dtype_bytes(st->whole->dtype);
    uint32_t from = 2; /* its index among the members: this rank, who gets, who gives */

    st->met[0] = all->me;
    st->met[1] = (all->me + all->num - have) % all->num;
    st->met[2] = (all->me + have) % all->num;
    if (st->met[2] == st->met[1]) from = 1;
    st->members = (rdt_members_t){st->met, from + 1, 0};
    if (st->whole->coll == RDT_BARRIER) return;
    st->call.coll = RDT_ALL_TO_ALL;
    for (uint32_t i = 0; i <= from; i++) {
        rdt_stages_in_shard(st, i, st->scratch, i == 1 ? more * st->whole->count : 0);
        rdt_stages_out_shard(st, i, st->scratch + have * bytes,
                             i == from ? more * st->whole->count : 0);
    }
}

static const void *gathered(const rdt_stages_t *st, uint32_t rank)
{
    const rdt_members_t *all = &st->layout->all;
    const uint64_t bytes = st->whole->count * rdt_dtype_bytes(st->whole->dtype);

    return st->scratch + (rank + all->num - all->me) % all->num * bytes;
}

static void give_gathered(const rdt_stages_t *st)
{
    const rdt_call_t *whole = st->whole;
    const uint64_t bytes = whole->count * rdt_dtype_bytes(whole->dtype);

    for (uint32_t r = 0; r < st->layout->all.num; r++)
        memcpy(whole->out_shards != NULL ? whole->out_shards[r] : (char *)whole->out + r * bytes,
               gathered(st, r), bytes);
}

/* All inputs are here: in_shards is free for their addresses, by rank. */
static void reduce_gathered(rdt_stages_t *st)
{
    const rdt_members_t *all = &st->layout->all;
    const rdt_call_t *whole = st->whole;
    const uint64_t mode = rdt_fp_get();

    for (uint32_t r = 0; r < all->num; r++)
        st->in_shards[r] = gathered(st, r);
    rdt_fp_set(RDT_FP_DEFAULT);
    rdt_step_reduce(&st->step, whole->out, st->in_shards, all->num, whole->count);
    rdt_fp_set(mode);
}

/* -- all ways -- */

static uint32_t num_stages(const rdt_stages_t *st)
{
    uint32_t num = 0;

    if (st->way == RDT_WAY_FLAT) return 1;
    if (has_blocks(st)) return rdt_blocks_num_stages(st);
    if (has_levels(st) && st->whole->coll == RDT_BARRIER) return st->levels.num;
    if (reduces_at_once(st)) return 1 + st->levels.num;
    if (has_levels(st)) return 2 * st->levels.num - reduces_and_gathers(st);
    while ((1u << num) < st->layout->all.num)
        num++;
    return num;
}

static void set_stage(rdt_stages_t *st)
{
    const rdt_call_t *whole = st->whole;

    st->call = *whole;
    st->step = rdt_step_only(st->kernels, whole->dtype, whole->op, whole->factor);
    if (st->way == RDT_WAY_FLAT)
        st->members = st->layout->all;
    else if (has_blocks(st))
        rdt_blocks_set_stage(st);
    else if (has_levels(st))
        set_level(st);
    else
        set_gather(st);
}

static size_t needed_bytes(rdt_stages_t *st)
{
    if (has_blocks(st)) return rdt_blocks_plan(st);
    if (has_partials(st)) return left_after(st, 1).count * rdt_dtype_bytes(partial_dtype(st));
    if (st->way == RDT_WAY_GATHER)
        return st->layout->all.num * st->whole->count * rdt_dtype_bytes(st->whole->dtype);
    return 0;
}

static void drop_scratch(rdt_stages_t *st)
{
    if (st->scratch != NULL && !rdt_arena_free(st->scratch)) free(st->scratch);
    st->scratch = NULL;
    st->scratch_bytes = 0;
}

/* In the arena if there is one, where devices and peers can reach it. */
static rdt_status_t take_scratch(rdt_stages_t *st, size_t bytes)
{
    if (bytes <= st->scratch_bytes) return RDT_OK;
    drop_scratch(st);
    st->scratch = rdt_arena_alloc(bytes);
    if (st->scratch == NULL)
        st->scratch = aligned_alloc(LINE_BYTES, (bytes + LINE_BYTES - 1) / LINE_BYTES * LINE_BYTES);
    if (st->scratch == NULL)
        return rdt_fail(RDT_NO_MEMORY,
                        "%s: out of memory for %zu bytes of its stages; "
                        "RDMATRAIN_TUNING=way=flat needs none",
                        rdt_coll_name(st->whole->coll), bytes);
    st->scratch_bytes = bytes;
    return RDT_OK;
}

/* An all_gather or a reduce_scatter whose shards differ in size: the same on all ranks, however they say
 * the sizes. */
static bool is_uneven(const rdt_call_t *call, uint32_t world)
{
    const uint64_t *counts = call->out_counts != NULL ? call->out_counts : call->in_counts;

    for (uint32_t r = 0; counts != NULL && r < world; r++)
        if (counts[r] != call->count) return true;
    return false;
}

static rdt_way_t choose_way(rdt_stages_t *st)
{
    const rdt_call_t *whole = st->whole;
    const uint64_t bytes = whole->count * rdt_dtype_bytes(whole->dtype);

    if (is_uneven(whole, st->layout->all.num)) return RDT_WAY_FLAT;
    st->way = rdt_way_choose(whole->coll, &st->layout->grid, bytes, st->tuning);
    return reduces_best_flat(st) ? RDT_WAY_FLAT : st->way;
}

rdt_status_t rdt_stages_begin(rdt_stages_t *st, const rdt_call_t *whole)
{
    const uint64_t bytes = whole->count * rdt_dtype_bytes(whole->dtype);
    rdt_status_t status;

    st->whole = whole;
    st->way = choose_way(st);
    if (has_levels(st)) st->levels = rdt_way_levels(st->way, &st->layout->grid, st->tuning);
    st->num = num_stages(st);
    st->at = 0;
    status = take_scratch(st, needed_bytes(st));
    if (status != RDT_OK) return status;
    if (st->way == RDT_WAY_GATHER && bytes > 0) memcpy(st->scratch, whole->in, bytes);
    if (has_blocks(st)) rdt_blocks_begin(st);
    set_stage(st);
    return RDT_OK;
}

bool rdt_stages_next(rdt_stages_t *st)
{
    if (++st->at < st->num) {
        set_stage(st);
        return true;
    }
    if (has_blocks(st)) rdt_blocks_end(st);
    if (st->way != RDT_WAY_GATHER || st->whole->count == 0) return false;
    if (st->whole->coll == RDT_ALL_GATHER)
        give_gathered(st);
    else
        reduce_gathered(st);
    return false;
}

rdt_status_t rdt_stages_open(const rdt_layout_t *layout, const rdt_kernels_t *kernels,
                             const rdt_tuning_t *tuning, rdt_stages_t *stages_p)
{
    const size_t world = layout->grid.world;
    const size_t num_met = world > 3 ? world : 3;
    void *arrays = malloc(world * 4 * sizeof(uint64_t) + num_met * sizeof(uint32_t));

    if (arrays == NULL) return rdt_fail(RDT_NO_MEMORY, "stages of %zu ranks: out of memory", world);
    *stages_p = (rdt_stages_t){.layout = layout, .kernels = kernels, .tuning = tuning};
    stages_p->in_shards = arrays;
    stages_p->out_shards = (void **)arrays + world;
    stages_p->in_counts = (uint64_t *)arrays + 2 * world;
    stages_p->out_counts = (uint64_t *)arrays + 3 * world;
    stages_p->met = (uint32_t *)((uint64_t *)arrays + 4 * world);
    return RDT_OK;
}

void rdt_stages_close(rdt_stages_t *st)
{
    drop_scratch(st);
    free(st->in_shards);
    st->in_shards = NULL;
}
