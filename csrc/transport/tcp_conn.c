/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/sock.h"
#include "transport/tcp.h"

/* How long a close waits, for all peers together, for them to end as well. */
#define LINGER_NS (300 * RDT_NS_PER_MS)

static rdt_status_t dial_tcp(const rdt_peer_t *peer, int *fd_p)
{
    struct sockaddr_storage addr = {0};

    if (peer->wire_len < sizeof(struct sockaddr_in) || peer->wire_len > sizeof(addr))
        return rdt_fail(RDT_BAD_ARG, "not an address of the tcp transport");
    memcpy(&addr, peer->wire, peer->wire_len);
    return rdt_sock_dial((struct sockaddr *)&addr, peer->wire_len, fd_p);
}

static rdt_status_t give_slots(tcp_conn_t *conn, uint32_t chunk_bytes)
{
    size_t room = (chunk_bytes + RDT_DATA_ALIGN - 1) / RDT_DATA_ALIGN * RDT_DATA_ALIGN;
    uint8_t *next;

    conn->slot_memory = aligned_alloc(RDT_DATA_ALIGN, room * RDT_NUM_LANES * TCP_SLOTS);
    if (conn->slot_memory == NULL) return rdt_fail(RDT_NO_MEMORY, "tcp slots: out of memory");
    next = conn->slot_memory;
    for (int l = 0; l < RDT_NUM_LANES; l++) {
        conn->lanes[l].credits = TCP_SLOTS;
        for (int s = 0; s < TCP_SLOTS; s++, next += room)
            conn->lanes[l].slots[s].data = next;
    }
    return RDT_OK;
}

static void begin_conn(tcp_ctx_t *ctx, tcp_conn_t *conn, uint32_t peer)
{
    conn->base = (rdt_conn_t){
        .ops = &rdt_tcp_ops, .ctx = &ctx->base, .peer = peer, .places = true, .unjoined = true};
    conn->sock = -1;
    conn->ended = true;
    ctx->num_conns++;
}

/* Takes the socket over. */
static rdt_status_t join_conn(tcp_ctx_t *ctx, tcp_conn_t *conn, int sock)
{
    rdt_status_t st = rdt_sock_keep_alive(sock);

    conn->sock = sock;
    if (st == RDT_OK) st = give_slots(conn, ctx->base.cfg.chunk_bytes);
    if (st != RDT_OK) return st;
    conn->base.unjoined = false;
    conn->ended = false;
    return RDT_OK;
}

/* -- one by one -- */

static void on_joined(void *arg, uint32_t i, rdt_link_t *link)
{
    tcp_ctx_t *ctx = arg;
    tcp_conn_t *conn = &ctx->conns[i];
    rdt_status_t st;

    if (conn->base.status != RDT_OK) { /* it was cut */
        close(link->fd);
        return;
    }
    st = join_conn(ctx, conn, link->fd);
    if (st != RDT_OK)
        rdt_lazy_fail(&conn->base, st, rdt_last_error());
    else if (ctx->sleep != NULL)
        rdt_tcp_watch(conn, ctx->sleep);
}

static void on_failed(void *arg, uint32_t i, rdt_status_t status, const char *text)
{
    rdt_lazy_fail(&((tcp_ctx_t *)arg)->conns[i].base, status, text);
}

static rdt_status_t connect_lazily(tcp_ctx_t *ctx, const rdt_dial_t *dial, const rdt_peer_t *peers,
                                   uint32_t num, rdt_conn_t **conns)
{
    rdt_wire_listener_t listener = {on_joined, on_failed, ctx};

    ctx->conns = calloc(num, sizeof(*ctx->conns));
    if (ctx->conns == NULL) return rdt_fail(RDT_NO_MEMORY, "tcp connections: out of memory");
    for (uint32_t i = 0; i < num; i++) {
        begin_conn(ctx, &ctx->conns[i], peers[i].rank);
        conns[i] = &ctx->conns[i].base;
    }
    return rdt_lazy_open(&ctx->lazy, dial, peers, num, &listener);
}

void rdt_tcp_need(tcp_conn_t *conn, bool dials)
{
    tcp_ctx_t *ctx = (tcp_ctx_t *)conn->base.ctx;

    if (conn->base.status == RDT_OK)
        rdt_lazy_need(&ctx->lazy, (uint32_t)(conn - ctx->conns), dials);
}

void rdt_tcp_expect(rdt_conn_t *base)
{
    if (base->unjoined) rdt_tcp_need((tcp_conn_t *)base, false);
}

bool rdt_tcp_let_in(rdt_ctx_t *base)
{
    tcp_ctx_t *ctx = (tcp_ctx_t *)base;

    rdt_lazy_step(&ctx->lazy);
    return rdt_lazy_has_callers(&ctx->lazy);
}

/* -- all at once -- */

rdt_status_t rdt_tcp_connect(rdt_ctx_t *base, const rdt_peer_t *peers, uint32_t num,
                             uint64_t deadline_ns, rdt_conn_t **conns)
{
    tcp_ctx_t *ctx = (tcp_ctx_t *)base;
    rdt_dial_t dial = {&base->cfg, ctx->listen_fd, RDT_NO_FDS, dial_tcp};
    rdt_link_t *links;
    rdt_status_t st;
    uint32_t i = 0;

    if (base->cfg.lazy) return connect_lazily(ctx, &dial, peers, num, conns);
    links = calloc(num, sizeof(*links));
    ctx->conns = calloc(num, sizeof(*ctx->conns));
    if (links == NULL || ctx->conns == NULL) {
        free(links);
        return rdt_fail(RDT_NO_MEMORY, "tcp connections: out of memory");
    }
    st = rdt_wire_connect(&dial, peers, num, deadline_ns, links);
    while (st == RDT_OK && i < num) {
        conns[i] = &ctx->conns[i].base;
        begin_conn(ctx, &ctx->conns[i], peers[i].rank);
        st = join_conn(ctx, &ctx->conns[i], links[i].fd);
        i++;
    }
    for (; i < num; i++) /* those that join_conn did not take over */
        if (links[i].fd >= 0) close(links[i].fd);
    free(links);
    return st;
}

void rdt_tcp_cut(rdt_conn_t *base)
{
    tcp_conn_t *conn = (tcp_conn_t *)base;

    if (conn->sock >= 0) shutdown(conn->sock, SHUT_RDWR);
    base->status = RDT_CLOSED;
}

/* Reads until the peer's side ends as well, but not past the deadline. */
static void read_away(int sock, uint64_t deadline_ns)
{
    struct pollfd pfd = {.fd = sock, .events = POLLIN};
    char bytes[4096];
    ssize_t n;

    do {
        n = recv(sock, bytes, sizeof(bytes), MSG_DONTWAIT);
    } while (n > 0 || (n < 0 && errno == EAGAIN && poll(&pfd, 1, rdt_ms_until(deadline_ns)) > 0));
}

/* To close a socket with unread data would make the kernel reset it, and the peer could lose our last
 * words; so first our side ends, and what the peers still send is read away. */
void rdt_tcp_disconnect(tcp_ctx_t *ctx)
{
    uint64_t deadline_ns = rdt_now_ns() + LINGER_NS;

    rdt_lazy_close(&ctx->lazy);
    for (uint32_t i = 0; i < ctx->num_conns; i++)
        if (ctx->conns[i].sock >= 0) shutdown(ctx->conns[i].sock, SHUT_WR);
    for (uint32_t i = 0; i < ctx->num_conns; i++) {
        if (ctx->conns[i].sock < 0) continue;
        read_away(ctx->conns[i].sock, deadline_ns);
        close(ctx->conns[i].sock);
        free(ctx->conns[i].slot_memory);
    }
    free(ctx->conns);
}
