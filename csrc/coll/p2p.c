/* SPDX-License-Identifier: Apache-2.0 */
/* Point-to-point: the sender announces (RTS), the receiver answers once a recv with that tag is
 * posted (CTS), then the data goes straight to it. Small data comes along with the announcement
 * (EAGER), and its sender is done: so that two ranks may both send before they receive. Whatever
 * arrives is consumed at once, so the lane never stalls behind a message that nobody wants yet;
 * announcements are buffered, and with them at most EAGER_ROOM of data from each peer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coll/recorder.h"

#define EAGER_BYTES 8192u       /* largest data that comes along */
#define EAGER_ROOM (256u << 10) /* of a receiver, for what a peer has sent along */
#define EAGER_HEAD_BYTES 256u   /* what even no data costs: its buffered announcement */

enum { SEND_NEW, SEND_ANNOUNCED, SEND_MOVING, RECV_WAITING, RECV_MATCHED, RECV_MOVING };

static uint64_t total_bytes(const rdt_work_t *work)
{
    return work->call.count * rdt_dtype_bytes(work->call.dtype);
}

static uint64_t eager_cost(uint64_t bytes)
{
    return bytes + EAGER_HEAD_BYTES;
}

static void append(rdt_work_t **list, rdt_work_t *work)
{
    while (*list != NULL)
        list = &(*list)->next;
    work->next = NULL;
    *list = work;
}

static void finish(rdt_work_t **link, rdt_status_t status, const char *text)
{
    rdt_work_t *work = *link;

    *link = work->next;
    rdt_work_over_st(work, status, text);
}

static void mismatch(rdt_comm_t *comm, const rdt_work_t *work, const rdt_hdr_t *rts)
{
    char mine[RDT_CALL_TEXT_BYTES], theirs[RDT_CALL_TEXT_BYTES];

    rdt_describe_work(work, mine);
    rdt_describe_hdr(rts, theirs);
    rdt_comm_latch(comm, RDT_MISMATCH,
                   "a send and its recv differ: rank %u called %s, rank %u called %s",
                   comm->cfg.rank, mine, work->call.peer, theirs);
}

/* Works of a peer are numbered from here on: their messages name them so. */
static void join_peer(rdt_peer_state_t *peer, rdt_work_t **list, rdt_work_t *work)
{
    work->seq = ++peer->p2p_seq;
    append(list, work);
}

/* The data came along with the announcement. */
static void take_eager(rdt_peer_state_t *peer, rdt_work_t *work, const void *data)
{
    rdt_work_t **link = &peer->recvs;

    if (total_bytes(work) > 0) memcpy(work->call.out, data, total_bytes(work));
    rdt_count_bytes(&peer->conn->staged_bytes, total_bytes(work));
    peer->taken_cost += eager_cost(total_bytes(work));
    while (*link != work)
        link = &(*link)->next;
    finish(link, RDT_OK, "");
}

/* Where the peer is to put the data; 0 where it goes through slots. */
static uint64_t expose(const rdt_peer_state_t *peer, const rdt_work_t *work)
{
    rdt_conn_t *conn = peer->conn;
    uint64_t total = total_bytes(work), at = 0;

    if (!conn->places || total == 0 || total < work->comm->tuning.place) return 0;
    return conn->ops->expose(conn, work->call.out, total, &at) == RDT_OK ? at : 0;
}

/* The recv takes what the peer has announced; data is what came along. */
static void match(rdt_comm_t *comm, rdt_peer_state_t *peer, rdt_work_t *work, const rdt_hdr_t *rts,
                  const void *data)
{
    if (work->call.peer == RDT_ANY_PEER) {
        work->call.peer = peer->conn->peer;
        join_peer(peer, &peer->recvs, work);
    }
    rdt_record_seq_st(work, rts->seq); /* before they are compared: a trace shows what differs */
    rdt_record_started_st(work);
    if (work->call.count != rts->count || work->call.dtype != (rdt_dtype_t)rts->dtype) {
        mismatch(comm, work, rts);
        return;
    }
    if (rts->kind == RDT_KIND_EAGER) {
        take_eager(peer, work, data);
        return;
    }
    work->p2p_at = expose(peer, work);
    work->p2p_state = RECV_MATCHED;
    work->p2p_id = rts->seq;
}

static rdt_rts_t **find_rts(rdt_peer_state_t *peer, int32_t tag)
{
    rdt_rts_t **link = &peer->rts;

    while (*link != NULL && (*link)->hdr.tag != tag)
        link = &(*link)->next;
    return link;
}

static void take_rts(rdt_comm_t *comm, rdt_peer_state_t *peer, rdt_rts_t **link, rdt_work_t *work)
{
    rdt_rts_t *rts = *link;

    *link = rts->next;
    match(comm, peer, work, &rts->hdr, rts->data);
    free(rts);
}

static void begin_send(rdt_peer_state_t *peer, rdt_work_t *work)
{
    join_peer(peer, &peer->sends, work);
    rdt_record_seq_st(work, work->seq);
}

static void begin_recv(rdt_comm_t *comm, rdt_peer_state_t *peer, rdt_work_t *work)
{
    rdt_rts_t **link = find_rts(peer, work->call.tag);
    rdt_conn_t *conn = peer->conn;

    join_peer(peer, &peer->recvs, work);
    if (conn->ops->expect != NULL) conn->ops->expect(conn);
    if (*link != NULL) take_rts(comm, peer, link, work);
}

/* The first that was announced by anybody. */
static void begin_any_recv(rdt_comm_t *comm, rdt_work_t *work)
{
    rdt_peer_state_t *first = NULL;
    rdt_rts_t **link = NULL;

    for (uint32_t r = 0; r < comm->cfg.world; r++) {
        rdt_rts_t **other = find_rts(&comm->peers[r], work->call.tag);

        if (*other == NULL || (link != NULL && (*link)->order < (*other)->order)) continue;
        first = &comm->peers[r];
        link = other;
    }
    if (first != NULL)
        take_rts(comm, first, link, work);
    else
        append(&comm->any_recvs, work);
}

void rdt_p2p_begin_st(rdt_comm_t *comm, rdt_work_t *work)
{
    work->p2p_done = 0;
    work->p2p_order = ++comm->p2p_posted;
    work->p2p_state = work->call.coll == RDT_SEND ? SEND_NEW : RECV_WAITING;
    if (work->call.coll == RDT_SEND)
        begin_send(&comm->peers[work->call.peer], work);
    else if (work->call.peer == RDT_ANY_PEER)
        begin_any_recv(comm, work);
    else
        begin_recv(comm, &comm->peers[work->call.peer], work);
}

/* -- what goes out -- */

static rdt_status_t post(const rdt_peer_state_t *peer, const rdt_hdr_t *hdr, const void *data,
                         uint32_t len)
{
    return peer->conn->ops->send(peer->conn, RDT_LANE_P2P, hdr, data, len);
}

static bool is_eager(const rdt_peer_state_t *peer, const rdt_work_t *work)
{
    uint64_t total = total_bytes(work);

    return total <= EAGER_BYTES && total <= work->comm->tuning.chunk &&
           peer->eager_cost + eager_cost(total) <= EAGER_ROOM;
}

static rdt_status_t announce(rdt_peer_state_t *peer, rdt_work_t *work)
{
    rdt_hdr_t hdr = rdt_call_hdr(work, RDT_KIND_RTS);
    rdt_status_t st = post(peer, &hdr, NULL, 0);

    if (st == RDT_OK) work->p2p_state = SEND_ANNOUNCED;
    return st;
}

static rdt_status_t send_along(rdt_peer_state_t *peer, rdt_work_t *work)
{
    rdt_hdr_t hdr = rdt_call_hdr(work, RDT_KIND_EAGER);
    uint64_t total = total_bytes(work);
    rdt_status_t st = post(peer, &hdr, work->call.in, (uint32_t)total);

    if (st != RDT_OK) return st;
    peer->eager_cost += eager_cost(total);
    work->p2p_done = total;
    work->posted = peer->conn->posted[RDT_LANE_P2P];
    work->p2p_state = SEND_MOVING;
    rdt_record_started_st(work);
    return RDT_OK;
}

/* The peer is told before it may send nothing more along; should the lane be full, later will do. */
static void tell_taken(rdt_peer_state_t *peer)
{
    rdt_hdr_t hdr = {.kind = RDT_KIND_TAKEN, .count = peer->taken_cost};

    if (peer->taken_cost >= EAGER_ROOM / 4 && post(peer, &hdr, NULL, 0) == RDT_OK)
        peer->taken_cost = 0;
}

/* HOT. */
static rdt_status_t move_chunk(const rdt_peer_state_t *peer, const rdt_work_t *work,
                               const rdt_hdr_t *hdr, uint32_t len)
{
    const uint8_t *data = (const uint8_t *)work->call.in + work->p2p_done;

    if (work->p2p_at == 0) return post(peer, hdr, data, len);
    return peer->conn->ops->put(peer->conn, RDT_LANE_P2P, hdr, data, len,
                                work->p2p_at + work->p2p_done);
}

/* HOT. */
static rdt_status_t move_data(rdt_peer_state_t *peer, rdt_work_t *work)
{
    rdt_hdr_t hdr = rdt_call_hdr(work, RDT_KIND_DATA);
    uint64_t total = total_bytes(work), chunk = work->comm->tuning.chunk;

    hdr.id = work->p2p_id;
    while (work->p2p_done < total) {
        uint64_t left = total - work->p2p_done;
        uint32_t len = (uint32_t)(left < chunk ? left : chunk);
        rdt_status_t st = move_chunk(peer, work, &hdr, len);

        if (st != RDT_OK) return st;
        work->p2p_done += len;
        hdr.index++;
    }
    work->posted = peer->conn->posted[RDT_LANE_P2P];
    return RDT_OK;
}

static bool is_flushed(const rdt_peer_state_t *peer, const rdt_work_t *work)
{
    return peer->conn->flushed[RDT_LANE_P2P] >= work->posted;
}

/* RDT_OK when the work has nothing more to do for now, AGAIN when the lane is full. */
static rdt_status_t step_send(rdt_peer_state_t *peer, rdt_work_t **link)
{
    rdt_work_t *work = *link;
    rdt_status_t st = RDT_OK;

    if (work->p2p_state == SEND_NEW)
        st = is_eager(peer, work) ? send_along(peer, work) : announce(peer, work);
    if (st != RDT_OK || work->p2p_state != SEND_MOVING) return st;
    if (work->p2p_done < total_bytes(work)) st = move_data(peer, work);
    if (st == RDT_OK && is_flushed(peer, work)) finish(link, RDT_OK, "");
    return st;
}

static rdt_status_t answer(rdt_peer_state_t *peer, rdt_work_t *work)
{
    rdt_hdr_t hdr = rdt_call_hdr(work, RDT_KIND_CTS);
    rdt_status_t st;

    hdr.seq = work->p2p_id;
    hdr.id = work->seq;
    hdr.out_at = work->p2p_at;
    st = post(peer, &hdr, NULL, 0);
    if (st != RDT_OK) return st;
    work->p2p_state = RECV_MOVING;
    work->posted = peer->conn->posted[RDT_LANE_P2P];
    return RDT_OK;
}

static rdt_status_t step_recv(rdt_peer_state_t *peer, rdt_work_t **link)
{
    rdt_work_t *work = *link;
    rdt_status_t st = RDT_OK;

    if (work->p2p_state == RECV_MATCHED) st = answer(peer, work);
    /* With no data to come, it is the answer that must be on its way before anybody stops polling. */
    if (work->p2p_state == RECV_MOVING && total_bytes(work) == 0 && is_flushed(peer, work))
        finish(link, RDT_OK, "");
    return st;
}

typedef rdt_status_t (*step_fn)(rdt_peer_state_t *, rdt_work_t **);

static rdt_status_t step_list(rdt_peer_state_t *peer, rdt_work_t **link, step_fn step)
{
    while (*link != NULL) {
        rdt_work_t *work = *link;
        rdt_status_t st = step(peer, link);

        if (st != RDT_OK) return st;
        if (*link == work) link = &work->next;
    }
    return RDT_OK;
}

/* -- what comes in -- */

static rdt_work_t **find(rdt_work_t **link, uint32_t state, uint64_t seq)
{
    while (*link != NULL && ((*link)->p2p_state != state || (*link)->seq != seq))
        link = &(*link)->next;
    return link;
}

static void protocol_error(rdt_comm_t *comm, const rdt_peer_state_t *peer, const rdt_hdr_t *hdr)
{
    rdt_comm_latch(comm, RDT_PROTOCOL, "rank %u sent message kind %u, which rank %u did not expect",
                   peer->conn->peer, hdr->kind, comm->cfg.rank);
}

static rdt_work_t **find_waiting(rdt_work_t **link, int32_t tag)
{
    while (*link != NULL && ((*link)->p2p_state != RECV_WAITING || (*link)->call.tag != tag))
        link = &(*link)->next;
    return link;
}

static void keep_rts(rdt_comm_t *comm, rdt_peer_state_t *peer, const rdt_hdr_t *hdr,
                     const rdt_msg_t *msg)
{
    rdt_rts_t *rts = malloc(sizeof(*rts) + msg->len), **link = &peer->rts;

    if (rts == NULL) {
        rdt_comm_latch(comm, RDT_NO_MEMORY, "rank %u: out of memory for an announced send",
                       comm->cfg.rank);
        return;
    }
    *rts = (rdt_rts_t){.order = ++comm->rts_arrived, .hdr = *hdr};
    if (msg->len > 0) memcpy(rts->data, msg->data, msg->len);
    while (*link != NULL)
        link = &(*link)->next;
    *link = rts;
}

/* What comes along is all there is, and nothing comes along unless it is said. */
static bool is_whole(const rdt_hdr_t *hdr, const rdt_msg_t *msg)
{
    if (hdr->kind == RDT_KIND_RTS) return msg->len == 0;
    return hdr->count <= EAGER_BYTES &&
           msg->len == hdr->count * rdt_dtype_bytes((rdt_dtype_t)hdr->dtype);
}

/* Of the recvs that it matches, from this peer or from any, the one that was posted first. */
static void on_rts(rdt_comm_t *comm, rdt_peer_state_t *peer, const rdt_hdr_t *hdr,
                   const rdt_msg_t *msg)
{
    rdt_work_t *work = *find_waiting(&peer->recvs, hdr->tag);
    rdt_work_t **any_link = find_waiting(&comm->any_recvs, hdr->tag), *any = *any_link;

    if (!is_whole(hdr, msg)) {
        protocol_error(comm, peer, hdr);
        return;
    }
    if (any != NULL && (work == NULL || any->p2p_order < work->p2p_order)) {
        *any_link = any->next;
        work = any;
    }
    if (work != NULL)
        match(comm, peer, work, hdr, msg->data);
    else
        keep_rts(comm, peer, hdr, msg);
}

static void on_cts(rdt_comm_t *comm, rdt_peer_state_t *peer, const rdt_hdr_t *hdr)
{
    rdt_work_t *work = *find(&peer->sends, SEND_ANNOUNCED, hdr->seq);

    if (work == NULL) {
        protocol_error(comm, peer, hdr);
        return;
    }
    work->p2p_state = SEND_MOVING;
    work->p2p_id = hdr->id;
    work->p2p_at = peer->conn->places ? hdr->out_at : 0;
    rdt_record_started_st(work);
}

static void on_data(rdt_comm_t *comm, rdt_peer_state_t *peer, const rdt_hdr_t *hdr,
                    const rdt_msg_t *msg)
{
    rdt_work_t **link = find(&peer->recvs, RECV_MOVING, hdr->id);
    rdt_work_t *work = *link;

    if (work == NULL || msg->len > total_bytes(work) - work->p2p_done ||
        (msg->data == NULL) != (work->p2p_at != 0)) {
        protocol_error(comm, peer, hdr);
        return;
    }
    if (msg->data != NULL) {
        memcpy((uint8_t *)work->call.out + work->p2p_done, msg->data, msg->len);
        rdt_count_bytes(&peer->conn->staged_bytes, msg->len);
    }
    work->p2p_done += msg->len;
    if (work->p2p_done == total_bytes(work)) finish(link, RDT_OK, "");
}

static void on_error(rdt_comm_t *comm, const rdt_peer_state_t *peer, const rdt_msg_t *msg)
{
    int len = msg->len < RDT_ERROR_BYTES / 2 ? (int)msg->len : RDT_ERROR_BYTES / 2;

    rdt_comm_latch(comm, RDT_REMOTE_ERROR, "rank %u reports: %.*s", peer->conn->peer, len,
                   (const char *)msg->data);
}

/* Only the data of a recv is put in place: anything else that was is none of ours. */
static uint32_t kind_of(const rdt_msg_t *msg, const rdt_hdr_t *hdr)
{
    bool was_put = msg->data == NULL && msg->len > 0;

    return was_put && hdr->kind != RDT_KIND_DATA ? UINT32_MAX : hdr->kind;
}

static void handle(rdt_comm_t *comm, rdt_peer_state_t *peer, const rdt_msg_t *msg)
{
    rdt_hdr_t hdr;

    memcpy(&hdr, msg->hdr, sizeof(hdr));
    switch (kind_of(msg, &hdr)) {
    case RDT_KIND_RTS:
    case RDT_KIND_EAGER:
        on_rts(comm, peer, &hdr, msg);
        break;
    case RDT_KIND_TAKEN:
        peer->eager_cost -= hdr.count < peer->eager_cost ? hdr.count : peer->eager_cost;
        break;
    case RDT_KIND_CTS:
        on_cts(comm, peer, &hdr);
        break;
    case RDT_KIND_DATA:
        on_data(comm, peer, &hdr, msg);
        break;
    case RDT_KIND_BYE:
        peer->bye = true;
        peer->bye_seq = hdr.seq;
        break;
    case RDT_KIND_ERROR:
        on_error(comm, peer, msg);
        break;
    default:
        protocol_error(comm, peer, &hdr);
    }
}

/* HOT. Returns the lane's state after the last message: AGAIN, or why it is over. */
static rdt_status_t receive(rdt_comm_t *comm, rdt_peer_state_t *peer, bool *moved)
{
    rdt_msg_t msg;
    rdt_status_t st;

    while ((st = peer->conn->ops->peek(peer->conn, RDT_LANE_P2P, &msg)) == RDT_OK) {
        handle(comm, peer, &msg);
        peer->conn->ops->release(peer->conn, RDT_LANE_P2P);
        *moved = true;
    }
    return st;
}

void rdt_p2p_last_words_st(rdt_comm_t *comm, uint32_t rank)
{
    bool moved;

    (void)receive(comm, &comm->peers[rank], &moved);
}

static void lost(rdt_comm_t *comm, rdt_peer_state_t *peer)
{
    char call[RDT_CALL_TEXT_BYTES];
    const rdt_work_t *work = peer->recvs != NULL ? peer->recvs : peer->sends;

    rdt_describe_work(work != NULL ? work : comm->any_recvs, call);
    rdt_comm_lost_st(comm, peer->conn->peer, call);
}

/* Works that the last message finished end well, whatever the state of the connection is now. */
static void step_works(rdt_comm_t *comm, rdt_peer_state_t *peer, rdt_status_t lane)
{
    rdt_status_t st = step_list(peer, &peer->recvs, step_recv);

    if (st >= 0) st = step_list(peer, &peer->sends, step_send);
    if (peer->sends == NULL && peer->recvs == NULL) return;
    if (st < 0 || lane < 0 || peer->bye) lost(comm, peer);
}

static void step_peer(rdt_comm_t *comm, rdt_peer_state_t *peer, rdt_status_t lane)
{
    /* The one that died may be the one that would have sent. */
    if (comm->any_recvs != NULL && lane < 0 && !peer->bye) lost(comm, peer);
    if (peer->sends != NULL || peer->recvs != NULL) step_works(comm, peer, lane);
    tell_taken(peer);
}

/* A recv from any rank ends when there is none left. */
static void check_any_recvs(rdt_comm_t *comm)
{
    rdt_peer_state_t *last = NULL;

    for (uint32_t r = 0; r < comm->cfg.world; r++) {
        if (comm->peers[r].conn == NULL) continue;
        last = &comm->peers[r];
        if (!last->bye) return;
    }
    lost(comm, last);
}

/* True when something moved. */
bool rdt_p2p_step_st(rdt_comm_t *comm)
{
    bool moved = false;

    for (uint32_t r = 0; r < comm->cfg.world; r++) {
        rdt_peer_state_t *peer = &comm->peers[r];

        uint64_t posted;

        if (peer->conn == NULL) continue;
        posted = peer->conn->posted[RDT_LANE_P2P];
        step_peer(comm, peer, receive(comm, peer, &moved));
        moved |= peer->conn->posted[RDT_LANE_P2P] != posted;
    }
    if (comm->any_recvs != NULL) check_any_recvs(comm);
    return moved;
}

static void check_deadlines(rdt_comm_t *comm, const rdt_work_t *work, uint64_t now_ns)
{
    char call[RDT_CALL_TEXT_BYTES];

    for (; work != NULL; work = work->next) {
        if (now_ns < work->deadline_ns) continue;
        rdt_describe_work(work, call);
        rdt_comm_latch(comm, RDT_TIMEOUT,
                       "%s did not finish within its timeout of %.1f s on rank %u", call,
                       (double)work->call.timeout_ns * 1e-9, comm->cfg.rank);
    }
}

void rdt_p2p_deadlines_st(rdt_comm_t *comm, uint64_t now_ns)
{
    check_deadlines(comm, comm->any_recvs, now_ns);
    for (uint32_t r = 0; r < comm->cfg.world; r++) {
        check_deadlines(comm, comm->peers[r].sends, now_ns);
        check_deadlines(comm, comm->peers[r].recvs, now_ns);
    }
}

static void finish_all(rdt_work_t **list, rdt_status_t status, const char *text)
{
    while (*list != NULL)
        finish(list, status, text);
}

void rdt_p2p_fail_st(rdt_comm_t *comm, rdt_status_t status, const char *text)
{
    finish_all(&comm->any_recvs, status, text);
    for (uint32_t r = 0; r < comm->cfg.world; r++) {
        finish_all(&comm->peers[r].sends, status, text);
        finish_all(&comm->peers[r].recvs, status, text);
    }
}
