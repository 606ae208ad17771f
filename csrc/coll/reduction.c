/* SPDX-License-Identifier: Apache-2.0 */
/* The part of a collective that adds: from the heads of the lanes, and from the peers' tensors. */
#include <string.h>

#include "coll/buffers.h"
#include "coll/direct.h"
#include "reduce/fpenv.h"

#define HEAD_BYTES 1024u

static void drop_held(rdt_comm_t *comm)
{
    for (uint32_t m = 0; m < rdt_num_members(comm); m++) {
        rdt_peer_state_t *peer = rdt_peer_at(comm, m);

        if (!peer->held) continue;
        peer->held = false;
        peer->rx_next[RDT_STREAM_INPUT]++;
        peer->conn->ops->release(peer->conn, RDT_LANE_COLL);
    }
    comm->num_held = 0;
}

/* Where chunk comm->reduced of every member lies. */
static void set_sources(rdt_comm_t *comm, const rdt_piece_t *p)
{
    rdt_piece_t theirs = *p;

    theirs.shard = 0; /* a peer exposes this rank's shard alone */
    for (uint32_t m = 0; m < rdt_num_members(comm); m++) {
        const rdt_peer_state_t *peer = rdt_peer_at(comm, m);
        void *base = (void *)(uintptr_t)peer->in_at;

        comm->srcs[m] = base != NULL ? rdt_piece_at(comm, base, NULL, comm->in_bytes, &theirs)
                                     : peer->held_data;
    }
    comm->srcs[rdt_me(comm)] = rdt_input_at(comm, p);
}

/* HOT. Reduces a block and stores it for every peer whose output is exposed, while it is in cache:
 * the lines that it is stored to have just been read. */
static void reduce_block(rdt_comm_t *comm, const rdt_piece_t *out)
{
    uint8_t *mine = rdt_output_at(comm, out);

    rdt_step_reduce(&comm->stages.step, mine, comm->srcs, rdt_num_members(comm), out->count);
    for (uint32_t m = 0; m < rdt_num_members(comm); m++) {
        uint8_t *theirs = rdt_peer_at(comm, m)->out_at;

        comm->srcs[m] = (const uint8_t *)comm->srcs[m] + out->count * comm->in_bytes;
        if (theirs != NULL)
            memcpy(rdt_piece_at(comm, theirs, NULL, comm->out_bytes, out), mine,
                   out->count * comm->out_bytes);
    }
}

/* The plain kernel does all that there is to do. */
static bool is_plain(const rdt_step_t *step)
{
    return step->from == step->to && step->divisor == 0;
}

/* Two ranks whose tensors are both in place: one pass reads and writes both, if there is one. */
static bool is_pair_in_place(const rdt_comm_t *comm)
{
    const rdt_step_t *step = &comm->stages.step;
    const rdt_peer_state_t *peer;

    if (rdt_num_members(comm) != 2 || rdt_stage_call(comm)->in != rdt_stage_call(comm)->out ||
        step->kernel.both == NULL || !is_plain(step))
        return false;
    peer = rdt_peer_at(comm, 1 - rdt_me(comm));
    return peer->in_at != NULL && peer->in_at == peer->out_at;
}

/* The prefetchers of the rank before have run on into the first lines of this rank's shard, which are
 * slow to get back where the cores are far apart: they are asked for now and used later. */
static void reduce_pair(rdt_comm_t *comm, uint64_t count)
{
    rdt_reduce_both_fn both = comm->stages.step.kernel.both;
    uint64_t head = comm->reduced == 0 ? HEAD_BYTES / comm->in_bytes : 0;
    char *a = (char *)(uintptr_t)comm->srcs[0], *b = (char *)(uintptr_t)comm->srcs[1];

    if (head > count / 8) head = 0;
    for (size_t at = 0; at < head * comm->in_bytes; at += 64) {
        __builtin_prefetch(a + at, 1);
        __builtin_prefetch(b + at, 1);
    }
    both(a + head * comm->in_bytes, b + head * comm->in_bytes, count - head);
    both(a, b, head);
}

/* A shard that is large and apart from what it is made of: nobody reads it soon. */
static bool is_streamed(const rdt_comm_t *comm, const void *dst)
{
    const rdt_step_t *step = &comm->stages.step;

    return comm->plan.algo == RDT_ALGO_REDUCE_SCATTER && comm->bypasses && is_plain(step) &&
           step->kernel.reduce != NULL && dst != comm->srcs[rdt_me(comm)];
}

static void reduce_blocks(rdt_comm_t *comm, rdt_piece_t out)
{
    uint64_t block = comm->tuning.block / comm->in_bytes, left = out.count;
    uint8_t *mine = rdt_output_at(comm, &out);

    if (is_streamed(comm, mine)) {
        rdt_reduce_stream(&comm->stages.step.kernel, comm->in_bytes, mine, comm->srcs,
                          rdt_num_members(comm), out.count);
        return;
    }
    for (; left > 0; left -= out.count, out.first += out.count) {
        out.count = left < block ? left : block;
        reduce_block(comm, &out);
    }
}

/* HOT. Chunk comm->reduced of every member is there: their order is the order of the sum. */
static void reduce_chunk(rdt_comm_t *comm, const rdt_work_t *work)
{
    rdt_piece_t in = rdt_plan_own_input(&comm->plan, comm->reduced);
    rdt_piece_t out = rdt_plan_own_output(&comm->plan, comm->reduced);
    uint64_t mode = rdt_fp_get();

    set_sources(comm, &in);
    rdt_fp_set(RDT_FP_DEFAULT);
    if (is_pair_in_place(comm))
        reduce_pair(comm, in.count);
    else
        reduce_blocks(comm, out);
    rdt_fp_set(mode);
    drop_held(comm);
    /* Results that go on in messages reach ranks that cannot ask the peer themselves. */
    if (comm->num_direct > 0 && rdt_direct_revoked_st(comm, work)) return;
    comm->reduced++;
    comm->ready++;
    if (comm->reduced == comm->num_reduced) rdt_direct_reduced_st(comm);
}

/* Up to a slice of what is there, so that the peers are looked at in between. */
bool rdt_reduce_step_st(rdt_comm_t *comm, const rdt_work_t *work)
{
    uint64_t limit = RDT_SLICE_BYTES / comm->tuning.chunk + 1, num = 0;

    while (num < limit && comm->reduced < comm->num_reduced &&
           comm->num_held + comm->num_direct == rdt_num_members(comm) - 1 &&
           atomic_load_explicit(&comm->status, memory_order_relaxed) == RDT_OK) {
        reduce_chunk(comm, work);
        num++;
    }
    return num > 0;
}
