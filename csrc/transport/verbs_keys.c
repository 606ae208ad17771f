/* SPDX-License-Identifier: Apache-2.0 */
/* Which memory the NICs know: this rank's extents, and what the peers said of theirs. */
#include <stdlib.h>
#include <string.h>

#include "arena/arena.h"
#include "base/error.h"
#include "base/warn.h"
#include "transport/verbs.h"

#define MAX_KEYS (1u << 16) /* of a peer: an extent is 64 MiB or more */

verbs_extent_t *rdt_verbs_new_extent(verbs_ctx_t *ctx)
{
    verbs_extent_t *extents = realloc(ctx->extents, (ctx->num_extents + 1) * sizeof(*ctx->extents));

    if (extents == NULL) return NULL;
    ctx->extents = extents;
    return &extents[ctx->num_extents];
}

static bool register_rails(verbs_ctx_t *ctx, const void *data, verbs_extent_t *extent)
{
    for (uint32_t r = 0; r < ctx->num_rails; r++) {
        struct ibv_mr *mr;

        if (rdt_verbs_dev_register(ctx->rails[r].dev, data, &mr) != RDT_OK) return false;
        extent->lkey[r] = mr->lkey;
        extent->rkey[r] = mr->rkey;
    }
    return true;
}

/* Tensors of an extent that cannot be registered are copied, which is told once, and counted. */
static void tell_unregistered(verbs_ctx_t *ctx)
{
    if (ctx->told_unregistered) return;
    ctx->told_unregistered = true;
    rdt_warn("rank %u: tensors are copied for the NIC: %s", ctx->base.cfg.rank, rdt_last_error());
}

/* An extent that cannot be registered is remembered as such. at: the offset of data in the arena. */
static __attribute__((noinline)) const verbs_extent_t *
add_extent(verbs_ctx_t *ctx, const void *data, size_t len, uint64_t at)
{
    verbs_extent_t *extent = rdt_verbs_new_extent(ctx);
    void *base;
    size_t extent_len;

    if (extent == NULL || rdt_arena_pin(data, len, &base, &extent_len) != RDT_OK) return NULL;
    *extent = (verbs_extent_t){
        .at = at - ((uintptr_t)data - (uintptr_t)base), .len = extent_len, .addr = (uintptr_t)base};
    extent->failed = !register_rails(ctx, data, extent);
    if (extent->failed) tell_unregistered(ctx);
    rdt_arena_unpin(base); /* each device has pinned it for itself */
    ctx->last_extent = ctx->num_extents++;
    return extent->failed ? NULL : extent;
}

const verbs_extent_t *rdt_verbs_extent(verbs_ctx_t *ctx, const void *data, size_t len)
{
    uint64_t at;

    if (!rdt_arena_offset(data, len, &at))
        return ctx->num_adopted > 0 ? rdt_verbs_adopted(ctx, data, len) : NULL;
    for (uint32_t i = 0; i < ctx->num_extents; i++) {
        uint32_t k = (ctx->last_extent + i) % ctx->num_extents;
        const verbs_extent_t *extent = &ctx->extents[k];

        if (!rdt_verbs_holds(extent->at, extent->len, at, len)) continue;
        ctx->last_extent = k;
        return extent->failed ? NULL : extent;
    }
    return add_extent(ctx, data, len, at);
}

rdt_status_t rdt_verbs_expose(rdt_conn_t *base, void *addr, size_t len, uint64_t *at_p)
{
    verbs_conn_t *conn = (verbs_conn_t *)base;
    const verbs_extent_t *extent;

    if (!base->places || len == 0) return RDT_UNSUPPORTED;
    extent = rdt_verbs_extent((verbs_ctx_t *)base->ctx, addr, len);
    if (extent == NULL) return RDT_UNSUPPORTED;
    conn->exposed = true;
    *at_p = extent->at + ((uintptr_t)addr - extent->addr) + 1; /* 0 is nothing */
    return RDT_OK;
}

verbs_key_t rdt_verbs_key_of(const verbs_extent_t *extent)
{
    verbs_key_t key = {.at = extent->at, .len = extent->len, .addr = extent->addr};

    memcpy(key.rkey, extent->rkey, sizeof(key.rkey));
    return key;
}

const verbs_key_t *rdt_verbs_key(verbs_conn_t *conn, uint64_t at, size_t len)
{
    for (uint32_t i = 0; at > 0 && i < conn->num_keys; i++) {
        uint32_t k = (conn->last_key + i) % conn->num_keys;

        if (!rdt_verbs_holds(conn->keys[k].at, conn->keys[k].len, at - 1, len)) continue;
        conn->last_key = k;
        return &conn->keys[k];
    }
    return NULL;
}

static bool knows(const verbs_conn_t *conn, const verbs_key_t *key)
{
    for (uint32_t i = 0; i < conn->num_keys; i++)
        if (conn->keys[i].at == key->at) return true;
    return false;
}

/* Each lane says the same keys. */
bool rdt_verbs_take_keys(verbs_conn_t *conn, const uint8_t *data, uint32_t len)
{
    uint32_t num = len / sizeof(verbs_key_t);
    verbs_key_t *keys;

    if (len == 0 || len % sizeof(verbs_key_t) != 0 || conn->num_keys + num > MAX_KEYS) return false;
    keys = realloc(conn->keys, (conn->num_keys + num) * sizeof(*keys));
    if (keys == NULL) return false;
    conn->keys = keys;
    for (uint32_t i = 0; i < num; i++) {
        verbs_key_t key;

        memcpy(&key, data + i * sizeof(key), sizeof(key));
        if (!knows(conn, &key)) conn->keys[conn->num_keys++] = key;
    }
    return true;
}
