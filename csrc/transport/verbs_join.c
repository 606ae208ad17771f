/* SPDX-License-Identifier: Apache-2.0 */
/* Two ranks agree on a connection: over the socket of the handshake each side offers its queue pairs and
 * its inbox, moves to the peer's, and says how that went. Where a GID turns out to be unusable, both
 * begin again with their next ones; who asks for another round uses up a GID, so there are not many. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/sock.h"
#include "transport/verbs.h"

#define PSN_MASK 0xffffffu

typedef struct verbs_offer {
    uint32_t num_rails, slots;
    uint64_t inbox;
    verbs_offer_rail_t rails[VERBS_MAX_RAILS];
} verbs_offer_t;

_Static_assert(sizeof(verbs_offer_t) == 16 + VERBS_MAX_RAILS * 32, "a wire format has no padding");

enum { VERDICT_JOINED = 1, VERDICT_NEXT_GID, VERDICT_FAILED };

/* One round, in this order, and whether it was the last. */
typedef enum phase { SAYS_OFFER, HEARS_OFFER, SAYS_VERDICT, HEARS_VERDICT, JOINED } phase_t;

struct verbs_joining {
    phase_t phase;
    uint32_t num_rounds;
    size_t done; /* bytes of what the phase says or hears */
    verbs_offer_t mine, theirs;
    uint8_t verdict, their_verdict;
    uint32_t gid_choice[VERBS_MAX_RAILS];
};

/* -- offers -- */

static rdt_status_t fill_rail(const verbs_ctx_t *ctx, verbs_conn_t *conn, uint32_t r)
{
    const verbs_rail_t *rail = &ctx->rails[r];
    verbs_offer_rail_t *offer = &conn->joining->mine.rails[r];
    uint8_t index = rail->gid_index[conn->joining->gid_choice[r]];
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

static rdt_status_t make_offer(const verbs_ctx_t *ctx, verbs_conn_t *conn)
{
    rdt_status_t st = RDT_OK;

    conn->joining->mine = (verbs_offer_t){
        .num_rails = ctx->num_rails, .slots = VERBS_SLOTS, .inbox = (uintptr_t)conn->memory};
    for (uint32_t r = 0; r < ctx->num_rails && st == RDT_OK; r++)
        st = fill_rail(ctx, conn, r);
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

static rdt_status_t take_offer(verbs_ctx_t *ctx, verbs_conn_t *conn)
{
    const verbs_offer_t *theirs = &conn->joining->theirs;

    if (!is_sane(theirs))
        return rdt_fail(RDT_PROTOCOL, "what it offers is not understood by this version");
    conn->num_rails = ctx->num_rails < theirs->num_rails ? ctx->num_rails : theirs->num_rails;
    for (uint32_t r = 0; r < conn->num_rails; r++) {
        if (theirs->rails[r].link_layer != ctx->rails[r].attr.link_layer)
            return rdt_fail(RDT_PEER_REFUSED,
                            "rail %u is RoCE on one side and InfiniBand on the other", r);
        conn->qps[r].rkey = theirs->rails[r].rkey;
    }
    conn->peer_inbox = theirs->inbox;
    return RDT_OK;
}

/* -- verdicts -- */

static bool has_next_gid(const verbs_ctx_t *ctx, const verbs_joining_t *j, uint32_t r)
{
    return j->gid_choice[r] + 1 < ctx->rails[r].num_gids;
}

/* The verdict of this side on what the two have offered. */
static void join_rails(verbs_ctx_t *ctx, verbs_conn_t *conn)
{
    verbs_joining_t *j = conn->joining;

    j->verdict = VERDICT_JOINED;
    for (uint32_t r = 0; r < conn->num_rails; r++) {
        if (rdt_verbs_qp_join(ctx, conn, r, j->gid_choice[r], &j->mine.rails[r],
                              &j->theirs.rails[r]) == RDT_OK)
            continue;
        j->verdict = has_next_gid(ctx, j, r) ? VERDICT_NEXT_GID : VERDICT_FAILED;
        return;
    }
}

/* Both sides go on to their next GIDs, as the two of a pair are of one kind: where one's IPv4 address
 * cannot be used, the other's would not be reached from IPv6. */
static rdt_status_t start_again(verbs_ctx_t *ctx, verbs_conn_t *conn)
{
    verbs_joining_t *j = conn->joining;

    for (uint32_t r = 0; r < conn->num_rails; r++) {
        rdt_status_t st = rdt_verbs_qp_reset(ctx, conn, r);

        if (st != RDT_OK) return st;
        if (has_next_gid(ctx, j, r)) j->gid_choice[r]++;
    }
    if (++j->num_rounds > 2 * VERBS_MAX_GIDS)
        return rdt_fail(RDT_PROTOCOL, "it asks for more rounds than it can have GIDs");
    j->phase = SAYS_OFFER;
    return make_offer(ctx, conn);
}

static rdt_status_t answer(verbs_ctx_t *ctx, verbs_conn_t *conn)
{
    verbs_joining_t *j = conn->joining;
    rdt_status_t st = take_offer(ctx, conn);

    if (st != RDT_OK) return st;
    join_rails(ctx, conn);
    j->phase = SAYS_VERDICT;
    if (j->verdict != VERDICT_FAILED) return RDT_OK;
    /* Not by rdt_sock_push: the last error is to say why this side could not join. */
    (void)send(conn->sock, &j->verdict, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    return RDT_IO_ERROR;
}

static rdt_status_t judge(verbs_ctx_t *ctx, verbs_conn_t *conn)
{
    verbs_joining_t *j = conn->joining;

    if (j->their_verdict == VERDICT_FAILED)
        return rdt_fail(RDT_PEER_REFUSED,
                        "it cannot move a queue pair to this rank's: its own error "
                        "says why");
    if (j->their_verdict != VERDICT_JOINED && j->their_verdict != VERDICT_NEXT_GID)
        return rdt_fail(RDT_PROTOCOL, "its verdict is not understood by this version");
    if (j->their_verdict != VERDICT_JOINED || j->verdict != VERDICT_JOINED)
        return start_again(ctx, conn);
    j->phase = JOINED;
    return RDT_OK;
}

/* -- phases -- */

/* As much as goes now of what the phase says or hears. */
static rdt_status_t move(const verbs_conn_t *conn)
{
    verbs_joining_t *j = conn->joining;

    switch (j->phase) {
    case SAYS_OFFER:
        return rdt_sock_push(conn->sock, &j->mine, sizeof(j->mine), &j->done, NULL);
    case HEARS_OFFER:
        return rdt_sock_pull(conn->sock, &j->theirs, sizeof(j->theirs), &j->done, NULL);
    case SAYS_VERDICT:
        return rdt_sock_push(conn->sock, &j->verdict, 1, &j->done, NULL);
    default:
        return rdt_sock_pull(conn->sock, &j->their_verdict, 1, &j->done, NULL);
    }
}

/* From a phase that is done to the next one. */
static rdt_status_t go_on(verbs_ctx_t *ctx, verbs_conn_t *conn)
{
    verbs_joining_t *j = conn->joining;

    j->done = 0;
    switch (j->phase) {
    case SAYS_OFFER:
        j->phase = HEARS_OFFER;
        return RDT_OK;
    case HEARS_OFFER:
        return answer(ctx, conn);
    case SAYS_VERDICT:
        j->phase = HEARS_VERDICT;
        return RDT_OK;
    default:
        return judge(ctx, conn);
    }
}

rdt_status_t rdt_verbs_join_begin(const verbs_ctx_t *ctx, verbs_conn_t *conn)
{
    conn->joining = calloc(1, sizeof(*conn->joining));
    if (conn->joining == NULL) return rdt_fail(RDT_NO_MEMORY, "a verbs connection: out of memory");
    conn->num_rails = ctx->num_rails; /* until the peer offers fewer */
    return make_offer(ctx, conn);
}

rdt_status_t rdt_verbs_join_step(verbs_ctx_t *ctx, verbs_conn_t *conn)
{
    rdt_status_t st = RDT_OK;

    while (st == RDT_OK && conn->joining->phase != JOINED) {
        st = move(conn);
        if (st == RDT_OK) st = go_on(ctx, conn);
    }
    if (st != RDT_AGAIN) rdt_verbs_join_end(conn);
    return st;
}

short rdt_verbs_join_events(const verbs_conn_t *conn)
{
    phase_t phase = conn->joining->phase;

    return phase == SAYS_OFFER || phase == SAYS_VERDICT ? POLLOUT : POLLIN;
}

void rdt_verbs_join_end(verbs_conn_t *conn)
{
    free(conn->joining);
    conn->joining = NULL;
}
