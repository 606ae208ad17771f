/* SPDX-License-Identifier: Apache-2.0 */
/* Who is alive: what the NIC, its driver and the peer's kernel say; and what a sleeper must watch. */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/error.h"
#include "transport/verbs.h"

#define CAUSE_NS (RDT_NS_PER_S / 10) /* that a failed completion waits for its cause */
#define PROBE_NS (RDT_NS_PER_S / 2)  /* of silence on a connection */

void rdt_verbs_fail(verbs_conn_t *conn, uint32_t r, rdt_status_t status, const char *fmt, ...)
{
    verbs_ctx_t *ctx = (verbs_ctx_t *)conn->base.ctx;
    const verbs_rail_t *rail = &ctx->rails[r];
    size_t len;
    va_list args;

    if (conn->base.status != RDT_OK) return;
    conn->base.status = status;
    snprintf(conn->base.detail, sizeof(conn->base.detail), "%.31s/%u: ", rail->name, rail->port);
    len = strlen(conn->base.detail);
    va_start(args, fmt);
    vsnprintf(conn->base.detail + len, sizeof(conn->base.detail) - len, fmt, args);
    va_end(args);
    /* What failed need not be a queue pair: those that work would go on, or retry, with sources that
     * have gone back to their owners. */
    rdt_verbs_qp_error(ctx, conn);
}

static rdt_status_t meaning_of(enum ibv_wc_status status)
{
    switch (status) {
    case IBV_WC_RETRY_EXC_ERR:
    case IBV_WC_RNR_RETRY_EXC_ERR:
    case IBV_WC_REM_ABORT_ERR:
    case IBV_WC_RESP_TIMEOUT_ERR:
        return RDT_PEER_LOST;
    case IBV_WC_REM_ACCESS_ERR:
    case IBV_WC_REM_INV_REQ_ERR:
    case IBV_WC_REM_OP_ERR:
        return RDT_PROTOCOL;
    default:
        return RDT_IO_ERROR;
    }
}

/* Of a request that failed the port may be the cause, sooner than its grace is over. */
static bool is_port_active(const verbs_rail_t *rail)
{
    struct ibv_port_attr attr;

    memset(&attr, 0, sizeof(attr));
    return rail->dev->api.query_port(rail->dev->context, rail->port, &attr) == 0 &&
           attr.state == IBV_PORT_ACTIVE;
}

/* When a process dies its memory and its queue pair go before its socket, and what was under way fails in
 * any of several ways, or is only flushed: the cause shows a little later. */
void rdt_verbs_failed_wc(verbs_conn_t *conn, uint32_t r, enum ibv_wc_status status)
{
    if (conn->failed_ns != 0) return;
    conn->failed_ns = rdt_now_ns();
    conn->failed_rail = r;
    conn->failed_status = status;
}

static void latch_failed_wc(verbs_conn_t *conn)
{
    const verbs_rail_t *rail = &((const verbs_ctx_t *)conn->base.ctx)->rails[conn->failed_rail];
    bool active = is_port_active(rail);

    rdt_verbs_fail(conn, conn->failed_rail, active ? meaning_of(conn->failed_status) : RDT_IO_ERROR,
                   "%s (completion status %d)%s", rail->dev->api.wc_status_str(conn->failed_status),
                   (int)conn->failed_status, active ? "" : ", the port is down");
}

void rdt_verbs_rail_failed(verbs_ctx_t *ctx, uint32_t r, const char *why)
{
    for (uint32_t i = 0; i < ctx->num_conns; i++)
        if (r < ctx->conns[i].num_rails) rdt_verbs_fail(&ctx->conns[i], r, RDT_IO_ERROR, "%s", why);
}

/* -- check -- */

static const char *event_text(const verbs_rail_t *rail, int event)
{
    if (event == VERBS_REMOVED) return "the device was removed";
    return rail->dev->api.event_type_str((enum ibv_event_type)(event - 1));
}

rdt_status_t rdt_verbs_check_rails(const verbs_ctx_t *ctx)
{
    for (uint32_t r = 0; r < ctx->num_rails; r++) {
        const verbs_rail_t *rail = &ctx->rails[r];
        int event = atomic_load(&rail->dev->fatal);

        if (event == 0) event = atomic_load(&rail->event);
        if (event != 0)
            return rdt_fail(RDT_IO_ERROR, "%s/%u: %s", rail->name, rail->port,
                            event_text(rail, event));
    }
    return RDT_OK;
}

/* A link that is plugged again or renegotiates is not lost; one that stays down for longer than the NIC would
 * retry is. */
static void check_port(verbs_ctx_t *ctx, uint32_t r, uint64_t now_ns)
{
    verbs_rail_t *rail = &ctx->rails[r];
    _Atomic uint64_t *down_ns = &rail->dev->port_down_ns[rail->port];
    uint64_t since = atomic_load(down_ns);

    if (since == 0 || now_ns < since + ctx->retry_ns) return; /* since may be later than now */
    if (is_port_active(rail))
        atomic_store(down_ns, 0);
    else
        rdt_verbs_rail_failed(ctx, r, "the port is down");
}

/* What is sent from an address that is gone is dropped, and rxe then retries for ever. */
static void check_gids(verbs_ctx_t *ctx, uint32_t r)
{
    verbs_rail_t *rail = &ctx->rails[r];
    uint32_t changes = atomic_load(&rail->dev->gid_changes);

    if (changes == rail->gid_changes) return;
    rail->gid_changes = changes;
    for (uint32_t i = 0; i < ctx->num_conns; i++) {
        verbs_conn_t *conn = &ctx->conns[i];
        const verbs_qp_t *qp = &conn->qps[r];
        union ibv_gid gid;

        if (r >= conn->num_rails || qp->mtu == 0) continue;
        if (rail->dev->api.query_gid(rail->dev->context, rail->port, qp->gid_index, &gid) == 0 &&
            memcmp(&gid, &qp->gid, sizeof(gid)) == 0)
            continue;
        rdt_verbs_fail(conn, r, RDT_IO_ERROR, "its GID, index %u, is gone%s", qp->gid_index,
                       is_port_active(rail) ? "" : ", the port is down");
    }
}

static void check_rail(verbs_ctx_t *ctx, uint32_t r, uint64_t now_ns)
{
    verbs_rail_t *rail = &ctx->rails[r];
    int event;

    rdt_verbs_dev_events(rail->dev, now_ns);
    event = atomic_load(&rail->dev->fatal);
    if (event == 0) event = atomic_load(&rail->event);
    if (event != 0) rdt_verbs_rail_failed(ctx, r, event_text(rail, event));
    check_port(ctx, r, now_ns);
    check_gids(ctx, r);
}

/* The queue says only that it is of no use any more: an event says why. */
void rdt_verbs_poll_failed(verbs_ctx_t *ctx, uint32_t r)
{
    check_rail(ctx, r, rdt_now_ns());
    rdt_verbs_rail_failed(ctx, r, "ibv_poll_cq failed");
}

static void check_qps(verbs_ctx_t *ctx, verbs_conn_t *conn)
{
    for (uint32_t r = 0; r < conn->num_rails; r++) {
        int event = atomic_load(&conn->qps[r].event);

        if (event != 0)
            rdt_verbs_fail(conn, r, RDT_IO_ERROR, "%s", event_text(&ctx->rails[r], event));
    }
}

/* Silence may be a dead peer or a cut cable: the NIC finds out, unless a completion is due anyway. */
static void probe(verbs_conn_t *conn, uint64_t now_ns)
{
    if (conn->is_active) {
        conn->is_active = false;
        conn->active_ns = now_ns;
    }
    if (now_ns - conn->active_ns < PROBE_NS) return;
    conn->active_ns = now_ns;
    for (uint32_t r = 0; r < conn->num_rails; r++) {
        const verbs_qp_t *qp = &conn->qps[r];

        if (qp->signaled != qp->posted || qp->done == qp->posted) rdt_verbs_probe(conn, r);
    }
}

/* What the peer sent before it went has reached this NIC, as it waited for that: it is taken first. */
static void check_socket(verbs_ctx_t *ctx, verbs_conn_t *conn, uint64_t now_ns)
{
    char byte;
    ssize_t n = recv(conn->sock, &byte, 1, MSG_DONTWAIT | MSG_PEEK);
    int err = errno;

    if (n > 0 || (n < 0 && (err == EAGAIN || err == EINTR))) return;
    conn->ended = true;
    rdt_verbs_poll(&ctx->base);
    /* A peer on this host may have left for what is this rank's loss, too: the device. */
    for (uint32_t r = 0; r < conn->num_rails; r++) {
        atomic_store(&ctx->rails[r].dev->look_ns, 0);
        check_rail(ctx, r, now_ns);
    }
    rdt_verbs_fail(conn, 0, RDT_PEER_LOST, "%s%s", n < 0 ? strerror(err) : "its process is gone",
                   is_port_active(&ctx->rails[0]) ? "" : ", the port is down");
}

void rdt_verbs_check(rdt_ctx_t *base)
{
    verbs_ctx_t *ctx = (verbs_ctx_t *)base;
    uint64_t now_ns = rdt_now_ns();

    rdt_lazy_hurry(&ctx->lazy);
    for (uint32_t r = 0; r < ctx->num_rails; r++)
        check_rail(ctx, r, now_ns);
    for (uint32_t i = 0; i < ctx->num_conns; i++) {
        verbs_conn_t *conn = &ctx->conns[i];

        if (conn->base.status != RDT_OK || conn->base.unjoined) continue;
        check_qps(ctx, conn);
        check_socket(ctx, conn, now_ns);
        if (conn->failed_ns != 0 && now_ns > conn->failed_ns + CAUSE_NS) latch_failed_wc(conn);
        if (conn->base.status == RDT_OK) probe(conn, now_ns);
    }
}

/* -- sleeping -- */

static void watch(rdt_sleep_t *sleep, int fd, short events)
{
    sleep->fds[sleep->num_fds++] = (struct pollfd){.fd = fd, .events = events};
}

void rdt_verbs_watch(const verbs_conn_t *conn, rdt_sleep_t *sleep)
{
    watch(sleep, conn->sock, conn->joining != NULL ? rdt_verbs_join_events(conn) : POLLIN);
}

void rdt_verbs_arm(rdt_ctx_t *base, rdt_sleep_t *sleep)
{
    verbs_ctx_t *ctx = (verbs_ctx_t *)base;

    for (uint32_t r = 0; r < ctx->num_rails; r++) {
        verbs_rail_t *rail = &ctx->rails[r];

        if (rail->dev->api.req_notify_cq(rail->cq, 0) != 0)
            rdt_verbs_rail_failed(ctx, r, "its completion queue cannot be armed");
        watch(sleep, rail->channel->fd, POLLIN);
        watch(sleep, rail->dev->context->async_fd, POLLIN);
    }
    rdt_lazy_watch(&ctx->lazy, sleep);
    ctx->num_polls = VERBS_POLLS_PER_LOOK - 1; /* the next one looks */
    for (uint32_t i = 0; i < ctx->num_conns; i++)
        if (!ctx->conns[i].ended || ctx->conns[i].joining != NULL)
            rdt_verbs_watch(&ctx->conns[i], sleep);
    ctx->sleep = sleep;
}

/* Events are acknowledged when the queue is destroyed, all at once: each time costs a lock. */
void rdt_verbs_disarm(rdt_ctx_t *base)
{
    verbs_ctx_t *ctx = (verbs_ctx_t *)base;

    ctx->sleep = NULL;
    for (uint32_t r = 0; r < ctx->num_rails; r++) {
        verbs_rail_t *rail = &ctx->rails[r];
        struct ibv_cq *cq;
        void *cq_context;

        while (rail->dev->api.get_cq_event(rail->channel, &cq, &cq_context) == 0)
            rail->unacked_events++;
    }
}
