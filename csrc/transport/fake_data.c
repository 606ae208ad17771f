/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/futex.h"
#include "transport/fake.h"

static uint32_t next_random(fake_ctx_t *ctx, uint32_t below)
{
    ctx->random = ctx->random * 1664525u + 1013904223u;
    return below == 0 ? 0 : (ctx->random >> 8) % (below + 1);
}

static void ring(fake_conn_t *conn)
{
    fake_ctx_t *owner;

    if (conn == NULL) return;
    owner = (fake_ctx_t *)conn->base.ctx;
    atomic_fetch_add(&owner->bell, 1);
    rdt_futex_wake(&owner->bell);
}

/* A process that dies loses what was not yet read from its memory; what had left it arrives. */
void rdt_fake_cut(fake_conn_t *conn)
{
    fake_conn_t *other = conn->other;

    conn->cut = true;
    conn->other = NULL;
    if (other == NULL) return;
    other->cut = true;
    other->other = NULL;
    ring(other);
}

void rdt_fake_cut_conn(rdt_conn_t *base)
{
    pthread_mutex_lock(&rdt_fake_lock);
    rdt_fake_cut((fake_conn_t *)base);
    pthread_mutex_unlock(&rdt_fake_lock);
    base->status = RDT_CLOSED;
}

void rdt_fake_revoke(rdt_ctx_t *base, uint64_t from)
{
    fake_ctx_t *ctx = (fake_ctx_t *)base;

    pthread_mutex_lock(&rdt_fake_lock);
    for (uint32_t i = 0; i < ctx->num_conns; i++) {
        ctx->conns[i].windows.revoked = true;
        if (ctx->conns[i].other != NULL) atomic_store(&ctx->conns[i].other->revoked, from);
    }
    pthread_mutex_unlock(&rdt_fake_lock);
}

/* The status belongs to the owner's driver, so only its own calls change it. */
static rdt_status_t latched(fake_conn_t *conn)
{
    if (conn->cut && conn->base.status == RDT_OK)
        conn->base.status = conn->broken ? RDT_PROTOCOL : RDT_PEER_LOST;
    return conn->base.status;
}

static rdt_status_t send_locked(fake_conn_t *conn, rdt_lane_t lane_id, const void *hdr,
                                const void *data, uint32_t len, uint64_t at)
{
    fake_ctx_t *ctx = (fake_ctx_t *)conn->base.ctx;
    fake_lane_t *lane;
    fake_slot_t *slot;

    if (latched(conn) != RDT_OK) return conn->base.status;
    lane = &conn->other->in[lane_id];
    slot = &lane->slots[lane->written % ctx->script.slots];
    if (lane->written - lane->consumed == ctx->script.slots) return RDT_AGAIN;
    if (++ctx->num_sends == ctx->script.fail) {
        rdt_fake_cut(conn);
        return latched(conn);
    }
    memcpy(slot->hdr, hdr, RDT_HDR_BYTES);
    slot->source = data;
    slot->len = len;
    slot->at = at;
    slot->source_delay = next_random(ctx, ctx->script.delay);
    slot->show_delay = next_random(ctx, ctx->script.delay);
    lane->written++;
    conn->base.posted[lane_id]++;
    rdt_count_bytes(&conn->base.sent_bytes, len);
    return RDT_OK;
}

rdt_status_t rdt_fake_put(rdt_conn_t *base, rdt_lane_t lane, const void *hdr, const void *data,
                          uint32_t len, uint64_t at)
{
    rdt_status_t st;

    pthread_mutex_lock(&rdt_fake_lock);
    st = send_locked((fake_conn_t *)base, lane, hdr, data, len, at);
    pthread_mutex_unlock(&rdt_fake_lock);
    return st;
}

rdt_status_t rdt_fake_send(rdt_conn_t *base, rdt_lane_t lane, const void *hdr, const void *data,
                           uint32_t len)
{
    return rdt_fake_put(base, lane, hdr, data, len, 0);
}

rdt_status_t rdt_fake_expose(rdt_conn_t *base, void *addr, size_t len, uint64_t *at_p)
{
    rdt_status_t st;

    pthread_mutex_lock(&rdt_fake_lock);
    st = rdt_windows_expose(&((fake_conn_t *)base)->windows, addr, len, at_p);
    pthread_mutex_unlock(&rdt_fake_lock);
    return st;
}

static rdt_status_t peek_locked(fake_conn_t *conn, rdt_lane_t lane_id, rdt_msg_t *msg_p)
{
    const fake_ctx_t *ctx = (const fake_ctx_t *)conn->base.ctx;
    fake_lane_t *lane = &conn->in[lane_id];
    fake_slot_t *slot = &lane->slots[lane->consumed % ctx->script.slots];

    if (lane->consumed == lane->read) return conn->cut ? latched(conn) : RDT_AGAIN;
    if (slot->show_delay > 0 && !conn->cut) {
        slot->show_delay--;
        return RDT_AGAIN;
    }
    *msg_p =
        (rdt_msg_t){.hdr = slot->hdr, .data = slot->at == 0 ? slot->data : NULL, .len = slot->len};
    return RDT_OK;
}

rdt_status_t rdt_fake_peek(rdt_conn_t *base, rdt_lane_t lane, rdt_msg_t *msg_p)
{
    rdt_status_t st;

    pthread_mutex_lock(&rdt_fake_lock);
    st = peek_locked((fake_conn_t *)base, lane, msg_p);
    pthread_mutex_unlock(&rdt_fake_lock);
    return st;
}

void rdt_fake_release(rdt_conn_t *base, rdt_lane_t lane)
{
    fake_conn_t *conn = (fake_conn_t *)base;

    const fake_script_t *script = &((const fake_ctx_t *)base->ctx)->script;
    fake_lane_t *in = &conn->in[lane];

    pthread_mutex_lock(&rdt_fake_lock);
    rdt_count_bytes(&base->received_bytes, in->slots[in->consumed % script->slots].len);
    in->consumed++;
    ring(conn->other);
    pthread_mutex_unlock(&rdt_fake_lock);
}

/* A peer that puts data where it was not told to loses the connection, as over tcp. */
static bool move_data(fake_conn_t *conn, const fake_slot_t *slot)
{
    rdt_windows_t *windows = &conn->other->windows;
    uint8_t *target = slot->data;

    if (slot->at != 0) {
        target = rdt_windows_use(windows, slot->at, slot->len);
        if (target == NULL) {
            conn->other->broken = true;
            rdt_fake_cut(conn);
            return false;
        }
        if (windows->revoked) return true;
    }
    if (slot->len > 0) memcpy(target, slot->source, slot->len);
    if (slot->at == 0) rdt_count_bytes(&conn->base.staged_bytes, slot->len);
    return true;
}

/* Reads sources late: an engine that lets go of one too early sends something else. */
static void read_sources(fake_conn_t *conn, uint32_t num_slots)
{
    for (int l = 0; l < RDT_NUM_LANES; l++) {
        fake_lane_t *lane = &conn->other->in[l];

        while (lane->read < lane->written) {
            fake_slot_t *slot = &lane->slots[lane->read % num_slots];

            if (slot->source_delay > 0) {
                slot->source_delay--;
                break;
            }
            if (!move_data(conn, slot)) return;
            lane->read++;
            conn->base.flushed[l]++;
            ring(conn->other);
        }
    }
}

void rdt_fake_poll(rdt_ctx_t *base)
{
    fake_ctx_t *ctx = (fake_ctx_t *)base;

    pthread_mutex_lock(&rdt_fake_lock);
    for (uint32_t i = 0; i < ctx->num_conns; i++)
        if (ctx->conns[i].joined && latched(&ctx->conns[i]) == RDT_OK)
            read_sources(&ctx->conns[i], ctx->script.slots);
    pthread_mutex_unlock(&rdt_fake_lock);
}

void rdt_fake_check(rdt_ctx_t *ctx)
{
    (void)ctx;
}

/* True while something moves only because somebody polls. */
static bool needs_polls(const fake_conn_t *conn)
{
    for (int l = 0; l < RDT_NUM_LANES; l++) {
        if (conn->in[l].consumed < conn->in[l].read) return true;
        if (conn->other != NULL && conn->other->in[l].read < conn->other->in[l].written)
            return true;
    }
    return false;
}

void rdt_fake_arm(rdt_ctx_t *base, rdt_sleep_t *sleep)
{
    fake_ctx_t *ctx = (fake_ctx_t *)base;

    if (!sleep->use_futex) return; /* then the sleeper comes back after its slice */
    sleep->futex = &ctx->bell;
    sleep->futex_value = atomic_load(&ctx->bell);
    pthread_mutex_lock(&rdt_fake_lock);
    for (uint32_t i = 0; i < ctx->num_conns; i++)
        if (needs_polls(&ctx->conns[i])) sleep->futex_value = atomic_load(&ctx->bell) - 1;
    pthread_mutex_unlock(&rdt_fake_lock);
}

void rdt_fake_disarm(rdt_ctx_t *ctx)
{
    (void)ctx;
}
