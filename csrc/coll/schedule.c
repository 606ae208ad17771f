/* SPDX-License-Identifier: Apache-2.0 */
#include "rdmatrain/schedule.h"

#include <stdlib.h>

#include "base/error.h"
#include "coll/plan.h"
#include "coll/stages.h"

/* What one call works with: all arrays have world entries. */
typedef struct walk {
    rdt_layout_t layout;
    uint32_t *all, *host, *rail, *host_of, *place_of; /* the layout's lists */
    uint32_t *to, *messages;                          /* these three: what is told */
    uint64_t *bytes;
} walk_t;

static rdt_status_t open_walk(const rdt_schedule_t *schedule, uint32_t rank, walk_t *walk_p)
{
    const uint32_t world = schedule->world, per_host = world / schedule->num_hosts;
    uint64_t *bytes = malloc((size_t)world * (sizeof(uint64_t) + 7 * sizeof(uint32_t)));
    uint32_t *lists = (uint32_t *)(bytes + world);
    walk_t walk = {.all = lists,
                   .host = lists + world,
                   .rail = lists + 2 * (size_t)world,
                   .to = lists + 3 * (size_t)world,
                   .messages = lists + 4 * (size_t)world,
                   .host_of = lists + 5 * (size_t)world,
                   .place_of = lists + 6 * (size_t)world,
                   .bytes = bytes};

    if (bytes == NULL) return rdt_fail(RDT_NO_MEMORY, "schedule of %u ranks: out of memory", world);
    for (uint32_t r = 0; r < world; r++) {
        walk.all[r] = r;
        walk.host_of[r] = r / per_host;
        walk.place_of[r] = r % per_host;
    }
    for (uint32_t i = 0; i < per_host; i++)
        walk.host[i] = rank / per_host * per_host + i;
    for (uint32_t h = 0; h < schedule->num_hosts; h++)
        walk.rail[h] = h * per_host + rank % per_host;
    walk.layout.grid = (rdt_grid_t){world, schedule->num_hosts, per_host};
    walk.layout.host_of = walk.host_of;
    walk.layout.place_of = walk.place_of;
    walk.layout.rank_at = walk.all;
    walk.layout.all = (rdt_members_t){walk.all, world, rank};
    walk.layout.host = (rdt_members_t){walk.host, per_host, rank % per_host};
    walk.layout.rail = (rdt_members_t){walk.rail, schedule->num_hosts, rank / per_host};
    *walk_p = walk;
    return RDT_OK;
}

/* The sends of the current stage on a stream. */
static rdt_sends_t sends_of(const rdt_stages_t *st, const rdt_plan_t *plan, rdt_stream_t s,
                            walk_t *walk)
{
    const bool is_result = s == RDT_STREAM_RESULT;
    const uint64_t elem = rdt_dtype_bytes(is_result ? st->step.to : st->step.from);
    rdt_sends_t sends = {.stage = st->at,
                         .is_result = is_result,
                         .is_reduced = rdt_plan_reduces(plan, s),
                         .to = walk->to,
                         .bytes = walk->bytes,
                         .messages = walk->messages};

    for (uint32_t m = 0; m < st->members.num; m++) {
        const uint32_t messages =
            m == st->members.me ? 0 : rdt_plan_num_chunks(plan, st->members.me, m, s);

        if (messages == 0) continue;
        walk->to[sends.num] = st->members.ranks[m];
        walk->messages[sends.num] = messages;
        walk->bytes[sends.num] = rdt_plan_count(plan, st->members.me, m, s) * elem;
        sends.num++;
    }
    return sends;
}

static void tell_stage(const rdt_stages_t *st, walk_t *walk,
                       void (*each)(void *arg, const rdt_sends_t *sends), void *arg)
{
    const rdt_plan_t plan = rdt_plan_make(&st->call, st->members.me, st->members.num,
                                          (uint32_t)rdt_dtype_bytes(st->step.from), st->tuning);

    for (int s = 0; s < RDT_NUM_STREAMS; s++) {
        const rdt_sends_t sends = sends_of(st, &plan, (rdt_stream_t)s, walk);

        if (sends.num > 0) each(arg, &sends);
    }
}

static rdt_status_t check(const rdt_schedule_t *schedule, uint32_t rank)
{
    if (rank >= schedule->world || schedule->num_hosts == 0 ||
        schedule->world % schedule->num_hosts != 0)
        return rdt_fail(RDT_BAD_ARG, "rank %u of %u ranks on %u hosts alike: there is none", rank,
                        schedule->world, schedule->num_hosts);
    return rdt_tuning_check(schedule->tuning);
}

rdt_status_t rdt_schedule_all_reduce(const rdt_schedule_t *schedule, uint32_t rank,
                                     void (*each)(void *arg, const rdt_sends_t *sends), void *arg)
{
    static const rdt_kernels_t none = {0}; /* nothing is reduced */
    const size_t bytes = schedule->count * rdt_dtype_bytes(schedule->dtype);
    rdt_call_t call = {.coll = RDT_ALL_REDUCE, .dtype = schedule->dtype, .op = RDT_SUM};
    rdt_stages_t st;
    walk_t walk;
    rdt_status_t status = check(schedule, rank);

    if (status != RDT_OK) return status;
    status = open_walk(schedule, rank, &walk);
    if (status != RDT_OK) return status;
    status = rdt_stages_open(&walk.layout, &none, schedule->tuning, &st);
    if (status != RDT_OK) goto free_walk;
    call.count = schedule->count;
    call.in = call.out = calloc(1, bytes > 0 ? bytes : 1); /* a gather copies its input */
    status = call.in == NULL
                 ? rdt_fail(RDT_NO_MEMORY, "schedule: out of memory for %zu bytes", bytes)
                 : rdt_stages_begin(&st, &call);
    if (status != RDT_OK) goto close_stages;
    tell_stage(&st, &walk, each, arg);
    while (st.at + 1 < st.num && rdt_stages_next(&st)) /* after the last one, a gather reduces */
        tell_stage(&st, &walk, each, arg);
close_stages:
    free(call.out);
    rdt_stages_close(&st);
free_walk:
    free(walk.bytes);
    return status;
}
