/* SPDX-License-Identifier: Apache-2.0 */
/* From a call to a work: what is checked, made equal and copied before anything moves. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "coll/recorder.h"

_Static_assert(sizeof(void *) == sizeof(uint64_t), "shards and counts share one allocation");

static bool is_p2p(rdt_coll_t coll)
{
    return coll == RDT_SEND || coll == RDT_RECV;
}

static bool has_root(rdt_coll_t coll)
{
    return coll == RDT_REDUCE || coll == RDT_BROADCAST || coll == RDT_GATHER || coll == RDT_SCATTER;
}

static bool reduces(rdt_coll_t coll)
{
    return coll == RDT_ALL_REDUCE || coll == RDT_REDUCE || coll == RDT_REDUCE_SCATTER;
}

static bool has_in_shards(const rdt_call_t *call, uint32_t rank)
{
    return call->coll == RDT_REDUCE_SCATTER || call->coll == RDT_ALL_TO_ALL ||
           (call->coll == RDT_SCATTER && call->peer == rank);
}

static bool has_out_shards(const rdt_call_t *call, uint32_t rank)
{
    return call->coll == RDT_ALL_GATHER || call->coll == RDT_ALL_TO_ALL ||
           (call->coll == RDT_GATHER && call->peer == rank);
}

/* What the rank's own shard has, by either of the counts. */
static rdt_status_t check_counts(const rdt_comm_t *comm, const rdt_call_t *call)
{
    uint32_t rank = comm->cfg.rank;
    uint64_t in = call->count, out = call->count;

    if (has_in_shards(call, rank) && call->in_counts != NULL) in = call->in_counts[rank];
    if (has_out_shards(call, rank) && call->out_counts != NULL) out = call->out_counts[rank];
    if (in == out) return RDT_OK;
    return rdt_fail(
        RDT_BAD_ARG, "%s: the shard of rank %u itself has %llu elements in, and %llu elements out",
        rdt_coll_name(call->coll), rank, (unsigned long long)in, (unsigned long long)out);
}

static rdt_status_t check_peer(const rdt_comm_t *comm, const rdt_call_t *call)
{
    if (!has_root(call->coll) && !is_p2p(call->coll)) return RDT_OK;
    if (call->coll == RDT_RECV && call->peer == RDT_ANY_PEER) {
        if (comm->cfg.world > 1) return RDT_OK;
        return rdt_fail(RDT_BAD_ARG, "recv from any rank: the group has no other rank");
    }
    if (call->peer >= comm->cfg.world)
        return rdt_fail(RDT_BAD_ARG, "%s: rank %u is not below world size %u",
                        rdt_coll_name(call->coll), call->peer, comm->cfg.world);
    if (is_p2p(call->coll) && call->peer == comm->cfg.rank)
        return rdt_fail(RDT_BAD_ARG, "%s: rank %u with itself", rdt_coll_name(call->coll),
                        call->peer);
    return RDT_OK;
}

rdt_status_t rdt_call_check(const rdt_comm_t *comm, const rdt_call_t *call)
{
    rdt_status_t st;

    if ((unsigned)call->coll >= RDT_NUM_COLLS || (unsigned)call->dtype >= RDT_NUM_DTYPES ||
        (unsigned)call->op >= RDT_NUM_REDOPS)
        return rdt_fail(RDT_BAD_ARG, "operation %d, dtype %d or reduction %d is out of range",
                        call->coll, call->dtype, call->op);
    st = check_peer(comm, call);
    if (st != RDT_OK) return st;
    if (reduces(call->coll) && !rdt_can_reduce(call->dtype, call->op))
        return rdt_fail(RDT_UNSUPPORTED, "%s: %s of %s has no meaning", rdt_coll_name(call->coll),
                        rdt_redop_name(call->op), rdt_dtype_name(call->dtype));
    return check_counts(comm, call);
}

static void drop_arrays(rdt_call_t *call, uint32_t rank)
{
    if (!has_in_shards(call, rank)) {
        call->in_shards = NULL;
        call->in_counts = NULL;
    }
    if (!has_out_shards(call, rank)) {
        call->out_shards = NULL;
        call->out_counts = NULL;
    }
}

/* Of one tensor, that all ranks have alike. */
static bool has_shape(const rdt_call_t *call)
{
    return call->coll < RDT_ALL_TO_ALL && call->in_counts == NULL && call->out_counts == NULL;
}

/* What does not count for the operation is made equal, since the ranks' calls are compared. */
static void normalise(rdt_call_t *call)
{
    if (!reduces(call->coll)) call->op = RDT_SUM;
    if (call->op != RDT_PREMUL_SUM) call->factor = 0;
    if (!has_root(call->coll) && !is_p2p(call->coll)) call->peer = 0;
    if (is_p2p(call->coll))
        call->parts = 0;
    else
        call->tag = 0;
    if (!has_shape(call)) call->shape = (rdt_shape_t){{0}};
    if (call->coll == RDT_BARRIER || call->coll == RDT_REFUSED) {
        call->dtype = RDT_U8;
        call->count = 0;
        call->parts = 0;
    }
}

static uint32_t num_arrays(const rdt_call_t *call)
{
    return (call->in_shards != NULL || call->in_counts != NULL) + (call->in_counts != NULL) +
           (call->out_shards != NULL || call->out_counts != NULL) + (call->out_counts != NULL);
}

/* Where the shards of a buffer are: one behind the other if nothing else is said. */
static void **own_shards(void **to, const rdt_call_t *call, bool in, uint32_t world)
{
    const void *const *shards = in ? call->in_shards : (const void *const *)call->out_shards;
    const uint64_t *counts = in ? call->in_counts : call->out_counts;
    const uint8_t *next = in ? call->in : call->out;

    for (uint32_t r = 0; r < world; r++) {
        to[r] = (void *)(uintptr_t)(shards != NULL ? shards[r] : next);
        if (shards == NULL) next += counts[r] * rdt_dtype_bytes(call->dtype);
    }
    return to;
}

static uint64_t *own_counts(void *to, const uint64_t *counts, uint32_t world)
{
    return memcpy(to, counts, world * sizeof(*counts));
}

/* arrays has room for num_arrays(call) of world entries each. */
static void place_arrays(rdt_call_t *call, void **arrays, uint32_t world)
{
    if (call->in_shards != NULL || call->in_counts != NULL) {
        call->in_shards = (const void *const *)own_shards(arrays, call, true, world);
        arrays += world;
    }
    if (call->out_shards != NULL || call->out_counts != NULL) {
        call->out_shards = own_shards(arrays, call, false, world);
        arrays += world;
    }
    if (call->in_counts != NULL) {
        call->in_counts = own_counts(arrays, call->in_counts, world);
        arrays += world;
    }
    if (call->out_counts != NULL) call->out_counts = own_counts(arrays, call->out_counts, world);
}

/* What post borrowed becomes the work's own. */
static bool own_copies(rdt_work_t *work, uint32_t world)
{
    rdt_call_t *call = &work->call;
    uint32_t num = num_arrays(call);

    if (call->refusal != NULL) {
        work->refusal = strndup(call->refusal, RDT_ERROR_BYTES / 2);
        if (work->refusal == NULL) return false;
    }
    if (num == 0) return true;
    work->arrays = malloc((size_t)num * world * sizeof(uint64_t));
    if (work->arrays == NULL) return false;
    place_arrays(call, work->arrays, world);
    return true;
}

rdt_work_t *rdt_work_new(rdt_comm_t *comm, const rdt_call_t *call)
{
    rdt_work_t *work = calloc(1, sizeof(*work));
    uint64_t now = rdt_now_ns();

    if (work == NULL) return NULL;
    work->comm = comm;
    work->call = *call;
    drop_arrays(&work->call, comm->cfg.rank);
    normalise(&work->call);
    work->deadline_ns = rdt_deadline_after(now, call->timeout_ns);
    atomic_init(&work->refs, 2);
    if (!own_copies(work, comm->cfg.world)) {
        free(work->refusal);
        free(work);
        return NULL;
    }
    rdt_record_created(work, now);
    return work;
}
