/* SPDX-License-Identifier: Apache-2.0 */
#include "coll/direct.h"

#include <stdio.h>
#include <string.h>

#include "arena/arena.h"
#include "coll/buffers.h"

/* What an operation needs to reach, in bytes of what is exposed of a rank's input and output. */
typedef struct reach {
    uint64_t in, out;
} reach_t;

/* Of count elements; reduce_scatter's input and all_gather's output have world times that. */
static uint64_t call_bytes(const rdt_comm_t *comm)
{
    return rdt_stage_call(comm)->count * comm->in_bytes;
}

static bool is_broadcast(const rdt_plan_t *plan)
{
    return plan->algo == RDT_ALGO_FLAT_BROADCAST || plan->algo == RDT_ALGO_SCATTERED_BROADCAST;
}

/* Of the buffers of from, by to: of both there are, or of the piece that is for it. */
static reach_t needed(const rdt_comm_t *comm, uint32_t from, uint32_t to)
{
    const rdt_plan_t *plan = &comm->plan;
    uint64_t bytes = call_bytes(comm);
    reach_t reach = {0, 0};

    if (plan->algo == RDT_ALGO_TWO_PHASE)
        reach = (reach_t){bytes, bytes};
    else if (is_broadcast(plan))
        reach = (reach_t){from == plan->root ? bytes : 0, to == plan->root ? bytes : 0};
    else if (plan->algo != RDT_ALGO_ONE_SHOT)
        reach.in = rdt_plan_count(plan, from, to, RDT_STREAM_INPUT) * comm->in_bytes;
    return reach.in >= comm->tuning.direct || reach.out >= comm->tuning.direct ? reach
                                                                               : (reach_t){0, 0};
}

/* Offset + 1 of memory that peers can reach, else 0. */
static uint64_t locate(const void *addr, uint64_t bytes)
{
    uint64_t at;

    return bytes > 0 && addr != NULL && rdt_arena_offset(addr, bytes, &at) ? at + 1 : 0;
}

static bool all_share(const rdt_comm_t *comm)
{
    for (uint32_t m = 0; m < rdt_num_members(comm); m++)
        if (m != rdt_me(comm) && !rdt_peer_at(comm, m)->conn->shares_arena) return false;
    return true;
}

/* What goes to the peer, where it lies. */
static const void *source(const rdt_comm_t *comm, uint32_t to)
{
    rdt_piece_t piece = {0, 0, 0};

    if (comm->plan.algo == RDT_ALGO_REDUCE_SCATTER) piece.shard = to;
    if (comm->plan.algo == RDT_ALGO_EXCHANGE)
        piece = rdt_plan_exchange_source(&comm->plan, rdt_me(comm), to);
    return rdt_input_at(comm, &piece);
}

/* An all_reduce is direct for a rank as a whole, or not at all. */
static void expose(rdt_comm_t *comm, uint32_t m)
{
    rdt_peer_state_t *peer = rdt_peer_at(comm, m);
    reach_t need = needed(comm, rdt_me(comm), m);

    if (!peer->conn->shares_arena || need.in + need.out == 0) return;
    if (need.in > 0) peer->exposed_at = locate(source(comm, m), need.in);
    if (need.in > 0 && peer->exposed_at == 0) return;
    if (need.out > 0) comm->out_at = locate(rdt_stage_call(comm)->out, need.out);
    if (need.out > 0 && comm->out_at == 0) peer->exposed_at = 0;
}

void rdt_direct_begin_st(rdt_comm_t *comm)
{
    comm->num_direct = 0;
    comm->out_at = 0;
    for (uint32_t m = 0; m < rdt_num_members(comm); m++)
        rdt_peer_at(comm, m)->exposed_at = 0;
    /* A broadcast is direct for all ranks, or for none. */
    if (!comm->shares_arena || (is_broadcast(&comm->plan) && !all_share(comm))) return;
    for (uint32_t m = 0; m < rdt_num_members(comm); m++)
        if (m != rdt_me(comm)) expose(comm, m);
}

bool rdt_direct_exposes(const rdt_comm_t *comm, uint32_t m)
{
    const rdt_peer_state_t *peer = rdt_peer_at(comm, m);

    if (peer->exposed_at != 0) return true;
    return comm->out_at != 0 && is_broadcast(&comm->plan) && m == comm->plan.root &&
           peer->conn->shares_arena;
}

bool rdt_direct_may_take(const rdt_comm_t *comm, uint32_t m)
{
    const rdt_plan_t *plan = &comm->plan;

    if (plan->algo != RDT_ALGO_SCATTERED_BROADCAST || plan->rank == plan->root) return true;
    return rdt_peer_at(comm, plan->root)->rx_next[RDT_STREAM_INPUT] > 0 ||
           rdt_peer_at(comm, m)->rx_next[RDT_STREAM_INPUT] == 0;
}

/* The peer's memory as this rank sees it: NULL when it is not exposed. */
static bool resolve(rdt_comm_t *comm, uint32_t m, uint64_t at, uint64_t bytes, uint8_t **addr_p)
{
    const rdt_conn_t *conn = rdt_peer_at(comm, m)->conn;

    *addr_p = NULL;
    if (at == 0 || bytes == 0) return true;
    if (conn->arena == NULL || bytes > conn->arena_bytes || at - 1 > conn->arena_bytes - bytes) {
        rdt_comm_latch(comm, RDT_PROTOCOL,
                       "rank %u offers rank %u memory at offset %llu, which is not in its arena",
                       rdt_rank_of(comm, m), comm->cfg.rank, (unsigned long long)at - 1);
        return false;
    }
    *addr_p = conn->arena + at - 1;
    return true;
}

static void set_copy(rdt_peer_state_t *peer, void *dst, const void *src, uint64_t bytes)
{
    peer->copy_dst = dst;
    peer->copy_src = src;
    peer->copy_left = bytes;
    peer->direct_done = bytes == 0;
}

/* Bytes that the root of a broadcast stores into each output that it can reach: its part, as one of
 * world ranks, of the copying. */
static uint64_t root_share(const rdt_comm_t *comm)
{
    uint64_t bytes = call_bytes(comm);

    return bytes / rdt_num_members(comm) / RDT_ARENA_PAGE * RDT_ARENA_PAGE;
}

/* The root exposes its tensor: nothing goes in messages, so no rank passes anything on. */
static void meet_root(rdt_comm_t *comm, rdt_peer_state_t *root)
{
    uint64_t bytes = call_bytes(comm);
    uint64_t share = comm->out_at != 0 && root->conn->shares_arena ? root_share(comm) : 0;

    for (uint32_t m = 0; m < rdt_num_members(comm); m++)
        rdt_peer_at(comm, m)->rx_total[RDT_STREAM_RESULT] =
            rdt_peer_at(comm, m)->tx_total[RDT_STREAM_RESULT] = 0;
    root->rx_total[RDT_STREAM_INPUT] = 1;
    root->tx_total[RDT_STREAM_RESULT] = 1;
    root->rx_total[RDT_STREAM_RESULT] = share > 0;
    set_copy(root, (uint8_t *)rdt_stage_call(comm)->out + share, root->in_at + share,
             bytes - share);
}

/* On the root, which exposes its tensor or sends it in messages. */
static void meet_receiver(rdt_comm_t *comm, rdt_peer_state_t *peer)
{
    uint64_t share = root_share(comm);

    if (peer->exposed_at == 0 || peer->out_at == NULL || share == 0) return;
    peer->tx_total[RDT_STREAM_RESULT] = 1;
    set_copy(peer, peer->out_at, rdt_stage_call(comm)->out, share);
}

/* The peer exposes what this rank reduces, or has to place. */
static void meet_input(rdt_comm_t *comm, uint32_t m)
{
    rdt_peer_state_t *peer = rdt_peer_at(comm, m);

    peer->rx_total[RDT_STREAM_INPUT] = 1;
    peer->tx_total[RDT_STREAM_RESULT] = 1;
    comm->num_direct++;
    if (comm->plan.algo == RDT_ALGO_EXCHANGE) {
        rdt_piece_t to = rdt_plan_exchange_target(&comm->plan, m, rdt_me(comm));

        set_copy(peer, rdt_output_at(comm, &to), peer->in_at, to.count * comm->in_bytes);
    } else {
        peer->direct_done = comm->num_reduced == 0;
    }
}

bool rdt_direct_meet_st(rdt_comm_t *comm, uint32_t m, const rdt_hdr_t *hdr)
{
    rdt_peer_state_t *peer = rdt_peer_at(comm, m);
    reach_t need = needed(comm, m, rdt_me(comm));
    uint8_t *in;

    if (!resolve(comm, m, hdr->in_at, need.in, &in) ||
        !resolve(comm, m, hdr->out_at, need.out, &peer->out_at))
        return false;
    peer->in_at = in;
    if (is_broadcast(&comm->plan)) {
        if (rdt_me(comm) == comm->plan.root)
            meet_receiver(comm, peer);
        else if (in != NULL)
            meet_root(comm, peer);
    } else if (in != NULL) {
        meet_input(comm, m);
    }
    return true;
}

static void copy_slice(const rdt_comm_t *comm, rdt_peer_state_t *peer)
{
    size_t len = peer->copy_left < RDT_SLICE_BYTES ? peer->copy_left : RDT_SLICE_BYTES;

    if (comm->bypasses)
        rdt_copy(peer->copy_dst, peer->copy_src, len, true);
    else
        memcpy(peer->copy_dst, peer->copy_src, len);
    peer->copy_dst += len;
    peer->copy_src += len;
    peer->copy_left -= len;
    peer->direct_done = peer->copy_left == 0;
}

bool rdt_direct_copy_st(rdt_comm_t *comm)
{
    for (uint32_t i = 1; i < rdt_num_members(comm); i++) {
        /* Each rank begins with its neighbour, so that not all read from rank 0 at once. */
        rdt_peer_state_t *peer = rdt_peer_at(comm, (rdt_me(comm) + i) % rdt_num_members(comm));

        if (peer->copy_left == 0) continue;
        copy_slice(comm, peer);
        return true;
    }
    return false;
}

void rdt_direct_reduced_st(rdt_comm_t *comm)
{
    for (uint32_t m = 0; m < rdt_num_members(comm); m++)
        rdt_peer_at(comm, m)->direct_done = true;
}

static void latch_revoked(rdt_comm_t *comm, const rdt_work_t *work, uint32_t m)
{
    uint32_t rank = rdt_rank_of(comm, m);
    char call[RDT_CALL_TEXT_BYTES];

    rdt_p2p_last_words_st(comm, rank); /* a cause that the peer told comes first */
    rdt_describe_work(work, call);
    rdt_comm_latch(comm, RDT_PEER_LOST, "rank %u (%s) gave up %s #%llu, while rank %u was in it",
                   rank, rdt_peer_at(comm, m)->label, call, (unsigned long long)work->seq,
                   comm->cfg.rank);
}

bool rdt_direct_holds_st(const rdt_comm_t *comm)
{
    return comm->out_at == 0 || locate(rdt_stage_call(comm)->out, call_bytes(comm)) == comm->out_at;
}

bool rdt_direct_revoked_st(rdt_comm_t *comm, const rdt_work_t *work)
{
#ifndef __SANITIZE_THREAD__ /* which knows no fences */
    /* What was read from the peers was read before their words are. */
    atomic_thread_fence(memory_order_acquire);
#endif
    for (uint32_t m = 0; m < rdt_num_members(comm); m++) {
        const rdt_peer_state_t *peer = rdt_peer_at(comm, m);
        uint64_t from = peer->in_at != NULL ? atomic_load(peer->conn->revoked) : 0;

        if (from == 0 || work->seq < from) continue;
        latch_revoked(comm, work, m);
        return true;
    }
    return false;
}

static void detach(rdt_comm_t *comm)
{
    size_t len;

    if (rdt_arena_detach(rdt_stage_call(comm)->out, call_bytes(comm)) == RDT_OK) return;
    pthread_mutex_lock(&comm->error_lock);
    len = strlen(comm->error);
    snprintf(comm->error + len, sizeof(comm->error) - len,
             "; and peers may still store to its output, as there is no memory to move it to");
    pthread_mutex_unlock(&comm->error_lock);
}

void rdt_direct_revoke_st(rdt_comm_t *comm)
{
    for (int i = 0; i < RDT_NUM_TRANSPORTS; i++)
        if (comm->ctx[i] != NULL && comm->ctx[i]->ops->revoke != NULL)
            comm->ctx[i]->ops->revoke(comm->ctx[i], comm->coll_done + 1);
    if (comm->active && comm->out_at != 0) detach(comm);
}
