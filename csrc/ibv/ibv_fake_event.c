/* SPDX-License-Identifier: Apache-2.0 */
/* Events of the fake: asynchronous ones, and those of completion channels. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ibv/ibv_fake_private.h"

bool rdt_ibv_fake_events_open(fake_events_t *events)
{
    *events = (fake_events_t){.fd = eventfd(0, EFD_CLOEXEC)};
    return events->fd >= 0;
}

void rdt_ibv_fake_events_close(fake_events_t *events)
{
    while (events->first != NULL) {
        fake_event_t *event = events->first;

        events->first = event->next;
        free(event);
    }
    close(events->fd);
}

/* The counter is 1 while there are events, else 0: under the lock neither call can block. */
static void set_readable(const fake_events_t *events, bool readable)
{
    uint64_t one = 1;
    ssize_t done =
        readable ? write(events->fd, &one, sizeof(one)) : read(events->fd, &one, sizeof(one));

    (void)done; /* it fails only where somebody else reads the descriptor, or closed it */
}

void rdt_ibv_fake_push(fake_events_t *events, struct ibv_async_event event)
{
    fake_event_t **link = &events->first, *last = malloc(sizeof(*last));

    if (last == NULL) return; /* lost, as from a device whose queue of events is full */
    *last = (fake_event_t){.event = event};
    if (*link == NULL) set_readable(events, true);
    while (*link != NULL)
        link = &(*link)->next;
    *link = last;
}

static void unlink_event(fake_events_t *events, fake_event_t **link)
{
    fake_event_t *event = *link;

    *link = event->next;
    free(event);
    if (events->first == NULL) set_readable(events, false);
}

void rdt_ibv_fake_drop(fake_events_t *events, const void *object)
{
    fake_event_t **link = &events->first;

    while (*link != NULL) {
        if ((*link)->event.element.cq == object)
            unlink_event(events, link);
        else
            link = &(*link)->next;
    }
}

int rdt_ibv_fake_wait(fake_events_t *events, struct ibv_async_event *event_p)
{
    struct pollfd pfd = {.fd = events->fd, .events = POLLIN};

    for (;;) {
        pthread_mutex_lock(&rdt_ibv_fake_lock);
        if (events->first != NULL) break;
        pthread_mutex_unlock(&rdt_ibv_fake_lock);
        if ((fcntl(events->fd, F_GETFL) & O_NONBLOCK) != 0) {
            errno = EAGAIN;
            return -1;
        }
        if (poll(&pfd, 1, -1) < 0) return -1;
    }
    *event_p = events->first->event;
    unlink_event(events, &events->first);
    return 0;
}

/* -- asynchronous events -- */

static bool is_of_qp(enum ibv_event_type type)
{
    switch (type) {
    case IBV_EVENT_QP_FATAL:
    case IBV_EVENT_QP_REQ_ERR:
    case IBV_EVENT_QP_ACCESS_ERR:
    case IBV_EVENT_COMM_EST:
    case IBV_EVENT_SQ_DRAINED:
    case IBV_EVENT_PATH_MIG:
    case IBV_EVENT_PATH_MIG_ERR:
    case IBV_EVENT_QP_LAST_WQE_REACHED:
        return true;
    default:
        return false;
    }
}

static void take_effect(fake_ctx_t *ctx, fake_qp_t *qp, enum ibv_event_type type)
{
    if (type == IBV_EVENT_PORT_ERR) ctx->state = IBV_PORT_DOWN;
    if (type == IBV_EVENT_PORT_ACTIVE) ctx->state = IBV_PORT_ACTIVE;
    if (type == IBV_EVENT_CQ_ERR && qp != NULL) ((fake_cq_t *)qp->ibv.send_cq)->overrun = true;
    if (type == IBV_EVENT_QP_FATAL && qp != NULL) rdt_ibv_fake_error(qp);
    if (type != IBV_EVENT_DEVICE_FATAL) return;
    ctx->dead = true;
    for (fake_qp_t *each = ctx->qps; each != NULL; each = each->next)
        rdt_ibv_fake_error(each);
}

void rdt_ibv_fake_raise(fake_ctx_t *ctx, fake_qp_t *qp, enum ibv_event_type type)
{
    struct ibv_async_event event = {.event_type = type};

    if (is_of_qp(type))
        event.element.qp = qp != NULL ? &qp->ibv : NULL;
    else if (type == IBV_EVENT_CQ_ERR)
        event.element.cq = qp != NULL ? qp->ibv.send_cq : NULL;
    else
        event.element.port_num = 1;
    take_effect(ctx, qp, type);
    rdt_ibv_fake_push(&ctx->async, event);
}

/* Which count the event is in until it is acknowledged, or NULL. */
static uint32_t *unacked_of(const struct ibv_async_event *event)
{
    if (is_of_qp(event->event_type) && event->element.qp != NULL)
        return &((fake_qp_t *)event->element.qp)->unacked;
    if (event->event_type == IBV_EVENT_CQ_ERR && event->element.cq != NULL)
        return &((fake_cq_t *)event->element.cq)->unacked_async;
    return NULL;
}

int rdt_ibv_fake_get_async_event(struct ibv_context *context, struct ibv_async_event *event)
{
    uint32_t *unacked;

    if (rdt_ibv_fake_wait(&((fake_ctx_t *)context)->async, event) < 0) return -1;
    unacked = unacked_of(event);
    if (unacked != NULL) ++*unacked;
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    return 0;
}

void rdt_ibv_fake_ack_async_event(struct ibv_async_event *event)
{
    uint32_t *unacked;

    pthread_mutex_lock(&rdt_ibv_fake_lock);
    unacked = unacked_of(event);
    if (unacked != NULL) --*unacked;
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
}

int rdt_ibv_fake_wait_acked(const uint32_t *num)
{
    for (int i = 0; *num > 0 && i < 1000; i++) {
        pthread_mutex_unlock(&rdt_ibv_fake_lock);
        usleep(1000);
        pthread_mutex_lock(&rdt_ibv_fake_lock);
    }
    return *num > 0 ? EDEADLK : 0;
}
