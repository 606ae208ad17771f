/* SPDX-License-Identifier: Apache-2.0 */
/* Set-up and end of a pair. */
#include "coll/pair.h"

#include <stdlib.h>
#include <string.h>

#include "arena/arena.h"
#include "base/clock.h"
#include "base/error.h"
#include "coll/comm.h"
#include "rdmatrain/tuning.h"
#include "reduce/copy.h"

rdt_status_t rdt_pair_open(const rdt_pair_cfg_t *cfg, rdt_pair_t **pair_p)
{
    const rdt_transport_ops_t *ops = rdt_transport_named(cfg->transport);
    const rdt_tuning_t tuning = rdt_tuning_default(2);
    rdt_ctx_cfg_t ctx_cfg = {.rank = cfg->side,
                             .world = 2,
                             .chunk_bytes = (uint32_t)tuning.chunk,
                             .stream_from = (uint32_t)tuning.stream_from,
                             .stream_to = (uint32_t)tuning.stream_to,
                             .addr = cfg->arg};
    rdt_pair_t *pair;
    rdt_status_t st;

    if (ops == NULL || cfg->side > 1)
        return rdt_fail(RDT_BAD_ARG, "side %u of a pair over \"%s\"", cfg->side,
                        cfg->transport != NULL ? cfg->transport : "");
    st = rdt_arena_open();
    if (st != RDT_OK) return st;
    pair = calloc(1, sizeof(*pair));
    if (pair == NULL) return rdt_fail(RDT_NO_MEMORY, "pair: out of memory");
    pair->side = cfg->side;
    pair->place = tuning.place;
    memcpy(ctx_cfg.token, cfg->token, sizeof(ctx_cfg.token));
    st = ops->open(&ctx_cfg, &pair->ctx);
    if (st == RDT_OK)
        *pair_p = pair;
    else
        free(pair);
    return st;
}

uint32_t rdt_pair_address(const rdt_pair_t *pair, uint8_t *wire)
{
    return pair->ctx->ops->address(pair->ctx, wire);
}

rdt_status_t rdt_pair_connect(rdt_pair_t *pair, const uint8_t *wire, uint32_t wire_len,
                              uint64_t timeout_ns)
{
    rdt_peer_t peer = {.rank = 1 - pair->side, .wire_len = wire_len};
    uint64_t deadline_ns = rdt_deadline_after(rdt_now_ns(), timeout_ns);

    if (pair->conn != NULL || pair->status != RDT_OK)
        return rdt_fail(RDT_BAD_ARG, "a pair connects once");
    if (wire_len > sizeof(peer.wire)) return rdt_fail(RDT_BAD_ARG, "the address is too long");
    memcpy(peer.wire, wire, wire_len);
    pair->status = pair->ctx->ops->connect(pair->ctx, &peer, 1, deadline_ns, &pair->conn);
    if (pair->status != RDT_OK) pair->conn = NULL;
    return pair->status;
}

static void forget_adopted(rdt_pair_t *pair)
{
    pair->tx = pair->rx = NULL;
    pair->nbytes = 0;
    pair->adopted = false;
}

static void give_back(rdt_pair_t *pair)
{
    if (pair->adopted) { /* after a failure too: what a peer still writes, the NIC refuses then */
        pair->ctx->ops->disown(pair->ctx, pair->tx);
        forget_adopted(pair);
    }
    /* After a failure the peer may still write there. */
    if (pair->status != RDT_OK && pair->rx != NULL) (void)rdt_arena_detach(pair->rx, pair->nbytes);
    if (pair->tx != NULL) rdt_arena_free(pair->tx);
    if (pair->rx != NULL) rdt_arena_free(pair->rx);
    pair->tx = pair->rx = NULL;
    pair->nbytes = 0;
}

rdt_status_t rdt_pair_reserve(rdt_pair_t *pair, uint64_t nbytes)
{
    give_back(pair);
    if (nbytes == 0) return RDT_OK;
    pair->tx = rdt_arena_alloc(nbytes);
    pair->rx = rdt_arena_alloc(nbytes);
    if (pair->tx == NULL || pair->rx == NULL) {
        give_back(pair);
        return rdt_fail(RDT_NO_MEMORY, "the arena has no room for 2 times %llu bytes",
                        (unsigned long long)nbytes);
    }
    memset(pair->tx, 0, nbytes);
    memset(pair->rx, 0, nbytes);
    pair->nbytes = nbytes;
    pair->streams = nbytes >= rdt_copy_stream_bytes();
    return RDT_OK;
}

rdt_status_t rdt_pair_reserve_dmabuf(rdt_pair_t *pair, const rdt_dmabuf_t *memory)
{
    const rdt_transport_ops_t *ops = pair->ctx->ops;
    rdt_status_t st;

    give_back(pair);
    if (memory->len < 2 || memory->len % 2 != 0)
        return rdt_fail(RDT_BAD_ARG, "%zu bytes have no two halves", memory->len);
    if ((memory->offset ^ (uintptr_t)memory->addr) % RDT_ARENA_PAGE != 0)
        return rdt_fail(RDT_BAD_ARG,
                        "offset %llu in the dmabuf and address %p differ in their page",
                        (unsigned long long)memory->offset, memory->addr);
    if (ops->adopt == NULL || (pair->conn != NULL && !rdt_pair_has_stores(pair)))
        return rdt_fail(RDT_UNSUPPORTED, "%s reaches no memory of devices: verbs does", ops->name);
    st = ops->adopt(pair->ctx, memory);
    if (st != RDT_OK) return st;
    pair->nbytes = memory->len / 2;
    pair->tx = memory->addr;
    pair->rx = pair->tx + pair->nbytes;
    pair->adopted = true;
    return RDT_OK;
}

/* What is under way goes first: the transport reads the memory, and peers write to it. */
void rdt_pair_close(rdt_pair_t *pair)
{
    if (pair == NULL) return;
    if (pair->ctx->ops->revoke != NULL) pair->ctx->ops->revoke(pair->ctx, 0);
    pair->ctx->ops->close(pair->ctx);
    if (pair->adopted) forget_adopted(pair); /* closing has disowned it */
    give_back(pair);
    free(pair);
}
