/* SPDX-License-Identifier: Apache-2.0 */
/* What comes in, and what the NIC says of what went out. */
#include <string.h>

#include "transport/verbs.h"

#define BATCH 16 /* completions taken at a time, and receives posted at a time */

static __attribute__((noinline)) void malformed(verbs_conn_t *conn, const char *what)
{
    rdt_verbs_fail(conn, 0, RDT_PROTOCOL, "%s", what);
}

/* HOT. What no longer needs its source, in the order of sending. */
void rdt_verbs_flush(verbs_conn_t *conn, rdt_lane_t lane_id)
{
    verbs_lane_t *lane = &conn->lanes[lane_id];

    while (lane->ring_flushed < lane->ring_posted) {
        const verbs_sent_t *sent = &lane->ring[lane->ring_flushed % VERBS_MAX_SENT];

        if (!sent->is_free && (int32_t)(conn->qps[sent->rail].done - sent->seq) < 0) return;
        if (sent->counts) conn->base.flushed[lane_id]++;
        lane->ring_flushed++;
    }
}

/* HOT. said: consumed messages modulo 4096. With several rails an older word may come after a newer one. */
static bool take_credit(verbs_lane_t *lane, uint32_t said)
{
    uint64_t num = (said - lane->acked) & 0xfffu;

    if (num >= 0x800u) return true;
    if (num > lane->sent - lane->acked) return false;
    lane->acked += num;
    return true;
}

/* HOT. */
static bool take_slot(verbs_lane_t *lane, uint32_t slot)
{
    uint64_t ahead = (slot - lane->arrived) % VERBS_SLOTS;

    if (slot >= VERBS_SLOTS || lane->arrived + ahead >= lane->consumed + VERBS_SLOTS ||
        (lane->early & 1u << slot) != 0)
        return false;
    lane->early |= 1u << slot;
    while ((lane->early & 1u << lane->arrived % VERBS_SLOTS) != 0) {
        lane->early &= ~(1u << lane->arrived % VERBS_SLOTS);
        lane->arrived++;
    }
    return true;
}

/* HOT. */
static void take_arrival(verbs_conn_t *conn, uint32_t rail, uint32_t imm)
{
    verbs_ctx_t *ctx = (verbs_ctx_t *)conn->base.ctx;
    verbs_qp_t *qp = &conn->qps[rail];
    uint32_t what = imm >> 30;

    if (!take_credit(&conn->lanes[RDT_LANE_COLL], imm >> 12) ||
        !take_credit(&conn->lanes[RDT_LANE_P2P], imm))
        malformed(conn, "it says to have consumed more than was sent");
    else if (what > VERBS_IMM_CREDIT ||
             (what != VERBS_IMM_CREDIT && !take_slot(&conn->lanes[what], imm >> 24 & 0x3f)))
        malformed(conn, "it wrote to a slot that is not free");
    if (++qp->recvs_due < BATCH) return;
    if (rdt_verbs_post_recvs(ctx, conn, rail, qp->recvs_due) != RDT_OK)
        rdt_verbs_fail(conn, rail, RDT_IO_ERROR, "receives cannot be posted");
    qp->recvs_due = 0;
}

/* HOT. */
static void take_completion(verbs_ctx_t *ctx, uint32_t rail, const struct ibv_wc *wc)
{
    verbs_conn_t *conn = &ctx->conns[VERBS_WR_CONN(wc->wr_id)];

    conn->is_active = true;
    if (__builtin_expect(wc->status != IBV_WC_SUCCESS, 0)) {
        rdt_verbs_failed_wc(conn, rail, wc->status);
        return;
    }
    if ((wc->wr_id & VERBS_WR_RECV) != 0) {
        take_arrival(conn, rail, ntohl(wc->imm_data));
        return;
    }
    conn->qps[rail].done = (uint32_t)wc->wr_id;
    for (int l = 0; l < RDT_NUM_LANES; l++)
        rdt_verbs_flush(conn, (rdt_lane_t)l);
}

static void send_due_credits(verbs_ctx_t *ctx)
{
    for (uint32_t i = 0; i < ctx->num_conns; i++)
        if (ctx->conns[i].owes_credits && rdt_verbs_send_credits(&ctx->conns[i])) {
            ctx->conns[i].owes_credits = false;
            ctx->num_owing--;
        }
}

/* To look costs system calls, so for peers whom this rank does not need it is done seldom. */
static __attribute__((noinline)) void look_for_peers(verbs_ctx_t *ctx)
{
    if (ctx->num_joining > 0 || rdt_lazy_is_busy(&ctx->lazy) ||
        ++ctx->num_polls % VERBS_POLLS_PER_LOOK == 0)
        rdt_verbs_join_some(ctx);
}

/* HOT. */
void rdt_verbs_poll(rdt_ctx_t *base)
{
    verbs_ctx_t *ctx = (verbs_ctx_t *)base;

    if (ctx->lazy.num_unmet > 0 || ctx->num_joining > 0) look_for_peers(ctx);
    for (uint32_t r = 0; r < ctx->num_rails; r++) {
        struct ibv_wc wcs[BATCH];
        int num;

        do {
            num = ctx->rails[r].dev->api.poll_cq(ctx->rails[r].cq, BATCH, wcs);
            for (int i = 0; i < num; i++)
                take_completion(ctx, r, &wcs[i]);
        } while (num == BATCH);
        if (__builtin_expect(num < 0, 0)) rdt_verbs_poll_failed(ctx, r);
    }
    if (ctx->num_owing > 0) send_due_credits(ctx);
}

static const verbs_head_t *head_of(const verbs_conn_t *conn, int lane)
{
    const uint8_t *slot = rdt_verbs_slot(conn, false, lane, conn->lanes[lane].consumed);

    return (const verbs_head_t *)(const void *)(slot + VERBS_DATA_OFFSET) - 1;
}

/* Keys are for this transport, not for who peeks. False when the message is malformed. */
static bool consume_keys(verbs_conn_t *conn, rdt_lane_t lane, const void *keys, uint32_t len)
{
    if (!rdt_verbs_take_keys(conn, keys, len)) return false;
    rdt_verbs_release(&conn->base, lane);
    return true;
}

/* What the peer may have said waits, too, until this rank has heard that the two are joined. */
static __attribute__((noinline)) rdt_status_t await_peer(verbs_conn_t *conn, rdt_lane_t lane_id)
{
    if (lane_id == RDT_LANE_COLL) rdt_verbs_need(conn, false);
    return conn->base.status != RDT_OK ? conn->base.status : RDT_AGAIN;
}

/* HOT. */
rdt_status_t rdt_verbs_peek(rdt_conn_t *base, rdt_lane_t lane_id, rdt_msg_t *msg_p)
{
    verbs_conn_t *conn = (verbs_conn_t *)base;
    verbs_lane_t *lane = &conn->lanes[lane_id];

    if (__builtin_expect(base->unjoined, 0)) return await_peer(conn, lane_id);
    while (lane->consumed < lane->arrived) {
        const verbs_head_t *head = head_of(conn, lane_id);
        /* Read once: the peer can write here again. */
        uint32_t len = __atomic_load_n(&head->len, __ATOMIC_RELAXED);
        uint16_t kind = __atomic_load_n(&head->kind, __ATOMIC_RELAXED);

        if (len > base->ctx->cfg.chunk_bytes || kind > VERBS_KIND_KEYS ||
            (kind == VERBS_KIND_KEYS && !consume_keys(conn, lane_id, head + 1, len))) {
            malformed(conn, "its message is not understood");
            return base->status;
        }
        if (kind == VERBS_KIND_KEYS) continue;
        *msg_p = (rdt_msg_t){
            .hdr = head->hdr, .data = kind == VERBS_KIND_DATA ? head + 1 : NULL, .len = len};
        return RDT_OK;
    }
    return base->status != RDT_OK ? base->status : RDT_AGAIN;
}

/* HOT. Half of a lane's slots: seldom enough to be cheap, soon enough to keep the sender going. */
void rdt_verbs_release(rdt_conn_t *base, rdt_lane_t lane_id)
{
    verbs_conn_t *conn = (verbs_conn_t *)base;
    verbs_ctx_t *ctx = (verbs_ctx_t *)base->ctx;
    verbs_lane_t *lane = &conn->lanes[lane_id];
    const verbs_head_t *head = head_of(conn, lane_id);

    if (head->kind != VERBS_KIND_KEYS) rdt_count_bytes(&base->received_bytes, head->len);
    lane->consumed++;
    if (lane->consumed - lane->reported < VERBS_SLOTS / 2 || conn->owes_credits) return;
    if (rdt_verbs_send_credits(conn)) return;
    conn->owes_credits = true;
    ctx->num_owing++;
}
