/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the stages of the active collective, each a plan, over whatever transports join the ranks.
 *
 * Each step has three phases: send what is ready and has a slot, place what has arrived, reduce what
 * has arrived from everyone. A chunk to be reduced stays in its slot until the same chunk of all the
 * other ranks is there too; nothing is copied for it. That cannot lock up: the oldest chunk that
 * waits anywhere has nothing in front of it on any lane.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "coll/buffers.h"
#include "coll/direct.h"
#include "coll/place.h"
#include "coll/recorder.h"

static void begin_peer(rdt_comm_t *comm, uint32_t m)
{
    rdt_peer_state_t *peer = rdt_peer_at(comm, m);

    rdt_place_begin_st(comm, m);
    for (int s = 0; s < RDT_NUM_STREAMS; s++) {
        peer->tx_next[s] = peer->rx_next[s] = 0;
        peer->tx_total[s] = rdt_plan_num_chunks(&comm->plan, rdt_me(comm), m, s) +
                            rdt_place_lead(peer->tx_placed, s);
        peer->rx_total[s] = rdt_plan_num_chunks(&comm->plan, m, rdt_me(comm), s) +
                            rdt_place_lead(peer->rx_placed, s);
    }
    /* What is exposed goes in no message: one says where it is, and one comes back when the peer is
     * done with it. What the peer exposes is known when its first message comes. */
    if (peer->exposed_at != 0) {
        peer->tx_total[RDT_STREAM_INPUT] = 1;
        peer->rx_total[RDT_STREAM_RESULT] = 1;
    }
    peer->in_at = NULL;
    peer->out_at = NULL;
    peer->copy_left = 0;
    peer->direct_done = false;
    peer->posted = 0;
    peer->held = false;
}

/* What an exchange leaves on the rank goes to its place; with one rank that is all there is to do. */
static void place_own(rdt_comm_t *comm)
{
    uint32_t me = rdt_me(comm);
    rdt_piece_t from, to;
    const uint8_t *source;
    uint8_t *target;
    size_t len;

    comm->placed = true;
    if (comm->plan.algo != RDT_ALGO_EXCHANGE) return;
    from = rdt_plan_exchange_source(&comm->plan, me, me);
    to = rdt_plan_exchange_target(&comm->plan, me, me);
    if (from.count == 0) return;
    source = rdt_input_at(comm, &from);
    target = rdt_output_at(comm, &to);
    len = from.count * comm->in_bytes;
    if (target == source) return;
    if (comm->bypasses)
        rdt_copy(target, source, len, true);
    else
        memcpy(target, source, len);
}

static void begin_stage(rdt_comm_t *comm)
{
    comm->in_bytes = rdt_dtype_bytes(comm->stages.step.from);
    comm->out_bytes = rdt_dtype_bytes(comm->stages.step.to);
    comm->plan = rdt_plan_make(rdt_stage_call(comm), rdt_me(comm), rdt_num_members(comm),
                               (uint32_t)comm->in_bytes, &comm->tuning);
    comm->reduced = comm->ready = comm->num_held = 0;
    comm->num_reduced = rdt_plan_num_reduced(&comm->plan);
    comm->bypasses = rdt_plan_num_written(&comm->plan) * comm->out_bytes >= comm->tuning.bypass;
    rdt_direct_begin_st(comm);
    for (uint32_t m = 0; m < rdt_num_members(comm); m++)
        if (m != rdt_me(comm)) begin_peer(comm, m);
    comm->placed = false;
}

/* False after latching an error. */
static bool begin(rdt_comm_t *comm, const rdt_work_t *work)
{
    rdt_status_t st = rdt_stages_begin(&comm->stages, &work->call);

    if (st != RDT_OK) {
        rdt_comm_latch(comm, st, "rank %u: %s", comm->cfg.rank, rdt_last_error());
        return false;
    }
    begin_stage(comm);
    comm->active = true;
    rdt_record_started_st(work);
    return true;
}

static void lost(rdt_comm_t *comm, const rdt_work_t *work, uint32_t m)
{
    char call[RDT_CALL_TEXT_BYTES], doing[RDT_CALL_TEXT_BYTES + 32];

    rdt_describe_work(work, call);
    snprintf(doing, sizeof(doing), "%s #%llu", call, (unsigned long long)work->seq);
    rdt_comm_lost_st(comm, rdt_rank_of(comm, m), doing);
}

/* Instead of data the stream carries one empty message: where the input lies, or that this rank is
 * done with the peer's memory. */
static bool sends_notice(const rdt_comm_t *comm, uint32_t m, rdt_stream_t s)
{
    const rdt_peer_state_t *peer = rdt_peer_at(comm, m);

    if (s == RDT_STREAM_INPUT) return peer->exposed_at != 0;
    return peer->in_at != NULL || peer->out_at != NULL;
}

/* How many messages of the stream may be sent by now. */
static uint32_t sendable(const rdt_comm_t *comm, uint32_t m, rdt_stream_t s)
{
    const rdt_peer_state_t *peer = rdt_peer_at(comm, m);
    uint32_t ready = comm->ready;

    if (rdt_place_waits(peer, s)) return rdt_place_lead(peer->tx_placed, s);
    if (s == RDT_STREAM_INPUT) return peer->tx_total[s];
    if (sends_notice(comm, m, s)) ready = peer->direct_done;
    return ready < peer->tx_total[s] ? ready : peer->tx_total[s];
}

/* The data of message i, and its length. A refusal carries its reason instead. */
static const void *message_data(const rdt_comm_t *comm, const rdt_work_t *work, uint32_t m,
                                rdt_stream_t s, uint32_t i, uint32_t *len_p)
{
    uint32_t lead = rdt_place_lead(rdt_peer_at(comm, m)->tx_placed, s);
    rdt_piece_t p;

    *len_p = 0;
    if (sends_notice(comm, m, s) || i < lead) return NULL;
    if (work->refusal != NULL) {
        *len_p = (uint32_t)strnlen(work->refusal, comm->tuning.chunk);
        return work->refusal;
    }
    p = rdt_plan_source(&comm->plan, rdt_me(comm), m, s, i - lead);
    *len_p =
        (uint32_t)(p.count * comm->in_bytes); /* as many as out_bytes but for what is reduced */
    if (p.count == 0) return NULL;
    return s == RDT_STREAM_INPUT ? rdt_input_at(comm, &p) : rdt_output_at(comm, &p);
}

static bool is_staged(const rdt_comm_t *comm)
{
    return comm->stages.num > 1;
}

/* Says the whole call, which ranks have in common, and not what the stage makes of it. */
static rdt_hdr_t stage_hdr(const rdt_comm_t *comm, const rdt_work_t *work, rdt_kind_t kind)
{
    rdt_hdr_t hdr = rdt_call_hdr(work, kind);

    if (is_staged(comm) && hdr.coll != RDT_BROADCAST) hdr.stage = comm->stages.at + 1;
    return hdr;
}

/* Elements that go from this rank to the peer, and the other way, where sizes are per pair. */
static uint64_t given(const rdt_comm_t *comm, uint32_t to)
{
    return rdt_plan_count(&comm->plan, rdt_me(comm), to, RDT_STREAM_INPUT);
}

static uint64_t taken(const rdt_comm_t *comm, uint32_t from)
{
    return rdt_plan_count(&comm->plan, from, rdt_me(comm), RDT_STREAM_INPUT);
}

/* Each of the two can then see what is wrong, not only the one that takes it. */
static bool says_both_ways(const rdt_hdr_t *hdr)
{
    return hdr->coll == RDT_ALL_TO_ALL || hdr->coll == RDT_ALL_GATHER;
}

/* The size of the call as the peer is told: of what the two have in common where that differs, as it does
 * in no call that has stages. */
static void say_sizes(const rdt_comm_t *comm, uint32_t to, rdt_hdr_t *hdr)
{
    bool is_root = rdt_me(comm) == comm->plan.root;

    if (says_both_ways(hdr)) hdr->takes = is_staged(comm) ? RDT_UNSAID : taken(comm, to);
    if (is_staged(comm)) return;
    if (hdr->coll == RDT_ALL_TO_ALL || hdr->coll == RDT_REDUCE_SCATTER ||
        (hdr->coll == RDT_SCATTER && is_root))
        hdr->count = given(comm, to);
    if (hdr->coll == RDT_GATHER && is_root) hdr->count = taken(comm, to);
}

/* And as the peer must say it. */
static void expect_sizes(const rdt_comm_t *comm, uint32_t from, rdt_hdr_t *hdr)
{
    bool is_root = rdt_me(comm) == comm->plan.root;

    if (says_both_ways(hdr)) hdr->takes = is_staged(comm) ? RDT_UNSAID : given(comm, from);
    if (is_staged(comm)) return;
    if (hdr->coll == RDT_ALL_TO_ALL || hdr->coll == RDT_ALL_GATHER ||
        (hdr->coll == RDT_GATHER && is_root))
        hdr->count = taken(comm, from);
    if (hdr->coll == RDT_SCATTER && is_root) hdr->count = given(comm, from);
}

/* What peers may do with this rank's memory is said in each message, and read in the first one. */
static void say_places(const rdt_comm_t *comm, uint32_t m, rdt_hdr_t *hdr)
{
    const rdt_peer_state_t *peer = rdt_peer_at(comm, m);

    hdr->out_at = peer->place_at;
    if (!rdt_direct_exposes(comm, m)) return;
    hdr->in_at = peer->exposed_at;
    hdr->out_at = comm->out_at;
}

/* HOT. */
static rdt_status_t send_message(const rdt_comm_t *comm, const rdt_work_t *work, uint32_t m,
                                 const rdt_hdr_t *hdr)
{
    rdt_conn_t *conn = rdt_peer_at(comm, m)->conn;
    rdt_stream_t s = (rdt_stream_t)hdr->kind;
    uint64_t at = rdt_place_of(comm, m, s, hdr->index);
    uint32_t len;
    const void *data = message_data(comm, work, m, s, hdr->index, &len);

    if (at != 0) return conn->ops->put(conn, RDT_LANE_COLL, hdr, data, len, at);
    return conn->ops->send(conn, RDT_LANE_COLL, hdr, data, len);
}

/* HOT. One chunk at most, so that what has come is taken between two: a rank that sent all it may before
 * it looks would give its peers back few slots, and the two would take turns. */
static rdt_status_t send_stream(rdt_comm_t *comm, const rdt_work_t *work, uint32_t m,
                                rdt_stream_t s, bool *moved)
{
    rdt_peer_state_t *peer = rdt_peer_at(comm, m);
    rdt_status_t st;
    rdt_hdr_t hdr;

    if (peer->tx_next[s] >= sendable(comm, m, s)) return RDT_OK;
    hdr = stage_hdr(comm, work, s == RDT_STREAM_INPUT ? RDT_KIND_INPUT : RDT_KIND_RESULT);
    say_sizes(comm, m, &hdr);
    say_places(comm, m, &hdr);
    hdr.index = peer->tx_next[s];
    st = send_message(comm, work, m, &hdr);
    if (st != RDT_OK) return st;
    peer->tx_next[s]++;
    peer->posted = peer->conn->posted[RDT_LANE_COLL];
    *moved = true;
    return RDT_OK;
}

/* What a lost connection still had to send will never leave. */
static rdt_status_t flush_state(const rdt_peer_state_t *peer)
{
    bool flushed = peer->conn->flushed[RDT_LANE_COLL] >= peer->posted;

    return flushed ? RDT_OK : peer->conn->status;
}

/* HOT. Results first: peers can finish with them, while inputs only queue up. */
static bool send_phase(rdt_comm_t *comm, const rdt_work_t *work)
{
    bool moved = false;

    for (uint32_t i = 1; i < rdt_num_members(comm); i++) {
        /* Each rank begins with its neighbour, so that not all write to rank 0 at once. */
        uint32_t m = (rdt_me(comm) + i) % rdt_num_members(comm);
        rdt_status_t st = send_stream(comm, work, m, RDT_STREAM_RESULT, &moved);

        if (st == RDT_OK) st = send_stream(comm, work, m, RDT_STREAM_INPUT, &moved);
        if (st == RDT_OK) st = flush_state(rdt_peer_at(comm, m));
        if (st < 0) lost(comm, work, m);
    }
    return moved;
}

static bool same_shape(const rdt_shape_t *a, const rdt_shape_t *b)
{
    return a->code[0] == 0 || b->code[0] == 0 || memcmp(a, b, sizeof(*a)) == 0;
}

/* Of a gather or a scatter with pieces of any sizes, only the root knows which ones are right. */
static bool compares_sizes(const rdt_comm_t *comm, const rdt_work_t *work, uint32_t m)
{
    bool has_root = work->call.coll == RDT_GATHER || work->call.coll == RDT_SCATTER;

    return !has_root || m == work->call.peer || rdt_me(comm) == work->call.peer;
}

static bool same_call(const rdt_comm_t *comm, const rdt_work_t *work, uint32_t m,
                      const rdt_hdr_t *hdr)
{
    rdt_hdr_t want = stage_hdr(comm, work, RDT_KIND_INPUT);

    expect_sizes(comm, m, &want);
    if (hdr->coll != want.coll || hdr->dtype != want.dtype || hdr->op != want.op ||
        hdr->peer != want.peer || hdr->parts != want.parts || hdr->seq != want.seq ||
        hdr->takes != want.takes)
        return false;
    return !compares_sizes(comm, work, m) ||
           (hdr->count == want.count && same_shape(&hdr->shape, &want.shape));
}

/* said: what this rank's own messages say. */
static __attribute__((noinline)) void mismatch(rdt_comm_t *comm, const rdt_work_t *work,
                                               const rdt_hdr_t *said, uint32_t rank,
                                               const rdt_msg_t *msg)
{
    char mine[RDT_CALL_TEXT_BYTES], theirs[RDT_CALL_TEXT_BYTES];
    rdt_hdr_t hdr;

    rdt_describe_hdr(said, mine);
    memcpy(&hdr, msg->hdr, sizeof(hdr));
    rdt_describe_hdr(&hdr, theirs);
    if (work->refusal != NULL) snprintf(mine, sizeof(mine), "refused: %.140s", work->refusal);
    if (hdr.coll == RDT_REFUSED)
        snprintf(theirs, sizeof(theirs), "refused: %.*s", msg->len < 140 ? (int)msg->len : 140,
                 msg->data != NULL ? (const char *)msg->data : "");
    rdt_comm_latch(comm, RDT_MISMATCH,
                   "ranks differ in collective #%llu: rank %u called %s, rank %u called %s",
                   (unsigned long long)work->seq, comm->cfg.rank, mine, rank, theirs);
}

static void mismatch_of(rdt_comm_t *comm, const rdt_work_t *work, uint32_t m, const rdt_msg_t *msg)
{
    rdt_hdr_t said = rdt_call_hdr(work, RDT_KIND_INPUT);

    say_sizes(comm, m, &said);
    mismatch(comm, work, &said, rdt_rank_of(comm, m), msg);
}

/* Of another call and this one, which has stages: whether they are the same but for the stage. */
static bool same_whole(const rdt_hdr_t *hdr, const rdt_hdr_t *mine)
{
    const bool same_root = hdr->coll == RDT_BROADCAST ? hdr->peer == mine->peer : hdr->stage > 0;

    return hdr->coll == mine->coll && hdr->dtype == mine->dtype && hdr->op == mine->op &&
           hdr->parts == mine->parts && hdr->takes == mine->takes && hdr->count == mine->count &&
           same_shape(&hdr->shape, &mine->shape) && same_root;
}

/* The oldest message of a rank, where it is of this collective and another call. */
static bool has_other_call(const rdt_comm_t *comm, const rdt_hdr_t *mine, uint32_t rank,
                           rdt_msg_t *msg)
{
    rdt_conn_t *conn = comm->peers[rank].conn;
    const rdt_hdr_t *hdr;

    if (conn == NULL || conn->unjoined) return false;
    if (conn->ops->peek(conn, RDT_LANE_COLL, msg) != RDT_OK) return false;
    hdr = msg->hdr;
    return hdr->kind < RDT_NUM_STREAMS && hdr->seq == mine->seq && !same_whole(hdr, mine);
}

/* A rank that makes another call may go through other stages: who is no member of this rank's may wait
 * for it, and be waited for. What it sent lies at the head of its lane, and would not be looked at. */
void rdt_collective_compare_st(rdt_comm_t *comm)
{
    const rdt_work_t *work = comm->queue;
    rdt_hdr_t mine;

    if (!comm->active || !is_staged(comm)) return;
    mine = rdt_call_hdr(work, RDT_KIND_INPUT);
    if (mine.coll == RDT_ALL_GATHER) mine.takes = RDT_UNSAID;
    for (uint32_t r = 0; r < comm->cfg.world; r++) {
        rdt_msg_t msg;

        if (!has_other_call(comm, &mine, r, &msg)) continue;
        mismatch(comm, work, &mine, r, &msg);
        return;
    }
}

/* The message is of this call, and the next one of its stream. */
static bool expected(rdt_comm_t *comm, const rdt_work_t *work, uint32_t m, const rdt_msg_t *msg)
{
    const rdt_hdr_t *hdr = msg->hdr;
    const rdt_peer_state_t *peer = rdt_peer_at(comm, m);

    if (__builtin_expect(!same_call(comm, work, m, hdr), 0)) {
        mismatch_of(comm, work, m, msg);
        return false;
    }
    if (hdr->kind < RDT_NUM_STREAMS && hdr->index == peer->rx_next[hdr->kind] &&
        hdr->index < peer->rx_total[hdr->kind])
        return true;
    rdt_comm_latch(comm, RDT_PROTOCOL, "rank %u sent chunk %u of kind %u to rank %u out of order",
                   rdt_rank_of(comm, m), hdr->index, hdr->kind, comm->cfg.rank);
    return false;
}

/* The sender cut its data as this rank expects, and put it in place or not: both made the same plan,
 * so a difference is a bug or an attack, and must not become an access out of bounds. */
static bool is_sound(rdt_comm_t *comm, uint32_t m, const rdt_msg_t *msg, size_t bytes, bool put)
{
    static const char *const ways[] = {"through a slot", "in place"};
    bool was_put = msg->data == NULL;

    if (msg->len == bytes && was_put == put) return true;
    rdt_comm_latch(comm, RDT_PROTOCOL, "rank %u sent %u bytes %s to rank %u instead of %zu %s",
                   rdt_rank_of(comm, m), msg->len, ways[was_put], comm->cfg.rank, bytes, ways[put]);
    return false;
}

/* Keeps the message at the head of the lane until the other ranks' chunk is there as well. */
static void hold(rdt_comm_t *comm, uint32_t m, const rdt_msg_t *msg)
{
    uint64_t count = rdt_plan_own_input(&comm->plan, comm->reduced).count;

    if (!is_sound(comm, m, msg, count * comm->in_bytes, false)) return;
    rdt_peer_at(comm, m)->held = true;
    rdt_peer_at(comm, m)->held_data = msg->data;
    comm->num_held++;
}

/* The other end of sends_notice. */
static bool is_notice(const rdt_comm_t *comm, uint32_t m, rdt_stream_t s)
{
    return s == RDT_STREAM_INPUT ? rdt_peer_at(comm, m)->in_at != NULL
                                 : rdt_direct_exposes(comm, m);
}

static void place(rdt_comm_t *comm, const rdt_work_t *work, uint32_t m, const rdt_msg_t *msg)
{
    const rdt_peer_state_t *peer = rdt_peer_at(comm, m);
    const rdt_hdr_t *hdr = msg->hdr;
    rdt_stream_t s = (rdt_stream_t)hdr->kind;
    uint32_t lead = rdt_place_lead(peer->rx_placed, s);
    bool put = rdt_place_takes(peer, s);
    rdt_piece_t p;

    if (work->refusal != NULL || is_notice(comm, m, s) || hdr->index < lead) return;
    p = rdt_plan_target(&comm->plan, m, rdt_me(comm), s, hdr->index - lead);
    if (p.count == 0 || !is_sound(comm, m, msg, p.count * comm->out_bytes, put)) return;
    if (!put) {
        memcpy(rdt_output_at(comm, &p), msg->data, msg->len);
        rdt_count_bytes(&peer->conn->staged_bytes, msg->len);
    }
    /* What the root of a scattered broadcast sent is what this rank passes on. */
    if (s == RDT_STREAM_INPUT) comm->ready++;
}

static bool more_to_come(const rdt_peer_state_t *peer)
{
    return peer->rx_next[0] < peer->rx_total[0] || peer->rx_next[1] < peer->rx_total[1];
}

/* Nothing came, and nothing will: the peer left before this collective, or its connection ended. */
static bool is_over(const rdt_peer_state_t *peer, const rdt_work_t *work, rdt_status_t st)
{
    return st == RDT_AGAIN ? peer->bye && work->seq > peer->bye_seq : st != RDT_OK;
}

/* Takes what the peer's first message says of its memory. False after latching an error. */
static bool meet(rdt_comm_t *comm, uint32_t m, const rdt_hdr_t *hdr)
{
    rdt_peer_state_t *peer = rdt_peer_at(comm, m);

    if (!peer->conn->places) return rdt_direct_meet_st(comm, m, hdr);
    peer->put_at = hdr->out_at;
    return true;
}

/* HOT. Consumes the message, unless it is wrong or stays where it is to be reduced. */
static bool take(rdt_comm_t *comm, const rdt_work_t *work, uint32_t m, const rdt_msg_t *msg)
{
    rdt_peer_state_t *peer = rdt_peer_at(comm, m);
    rdt_stream_t s;

    if (!expected(comm, work, m, msg)) return false;
    s = (rdt_stream_t)((const rdt_hdr_t *)msg->hdr)->kind;
    if (s == RDT_STREAM_INPUT && peer->rx_next[s] == 0 && !meet(comm, m, msg->hdr)) return false;
    if (rdt_plan_reduces(&comm->plan, s) && comm->num_reduced > 0 && !is_notice(comm, m, s)) {
        hold(comm, m, msg);
        return false;
    }
    place(comm, work, m, msg);
    peer->rx_next[s]++;
    peer->conn->ops->release(peer->conn, RDT_LANE_COLL);
    return true;
}

/* HOT. Consumes the peer's messages up to one that waits to be reduced. */
static bool receive_peer(rdt_comm_t *comm, const rdt_work_t *work, uint32_t m)
{
    rdt_peer_state_t *peer = rdt_peer_at(comm, m);
    rdt_conn_t *conn = peer->conn;
    bool moved = false;

    while (!peer->held && more_to_come(peer) && rdt_direct_may_take(comm, m)) {
        rdt_msg_t msg;
        rdt_status_t st = conn->ops->peek(conn, RDT_LANE_COLL, &msg);

        if (is_over(peer, work, st)) lost(comm, work, m);
        if (st != RDT_OK) break;
        moved = true;
        if (!take(comm, work, m, &msg)) break;
    }
    return moved;
}

static bool receive_phase(rdt_comm_t *comm, const rdt_work_t *work)
{
    bool moved = false;

    for (uint32_t i = 1; i < rdt_num_members(comm); i++)
        moved |= receive_peer(comm, work, (rdt_me(comm) + i) % rdt_num_members(comm));
    return moved;
}

/* Everything that this rank has to send is sent, and its buffers are its own again. */
static bool all_flushed(const rdt_comm_t *comm)
{
    for (uint32_t m = 0; m < rdt_num_members(comm); m++) {
        const rdt_peer_state_t *peer = rdt_peer_at(comm, m);

        if (peer->conn == NULL) continue;
        if (peer->tx_next[0] < peer->tx_total[0] || peer->tx_next[1] < peer->tx_total[1] ||
            peer->conn->flushed[RDT_LANE_COLL] < peer->posted)
            return false;
    }
    return true;
}

/* What was read directly counts only if nobody had taken it back by then. */
static bool is_valid(rdt_comm_t *comm, const rdt_work_t *work)
{
    if (!rdt_direct_holds_st(comm)) {
        rdt_comm_latch(
            comm, RDT_IO_ERROR,
            "another group of rank %u failed while peers stored to the same memory: what "
            "they stored is lost",
            comm->cfg.rank);
        return false;
    }
    return !rdt_direct_revoked_st(comm, work);
}

static bool all_received(const rdt_comm_t *comm)
{
    for (uint32_t m = 0; m < rdt_num_members(comm); m++) {
        const rdt_peer_state_t *peer = rdt_peer_at(comm, m);

        if (peer->conn != NULL && more_to_come(peer)) return false;
    }
    return comm->reduced == comm->num_reduced;
}

static void finish(rdt_comm_t *comm, rdt_work_t *work)
{
    comm->active = false;
    comm->coll_done = work->seq;
    comm->queue = work->next;
    if (comm->queue == NULL) comm->queue_tail = &comm->queue;
    rdt_work_over_st(work, RDT_OK, "");
}

/* HOT. */
static bool step_stage(rdt_comm_t *comm, const rdt_work_t *work)
{
    bool moved = send_phase(comm, work);

    if (!comm->placed) place_own(comm);
    moved |= receive_phase(comm, work);
    /* In one shot the chunk that is overwritten may still be on its way to the others. */
    if (comm->plan.algo != RDT_ALGO_ONE_SHOT || all_flushed(comm))
        moved |= rdt_reduce_step_st(comm, work);
    return moved | rdt_direct_copy_st(comm);
}

/* HOT. True when something moved. */
bool rdt_collectives_step_st(rdt_comm_t *comm)
{
    rdt_work_t *work = comm->queue;
    bool moved;

    if (work == NULL || atomic_load_explicit(&comm->status, memory_order_relaxed) != RDT_OK)
        return false;
    if (!comm->active && !begin(comm, work)) return false;
    moved = step_stage(comm, work);
    if (!all_received(comm) || !all_flushed(comm) || !is_valid(comm, work)) return moved;
    if (rdt_stages_next(&comm->stages))
        begin_stage(comm);
    else
        finish(comm, work);
    return true;
}

/* Nothing of the collective has come from the peer: it has not called it. */
static bool is_absent(const rdt_peer_state_t *peer)
{
    return !peer->held && peer->rx_next[RDT_STREAM_INPUT] == 0;
}

/* " 1, 3": of whom more should have come. The others wait for those that are absent, as this rank does:
 * they are not to blame. */
static void list_missing(const rdt_comm_t *comm, char *text, size_t room)
{
    size_t len = 0;
    bool absent = false;

    text[0] = '\0';
    for (uint32_t m = 0; m < rdt_num_members(comm); m++)
        absent |= m != rdt_me(comm) && is_absent(rdt_peer_at(comm, m));
    for (uint32_t m = 0; m < rdt_num_members(comm) && len + 16 < room; m++) {
        const rdt_peer_state_t *peer = rdt_peer_at(comm, m);

        if (peer->conn != NULL && !peer->held && more_to_come(peer) && is_absent(peer) == absent)
            len += (size_t)snprintf(text + len, room - len, "%s %u", len > 0 ? "," : "",
                                    rdt_rank_of(comm, m));
    }
}

/* Of one stage of several, only its members are known to be missing. */
static void say_stage(const rdt_comm_t *comm, char *text, size_t room)
{
    text[0] = '\0';
    if (is_staged(comm))
        snprintf(text, room, ", in stage %u of %u, which may wait for others in turn",
                 comm->stages.at + 1, comm->stages.num);
}

void rdt_collective_timeout_st(rdt_comm_t *comm, rdt_work_t *work)
{
    char call[RDT_CALL_TEXT_BYTES], missing[128], stage[80];

    list_missing(comm, missing, sizeof(missing));
    say_stage(comm, stage, sizeof(stage));
    rdt_describe_work(work, call);
    rdt_comm_latch(comm, RDT_TIMEOUT,
                   "%s #%llu did not finish within its timeout of %.1f s on rank %u: nothing more "
                   "came from rank%s%s",
                   call, (unsigned long long)work->seq, (double)work->call.timeout_ns * 1e-9,
                   comm->cfg.rank,
                   missing[0] != '\0' ? missing : " (none missing: this rank was too slow)", stage);
}
