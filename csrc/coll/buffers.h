/* SPDX-License-Identifier: Apache-2.0 */
/* The current stage: who takes part, and where the pieces of its plan lie in the buffers of its call.
 * A member is one of the ranks of the stage, by its place among them. */
#ifndef RDT_COLL_BUFFERS_H
#define RDT_COLL_BUFFERS_H

#include "coll/comm.h"

static inline uint32_t rdt_num_members(const rdt_comm_t *comm)
{
    return comm->stages.members.num;
}

static inline uint32_t rdt_me(const rdt_comm_t *comm)
{
    return comm->stages.members.me;
}

static inline uint32_t rdt_rank_of(const rdt_comm_t *comm, uint32_t m)
{
    return comm->stages.members.ranks[m];
}

static inline rdt_peer_state_t *rdt_peer_at(const rdt_comm_t *comm, uint32_t m)
{
    return &comm->peers[rdt_rank_of(comm, m)];
}

static inline const rdt_call_t *rdt_stage_call(const rdt_comm_t *comm)
{
    return &comm->stages.call;
}

/* base, or shards where they do not lie one behind the other; of elements of so many bytes. */
static inline uint8_t *rdt_piece_at(const rdt_comm_t *comm, void *base, void *const *shards,
                                    size_t elem_bytes, const rdt_piece_t *p)
{
    uint64_t first = p->first;

    if (shards != NULL)
        base = shards[p->shard];
    else
        first += p->shard * rdt_stage_call(comm)->count;
    return (uint8_t *)base + first * elem_bytes;
}

static inline uint8_t *rdt_input_at(const rdt_comm_t *comm, const rdt_piece_t *p)
{
    const rdt_call_t *call = rdt_stage_call(comm);
    void *base = (void *)(uintptr_t)call->in;

    if (call->coll == RDT_BROADCAST) base = call->out;
    return rdt_piece_at(comm, base, (void *const *)call->in_shards, comm->in_bytes, p);
}

static inline uint8_t *rdt_output_at(const rdt_comm_t *comm, const rdt_piece_t *p)
{
    const rdt_call_t *call = rdt_stage_call(comm);

    return rdt_piece_at(comm, call->out, call->out_shards, comm->out_bytes, p);
}

#endif
