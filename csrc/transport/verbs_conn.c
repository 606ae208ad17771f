/* SPDX-License-Identifier: Apache-2.0 */
/* The connections of a context: made all at once or one by one, and ended. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/sock.h"
#include "transport/verbs.h"

/* How long a close waits, for all peers together, for what is under way; how often it looks who is there. */
#define LINGER_NS (300 * RDT_NS_PER_MS)
#define LINGER_CHECK_NS RDT_NS_PER_MS
#define SOON_NS RDT_NS_PER_S /* in which two ranks that have met should have joined */

/* A socket's address, and whether the rank has an arena. */
static bool is_address(const rdt_peer_t *peer)
{
    return peer->wire_len > sizeof(struct sockaddr_in) && peer->wire_len <= sizeof(peer->wire);
}

static rdt_status_t dial_verbs(const rdt_peer_t *peer, int *fd_p)
{
    struct sockaddr_storage addr = {0};

    _Static_assert(sizeof(peer->wire) <= sizeof(addr) + 1, "an address fits");
    memcpy(&addr, peer->wire, peer->wire_len - 1);
    return rdt_sock_dial((struct sockaddr *)&addr, peer->wire_len - 1, fd_p);
}

/* -- memory -- */

/* Shared, so that a fork never makes a copy of a page that the NIC goes on using. */
static rdt_status_t map_memory(verbs_conn_t *conn, uint32_t chunk_bytes)
{
    void *memory;

    conn->slot_bytes = (VERBS_DATA_OFFSET + (size_t)chunk_bytes + RDT_DATA_ALIGN - 1) /
                       RDT_DATA_ALIGN * RDT_DATA_ALIGN;
    conn->memory_bytes = 2 * RDT_NUM_LANES * VERBS_SLOTS * conn->slot_bytes;
    memory =
        mmap(NULL, conn->memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return rdt_fail(RDT_NO_MEMORY, "%zu KiB of slots: %s", conn->memory_bytes >> 10,
                        strerror(errno));
    conn->memory = memory;
    madvise(memory, conn->memory_bytes, MADV_DONTFORK);
    return RDT_OK;
}

/* In the order in which the NIC gets them: these are the heads, too. */
static rdt_status_t register_memory(const verbs_rail_t *rail, verbs_conn_t *conn, verbs_qp_t *qp)
{
    qp->mr = rail->dev->api.reg_mr(rail->dev->pd, conn->memory, conn->memory_bytes,
                                   IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
    return qp->mr != NULL ? RDT_OK : rdt_verbs_reg_failed(rail->dev, conn->memory_bytes, errno);
}

/* -- one connection -- */

static void begin_conn(verbs_ctx_t *ctx, verbs_conn_t *conn, const rdt_peer_t *peer)
{
    conn->base = (rdt_conn_t){.ops = &rdt_verbs_ops,
                              .ctx = &ctx->base,
                              .peer = peer->rank,
                              .places = ctx->places && peer->wire[peer->wire_len - 1] != 0,
                              .unjoined = true};
    conn->sock = -1;
    conn->ended = true;
    conn->index = ctx->num_conns++;
}

static rdt_status_t has_room(const verbs_ctx_t *ctx)
{
    if (ctx->num_met < ctx->max_met) return RDT_OK;
    return rdt_fail(RDT_NO_MEMORY,
                    "the completion queues have room for %u peers: let fewer ranks meet each other",
                    ctx->max_met);
}

/* Takes the socket over, and begins to agree with the peer on the rest. */
static rdt_status_t set_up(verbs_ctx_t *ctx, verbs_conn_t *conn, int sock)
{
    rdt_status_t st = rdt_sock_keep_alive(sock);

    conn->sock = sock;
    for (uint32_t i = 0; i < VERBS_RECV_DEPTH; i++)
        conn->recv_wrs[i] =
            (struct ibv_recv_wr){.wr_id = VERBS_WR_RECV | (uint64_t)conn->index << 32,
                                 .next = i + 1 < VERBS_RECV_DEPTH ? &conn->recv_wrs[i + 1] : NULL};
    if (st == RDT_OK) st = has_room(ctx);
    if (st == RDT_OK) st = rdt_verbs_check_rails(ctx);
    if (st == RDT_OK) st = map_memory(conn, ctx->base.cfg.chunk_bytes);
    ctx->num_met++;
    for (uint32_t r = 0; r < ctx->num_rails && st == RDT_OK; r++) {
        st = register_memory(&ctx->rails[r], conn, &conn->qps[r]);
        if (st == RDT_OK) st = rdt_verbs_qp_create(ctx, conn, r);
    }
    return st == RDT_OK ? rdt_verbs_join_begin(ctx, conn) : st;
}

static void joined(verbs_conn_t *conn)
{
    conn->base.unjoined = false;
    conn->ended = false;
    conn->active_ns = rdt_now_ns();
    atomic_store_explicit(&conn->joined, true, memory_order_release); /* with rdt_verbs_rails */
}

uint32_t rdt_verbs_rails(const rdt_conn_t *base, rdt_rail_t *rails)
{
    const verbs_conn_t *conn = (const verbs_conn_t *)base;

    if (!atomic_load_explicit(&conn->joined, memory_order_acquire)) return 0;
    for (uint32_t r = 0; r < conn->num_rails; r++) {
        const verbs_qp_t *qp = &conn->qps[r];

        rails[r] = (rdt_rail_t){.gid_index = qp->gid_index, .mtu = 128u << qp->mtu};
        memcpy(rails[r].gid, &qp->gid, RDT_GID_BYTES);
        memcpy(rails[r].peer_gid, &qp->peer_gid, RDT_GID_BYTES);
    }
    return conn->num_rails;
}

/* -- all at once -- */

/* Puts what was done, and with which rank, in front of the last error. */
static rdt_status_t named(rdt_status_t st, const char *doing, uint32_t rank)
{
    char cause[RDT_ERROR_BYTES];

    memcpy(cause, rdt_last_error(), sizeof(cause));
    cause[sizeof(cause) - 1] = '\0';
    return rdt_fail(st, "%s rank %u: %.400s", doing, rank, cause);
}

/* How many are still to come: fds has what they wait for, and *next_p the rank of one of them. */
static rdt_status_t join_more(verbs_ctx_t *ctx, struct pollfd *fds, uint32_t *num_p,
                              uint32_t *next_p)
{
    *num_p = 0;
    for (uint32_t i = 0; i < ctx->num_conns; i++) {
        verbs_conn_t *conn = &ctx->conns[i];
        rdt_status_t st;

        if (!conn->base.unjoined) continue;
        st = rdt_verbs_join_step(ctx, conn);
        if (st == RDT_OK) joined(conn);
        if (st == RDT_AGAIN) {
            fds[(*num_p)++] =
                (struct pollfd){.fd = conn->sock, .events = rdt_verbs_join_events(conn)};
            *next_p = conn->base.peer;
        } else if (st != RDT_OK)
            return named(st, "joining", conn->base.peer);
    }
    return RDT_OK;
}

static rdt_status_t join_all(verbs_ctx_t *ctx, uint64_t deadline_ns)
{
    struct pollfd *fds = calloc(ctx->num_conns, sizeof(*fds));
    uint32_t num, next = 0;
    rdt_status_t st;

    if (fds == NULL) return rdt_fail(RDT_NO_MEMORY, "verbs connections: out of memory");
    while ((st = join_more(ctx, fds, &num, &next)) == RDT_OK && num > 0)
        if (poll(fds, num, rdt_ms_until(deadline_ns)) == 0) {
            st = rdt_fail(RDT_CONNECT_TIMEOUT, "joining rank %u: no answer before the deadline",
                          next);
            break;
        }
    free(fds);
    return st;
}

/* -- one by one -- */

/* The peer sees its socket end, whoever else holds it open. */
static void fail_conn(verbs_ctx_t *ctx, verbs_conn_t *conn, rdt_status_t status, const char *text)
{
    rdt_verbs_join_end(conn);
    rdt_verbs_qp_error(ctx, conn);
    if (conn->sock >= 0) shutdown(conn->sock, SHUT_RDWR);
    rdt_lazy_fail(&conn->base, status, text);
}

/* One more step of joining; AGAIN: not the last. */
static rdt_status_t step(verbs_ctx_t *ctx, verbs_conn_t *conn)
{
    rdt_status_t st = conn->base.status;

    if (st == RDT_OK) st = rdt_verbs_join_step(ctx, conn);
    if (st == RDT_AGAIN && rdt_now_ns() >= rdt_lazy_deadline(&ctx->lazy, conn->index))
        st = rdt_fail(RDT_CONNECT_TIMEOUT, "no answer before the deadline");
    if (st == RDT_OK)
        joined(conn);
    else if (st != RDT_AGAIN)
        fail_conn(ctx, conn, st, rdt_last_error());
    return st;
}

static void on_met(void *arg, uint32_t i, rdt_link_t *link)
{
    verbs_ctx_t *ctx = arg;
    verbs_conn_t *conn = &ctx->conns[i];
    rdt_status_t st;

    if (conn->base.status != RDT_OK) { /* it was cut */
        close(link->fd);
        return;
    }
    st = set_up(ctx, conn, link->fd);
    if (st != RDT_OK) {
        fail_conn(ctx, conn, st, rdt_last_error());
        return;
    }
    conn->active_ns = rdt_now_ns();
    st = step(ctx, conn);
    if (st == RDT_AGAIN) ctx->joining[ctx->num_joining++] = i;
    if (ctx->sleep != NULL && conn->base.status == RDT_OK) rdt_verbs_watch(conn, ctx->sleep);
}

static void on_failed(void *arg, uint32_t i, rdt_status_t status, const char *text)
{
    verbs_ctx_t *ctx = arg;

    fail_conn(ctx, &ctx->conns[i], status, text);
}

void rdt_verbs_join_some(verbs_ctx_t *ctx)
{
    uint32_t num = 0;

    rdt_lazy_step(&ctx->lazy);
    for (uint32_t i = 0; i < ctx->num_joining; i++)
        if (step(ctx, &ctx->conns[ctx->joining[i]]) == RDT_AGAIN)
            ctx->joining[num++] = ctx->joining[i];
    ctx->num_joining = num;
}

void rdt_verbs_need(verbs_conn_t *conn, bool dials)
{
    verbs_ctx_t *ctx = (verbs_ctx_t *)conn->base.ctx;

    if (conn->base.status == RDT_OK) rdt_lazy_need(&ctx->lazy, conn->index, dials);
}

void rdt_verbs_expect(rdt_conn_t *base)
{
    if (base->unjoined) rdt_verbs_need((verbs_conn_t *)base, false);
}

/* A peer that has stopped in the middle is not worth coming back soon for. */
bool rdt_verbs_let_in(rdt_ctx_t *base)
{
    verbs_ctx_t *ctx = (verbs_ctx_t *)base;
    uint64_t now_ns = rdt_now_ns();
    bool busy = false;

    rdt_verbs_join_some(ctx);
    for (uint32_t i = 0; i < ctx->num_joining; i++)
        busy |= now_ns - ctx->conns[ctx->joining[i]].active_ns < SOON_NS;
    return busy || rdt_lazy_has_callers(&ctx->lazy);
}

/* -- both -- */

static rdt_status_t connect_all(verbs_ctx_t *ctx, const rdt_dial_t *dial, const rdt_peer_t *peers,
                                uint32_t num, uint64_t deadline_ns)
{
    rdt_link_t *links = calloc(num, sizeof(*links));
    rdt_status_t st;
    uint32_t i = 0;

    if (links == NULL) return rdt_fail(RDT_NO_MEMORY, "verbs connections: out of memory");
    st = rdt_wire_connect(dial, peers, num, deadline_ns, links);
    for (; st == RDT_OK && i < num; i++)
        st = set_up(ctx, &ctx->conns[i], links[i].fd);
    for (; i < num; i++) /* those that set_up did not take over */
        if (links[i].fd >= 0) close(links[i].fd);
    free(links);
    return st == RDT_OK ? join_all(ctx, deadline_ns) : st;
}

rdt_status_t rdt_verbs_connect(rdt_ctx_t *base, const rdt_peer_t *peers, uint32_t num,
                               uint64_t deadline_ns, rdt_conn_t **conns)
{
    verbs_ctx_t *ctx = (verbs_ctx_t *)base;
    rdt_dial_t dial = {&base->cfg, ctx->listen_fd, RDT_NO_FDS, dial_verbs};
    rdt_wire_listener_t listener = {on_met, on_failed, ctx};

    ctx->conns = calloc(num, sizeof(*ctx->conns));
    ctx->joining = calloc(num, sizeof(*ctx->joining));
    if (ctx->conns == NULL || ctx->joining == NULL)
        return rdt_fail(RDT_NO_MEMORY, "verbs connections: out of memory");
    for (uint32_t i = 0; i < num; i++) {
        if (!is_address(&peers[i]))
            return rdt_fail(RDT_BAD_ARG, "rank %u: not an address of the verbs transport",
                            peers[i].rank);
        begin_conn(ctx, &ctx->conns[i], &peers[i]);
        conns[i] = &ctx->conns[i].base;
    }
    if (base->cfg.lazy) return rdt_lazy_open(&ctx->lazy, &dial, peers, num, &listener);
    return connect_all(ctx, &dial, peers, num, deadline_ns);
}

/* -- ends -- */

static bool is_idle(const verbs_conn_t *conn)
{
    for (uint32_t r = 0; r < conn->num_rails; r++)
        if (conn->qps[r].done != conn->qps[r].posted) return false;
    return true;
}

/* Until the peers' NICs have everything: what was inline or copied counts as flushed long before. A peer
 * that has left takes nothing more, and its NIC never answers. */
static void drain(verbs_ctx_t *ctx)
{
    uint64_t now_ns = rdt_now_ns(), check_ns = now_ns, deadline_ns = now_ns + LINGER_NS;
    bool idle = false;

    for (uint32_t i = 0; i < ctx->num_conns; i++)
        for (uint32_t r = 0; r < ctx->conns[i].num_rails; r++)
            if (ctx->conns[i].base.status == RDT_OK &&
                ctx->conns[i].qps[r].signaled != ctx->conns[i].qps[r].posted)
                rdt_verbs_probe(&ctx->conns[i], r);
    for (; !idle && now_ns < deadline_ns; now_ns = rdt_now_ns()) {
        if (now_ns >= check_ns) {
            rdt_verbs_check(&ctx->base);
            check_ns = now_ns + LINGER_CHECK_NS;
        }
        rdt_verbs_poll(&ctx->base);
        idle = true;
        for (uint32_t i = 0; i < ctx->num_conns; i++)
            idle &= ctx->conns[i].base.status != RDT_OK || is_idle(&ctx->conns[i]);
    }
}

void rdt_verbs_cut(rdt_conn_t *base)
{
    verbs_conn_t *conn = (verbs_conn_t *)base;

    rdt_verbs_qp_error((verbs_ctx_t *)base->ctx, conn);
    if (conn->sock >= 0) shutdown(conn->sock, SHUT_RDWR);
    base->status = RDT_CLOSED;
}

/* A queue pair in error takes nothing more. The peers see it when they next send. */
void rdt_verbs_revoke(rdt_ctx_t *base, uint64_t from)
{
    verbs_ctx_t *ctx = (verbs_ctx_t *)base;
    bool exposed = false;

    (void)from;
    for (uint32_t i = 0; i < ctx->num_conns; i++) {
        if (ctx->conns[i].base.unjoined)
            ctx->conns[i].exposed = false; /* its peer was told nothing */
        exposed |= ctx->conns[i].exposed;
    }
    if (!exposed) return;
    drain(ctx);
    for (uint32_t i = 0; i < ctx->num_conns; i++)
        if (ctx->conns[i].exposed && ctx->conns[i].base.status != RDT_CLOSED)
            rdt_verbs_cut(&ctx->conns[i].base);
}

/* Whoever is being met meets nobody: what this rank had to say it has said. */
static void give_up_joining(verbs_ctx_t *ctx)
{
    rdt_lazy_close(&ctx->lazy);
    for (uint32_t i = 0; i < ctx->num_conns; i++)
        if (ctx->conns[i].joining != NULL)
            fail_conn(ctx, &ctx->conns[i], RDT_CLOSED, "this rank has left");
    ctx->num_joining = 0;
}

void rdt_verbs_disconnect(verbs_ctx_t *ctx)
{
    give_up_joining(ctx);
    if (ctx->num_conns > 0) drain(ctx);
    for (uint32_t i = 0; i < ctx->num_conns; i++) {
        verbs_conn_t *conn = &ctx->conns[i];

        for (uint32_t r = 0; r < ctx->num_rails; r++) {
            const rdt_ibv_api_t *api = &ctx->rails[r].dev->api;

            if (conn->qps[r].qp != NULL) api->destroy_qp(conn->qps[r].qp);
            if (conn->qps[r].mr != NULL) api->dereg_mr(conn->qps[r].mr);
        }
        if (conn->memory != NULL) munmap(conn->memory, conn->memory_bytes);
        if (conn->sock >= 0) close(conn->sock);
        free(conn->keys);
    }
    free(ctx->conns);
    free(ctx->joining);
    ctx->conns = NULL;
    ctx->joining = NULL;
    ctx->num_conns = 0;
}
