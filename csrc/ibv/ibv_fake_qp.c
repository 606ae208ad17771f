/* SPDX-License-Identifier: Apache-2.0 */
/* Queue pairs of the fake: states, and what is refused when it is posted. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ibv/ibv_fake_private.h"

static uint32_t num_qps; /* ever, of the process */

static fake_ctx_t *ctx_of(const fake_qp_t *qp)
{
    return (fake_ctx_t *)qp->ibv.context;
}

/* -- making one -- */

/* 0, or why not; on success cap is what is granted. */
static int grant(const fake_ctx_t *ctx, struct ibv_qp_cap *cap)
{
    const fake_script_t *s = &ctx->script;

    if (ctx->dead) return EIO;
    if (cap->max_send_wr > s->max_qp_wr || cap->max_recv_wr > s->max_qp_wr) return EINVAL;
    if (cap->max_send_sge > s->max_sge || cap->max_recv_sge > s->max_sge) return EINVAL;
    if (cap->max_inline_data > s->inline_grant) cap->max_inline_data = s->inline_grant;
    return cap->max_inline_data > s->inline_max ? EINVAL : 0;
}

static void free_qp(fake_qp_t *qp)
{
    free(qp->sges);
    free(qp->inlined);
    free(qp->sq);
    free(qp->rq);
    free(qp);
}

static fake_qp_t *new_qp(const struct ibv_qp_cap *cap)
{
    fake_qp_t *qp = calloc(1, sizeof(*qp));
    size_t depth = (size_t)cap->max_send_wr + 1; /* of 0 calloc may give NULL */

    if (qp == NULL) return NULL;
    qp->cap = *cap;
    qp->sges = calloc(depth, (cap->max_send_sge + 1) * sizeof(*qp->sges));
    qp->inlined = calloc(depth, cap->max_inline_data + 1);
    qp->sq = calloc(depth, sizeof(*qp->sq));
    qp->rq = calloc((size_t)cap->max_recv_wr + 1, sizeof(*qp->rq));
    if (qp->sges != NULL && qp->inlined != NULL && qp->sq != NULL && qp->rq != NULL) return qp;
    free_qp(qp);
    return NULL;
}

struct ibv_qp *rdt_ibv_fake_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
    fake_ctx_t *ctx = (fake_ctx_t *)pd->context;
    int refused = grant(ctx, &attr->cap);
    fake_qp_t *qp;

    if (attr->qp_type != IBV_QPT_RC || attr->send_cq == NULL || attr->recv_cq == NULL ||
        attr->srq != NULL)
        refused = EINVAL;
    if (refused != 0) {
        errno = refused;
        return NULL;
    }
    qp = new_qp(&attr->cap);
    if (qp == NULL) return NULL;
    qp->sq_sig_all = attr->sq_sig_all != 0;
    qp->ibv = (struct ibv_qp){.context = pd->context,
                              .qp_context = attr->qp_context,
                              .pd = pd,
                              .send_cq = attr->send_cq,
                              .recv_cq = attr->recv_cq,
                              .state = IBV_QPS_RESET,
                              .qp_type = IBV_QPT_RC};
    pthread_mutex_lock(&rdt_ibv_fake_lock);
    qp->ibv.qp_num = 0x100 + ++num_qps;
    qp->next = ctx->qps;
    ctx->qps = qp;
    ((fake_pd_t *)pd)->num_users++;
    ((fake_cq_t *)attr->send_cq)->num_qps++;
    ((fake_cq_t *)attr->recv_cq)->num_qps++;
    rdt_ibv_fake_count(1);
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    return &qp->ibv;
}

static void forget(fake_qp_t *qp)
{
    rdt_ibv_fake_forget((fake_cq_t *)qp->ibv.send_cq, qp);
    rdt_ibv_fake_forget((fake_cq_t *)qp->ibv.recv_cq, qp);
    qp->sends = qp->recvs = (fake_order_t){0};
    qp->established = false;
}

static void remove_qp(fake_qp_t *qp)
{
    fake_ctx_t *ctx = ctx_of(qp);
    fake_qp_t **link = &ctx->qps;

    forget(qp);
    rdt_ibv_fake_drop(&ctx->async, qp);
    while (*link != qp)
        link = &(*link)->next;
    *link = qp->next;
    ((fake_pd_t *)qp->ibv.pd)->num_users--;
    ((fake_cq_t *)qp->ibv.send_cq)->num_qps--;
    ((fake_cq_t *)qp->ibv.recv_cq)->num_qps--;
    rdt_ibv_fake_count(-1);
    free_qp(qp);
}

int rdt_ibv_fake_destroy_qp(struct ibv_qp *ibv)
{
    fake_qp_t *qp = (fake_qp_t *)ibv;
    int st;

    pthread_mutex_lock(&rdt_ibv_fake_lock);
    st = rdt_ibv_fake_wait_acked(&qp->unacked);
    if (st == 0) remove_qp(qp);
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    return st;
}

/* -- states -- */

#define TO_INIT (IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS)
#define TO_RTR                                                                                   \
    (IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | \
     IBV_QP_MIN_RNR_TIMER)
#define TO_RTS \
    (IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC)

/* The table of the InfiniBand specification, as far as RC without path migration goes. */
static bool may_move(enum ibv_qp_state from, enum ibv_qp_state to, int mask)
{
    static const struct {
        enum ibv_qp_state from, to;
        int needed, allowed;
    } moves[] = {
        {IBV_QPS_RESET, IBV_QPS_INIT, TO_INIT, 0},
        {IBV_QPS_INIT, IBV_QPS_INIT, 0, TO_INIT},
        {IBV_QPS_INIT, IBV_QPS_RTR, TO_RTR, IBV_QP_PKEY_INDEX | IBV_QP_ACCESS_FLAGS},
        {IBV_QPS_RTR, IBV_QPS_RTS, TO_RTS, IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER},
        {IBV_QPS_RTS, IBV_QPS_RTS, 0, IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER},
    };

    mask &= ~(IBV_QP_STATE | IBV_QP_CUR_STATE);
    if (to == IBV_QPS_ERR || to == IBV_QPS_RESET) return mask == 0;
    for (size_t i = 0; i < sizeof(moves) / sizeof(moves[0]); i++)
        if (moves[i].from == from && moves[i].to == to)
            return (mask & moves[i].needed) == moves[i].needed &&
                   (mask & ~(moves[i].needed | moves[i].allowed)) == 0;
    return false;
}

static bool is_in_range(const fake_ctx_t *ctx, const struct ibv_qp_attr *attr, int mask)
{
    const struct {
        int mask;
        uint32_t value, max;
    } fields[] = {{IBV_QP_PKEY_INDEX, attr->pkey_index, 0},
                  {IBV_QP_PORT, attr->port_num, 1},
                  {IBV_QP_RQ_PSN, attr->rq_psn, 0xffffff},
                  {IBV_QP_SQ_PSN, attr->sq_psn, 0xffffff},
                  {IBV_QP_DEST_QPN, attr->dest_qp_num, 0xffffff},
                  {IBV_QP_MAX_DEST_RD_ATOMIC, attr->max_dest_rd_atomic, 16},
                  {IBV_QP_MAX_QP_RD_ATOMIC, attr->max_rd_atomic, 16},
                  {IBV_QP_MIN_RNR_TIMER, attr->min_rnr_timer, 31},
                  {IBV_QP_TIMEOUT, attr->timeout, 31},
                  {IBV_QP_RETRY_CNT, attr->retry_cnt, 7},
                  {IBV_QP_RNR_RETRY, attr->rnr_retry, 7}};

    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        if ((mask & fields[i].mask) != 0 && fields[i].value > fields[i].max) return false;
    if ((mask & IBV_QP_PORT) != 0 && attr->port_num != 1) return false;
    if ((mask & IBV_QP_PATH_MTU) == 0) return true;
    return attr->path_mtu >= IBV_MTU_256 && 128u << attr->path_mtu <= ctx->script.mtu;
}

/* 0, or why not. */
static int check(const fake_qp_t *qp, const struct ibv_qp_attr *attr, int mask,
                 enum ibv_qp_state to)
{
    const fake_ctx_t *ctx = ctx_of(qp);
    int st = 0;

    if (ctx->dead) return EIO;
    if ((mask & IBV_QP_CUR_STATE) != 0 && attr->cur_qp_state != qp->ibv.state) return EINVAL;
    if (!may_move(qp->ibv.state, to, mask) || !is_in_range(ctx, attr, mask)) return EINVAL;
    if ((mask & IBV_QP_AV) == 0) return 0;
    st = rdt_ibv_fake_route(ctx, &attr->ah_attr);
    if (st != 0) return st;
    return (int)rdt_ibv_fake_rule(&ctx->script, FAKE_RTR, attr->ah_attr.grh.sgid_index);
}

static void keep(struct ibv_qp_attr *kept, const struct ibv_qp_attr *attr, int mask)
{
#define KEEP(bit, field) \
    if ((mask & (bit)) != 0) kept->field = attr->field
    KEEP(IBV_QP_PKEY_INDEX, pkey_index);
    KEEP(IBV_QP_PORT, port_num);
    KEEP(IBV_QP_ACCESS_FLAGS, qp_access_flags);
    KEEP(IBV_QP_AV, ah_attr);
    KEEP(IBV_QP_PATH_MTU, path_mtu);
    KEEP(IBV_QP_DEST_QPN, dest_qp_num);
    KEEP(IBV_QP_RQ_PSN, rq_psn);
    KEEP(IBV_QP_MAX_DEST_RD_ATOMIC, max_dest_rd_atomic);
    KEEP(IBV_QP_MIN_RNR_TIMER, min_rnr_timer);
    KEEP(IBV_QP_SQ_PSN, sq_psn);
    KEEP(IBV_QP_TIMEOUT, timeout);
    KEEP(IBV_QP_RETRY_CNT, retry_cnt);
    KEEP(IBV_QP_RNR_RETRY, rnr_retry);
    KEEP(IBV_QP_MAX_QP_RD_ATOMIC, max_rd_atomic);
#undef KEEP
}

void rdt_ibv_fake_error(fake_qp_t *qp)
{
    qp->ibv.state = IBV_QPS_ERR;
    rdt_ibv_fake_flush(qp);
}

int rdt_ibv_fake_modify_qp(struct ibv_qp *ibv, struct ibv_qp_attr *attr, int mask)
{
    fake_qp_t *qp = (fake_qp_t *)ibv;
    enum ibv_qp_state to;
    int st;

    pthread_mutex_lock(&rdt_ibv_fake_lock);
    to = (mask & IBV_QP_STATE) != 0 ? attr->qp_state : ibv->state;
    st = check(qp, attr, mask, to);
    if (st == 0) {
        keep(&qp->attr, attr, mask);
        if (to == IBV_QPS_RESET) forget(qp);
        ibv->state = to;
        if (to == IBV_QPS_ERR) rdt_ibv_fake_error(qp);
    }
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    return st;
}

int rdt_ibv_fake_query_qp(struct ibv_qp *ibv, struct ibv_qp_attr *attr, int mask,
                          struct ibv_qp_init_attr *init_attr)
{
    fake_qp_t *qp = (fake_qp_t *)ibv;

    (void)mask; /* a hint; everything is cheap here */
    pthread_mutex_lock(&rdt_ibv_fake_lock);
    *attr = qp->attr;
    attr->qp_state = attr->cur_qp_state = ibv->state;
    attr->cap = qp->cap;
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    *init_attr = (struct ibv_qp_init_attr){.qp_context = ibv->qp_context,
                                           .send_cq = ibv->send_cq,
                                           .recv_cq = ibv->recv_cq,
                                           .cap = qp->cap,
                                           .qp_type = IBV_QPT_RC,
                                           .sq_sig_all = qp->sq_sig_all};
    return 0;
}

/* -- posting -- */

static uint64_t length_of(const struct ibv_send_wr *wr)
{
    uint64_t bytes = 0;

    for (int i = 0; i < wr->num_sge; i++)
        bytes += wr->sg_list[i].length;
    return bytes;
}

static bool is_known(enum ibv_wr_opcode opcode)
{
    return opcode == IBV_WR_RDMA_WRITE || opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
}

/* 0, or why not. In the error state requests are taken, and flushed. */
static int refuse_send(fake_qp_t *qp, const struct ibv_send_wr *wr)
{
    fake_ctx_t *ctx = ctx_of(qp);

    if (qp->ibv.state != IBV_QPS_RTS && qp->ibv.state != IBV_QPS_ERR) return EINVAL;
    if (qp->sends.posted - qp->sends.retired == qp->cap.max_send_wr) return ENOMEM;
    if (!is_known(wr->opcode)) return EINVAL;
    if (wr->num_sge < 0 || (uint32_t)wr->num_sge > qp->cap.max_send_sge) return EINVAL;
    if ((wr->send_flags & IBV_SEND_INLINE) != 0 && length_of(wr) > qp->cap.max_inline_data)
        return EINVAL;
    return (int)rdt_ibv_fake_rule(&ctx->script, FAKE_POST, ++ctx->num_posts);
}

static uint32_t draw(fake_ctx_t *ctx)
{
    if (ctx->script.delay == 0) return 0;
    ctx->random = ctx->random * 1664525u + 1013904223u;
    return (ctx->random >> 8) % (ctx->script.delay + 1);
}

static void copy_inline(fake_wqe_t *wqe, const struct ibv_send_wr *wr)
{
    uint8_t *at = wqe->inlined;

    for (int i = 0; i < wr->num_sge; at += wr->sg_list[i++].length)
        if (wr->sg_list[i].length > 0)
            memcpy(at, (const void *)(uintptr_t)wr->sg_list[i].addr, wr->sg_list[i].length);
}

static void queue_send(fake_qp_t *qp, const struct ibv_send_wr *wr)
{
    size_t slot = qp->sends.posted++ % qp->cap.max_send_wr;
    fake_wqe_t *wqe = &qp->sq[slot];

    *wqe = (fake_wqe_t){.wr_id = wr->wr_id,
                        .remote_addr = wr->wr.rdma.remote_addr,
                        .opcode = wr->opcode,
                        .flags = wr->send_flags,
                        .imm = wr->imm_data,
                        .rkey = wr->wr.rdma.rkey,
                        .sges = &qp->sges[slot * qp->cap.max_send_sge],
                        .inlined = &qp->inlined[slot * qp->cap.max_inline_data],
                        .num_sge = (uint32_t)wr->num_sge,
                        .delay = draw(ctx_of(qp)),
                        .ack_delay = draw(ctx_of(qp))};
    if (wr->num_sge > 0) memcpy(wqe->sges, wr->sg_list, (size_t)wr->num_sge * sizeof(*wqe->sges));
    if ((wr->send_flags & IBV_SEND_INLINE) != 0) copy_inline(wqe, wr);
}

static void raise_after_post(fake_ctx_t *ctx, fake_qp_t *qp)
{
    for (uint32_t i = 0; i < ctx->script.num_rules; i++) {
        const fake_rule_t *rule = &ctx->script.rules[i];

        if (rule->what == FAKE_EVENT && rule->at == ctx->num_posts)
            rdt_ibv_fake_raise(ctx, qp, (enum ibv_event_type)rule->value);
    }
}

int rdt_ibv_fake_post_send(struct ibv_qp *ibv, struct ibv_send_wr *wr, struct ibv_send_wr **bad_wr)
{
    fake_qp_t *qp = (fake_qp_t *)ibv;
    int st = 0;

    pthread_mutex_lock(&rdt_ibv_fake_lock);
    for (; wr != NULL; wr = wr->next) {
        st = refuse_send(qp, wr);
        if (st != 0) break;
        queue_send(qp, wr);
        raise_after_post(ctx_of(qp), qp);
    }
    if (rdt_ibv_fake_run(ctx_of(qp), false)) rdt_ibv_fake_wake();
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    if (st != 0) *bad_wr = wr;
    return st;
}

/* 0, or why not. */
static int refuse_recv(fake_qp_t *qp, const struct ibv_recv_wr *wr)
{
    fake_ctx_t *ctx = ctx_of(qp);

    if (qp->ibv.state == IBV_QPS_RESET) return EINVAL;
    if (qp->recvs.posted - qp->recvs.retired == qp->cap.max_recv_wr) return ENOMEM;
    if (wr->num_sge < 0 || (uint32_t)wr->num_sge > qp->cap.max_recv_sge) return EINVAL;
    return (int)rdt_ibv_fake_rule(&ctx->script, FAKE_RECV, ++ctx->num_recvs);
}

int rdt_ibv_fake_post_recv(struct ibv_qp *ibv, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad_wr)
{
    fake_qp_t *qp = (fake_qp_t *)ibv;
    int st = 0;

    pthread_mutex_lock(&rdt_ibv_fake_lock);
    for (; wr != NULL; wr = wr->next) {
        st = refuse_recv(qp, wr);
        if (st != 0) break;
        qp->rq[qp->recvs.posted++ % qp->cap.max_recv_wr] = wr->wr_id;
    }
    if (ibv->state == IBV_QPS_ERR) rdt_ibv_fake_flush(qp);
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    if (st != 0) *bad_wr = wr;
    return st;
}
