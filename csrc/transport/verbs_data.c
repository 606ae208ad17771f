/* SPDX-License-Identifier: Apache-2.0 */
/* What goes out. */
#include <assert.h>
#include <string.h>

#include "transport/verbs.h"

/* Work requests without a completion of their own, at most: the queue pair's room is known from
 * completions only. */
#define SIGNAL_EVERY 8
#define MAX_KEYS 16 /* in one message */

/* One message as it is put together: up to two work requests in one post. */
typedef struct verbs_post {
    verbs_conn_t *conn;
    uint32_t rail;
    struct ibv_send_wr wrs[2];
    struct ibv_sge sges[3];
    uint32_t num_wrs, num_sges;
    uint32_t num_copied; /* bytes of data that went to the slot's twin */
    bool is_free;        /* no source but our own memory */
    bool is_bulk;
} verbs_post_t;

static uint32_t own_key(const verbs_post_t *post)
{
    return post->conn->qps[post->rail].mr->lkey;
}

static void add_sge(verbs_post_t *post, const void *addr, uint32_t len, uint32_t lkey)
{
    post->sges[post->num_sges++] =
        (struct ibv_sge){.addr = (uintptr_t)addr, .length = len, .lkey = lkey};
    post->wrs[post->num_wrs - 1].num_sge++;
}

static struct ibv_send_wr *add_wr(verbs_post_t *post, enum ibv_wr_opcode opcode, uint64_t remote,
                                  uint32_t rkey)
{
    struct ibv_send_wr *wr = &post->wrs[post->num_wrs];

    *wr = (struct ibv_send_wr){.opcode = opcode, .sg_list = &post->sges[post->num_sges]};
    wr->wr.rdma.remote_addr = remote;
    wr->wr.rdma.rkey = rkey;
    if (post->num_wrs > 0) post->wrs[post->num_wrs - 1].next = wr;
    post->num_wrs++;
    return wr;
}

/* HOT. The last request of a post completes for all before it. */
static rdt_status_t ring(verbs_post_t *post)
{
    verbs_conn_t *conn = post->conn;
    verbs_qp_t *qp = &conn->qps[post->rail];
    struct ibv_send_wr *last = &post->wrs[post->num_wrs - 1], *bad;
    const verbs_ctx_t *ctx = (const verbs_ctx_t *)conn->base.ctx;
    int err;

    qp->posted += post->num_wrs;
    if (post->is_bulk) qp->bulk[qp->num_bulk++ % VERBS_BULK] = qp->posted;
    if (!post->is_free || post->is_bulk || qp->posted - qp->signaled >= SIGNAL_EVERY) {
        last->send_flags |= IBV_SEND_SIGNALED;
        last->wr_id = (uint64_t)conn->index << 32 | qp->posted;
        qp->signaled = qp->posted;
    }
    err = ctx->rails[post->rail].dev->api.post_send(qp->qp, post->wrs, &bad);
    if (__builtin_expect(err == 0, 1)) return RDT_OK;
    rdt_verbs_fail(conn, post->rail, RDT_IO_ERROR, "ibv_post_send: %s", strerror(err));
    return conn->base.status;
}

static uint32_t immediate(verbs_conn_t *conn, uint32_t what, uint64_t slot)
{
    for (int l = 0; l < RDT_NUM_LANES; l++)
        conn->lanes[l].reported = conn->lanes[l].consumed;
    return htonl(VERBS_IMM(what, slot % VERBS_SLOTS, conn->lanes[RDT_LANE_COLL].consumed,
                           conn->lanes[RDT_LANE_P2P].consumed));
}

static bool qp_has_room(const verbs_qp_t *qp, uint32_t num)
{
    return qp->posted - qp->done + num <= qp->depth;
}

/* HOT. Where the NIC may read the data: where it lies, or a copy in the slot's twin. */
static uint32_t readable(verbs_post_t *post, const void **data_p, uint32_t len, uint8_t *twin)
{
    verbs_ctx_t *ctx = (verbs_ctx_t *)post->conn->base.ctx;
    const verbs_extent_t *extent = rdt_verbs_extent(ctx, *data_p, len);

    if (extent != NULL) {
        post->is_free = false;
        return extent->lkey[post->rail];
    }
    memcpy(twin, *data_p, len);
    post->num_copied = len;
    *data_p = twin;
    return own_key(post);
}

/* HOT. The message with its data behind the head, to the slot. */
static void to_slot(verbs_post_t *post, verbs_head_t *head, const void *data, uint64_t remote)
{
    verbs_qp_t *qp = &post->conn->qps[post->rail];
    struct ibv_send_wr *wr = add_wr(post, IBV_WR_RDMA_WRITE_WITH_IMM, remote, qp->rkey);
    uint32_t len = head->kind == VERBS_KIND_PLACED ? 0 : head->len;

    if (sizeof(*head) + len <= qp->inline_max) {
        add_sge(post, head, sizeof(*head), own_key(post));
        if (len > 0) add_sge(post, data, len, 0); /* copied now: needs no key */
        wr->send_flags = IBV_SEND_INLINE;
        return;
    }
    if (len == 0) {
        add_sge(post, head, sizeof(*head), own_key(post));
        return;
    }
    {
        uint32_t lkey = readable(post, &data, len, (uint8_t *)(head + 1));

        if (data == head + 1) { /* in one piece */
            add_sge(post, head, (uint32_t)sizeof(*head) + len, lkey);
            return;
        }
        add_sge(post, head, sizeof(*head), own_key(post));
        add_sge(post, data, len, lkey);
    }
}

static void remember(verbs_conn_t *conn, rdt_lane_t lane_id, const verbs_post_t *post, bool counts)
{
    verbs_lane_t *lane = &conn->lanes[lane_id];

    lane->ring[lane->ring_posted++ % VERBS_MAX_SENT] =
        (verbs_sent_t){.rail = post->rail,
                       .seq = conn->qps[post->rail].posted,
                       .is_free = post->is_free,
                       .counts = counts};
    if (counts) {
        conn->base.posted[lane_id]++;
        rdt_count_bytes(&conn->base.staged_bytes, post->num_copied);
    }
    rdt_verbs_flush(conn, lane_id);
}

/* The oldest of the bulky messages is under way. Counted back from posted, as what is further back than
 * all that is under way may be from any time, and the counts wrap. */
static bool is_crowded(const verbs_qp_t *qp)
{
    return qp->posted - qp->bulk[qp->num_bulk % VERBS_BULK] < qp->posted - qp->done;
}

/* HOT. For a message of len bytes. */
static bool has_room(const verbs_conn_t *conn, const verbs_lane_t *lane, uint32_t len)
{
    const verbs_qp_t *qp = &conn->qps[lane->sent % conn->num_rails];

    if (len >= VERBS_BULK_BYTES && is_crowded(qp)) return false;
    return lane->sent - lane->acked < VERBS_SLOTS &&
           lane->ring_posted - lane->ring_flushed < VERBS_MAX_SENT && qp_has_room(qp, 2);
}

/* HOT. key: where the data goes, or NULL for the slot. */
static rdt_status_t post_message(verbs_conn_t *conn, rdt_lane_t lane_id, const verbs_head_t *what,
                                 const void *data, const verbs_key_t *key, uint64_t at)
{
    verbs_lane_t *lane = &conn->lanes[lane_id];
    verbs_post_t post = {.conn = conn,
                         .rail = (uint32_t)(lane->sent % conn->num_rails),
                         .is_free = true,
                         .is_bulk = what->len >= VERBS_BULK_BYTES};
    uint8_t *twin = rdt_verbs_slot(conn, true, lane_id, lane->sent) + VERBS_DATA_OFFSET;
    verbs_head_t *head = (verbs_head_t *)(void *)twin - 1;
    uint64_t inbox = (uint64_t)(rdt_verbs_slot(conn, false, lane_id, lane->sent) - conn->memory);
    rdt_status_t st;

    *head = *what;
    if (key != NULL) {
        uint32_t lkey;

        add_wr(&post, IBV_WR_RDMA_WRITE, key->addr + (at - 1 - key->at), key->rkey[post.rail]);
        lkey = readable(&post, &data, head->len, twin);
        add_sge(&post, data, head->len, lkey);
    }
    to_slot(&post, head, data, conn->peer_inbox + inbox + VERBS_DATA_OFFSET - sizeof(*head));
    post.wrs[post.num_wrs - 1].imm_data = immediate(conn, lane_id, lane->sent);
    st = ring(&post);
    if (st != RDT_OK) return st;
    lane->sent++;
    remember(conn, lane_id, &post, head->kind != VERBS_KIND_KEYS);
    return RDT_OK;
}

/* The extents registered since the lane was last told. OK once the peer knows them all. */
static __attribute__((noinline)) rdt_status_t tell_keys(verbs_conn_t *conn, rdt_lane_t lane_id)
{
    verbs_ctx_t *ctx = (verbs_ctx_t *)conn->base.ctx;
    verbs_lane_t *lane = &conn->lanes[lane_id];

    while (lane->num_told < ctx->num_extents) {
        uint32_t limit = ctx->base.cfg.chunk_bytes / sizeof(verbs_key_t), num = 0;
        uint32_t next = lane->num_told;
        verbs_key_t keys[MAX_KEYS];
        verbs_head_t head = {.kind = VERBS_KIND_KEYS};
        rdt_status_t st = RDT_OK;

        if (!has_room(conn, lane, 0)) return RDT_AGAIN;
        for (; next < ctx->num_extents && num < MAX_KEYS && num < limit; next++)
            if (!ctx->extents[next].failed) keys[num++] = rdt_verbs_key_of(&ctx->extents[next]);
        head.len = num * (uint32_t)sizeof(verbs_key_t);
        if (num > 0) st = post_message(conn, lane_id, &head, keys, NULL, 0);
        if (st != RDT_OK) return st;
        lane->num_told = next;
    }
    return RDT_OK;
}

/* HOT. */
static rdt_status_t may_send(verbs_conn_t *conn, rdt_lane_t lane_id, uint32_t len)
{
    const verbs_ctx_t *ctx = (const verbs_ctx_t *)conn->base.ctx;
    const verbs_lane_t *lane = &conn->lanes[lane_id];

    if (__builtin_expect(conn->base.status != RDT_OK, 0)) return conn->base.status;
    if (__builtin_expect(conn->base.unjoined, 0)) {
        rdt_verbs_need(conn, lane_id == RDT_LANE_P2P);
        return RDT_AGAIN;
    }
    if (__builtin_expect(lane->num_told < ctx->num_extents, 0)) {
        rdt_status_t st = tell_keys(conn, lane_id);

        if (st != RDT_OK) return st;
    }
    return has_room(conn, lane, len) ? RDT_OK : RDT_AGAIN;
}

/* HOT. */
rdt_status_t rdt_verbs_send(rdt_conn_t *base, rdt_lane_t lane, const void *hdr, const void *data,
                            uint32_t len)
{
    verbs_conn_t *conn = (verbs_conn_t *)base;
    verbs_head_t head = {.len = len, .kind = VERBS_KIND_DATA};
    rdt_status_t st = may_send(conn, lane, len);

    assert(len <= base->ctx->cfg.chunk_bytes);
    if (st != RDT_OK) return st;
    memcpy(head.hdr, hdr, RDT_HDR_BYTES);
    st = post_message(conn, lane, &head, data, NULL, 0);
    if (st == RDT_OK) rdt_count_bytes(&base->sent_bytes, len);
    return st;
}

static __attribute__((noinline)) rdt_status_t no_key(verbs_conn_t *conn)
{
    rdt_verbs_fail(conn, 0, RDT_PROTOCOL, "it exposes memory that it gave no key for");
    return conn->base.status;
}

/* HOT. */
rdt_status_t rdt_verbs_put(rdt_conn_t *base, rdt_lane_t lane, const void *hdr, const void *data,
                           uint32_t len, uint64_t at)
{
    verbs_conn_t *conn = (verbs_conn_t *)base;
    verbs_head_t head = {.len = len, .kind = VERBS_KIND_PLACED};
    rdt_status_t st = may_send(conn, lane, len);
    const verbs_key_t *key;

    assert(len <= base->ctx->cfg.chunk_bytes);
    if (st != RDT_OK) return st;
    key = rdt_verbs_key(conn, at, len);
    if (key == NULL) return no_key(conn);
    memcpy(head.hdr, hdr, RDT_HDR_BYTES);
    st = post_message(conn, lane, &head, data, key, at);
    if (st == RDT_OK) rdt_count_bytes(&base->sent_bytes, len);
    return st;
}

/* HOT. The CPU copies what goes inline, which it cannot where the memory is a device's. */
static bool goes_inline(verbs_conn_t *conn, const void *data, uint32_t len)
{
    verbs_ctx_t *ctx = (verbs_ctx_t *)conn->base.ctx;

    return len <= conn->qps[0].inline_max &&
           (ctx->num_adopted == 0 || rdt_verbs_adopted(ctx, data, len) == NULL);
}

/* HOT. */
rdt_status_t rdt_verbs_store(rdt_conn_t *base, rdt_lane_t lane_id, const void *data, uint32_t len,
                             uint64_t at)
{
    verbs_conn_t *conn = (verbs_conn_t *)base;
    const verbs_lane_t *lane = &conn->lanes[lane_id];
    verbs_qp_t *qp = &conn->qps[0];
    const verbs_key_t *key = rdt_verbs_key(conn, at, len);
    verbs_post_t post = {.conn = conn, .is_free = goes_inline(conn, data, len)};
    struct ibv_send_wr *wr;
    rdt_status_t st;
    uint32_t lkey = 0;

    if (__builtin_expect(base->status != RDT_OK, 0)) return base->status;
    if (__builtin_expect(base->unjoined, 0)) {
        rdt_verbs_need(conn, lane_id == RDT_LANE_P2P);
        return RDT_AGAIN;
    }
    if (__builtin_expect(key == NULL, 0)) return no_key(conn);
    if (lane->ring_posted - lane->ring_flushed >= VERBS_MAX_SENT || !qp_has_room(qp, 1))
        return RDT_AGAIN;
    if (!post.is_free) {
        const verbs_extent_t *extent = rdt_verbs_extent((verbs_ctx_t *)base->ctx, data, len);

        if (extent == NULL) return RDT_UNSUPPORTED;
        lkey = extent->lkey[0];
    }
    wr = add_wr(&post, IBV_WR_RDMA_WRITE, key->addr + (at - 1 - key->at), key->rkey[0]);
    add_sge(&post, data, len, lkey);
    if (post.is_free) wr->send_flags = IBV_SEND_INLINE;
    st = ring(&post);
    if (st != RDT_OK) return st;
    remember(conn, lane_id, &post, true);
    rdt_count_bytes(&base->sent_bytes, len);
    return RDT_OK;
}

/* True when it was sent, or need not be. */
bool rdt_verbs_send_credits(verbs_conn_t *conn)
{
    verbs_post_t post = {.conn = conn, .is_free = true};

    if (conn->base.status != RDT_OK) return true;
    if (!qp_has_room(&conn->qps[0], 1)) return false;
    add_wr(&post, IBV_WR_RDMA_WRITE_WITH_IMM, conn->peer_inbox, conn->qps[0].rkey);
    post.wrs[0].imm_data = immediate(conn, VERBS_IMM_CREDIT, 0);
    (void)ring(&post);
    return true;
}

void rdt_verbs_probe(verbs_conn_t *conn, uint32_t rail)
{
    verbs_post_t post = {.conn = conn, .rail = rail};

    if (!qp_has_room(&conn->qps[rail], 1)) return;
    add_wr(&post, IBV_WR_RDMA_WRITE, conn->peer_inbox, conn->qps[rail].rkey);
    (void)ring(&post);
}
