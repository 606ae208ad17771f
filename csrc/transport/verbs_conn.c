/* SPDX-License-Identifier: Apache-2.0 */
/* Joining the ranks: over the socket of the handshake each side offers its queue pairs and its inbox,
 * moves to the peer's, and says how that went. Where a GID turns out to be unusable, both begin again
 * with their next ones. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "arena/arena.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/sock.h"
#include "transport/verbs.h"
#include "transport/wire.h"

#define PSN_MASK 0xffffffu
/* How long a close waits, for all peers together, for what is under way; how often it looks who is there. */
#define LINGER_NS (300 * RDT_NS_PER_MS)
#define LINGER_CHECK_NS RDT_NS_PER_MS

typedef struct verbs_offer {
    uint32_t num_rails, slots;
    uint32_t places; /* this side has an arena */
    uint32_t reserved;
    uint64_t inbox;
    verbs_offer_rail_t rails[VERBS_MAX_RAILS];
} verbs_offer_t;

_Static_assert(sizeof(verbs_offer_t) == 24 + VERBS_MAX_RAILS * 32, "a wire format has no padding");

enum { VERDICT_JOINED = 1, VERDICT_NEXT_GID, VERDICT_FAILED };

typedef struct joining {
    verbs_offer_t mine, theirs;
    uint32_t gid_choice[VERBS_MAX_RAILS];
    uint8_t verdict;
    bool done;
} joining_t;

static rdt_status_t dial(const rdt_peer_t *peer, int *fd_p)
{
    struct sockaddr_storage addr = {0};

    if (peer->wire_len < sizeof(struct sockaddr_in) || peer->wire_len > sizeof(addr))
        return rdt_fail(RDT_BAD_ARG, "not an address of the verbs transport");
    memcpy(&addr, peer->wire, peer->wire_len);
    return rdt_sock_dial((struct sockaddr *)&addr, peer->wire_len, fd_p);
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

static rdt_status_t set_up(verbs_ctx_t *ctx, verbs_conn_t *conn, const rdt_peer_t *peer, int sock)
{
    rdt_status_t st;

    conn->base = (rdt_conn_t){.ops = &rdt_verbs_ops, .ctx = &ctx->base, .peer = peer->rank};
    conn->sock = sock;
    conn->index = ctx->num_conns++;
    conn->active_ns = rdt_now_ns();
    for (uint32_t i = 0; i < VERBS_RECV_DEPTH; i++)
        conn->recv_wrs[i] =
            (struct ibv_recv_wr){.wr_id = VERBS_WR_RECV | (uint64_t)conn->index << 32,
                                 .next = i + 1 < VERBS_RECV_DEPTH ? &conn->recv_wrs[i + 1] : NULL};
    st = rdt_sock_keep_alive(sock);
    if (st == RDT_OK) st = map_memory(conn, ctx->base.cfg.chunk_bytes);
    for (uint32_t r = 0; r < ctx->num_rails && st == RDT_OK; r++) {
        st = register_memory(&ctx->rails[r], conn, &conn->qps[r]);
        if (st == RDT_OK) st = rdt_verbs_qp_create(ctx, conn, r);
    }
    return st;
}

/* -- offers -- */

static rdt_status_t fill_rail(const verbs_ctx_t *ctx, verbs_conn_t *conn, joining_t *j, uint32_t r)
{
    const verbs_rail_t *rail = &ctx->rails[r];
    verbs_offer_rail_t *offer = &j->mine.rails[r];
    uint8_t index = rail->gid_index[j->gid_choice[r]];
    uint8_t mtu = (uint8_t)rail->attr.active_mtu;
    union ibv_gid gid;

    /* enum ibv_mtu: 1 is 256 bytes, and each one more doubles it. */
    while (ctx->options.mtu > 0 && mtu > IBV_MTU_256 && (128u << mtu) > ctx->options.mtu)
        mtu--;
    if (rail->dev->api.query_gid(rail->dev->context, rail->port, index, &gid) != 0)
        return rdt_fail(RDT_IO_ERROR, "GID index %u of %s/%u cannot be read: %s", index, rail->name,
                        rail->port, strerror(errno));
    *offer = (verbs_offer_rail_t){.qpn = conn->qps[r].qp->qp_num,
                                  .rkey = conn->qps[r].mr->rkey,
                                  .lid = rail->attr.lid,
                                  .mtu = mtu,
                                  .link_layer = rail->attr.link_layer};
    memcpy(offer->gid, &gid, sizeof(offer->gid));
    conn->qps[r].gid_index = index;
    conn->qps[r].gid = gid;
    if (getrandom(&offer->psn, sizeof(offer->psn), 0) < 0) offer->psn = conn->index;
    offer->psn &= PSN_MASK;
    return RDT_OK;
}

static rdt_status_t make_offer(const verbs_ctx_t *ctx, verbs_conn_t *conn, joining_t *j)
{
    rdt_status_t st = RDT_OK;

    j->mine = (verbs_offer_t){.num_rails = ctx->num_rails,
                              .slots = VERBS_SLOTS,
                              .places = rdt_arena_is_open(),
                              .inbox = (uintptr_t)conn->memory};
    for (uint32_t r = 0; r < ctx->num_rails && st == RDT_OK; r++)
        st = fill_rail(ctx, conn, j, r);
    return st;
}

static bool is_sane(const verbs_offer_t *offer)
{
    if (offer->num_rails == 0 || offer->num_rails > VERBS_MAX_RAILS || offer->slots != VERBS_SLOTS)
        return false;
    for (uint32_t r = 0; r < offer->num_rails; r++)
        if (offer->rails[r].mtu < IBV_MTU_256 || offer->rails[r].mtu > IBV_MTU_4096 ||
            offer->rails[r].qpn > PSN_MASK || offer->rails[r].psn > PSN_MASK)
            return false;
    return true;
}

static rdt_status_t take_offer(verbs_ctx_t *ctx, verbs_conn_t *conn, joining_t *j)
{
    if (!is_sane(&j->theirs))
        return rdt_fail(RDT_PROTOCOL, "what it offers is not understood by this version");
    conn->num_rails = ctx->num_rails < j->theirs.num_rails ? ctx->num_rails : j->theirs.num_rails;
    for (uint32_t r = 0; r < conn->num_rails; r++) {
        if (j->theirs.rails[r].link_layer != ctx->rails[r].attr.link_layer)
            return rdt_fail(RDT_PEER_REFUSED,
                            "rail %u is RoCE on one side and InfiniBand on the other", r);
        conn->qps[r].rkey = j->theirs.rails[r].rkey;
    }
    conn->peer_inbox = j->theirs.inbox;
    conn->base.places = j->mine.places != 0 && j->theirs.places != 0;
    return RDT_OK;
}

/* -- joining -- */

static bool has_next_gid(const verbs_ctx_t *ctx, const joining_t *j, uint32_t r)
{
    return j->gid_choice[r] + 1 < ctx->rails[r].num_gids;
}

/* The verdict of this side on what the two have offered. */
static void join_rails(verbs_ctx_t *ctx, verbs_conn_t *conn, joining_t *j)
{
    j->verdict = VERDICT_JOINED;
    for (uint32_t r = 0; r < conn->num_rails; r++) {
        if (rdt_verbs_qp_join(ctx, conn, r, j->gid_choice[r], &j->mine.rails[r],
                              &j->theirs.rails[r]) == RDT_OK)
            continue;
        j->verdict = has_next_gid(ctx, j, r) ? VERDICT_NEXT_GID : VERDICT_FAILED;
        return;
    }
}

static rdt_status_t offer_one(verbs_ctx_t *ctx, verbs_conn_t *conn, joining_t *j,
                              uint64_t deadline_ns)
{
    rdt_status_t st = make_offer(ctx, conn, j);

    if (st == RDT_OK) st = rdt_sock_send(conn->sock, &j->mine, sizeof(j->mine), NULL, deadline_ns);
    return st;
}

static rdt_status_t answer_one(verbs_ctx_t *ctx, verbs_conn_t *conn, joining_t *j,
                               uint64_t deadline_ns)
{
    rdt_status_t st = rdt_sock_recv(conn->sock, &j->theirs, sizeof(j->theirs), NULL, deadline_ns);

    if (st == RDT_OK) st = take_offer(ctx, conn, j);
    if (st != RDT_OK) return st;
    join_rails(ctx, conn, j);
    st = rdt_sock_send(conn->sock, &j->verdict, 1, NULL, deadline_ns);
    /* The text is the reason why this side could not join. */
    return j->verdict == VERDICT_FAILED ? RDT_IO_ERROR : st;
}

/* Both sides go on to their next GIDs, as the two of a pair are of one kind: where one's IPv4 address
 * cannot be used, the other's would not be reached from IPv6. */
static rdt_status_t start_again(verbs_ctx_t *ctx, verbs_conn_t *conn, joining_t *j)
{
    rdt_status_t st = RDT_OK;

    for (uint32_t r = 0; r < conn->num_rails && st == RDT_OK; r++) {
        if (has_next_gid(ctx, j, r)) j->gid_choice[r]++;
        st = rdt_verbs_qp_reset(ctx, conn, r);
    }
    return st;
}

static rdt_status_t settle_one(verbs_ctx_t *ctx, verbs_conn_t *conn, joining_t *j,
                               uint64_t deadline_ns)
{
    uint8_t theirs;
    rdt_status_t st = rdt_sock_recv(conn->sock, &theirs, 1, NULL, deadline_ns);

    if (st != RDT_OK) return st;
    if (theirs == VERDICT_FAILED)
        return rdt_fail(RDT_PEER_REFUSED,
                        "it cannot move a queue pair to this rank's: its own error "
                        "says why");
    if (theirs != VERDICT_JOINED && theirs != VERDICT_NEXT_GID)
        return rdt_fail(RDT_PROTOCOL, "its verdict is not understood by this version");
    j->done = theirs == VERDICT_JOINED && j->verdict == VERDICT_JOINED;
    return j->done ? RDT_OK : start_again(ctx, conn, j);
}

/* Puts what was done, and with which rank, in front of the last error. */
static rdt_status_t named(rdt_status_t st, const char *doing, uint32_t rank)
{
    char cause[RDT_ERROR_BYTES];

    memcpy(cause, rdt_last_error(), sizeof(cause));
    cause[sizeof(cause) - 1] = '\0';
    return rdt_fail(st, "%s rank %u: %.400s", doing, rank, cause);
}

typedef rdt_status_t (*step_fn)(verbs_ctx_t *, verbs_conn_t *, joining_t *, uint64_t);

static rdt_status_t step_all(verbs_ctx_t *ctx, joining_t *joinings, step_fn step,
                             uint64_t deadline_ns)
{
    for (uint32_t i = 0; i < ctx->num_conns; i++) {
        rdt_status_t st;

        if (joinings[i].done) continue;
        st = step(ctx, &ctx->conns[i], &joinings[i], deadline_ns);
        if (st != RDT_OK) return named(st, "joining", ctx->conns[i].base.peer);
    }
    return RDT_OK;
}

static bool all_done(const verbs_ctx_t *ctx, const joining_t *joinings)
{
    for (uint32_t i = 0; i < ctx->num_conns; i++)
        if (!joinings[i].done) return false;
    return true;
}

/* Each step is done for all peers before the next one, so nobody waits in a circle: what is sent fits
 * in a socket's buffer. Ends, since who asks for another round uses up a GID. */
static rdt_status_t join_all(verbs_ctx_t *ctx, uint64_t deadline_ns)
{
    joining_t *joinings = calloc(ctx->num_conns, sizeof(*joinings));
    rdt_status_t st = RDT_OK;

    if (joinings == NULL) return rdt_fail(RDT_NO_MEMORY, "verbs connections: out of memory");
    while (st == RDT_OK && !all_done(ctx, joinings)) {
        st = step_all(ctx, joinings, offer_one, deadline_ns);
        if (st == RDT_OK) st = step_all(ctx, joinings, answer_one, deadline_ns);
        if (st == RDT_OK) st = step_all(ctx, joinings, settle_one, deadline_ns);
    }
    free(joinings);
    return st;
}

rdt_status_t rdt_verbs_connect(rdt_ctx_t *base, const rdt_peer_t *peers, uint32_t num,
                               uint64_t deadline_ns, rdt_conn_t **conns)
{
    verbs_ctx_t *ctx = (verbs_ctx_t *)base;
    rdt_dial_t d = {&base->cfg, ctx->listen_fd, RDT_NO_FDS, dial};
    rdt_link_t *links = calloc(num, sizeof(*links));
    rdt_status_t st;
    uint32_t i = 0;

    ctx->conns = calloc(num, sizeof(*ctx->conns));
    if (links == NULL || ctx->conns == NULL) {
        free(links);
        return rdt_fail(RDT_NO_MEMORY, "verbs connections: out of memory");
    }
    st = rdt_wire_connect(&d, peers, num, deadline_ns, links);
    for (; st == RDT_OK && i < num; i++) {
        conns[i] = &ctx->conns[i].base;
        st = set_up(ctx, &ctx->conns[i], &peers[i], links[i].fd);
    }
    for (; i < num; i++) /* those that set_up did not take over */
        if (links[i].fd >= 0) close(links[i].fd);
    free(links);
    return st == RDT_OK ? join_all(ctx, deadline_ns) : st;
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
    shutdown(conn->sock, SHUT_RDWR);
    base->status = RDT_CLOSED;
}

/* A queue pair in error takes nothing more. The peers see it when they next send. */
void rdt_verbs_revoke(rdt_ctx_t *base, uint64_t from)
{
    verbs_ctx_t *ctx = (verbs_ctx_t *)base;
    bool exposed = false;

    (void)from;
    for (uint32_t i = 0; i < ctx->num_conns; i++)
        exposed |= ctx->conns[i].exposed;
    if (!exposed) return;
    drain(ctx);
    for (uint32_t i = 0; i < ctx->num_conns; i++)
        if (ctx->conns[i].exposed && ctx->conns[i].base.status != RDT_CLOSED)
            rdt_verbs_cut(&ctx->conns[i].base);
}

void rdt_verbs_disconnect(verbs_ctx_t *ctx)
{
    if (ctx->num_conns > 0) drain(ctx);
    for (uint32_t i = 0; i < ctx->num_conns; i++) {
        verbs_conn_t *conn = &ctx->conns[i];

        for (uint32_t r = 0; r < ctx->num_rails; r++) {
            const rdt_ibv_api_t *api = &ctx->rails[r].dev->api;

            if (conn->qps[r].qp != NULL) api->destroy_qp(conn->qps[r].qp);
            if (conn->qps[r].mr != NULL) api->dereg_mr(conn->qps[r].mr);
        }
        if (conn->memory != NULL) munmap(conn->memory, conn->memory_bytes);
        close(conn->sock);
        free(conn->keys);
    }
    free(ctx->conns);
    ctx->conns = NULL;
    ctx->num_conns = 0;
}
