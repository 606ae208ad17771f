/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a queue pair: made, joined to the peer's, moved to error. */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "transport/verbs.h"

#define HOP_LIMIT 255    /* RoCE v2 is routed: with 1, the first router drops it */
#define MIN_RNR_TIMER 12 /* 0.64 ms; credits make sure that a receive is always there */
#define RETRIES 6        /* not 7: rxe takes that for "without end", as it is for rnr_retry */
#define MAX_TIMEOUT 31
#define TIMEOUT_UNIT_NS 4096ull

static struct ibv_qp *create(verbs_rail_t *rail, verbs_qp_t *qp, uint32_t inline_bytes)
{
    uint32_t depth = VERBS_SEND_DEPTH;
    struct ibv_qp_init_attr attr = {.qp_context = (void *)&qp->event,
                                    .send_cq = rail->cq,
                                    .recv_cq = rail->cq,
                                    .qp_type = IBV_QPT_RC};
    struct ibv_qp *made;

    if (depth > (uint32_t)rail->dev->attr.max_qp_wr) depth = (uint32_t)rail->dev->attr.max_qp_wr;
    attr.cap = (struct ibv_qp_cap){.max_send_wr = depth,
                                   .max_recv_wr = VERBS_RECV_DEPTH,
                                   .max_send_sge = 2,
                                   .max_recv_sge = 1,
                                   .max_inline_data = inline_bytes};
    made = rail->dev->api.create_qp(rail->dev->pd, &attr);
    if (made != NULL) {
        qp->depth = depth;
        qp->inline_max = attr.cap.max_inline_data;
    }
    return made;
}

static rdt_status_t to_init(verbs_ctx_t *ctx, verbs_conn_t *conn, uint32_t r)
{
    const verbs_rail_t *rail = &ctx->rails[r];
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT,
                               .pkey_index = (uint16_t)ctx->options.pkey,
                               .port_num = rail->port,
                               .qp_access_flags = IBV_ACCESS_REMOTE_WRITE};
    int err = rail->dev->api.modify_qp(conn->qps[r].qp, &attr,
                                       IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
                                           IBV_QP_ACCESS_FLAGS);

    if (err != 0)
        return rdt_fail(RDT_IO_ERROR, "a queue pair of %s/%u to INIT (pkey index %u): %s",
                        rail->name, rail->port, ctx->options.pkey, strerror(err));
    return rdt_verbs_post_recvs(ctx, conn, r, VERBS_RECV_DEPTH);
}

rdt_status_t rdt_verbs_qp_create(verbs_ctx_t *ctx, verbs_conn_t *conn, uint32_t r)
{
    verbs_rail_t *rail = &ctx->rails[r];
    verbs_qp_t *qp = &conn->qps[r];

    /* Some providers give less inline than asked for, some refuse. */
    for (uint32_t bytes = VERBS_INLINE_BYTES; qp->qp == NULL; bytes /= 2) {
        qp->qp = create(rail, qp, bytes);
        if (qp->qp == NULL && bytes == 0)
            return rdt_fail(RDT_NO_MEMORY, "a queue pair of %s: %s", rail->name, strerror(errno));
    }
    return to_init(ctx, conn, r);
}

rdt_status_t rdt_verbs_qp_reset(verbs_ctx_t *ctx, verbs_conn_t *conn, uint32_t r)
{
    const verbs_rail_t *rail = &ctx->rails[r];
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RESET};
    int err = rail->dev->api.modify_qp(conn->qps[r].qp, &attr, IBV_QP_STATE);

    if (err != 0)
        return rdt_fail(RDT_IO_ERROR, "a queue pair of %s to RESET: %s", rail->name, strerror(err));
    return to_init(ctx, conn, r);
}

/* The longest timeout whose retries end in time; 0 would mean for ever. A NIC may take up to four
 * times as long as it says. */
static uint8_t timeout_of(uint64_t retry_ns)
{
    uint8_t timeout = 1;

    while (timeout < MAX_TIMEOUT && (TIMEOUT_UNIT_NS << (timeout + 1)) * (RETRIES + 1) <= retry_ns)
        timeout++;
    return timeout;
}

static struct ibv_ah_attr path_to(const verbs_ctx_t *ctx, const verbs_rail_t *rail,
                                  const verbs_qp_t *qp, const verbs_offer_rail_t *theirs)
{
    struct ibv_ah_attr ah = {.dlid = theirs->lid,
                             .sl = (uint8_t)ctx->options.sl,
                             .port_num = rail->port,
                             .is_global = rail->attr.link_layer == IBV_LINK_LAYER_ETHERNET ||
                                          theirs->lid == 0};

    if (ah.is_global) {
        ah.grh.dgid = qp->peer_gid;
        ah.grh.sgid_index = qp->gid_index;
        ah.grh.hop_limit = HOP_LIMIT;
        ah.grh.traffic_class = (uint8_t)ctx->options.tc;
    }
    return ah;
}

static int to_rtr(verbs_ctx_t *ctx, verbs_conn_t *conn, uint32_t r,
                  const verbs_offer_rail_t *theirs)
{
    const verbs_rail_t *rail = &ctx->rails[r];
    const verbs_qp_t *qp = &conn->qps[r];
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RTR,
                               .path_mtu = qp->mtu,
                               .dest_qp_num = theirs->qpn,
                               .rq_psn = theirs->psn,
                               .max_dest_rd_atomic = 1,
                               .min_rnr_timer = MIN_RNR_TIMER,
                               .ah_attr = path_to(ctx, rail, qp, theirs)};

    return rail->dev->api.modify_qp(qp->qp, &attr,
                                    IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                                        IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
                                        IBV_QP_MIN_RNR_TIMER);
}

static int to_rts(verbs_ctx_t *ctx, verbs_conn_t *conn, uint32_t r, uint32_t psn)
{
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RTS,
                               .timeout = timeout_of(ctx->retry_ns),
                               .retry_cnt = RETRIES,
                               .rnr_retry = 7, /* without end */
                               .sq_psn = psn,
                               .max_rd_atomic = 1};

    return ctx->rails[r].dev->api.modify_qp(conn->qps[r].qp, &attr,
                                            IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
                                                IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
                                                IBV_QP_MAX_QP_RD_ATOMIC);
}

rdt_status_t rdt_verbs_qp_join(verbs_ctx_t *ctx, verbs_conn_t *conn, uint32_t r,
                               const verbs_offer_rail_t *mine, const verbs_offer_rail_t *theirs)
{
    const verbs_rail_t *rail = &ctx->rails[r];
    const char *state = "RTR";
    int err = to_rtr(ctx, conn, r, theirs);

    if (err == 0) {
        state = "RTS";
        err = to_rts(ctx, conn, r, mine->psn);
    }
    if (err == 0) return RDT_OK;
    return rdt_fail(RDT_IO_ERROR, "a queue pair of %s/%u with GID index %u to %s: %s", rail->name,
                    rail->port, conn->qps[r].gid_index, state, strerror(err));
}

rdt_status_t rdt_verbs_post_recvs(verbs_ctx_t *ctx, verbs_conn_t *conn, uint32_t r, uint32_t num)
{
    const verbs_rail_t *rail = &ctx->rails[r];
    /* The last num of a chain whose end is fixed. */
    struct ibv_recv_wr *first = &conn->recv_wrs[VERBS_RECV_DEPTH - num], *bad;
    int err = rail->dev->api.post_recv(conn->qps[r].qp, first, &bad);

    if (err == 0) return RDT_OK;
    return rdt_fail(RDT_IO_ERROR, "posting receives to %s: %s", rail->name, strerror(err));
}

/* The NIC reads and writes nothing of this connection any more. */
void rdt_verbs_qp_error(verbs_ctx_t *ctx, verbs_conn_t *conn)
{
    for (uint32_t r = 0; r < VERBS_MAX_RAILS; r++) {
        struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};

        if (conn->qps[r].qp != NULL)
            ctx->rails[r].dev->api.modify_qp(conn->qps[r].qp, &attr, IBV_QP_STATE);
    }
}
