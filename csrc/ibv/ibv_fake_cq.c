/* SPDX-License-Identifier: Apache-2.0 */
/* Completion queues and channels of the fake. */
#include <errno.h>
#include <stdlib.h>

#include "ibv/ibv_fake_private.h"

/* -- channels -- */

struct ibv_comp_channel *rdt_ibv_fake_create_comp_channel(struct ibv_context *context)
{
    fake_channel_t *channel = calloc(1, sizeof(*channel));

    if (channel == NULL) return NULL;
    if (!rdt_ibv_fake_events_open(&channel->events)) {
        free(channel);
        return NULL;
    }
    channel->ibv = (struct ibv_comp_channel){.context = context, .fd = channel->events.fd};
    pthread_mutex_lock(&rdt_ibv_fake_lock);
    ((fake_ctx_t *)context)->num_users++;
    rdt_ibv_fake_count(1);
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    return &channel->ibv;
}

int rdt_ibv_fake_destroy_comp_channel(struct ibv_comp_channel *ibv)
{
    fake_channel_t *channel = (fake_channel_t *)ibv;
    bool busy;

    pthread_mutex_lock(&rdt_ibv_fake_lock);
    busy = ibv->refcnt > 0;
    if (!busy) {
        ((fake_ctx_t *)ibv->context)->num_users--;
        rdt_ibv_fake_count(-1);
    }
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    if (busy) return EBUSY;
    rdt_ibv_fake_events_close(&channel->events);
    free(channel);
    return 0;
}

int rdt_ibv_fake_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq,
                              void **cq_context)
{
    struct ibv_async_event event;

    if (rdt_ibv_fake_wait(&((fake_channel_t *)channel)->events, &event) < 0) return -1;
    *cq = event.element.cq;
    *cq_context = event.element.cq->cq_context;
    ((fake_cq_t *)event.element.cq)->unacked_comp++;
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    return 0;
}

void rdt_ibv_fake_ack_cq_events(struct ibv_cq *cq, unsigned num_events)
{
    pthread_mutex_lock(&rdt_ibv_fake_lock);
    ((fake_cq_t *)cq)->unacked_comp -= num_events;
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
}

/* -- queues -- */

struct ibv_cq *rdt_ibv_fake_create_cq(struct ibv_context *context, int cqe, void *cq_context,
                                      struct ibv_comp_channel *channel, int comp_vector)
{
    fake_ctx_t *ctx = (fake_ctx_t *)context;
    fake_cq_t *cq;

    if (cqe < 1 || (uint32_t)cqe > ctx->script.max_cqe || comp_vector != 0 || ctx->dead) {
        errno = ctx->dead ? EIO : EINVAL;
        return NULL;
    }
    cq = calloc(1, sizeof(*cq));
    if (cq == NULL) return NULL;
    cq->ring = calloc((size_t)cqe, sizeof(*cq->ring));
    if (cq->ring == NULL) {
        free(cq);
        return NULL;
    }
    cq->ibv = (struct ibv_cq){
        .context = context, .channel = channel, .cq_context = cq_context, .cqe = cqe};
    pthread_mutex_lock(&rdt_ibv_fake_lock);
    if (channel != NULL) channel->refcnt++;
    ctx->num_users++;
    rdt_ibv_fake_count(1);
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    return &cq->ibv;
}

/* Still with the lock, in which QPs, events and readers were seen to be gone. */
static void remove_cq(fake_cq_t *cq)
{
    fake_ctx_t *ctx = (fake_ctx_t *)cq->ibv.context;

    rdt_ibv_fake_drop(&ctx->async, cq);
    if (cq->ibv.channel != NULL) {
        rdt_ibv_fake_drop(&((fake_channel_t *)cq->ibv.channel)->events, cq);
        cq->ibv.channel->refcnt--;
    }
    ctx->num_users--;
    rdt_ibv_fake_count(-1);
    free(cq->ring);
    free(cq);
}

int rdt_ibv_fake_destroy_cq(struct ibv_cq *ibv)
{
    fake_cq_t *cq = (fake_cq_t *)ibv;
    int st;

    pthread_mutex_lock(&rdt_ibv_fake_lock);
    st = cq->num_qps > 0 ? EBUSY : 0;
    if (st == 0) st = rdt_ibv_fake_wait_acked(&cq->unacked_comp);
    if (st == 0) st = rdt_ibv_fake_wait_acked(&cq->unacked_async);
    if (st == 0) remove_cq(cq);
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    return st;
}

int rdt_ibv_fake_req_notify_cq(struct ibv_cq *ibv, int solicited_only)
{
    fake_cq_t *cq = (fake_cq_t *)ibv;

    if (ibv->channel == NULL) return EINVAL;
    pthread_mutex_lock(&rdt_ibv_fake_lock);
    /* Armed for every completion already: the wider one counts. What came before tells nothing. */
    cq->solicited_only = solicited_only && (!cq->armed || cq->solicited_only);
    cq->armed = true;
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    return 0;
}

static void overrun(fake_cq_t *cq)
{
    struct ibv_async_event event = {.element.cq = &cq->ibv, .event_type = IBV_EVENT_CQ_ERR};

    if (cq->overrun) return;
    cq->overrun = true;
    rdt_ibv_fake_push(&((fake_ctx_t *)cq->ibv.context)->async, event);
}

void rdt_ibv_fake_complete(fake_cq_t *cq, const fake_cqe_t *cqe, bool solicited)
{
    fake_ctx_t *ctx = (fake_ctx_t *)cq->ibv.context;
    struct ibv_async_event event = {.element.cq = &cq->ibv};
    uint32_t depth = (uint32_t)cq->ibv.cqe;

    if (cq->num == depth || cq->overrun ||
        rdt_ibv_fake_rule(&ctx->script, FAKE_OVERRUN, ++ctx->num_completions) != 0) {
        overrun(cq);
        return;
    }
    cq->ring[(cq->head + cq->num++) % depth] = *cqe;
    if (!cq->armed || (cq->solicited_only && !solicited && cqe->wc.status == IBV_WC_SUCCESS))
        return;
    cq->armed = false;
    rdt_ibv_fake_push(&((fake_channel_t *)cq->ibv.channel)->events, event);
}

void rdt_ibv_fake_forget(fake_cq_t *cq, const fake_qp_t *qp)
{
    uint32_t depth = (uint32_t)cq->ibv.cqe, num = cq->num;

    cq->num = 0;
    for (uint32_t i = 0; i < num; i++) {
        const fake_cqe_t *cqe = &cq->ring[(cq->head + i) % depth];

        if (cqe->qp != qp) cq->ring[(cq->head + cq->num++) % depth] = *cqe;
    }
}

int rdt_ibv_fake_poll_cq(struct ibv_cq *ibv, int num_entries, struct ibv_wc *wc)
{
    fake_cq_t *cq = (fake_cq_t *)ibv;
    int num = 0;

    pthread_mutex_lock(&rdt_ibv_fake_lock);
    rdt_ibv_fake_run((fake_ctx_t *)ibv->context, true);
    for (; num < num_entries && cq->num > 0 && !cq->overrun; num++) {
        const fake_cqe_t *cqe = &cq->ring[cq->head];
        fake_order_t *order = cqe->of_recv ? &cqe->qp->recvs : &cqe->qp->sends;

        wc[num] = cqe->wc;
        order->retired = cqe->index + 1;
        cq->head = (cq->head + 1) % (uint32_t)ibv->cqe;
        cq->num--;
    }
    if (cq->overrun) num = -EIO;
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    return num;
}
