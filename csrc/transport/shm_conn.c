/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "arena/arena.h"
#include "base/error.h"
#include "base/sock.h"
#include "transport/shm.h"
#include "transport/wire.h"

/* The token already proves the group; the kernel's word on the user is a second lock. */
static rdt_status_t check_user(int sock, uint32_t rank)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);

    if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return rdt_fail(RDT_IO_ERROR, "SO_PEERCRED: %s", strerror(errno));
    if (cred.uid == geteuid()) return RDT_OK;
    return rdt_fail(RDT_PEER_REFUSED, "rank %u runs as user %u, this rank as %u", rank,
                    (unsigned)cred.uid, (unsigned)geteuid());
}

static rdt_status_t dial_unix(const rdt_peer_t *peer, int *fd_p)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    rdt_status_t st;

    if (peer->wire_len == 0 || peer->wire_len > sizeof(addr.sun_path))
        return rdt_fail(RDT_BAD_ARG, "not an address of the shm transport");
    memcpy(addr.sun_path, peer->wire, peer->wire_len);
    st = rdt_sock_dial((struct sockaddr *)&addr,
                       (socklen_t)(offsetof(struct sockaddr_un, sun_path) + peer->wire_len), fd_p);
    if (st != RDT_OK) return st;
    /* Before anything is said. Who dials is checked by its token first. */
    st = check_user(*fd_p, peer->rank);
    if (st != RDT_OK) close(*fd_p);
    return st;
}

static void set_lanes(const shm_ctx_t *ctx, uint8_t *inbox, shm_lane_t *lanes)
{
    static const uint32_t num_slots[RDT_NUM_LANES] = {SHM_COLL_SLOTS, SHM_P2P_SLOTS};
    shm_inbox_t *head = (shm_inbox_t *)inbox;
    uint8_t *slots = inbox + sizeof(*head);

    for (int i = 0; i < RDT_NUM_LANES; i++) {
        lanes[i] = (shm_lane_t){
            .slots = slots, .consumed = &head->consumed[i].count, .num_slots = num_slots[i]};
        slots += num_slots[i] * ctx->slot_bytes;
    }
}

/* Maps the peer's bell and its inbox from me. */
static rdt_status_t map_peer(shm_ctx_t *ctx, shm_conn_t *conn, int fd)
{
    struct stat info;
    off_t off = SHM_PAGE + (off_t)(ctx->inbox_bytes * ctx->base.cfg.rank);

    if (fd < 0 || fstat(fd, &info) < 0 || (size_t)info.st_size != ctx->map_bytes)
        return rdt_fail(RDT_PROTOCOL, "rank %u passed no memory of the agreed size",
                        conn->base.peer);
    conn->peer_bell = mmap(NULL, SHM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    conn->tx_map = mmap(NULL, ctx->inbox_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, off);
    if (conn->peer_bell != MAP_FAILED && conn->tx_map != MAP_FAILED) return RDT_OK;
    return rdt_fail(RDT_NO_MEMORY, "mapping the memory of rank %u: %s", conn->base.peer,
                    strerror(errno));
}

/* The peer's arena is optional: RDMATRAIN_ARENA=off leaves a process without. */
static rdt_status_t map_arena(shm_conn_t *conn, int fd)
{
    conn->base.revoked = &conn->peer_bell->revoked;
    if (fd < 0) return RDT_OK;
    return rdt_arena_map_peer(fd, &conn->base.arena, &conn->base.arena_bytes);
}

static rdt_status_t set_up(shm_ctx_t *ctx, shm_conn_t *conn, const rdt_peer_t *peer,
                           rdt_link_t *link)
{
    rdt_status_t st;

    conn->base = (rdt_conn_t){.ops = &rdt_shm_ops, .ctx = &ctx->base, .peer = peer->rank};
    conn->sock = link->fd;
    conn->peer_bell = MAP_FAILED;
    conn->tx_map = MAP_FAILED;
    conn->rx_map = ctx->map + SHM_PAGE + ctx->inbox_bytes * peer->rank;
    ctx->num_conns++;
    st = check_user(conn->sock, peer->rank);
    if (st == RDT_OK) st = map_peer(ctx, conn, link->peer_fds.fd[0]);
    if (st == RDT_OK) st = map_arena(conn, link->peer_fds.fd[1]);
    rdt_fds_close(&link->peer_fds); /* the mappings keep the memory */
    if (st != RDT_OK) return st;
    set_lanes(ctx, conn->rx_map, conn->rx);
    set_lanes(ctx, conn->tx_map, conn->tx);
    return RDT_OK;
}

rdt_status_t rdt_shm_connect(rdt_ctx_t *base, const rdt_peer_t *peers, uint32_t num,
                             uint64_t deadline_ns, rdt_conn_t **conns)
{
    shm_ctx_t *ctx = (shm_ctx_t *)base;
    rdt_fds_t mine = {{ctx->memfd, rdt_arena_fd()}};
    rdt_dial_t dial = {&base->cfg, ctx->listen_fd, mine, dial_unix};
    rdt_link_t *links = calloc(num, sizeof(*links));
    rdt_status_t st;
    uint32_t i = 0;

    ctx->conns = calloc(num, sizeof(*ctx->conns));
    if (links == NULL || ctx->conns == NULL) {
        free(links);
        return rdt_fail(RDT_NO_MEMORY, "shm connections: out of memory");
    }
    st = rdt_wire_connect(&dial, peers, num, deadline_ns, links);
    while (st == RDT_OK && i < num) {
        conns[i] = &ctx->conns[i].base;
        st = set_up(ctx, &ctx->conns[i], &peers[i], &links[i]);
        ctx->conns[i].base.shares_arena = mine.fd[1] >= 0;
        i++;
    }
    for (; i < num; i++) { /* those that set_up did not take over */
        if (links[i].fd >= 0) close(links[i].fd);
        rdt_fds_close(&links[i].peer_fds);
    }
    free(links);
    return st;
}

void rdt_shm_cut(rdt_conn_t *base)
{
    shutdown(((shm_conn_t *)base)->sock, SHUT_RDWR);
    base->status = RDT_CLOSED;
}

void rdt_shm_revoke(rdt_ctx_t *base, uint64_t from)
{
    atomic_exchange(&((shm_ctx_t *)base)->bell->revoked, from);
}

void rdt_shm_disconnect(shm_ctx_t *ctx)
{
    for (uint32_t i = 0; i < ctx->num_conns; i++) {
        shm_conn_t *conn = &ctx->conns[i];

        if (conn->base.arena != NULL) rdt_arena_unmap_peer(conn->base.arena);
        if (conn->peer_bell != MAP_FAILED) munmap(conn->peer_bell, SHM_PAGE);
        if (conn->tx_map != MAP_FAILED) munmap(conn->tx_map, ctx->inbox_bytes);
        close(conn->sock);
    }
    free(ctx->conns);
}
