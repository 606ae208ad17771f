/* SPDX-License-Identifier: Apache-2.0 */
/* The part of a collective that adds: from the heads of the lanes, and from the peers' tensors. */
#include <string.h>

#include "coll/buffers.h"
#include "coll/direct.h"
#include "reduce/fpenv.h"

#define HEAD_BYTES 1024u

static void drop_held(rdt_comm_t *comm)
{
    for (uint32_t r = 0; r < comm->cfg.world; r++) {
        rdt_peer_state_t *peer = &comm->peers[r];

        if (!peer->held) continue;
        peer->held = false;
        peer->rx_next[RDT_STREAM_INPUT]++;
        peer->conn->ops->release(peer->conn, RDT_LANE_COLL);
    }
    comm->num_held = 0;
}

/* Where chunk comm->reduced of every rank lies. */
static void set_sources(rdt_comm_t *comm, const rdt_work_t *work, const rdt_piece_t *p)
{
    rdt_piece_t theirs = *p;

    theirs.shard = 0; /* a peer exposes this rank's shard alone */
    for (uint32_t r = 0; r < comm->cfg.world; r++) {
        const rdt_peer_state_t *peer = &comm->peers[r];

        comm->srcs[r] = peer->in_at != NULL
                            ? rdt_piece_at((void *)(uintptr_t)peer->in_at, NULL, work, &theirs)
                            : peer->held_data;
    }
    comm->srcs[comm->cfg.rank] = rdt_input_at(work, p);
}

static const rdt_kernel_t *kernel_of(const rdt_comm_t *comm, const rdt_work_t *work)
{
    return &comm->kernels[work->call.dtype][work->call.op];
}

/* HOT. The next count elements of the sources, to dst. */
static void reduce_to(const rdt_comm_t *comm, const rdt_work_t *work, void *dst, uint64_t count)
{
    const rdt_kernel_t *kernel = kernel_of(comm, work);

    if (kernel->premul != NULL)
        kernel->premul(dst, comm->srcs, comm->cfg.world, count, work->call.factor);
    else
        kernel->reduce(dst, comm->srcs, comm->cfg.world, count);
}

/* HOT. Reduces a block and stores it for every peer whose output is exposed, while it is in cache:
 * the lines that it is stored to have just been read. */
static void reduce_block(rdt_comm_t *comm, const rdt_work_t *work, const rdt_piece_t *out)
{
    uint8_t *mine = rdt_output_at(work, out);
    size_t bytes = out->count * rdt_elem_bytes(work);

    reduce_to(comm, work, mine, out->count);
    for (uint32_t r = 0; r < comm->cfg.world; r++) {
        comm->srcs[r] = (const uint8_t *)comm->srcs[r] + bytes;
        if (comm->peers[r].out_at != NULL)
            memcpy(rdt_piece_at(comm->peers[r].out_at, NULL, work, out), mine, bytes);
    }
}

/* Two ranks whose tensors are both in place: one pass reads and writes both, if there is one. */
static bool is_pair_in_place(const rdt_comm_t *comm, const rdt_work_t *work)
{
    const rdt_peer_state_t *peer;

    if (comm->cfg.world != 2 || work->call.in != work->call.out ||
        kernel_of(comm, work)->both == NULL)
        return false;
    peer = &comm->peers[1 - comm->cfg.rank];
    return peer->in_at != NULL && peer->in_at == peer->out_at;
}

/* The prefetchers of the rank before have run on into the first lines of this rank's shard, which are
 * slow to get back where the cores are far apart: they are asked for now and used later. */
static void reduce_pair(rdt_comm_t *comm, const rdt_work_t *work, uint64_t count)
{
    rdt_reduce_both_fn both = kernel_of(comm, work)->both;
    uint64_t head = comm->reduced == 0 ? HEAD_BYTES / rdt_elem_bytes(work) : 0;
    char *a = (char *)(uintptr_t)comm->srcs[0], *b = (char *)(uintptr_t)comm->srcs[1];

    if (head > count / 8) head = 0;
    for (size_t at = 0; at < head * rdt_elem_bytes(work); at += 64) {
        __builtin_prefetch(a + at, 1);
        __builtin_prefetch(b + at, 1);
    }
    both(a + head * rdt_elem_bytes(work), b + head * rdt_elem_bytes(work), count - head);
    both(a, b, head);
}

static void reduce_blocks(rdt_comm_t *comm, const rdt_work_t *work, rdt_piece_t out)
{
    const rdt_kernel_t *kernel = kernel_of(comm, work);
    uint64_t block = comm->tuning.block / rdt_elem_bytes(work), left = out.count;

    if (comm->plan.algo == RDT_ALGO_REDUCE_SCATTER && comm->bypasses && kernel->reduce != NULL) {
        rdt_reduce_stream(kernel, rdt_elem_bytes(work), rdt_output_at(work, &out), comm->srcs,
                          comm->cfg.world, out.count);
        return;
    }
    for (; left > 0; left -= out.count, out.first += out.count) {
        out.count = left < block ? left : block;
        reduce_block(comm, work, &out);
    }
}

/* HOT. Chunk comm->reduced of every rank is there: the order of the ranks is the order of the sum. */
static void reduce_chunk(rdt_comm_t *comm, const rdt_work_t *work)
{
    rdt_piece_t in = rdt_plan_own_input(&comm->plan, comm->reduced);
    rdt_piece_t out = rdt_plan_own_output(&comm->plan, comm->reduced);
    uint64_t mode = rdt_fp_get();

    set_sources(comm, work, &in);
    rdt_fp_set(RDT_FP_DEFAULT);
    if (is_pair_in_place(comm, work))
        reduce_pair(comm, work, in.count);
    else
        reduce_blocks(comm, work, out);
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
           comm->num_held + comm->num_direct == comm->cfg.world - 1 &&
           atomic_load_explicit(&comm->status, memory_order_relaxed) == RDT_OK) {
        reduce_chunk(comm, work);
        num++;
    }
    return num > 0;
}
