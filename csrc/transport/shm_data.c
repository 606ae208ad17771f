/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/futex.h"
#include "transport/shm.h"

/* A cached write below this speed is slow; so many in a row make the next ones go past the caches. */
#define SLOW_BYTES_PER_NS 10
#define NUM_SLOW 4
#define NUM_STREAMED 1024

static shm_slot_t *slot_at(const shm_conn_t *conn, const shm_lane_t *lane, uint64_t pos)
{
    const shm_ctx_t *ctx = (const shm_ctx_t *)conn->base.ctx;

    return (shm_slot_t *)(lane->slots + (pos & (lane->num_slots - 1)) * ctx->slot_bytes);
}

/* Out of line: only a peer that sleeps costs a system call. */
static __attribute__((noinline)) void wake_peer(shm_conn_t *conn, uint32_t sleeping)
{
    char byte = 0;

    atomic_fetch_add(&conn->peer_bell->rings, 1);
    if (sleeping == SHM_ON_FUTEX)
        rdt_futex_wake(&conn->peer_bell->rings);
    else if (send(conn->sock, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN)
        conn->base.sys_errno = errno; /* check() decides what it means */
}

/* HOT. Pairs with arm: the news, this load, the owner's word that it sleeps and its last look before
 * it does are all sequentially consistent, so either this side sees that the owner sleeps, or the
 * owner sees the news. */
static void ring(shm_conn_t *conn)
{
    uint32_t sleeping = atomic_load(&conn->peer_bell->sleeping);

    if (__builtin_expect(sleeping != SHM_AWAKE, 0)) wake_peer(conn, sleeping);
}

/* HOT. How a large message goes is tried out: the slot's lines have usually left the caches by the
 * time it is its turn again, and then cached writes are fastest (128 KiB in 3 us); but where they are
 * in the cache of a core that is far from this one, each line is slow to get (50 us) and slow to read
 * again, and past the caches the way is shorter (10 us). */
static bool is_streamed(shm_lane_t *lane)
{
    if (lane->num_streamed == 0) return false;
    lane->num_streamed--;
    return true;
}

static void judge_write(shm_lane_t *lane, uint32_t len, uint64_t ns)
{
    if (ns < len / SLOW_BYTES_PER_NS)
        lane->num_slow = 0;
    else if (++lane->num_slow == NUM_SLOW) {
        lane->num_slow = 0;
        lane->num_streamed = NUM_STREAMED;
    }
}

static void write_large(const shm_ctx_t *ctx, shm_lane_t *lane, void *dst, const void *data,
                        uint32_t len)
{
    uint64_t begin;

    if (is_streamed(lane)) {
        ctx->stream(dst, data, len);
        rdt_copy_fence(); /* before the flag */
        return;
    }
    begin = rdt_now_ns();
    memcpy(dst, data, len);
    judge_write(lane, len, rdt_now_ns() - begin);
}

/* HOT. The slots of middling messages stay in the reader's cache: they are written past it. */
static void write_data(const shm_ctx_t *ctx, shm_lane_t *lane, shm_slot_t *slot, const void *data,
                       uint32_t len)
{
    const rdt_ctx_cfg_t *cfg = &ctx->base.cfg;

    if (len <= SHM_INLINE_BYTES) {
        if (len > 0) memcpy(slot->inline_data, data, len);
    } else if (len < cfg->stream_from) {
        memcpy(slot->data, data, len);
    } else if (len > cfg->stream_to) {
        write_large(ctx, lane, slot->data, data, len);
    } else {
        ctx->stream(slot->data, data, len);
        rdt_copy_fence();
    }
}

/* HOT. Invariant: consumed <= pos <= consumed + num_slots. */
rdt_status_t rdt_shm_send(rdt_conn_t *base, rdt_lane_t lane_id, const void *hdr, const void *data,
                          uint32_t len)
{
    shm_conn_t *conn = (shm_conn_t *)base;
    shm_lane_t *lane = &conn->tx[lane_id];
    shm_slot_t *slot;

    assert(len <= base->ctx->cfg.chunk_bytes);
    if (__builtin_expect(base->status != RDT_OK, 0)) return base->status;
    if (lane->pos - lane->seen >= lane->num_slots) {
        lane->seen = atomic_load(lane->consumed); /* pairs with release: its reads are over */
        if (lane->pos - lane->seen >= lane->num_slots) return RDT_AGAIN;
    }
    slot = slot_at(conn, lane, lane->pos);
    memcpy(slot->hdr, hdr, RDT_HDR_BYTES);
    write_data((const shm_ctx_t *)base->ctx, lane, slot, data, len);
    slot->len = len;
    lane->pos++;
    atomic_store(&slot->flag, lane->pos); /* pairs with peek: who sees it sees the message */
    base->posted[lane_id]++;
    base->flushed[lane_id]++; /* copied: the source is free at once */
    rdt_count_bytes(&base->sent_bytes, len);
    rdt_count_bytes(&base->staged_bytes, len);
    ring(conn);
    return RDT_OK;
}

/* HOT. */
rdt_status_t rdt_shm_peek(rdt_conn_t *base, rdt_lane_t lane_id, rdt_msg_t *msg_p)
{
    shm_conn_t *conn = (shm_conn_t *)base;
    shm_lane_t *lane = &conn->rx[lane_id];
    shm_slot_t *slot = slot_at(conn, lane, lane->pos);

    if (atomic_load(&slot->flag) != lane->pos + 1)
        return base->status != RDT_OK ? base->status : RDT_AGAIN;
    if (__builtin_expect(slot->len > base->ctx->cfg.chunk_bytes, 0))
        return base->status = RDT_PROTOCOL;
    msg_p->hdr = slot->hdr;
    msg_p->len = slot->len;
    msg_p->data = slot->len <= SHM_INLINE_BYTES ? slot->inline_data : slot->data;
    return RDT_OK;
}

/* HOT. A sender that found no slot may sleep, hence the bell. */
void rdt_shm_release(rdt_conn_t *base, rdt_lane_t lane_id)
{
    shm_conn_t *conn = (shm_conn_t *)base;
    shm_lane_t *lane = &conn->rx[lane_id];

    rdt_count_bytes(&base->received_bytes, slot_at(conn, lane, lane->pos)->len);
    lane->pos++;
    atomic_store(lane->consumed, lane->pos);
    ring(conn);
}

/* Nothing to move: peers write straight into our memory. */
void rdt_shm_poll(rdt_ctx_t *ctx)
{
    (void)ctx;
}

/* Reads away wake-up bytes; end of file means that the peer's process ended or closed. What it had
 * written before stays readable, so peek reports the death only after the last message. */
static void check_conn(shm_conn_t *conn)
{
    char bytes[64];
    ssize_t n;

    do {
        n = recv(conn->sock, bytes, sizeof(bytes), MSG_DONTWAIT);
    } while (n > 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    conn->base.sys_errno = n < 0 ? errno : 0;
    conn->base.status = RDT_PEER_LOST;
}

void rdt_shm_check(rdt_ctx_t *base)
{
    shm_ctx_t *ctx = (shm_ctx_t *)base;

    for (uint32_t i = 0; i < ctx->num_conns; i++)
        if (ctx->conns[i].base.status == RDT_OK) check_conn(&ctx->conns[i]);
}

void rdt_shm_arm(rdt_ctx_t *base, rdt_sleep_t *sleep)
{
    shm_ctx_t *ctx = (shm_ctx_t *)base;

    if (sleep->use_futex) {
        sleep->futex = &ctx->bell->rings;
        sleep->futex_value = atomic_load(&ctx->bell->rings);
    }
    for (uint32_t i = 0; !sleep->use_futex && i < ctx->num_conns; i++)
        if (ctx->conns[i].base.status == RDT_OK)
            sleep->fds[sleep->num_fds++] =
                (struct pollfd){.fd = ctx->conns[i].sock, .events = POLLIN};
    atomic_store(&ctx->bell->sleeping, sleep->use_futex ? SHM_ON_FUTEX : SHM_ON_SOCKET);
}

void rdt_shm_disarm(rdt_ctx_t *base)
{
    shm_ctx_t *ctx = (shm_ctx_t *)base;

    atomic_store(&ctx->bell->sleeping, SHM_AWAKE);
}
