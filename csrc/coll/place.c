/* SPDX-License-Identifier: Apache-2.0 */
#include "coll/place.h"

#include "coll/buffers.h"

/* Both ends find the same: what a call must have in common, tuning and the plan are all that it takes. */
static bool is_placed(const rdt_comm_t *comm, uint32_t from, uint32_t to, rdt_stream_t s)
{
    uint64_t count = rdt_plan_count(&comm->plan, from, to, s);

    return count > 0 && !rdt_plan_reduces(&comm->plan, s) &&
           count * comm->out_bytes >= comm->tuning.place;
}

/* The piece of the output that the stream from the rank is for, which is contiguous. */
static void expose(rdt_comm_t *comm, uint32_t m, rdt_stream_t s)
{
    rdt_peer_state_t *peer = rdt_peer_at(comm, m);
    rdt_piece_t piece = rdt_plan_target(&comm->plan, m, rdt_me(comm), s, 0);
    uint64_t count = rdt_plan_count(&comm->plan, m, rdt_me(comm), s), at;

    if (peer->conn->ops->expose(peer->conn, rdt_output_at(comm, &piece), count * comm->out_bytes,
                                &at) == RDT_OK)
        peer->place_at = at;
}

void rdt_place_begin_st(rdt_comm_t *comm, uint32_t m)
{
    rdt_peer_state_t *peer = rdt_peer_at(comm, m);
    uint32_t me = rdt_me(comm);

    peer->place_at = peer->put_at = 0;
    for (int s = 0; s < RDT_NUM_STREAMS; s++) {
        peer->tx_placed[s] = peer->conn->places && is_placed(comm, me, m, s);
        peer->rx_placed[s] = peer->conn->places && is_placed(comm, m, me, s);
        if (peer->rx_placed[s]) expose(comm, m, s);
    }
}

uint64_t rdt_place_of(const rdt_comm_t *comm, uint32_t m, rdt_stream_t s, uint32_t i)
{
    const rdt_peer_state_t *peer = rdt_peer_at(comm, m);
    uint32_t lead = rdt_place_lead(peer->tx_placed, s);

    if (!peer->tx_placed[s] || peer->put_at == 0 || i < lead) return 0;
    return peer->put_at + (i - lead) * comm->plan.chunk * comm->out_bytes;
}
