/* SPDX-License-Identifier: Apache-2.0 */
/* Two ranks agree on a connection: over the socket of the handshake each side offers its queue pairs, its GIDs
 * and its inbox. Both make the same list of the pairs of GIDs that may work, try the first, and say how
 * that went; where one of them cannot use it, both go on to the next, for each rail by itself. So a pair
 * that works is found where there is one, and the number of rounds is that of the longest list at most. */
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

_Static_assert(sizeof(verbs_offer_t) == 16 + VERBS_MAX_RAILS * 148, "a wire format has no padding");

/* A verdict is this and a bit for each rail that its sender has moved to the pair of the round. */
#define VERDICT 0xa0u
_Static_assert(VERBS_MAX_RAILS <= 4, "a verdict is a byte");

#define GIDS_BYTES 100 /* of one port, in an error */
#define REMEDY \
    ": give both ports addresses that reach each other, or choose others with RDMATRAIN_GID_INDEX"

/* Both say and hear their offers once, and then verdicts. */
typedef enum phase { SAYS_OFFER, HEARS_OFFER, SAYS_VERDICT, HEARS_VERDICT, JOINED } phase_t;

typedef struct rail_joining {
    verbs_gid_pair_t pairs[VERBS_MAX_PAIRS];
    uint32_t num_pairs, pair;  /* the one of this round */
    char why[RDT_ERROR_BYTES]; /* this rank could not use the last that it could not use; or "" */
} rail_joining_t;

struct verbs_joining {
    phase_t phase;
    size_t done; /* bytes of what the phase says or hears */
    verbs_offer_t mine, theirs;
    uint8_t verdict, their_verdict;
    uint8_t joined; /* rails that both have moved, as bits */
    rail_joining_t rails[VERBS_MAX_RAILS];
};

/* -- offers -- */

static rdt_status_t read_gid(const verbs_rail_t *rail, uint8_t index, union ibv_gid *gid_p)
{
    if (rail->dev->api.query_gid(rail->dev->context, rail->port, index, gid_p) == 0) return RDT_OK;
    return rdt_fail(RDT_IO_ERROR, "GID index %u of %s/%u cannot be read: %s", index, rail->name,
                    rail->port, strerror(errno));
}

/* One that can be read is enough: what is gone since it was chosen is never paired. */
static rdt_status_t fill_gids(const verbs_rail_t *rail, verbs_offer_rail_t *offer)
{
    rdt_status_t result = RDT_OK;
    bool any = false;

    offer->num_gids = rail->num_gids;
    for (uint32_t i = 0; i < rail->num_gids; i++) {
        union ibv_gid gid;
        rdt_status_t st = read_gid(rail, rail->gid_index[i], &gid);

        any |= st == RDT_OK;
        if (st == RDT_OK)
            memcpy(offer->gids[i], &gid, sizeof(gid));
        else
            result = st;
    }
    return any ? RDT_OK : result;
}

static rdt_status_t fill_rail(const verbs_ctx_t *ctx, const verbs_conn_t *conn, uint32_t r)
{
    const verbs_rail_t *rail = &ctx->rails[r];
    verbs_offer_rail_t *offer = &conn->joining->mine.rails[r];
    uint8_t mtu = (uint8_t)rail->attr.active_mtu;

    /* enum ibv_mtu: 1 is 256 bytes, and each one more doubles it. */
    while (ctx->options.mtu > 0 && mtu > IBV_MTU_256 && (128u << mtu) > ctx->options.mtu)
        mtu--;
    *offer = (verbs_offer_rail_t){.qpn = conn->qps[r].qp->qp_num,
                                  .rkey = conn->qps[r].mr->rkey,
                                  .lid = rail->attr.lid,
                                  .mtu = mtu,
                                  .link_layer = rail->attr.link_layer};
    if (getrandom(&offer->psn, sizeof(offer->psn), 0) < 0) offer->psn = conn->index;
    offer->psn &= PSN_MASK;
    return fill_gids(rail, offer);
}

static rdt_status_t make_offer(const verbs_ctx_t *ctx, const verbs_conn_t *conn)
{
    rdt_status_t st = RDT_OK;

    conn->joining->mine = (verbs_offer_t){
        .num_rails = ctx->num_rails, .slots = VERBS_SLOTS, .inbox = (uintptr_t)conn->memory};
    for (uint32_t r = 0; r < ctx->num_rails && st == RDT_OK; r++)
        st = fill_rail(ctx, conn, r);
    return st;
}

static bool is_sane_rail(const verbs_offer_rail_t *rail)
{
    return rail->mtu >= IBV_MTU_256 && rail->mtu <= IBV_MTU_4096 && rail->qpn <= PSN_MASK &&
           rail->psn <= PSN_MASK && rail->num_gids > 0 && rail->num_gids <= VERBS_MAX_GIDS;
}

static bool is_sane(const verbs_offer_t *offer)
{
    if (offer->num_rails == 0 || offer->num_rails > VERBS_MAX_RAILS || offer->slots != VERBS_SLOTS)
        return false;
    for (uint32_t r = 0; r < offer->num_rails; r++)
        if (!is_sane_rail(&offer->rails[r])) return false;
    return true;
}

/* Both know when the list is at its end, as both have heard all verdicts. */
static rdt_status_t no_pair_left(const verbs_ctx_t *ctx, const verbs_conn_t *conn, uint32_t r)
{
    const verbs_joining_t *j = conn->joining;
    const rail_joining_t *each = &j->rails[r];
    char here[GIDS_BYTES], there[GIDS_BYTES];
    const char *why = each->why, *remedy = REMEDY;

    if (each->num_pairs == 0) why = "no two are of one kind";
    if (why[0] == '\0') {
        why = "it cannot move a queue pair to this rank's: its own error says why";
        remedy = "";
    }
    rdt_verbs_gids_text(&j->mine.rails[r], here, sizeof(here));
    rdt_verbs_gids_text(&j->theirs.rails[r], there, sizeof(there));
    return rdt_fail(each->why[0] != '\0' ? RDT_IO_ERROR : RDT_PEER_REFUSED,
                    "no GID of %.31s/%u (%s) can be used with one of its (%s): %s%s",
                    ctx->rails[r].name, ctx->rails[r].port, here, there, why, remedy);
}

static bool is_lower(const verbs_ctx_t *ctx, const verbs_conn_t *conn)
{
    return ctx->base.cfg.rank < conn->base.peer;
}

static rdt_status_t take_rail(const verbs_ctx_t *ctx, verbs_conn_t *conn, uint32_t r)
{
    const verbs_offer_rail_t *mine = &conn->joining->mine.rails[r],
                             *theirs = &conn->joining->theirs.rails[r];
    rail_joining_t *each = &conn->joining->rails[r];

    if (theirs->link_layer != mine->link_layer)
        return rdt_fail(RDT_PEER_REFUSED, "rail %u is RoCE on one side and InfiniBand on the other",
                        r);
    conn->qps[r].rkey = theirs->rkey;
    each->num_pairs = is_lower(ctx, conn) ? rdt_verbs_pair_gids(mine, theirs, each->pairs)
                                          : rdt_verbs_pair_gids(theirs, mine, each->pairs);
    return each->num_pairs > 0 ? RDT_OK : no_pair_left(ctx, conn, r);
}

static rdt_status_t take_offer(const verbs_ctx_t *ctx, verbs_conn_t *conn)
{
    const verbs_offer_t *theirs = &conn->joining->theirs;
    rdt_status_t st = RDT_OK;

    if (!is_sane(theirs))
        return rdt_fail(RDT_PROTOCOL, "what it offers is not understood by this version");
    conn->num_rails = ctx->num_rails < theirs->num_rails ? ctx->num_rails : theirs->num_rails;
    for (uint32_t r = 0; r < conn->num_rails && st == RDT_OK; r++)
        st = take_rail(ctx, conn, r);
    conn->peer_inbox = theirs->inbox;
    return st;
}

/* -- verdicts -- */

/* The peer was told a GID when it was offered: who has another one now would not be found there. */
static rdt_status_t choose_gids(const verbs_ctx_t *ctx, verbs_conn_t *conn, uint32_t r)
{
    const verbs_joining_t *j = conn->joining;
    const verbs_rail_t *rail = &ctx->rails[r];
    verbs_gid_pair_t pair = j->rails[r].pairs[j->rails[r].pair];
    uint8_t mine = is_lower(ctx, conn) ? pair.lower : pair.higher,
            theirs = is_lower(ctx, conn) ? pair.higher : pair.lower;
    verbs_qp_t *qp = &conn->qps[r];
    rdt_status_t st;

    qp->gid_index = rail->gid_index[mine];
    st = read_gid(rail, qp->gid_index, &qp->gid);
    if (st != RDT_OK) return st;
    if (memcmp(&qp->gid, j->mine.rails[r].gids[mine], sizeof(qp->gid)) != 0)
        return rdt_fail(RDT_IO_ERROR, "GID index %u of %s/%u has changed since it was offered",
                        qp->gid_index, rail->name, rail->port);
    memcpy(&qp->peer_gid, j->theirs.rails[r].gids[theirs], sizeof(qp->peer_gid));
    qp->mtu = j->mine.rails[r].mtu < j->theirs.rails[r].mtu ? j->mine.rails[r].mtu
                                                            : j->theirs.rails[r].mtu;
    return RDT_OK;
}

/* This rank's part of a round. */
static void try_rails(verbs_ctx_t *ctx, verbs_conn_t *conn)
{
    verbs_joining_t *j = conn->joining;

    j->verdict = (uint8_t)(VERDICT | j->joined);
    for (uint32_t r = 0; r < conn->num_rails; r++) {
        rdt_status_t st;

        if ((j->joined & 1u << r) != 0) continue;
        st = choose_gids(ctx, conn, r);
        if (st == RDT_OK)
            st = rdt_verbs_qp_join(ctx, conn, r, &j->mine.rails[r], &j->theirs.rails[r]);
        if (st == RDT_OK) {
            j->verdict |= (uint8_t)(1u << r);
            continue;
        }
        conn->qps[r].mtu = 0; /* this way is none */
        memcpy(j->rails[r].why, rdt_last_error(), sizeof(j->rails[r].why));
    }
    j->phase = SAYS_VERDICT;
}

static rdt_status_t answer(verbs_ctx_t *ctx, verbs_conn_t *conn)
{
    rdt_status_t st = take_offer(ctx, conn);

    if (st == RDT_OK) try_rails(ctx, conn);
    return st;
}

static rdt_status_t go_to_next_pairs(verbs_ctx_t *ctx, verbs_conn_t *conn)
{
    verbs_joining_t *j = conn->joining;

    for (uint32_t r = 0; r < conn->num_rails; r++) {
        rdt_status_t st;

        if ((j->joined & 1u << r) != 0) continue;
        if (++j->rails[r].pair == j->rails[r].num_pairs) return no_pair_left(ctx, conn, r);
        st = rdt_verbs_qp_reset(ctx, conn, r);
        if (st != RDT_OK) return st;
    }
    try_rails(ctx, conn);
    return RDT_OK;
}

/* What both have moved stays so; a peer may not take that back. */
static rdt_status_t judge(verbs_ctx_t *ctx, verbs_conn_t *conn)
{
    verbs_joining_t *j = conn->joining;
    uint32_t all = (1u << conn->num_rails) - 1, theirs = j->their_verdict ^ VERDICT;

    if ((theirs & ~all) != 0 || (j->joined & ~theirs) != 0)
        return rdt_fail(RDT_PROTOCOL, "its verdict is not understood by this version");
    j->joined = (uint8_t)(j->verdict & theirs);
    if (j->joined != all) return go_to_next_pairs(ctx, conn);
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
