/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "transport/tcp.h"

#define MAX_IOV 16 /* eight frames in one system call */

static __attribute__((noinline)) void fail(tcp_conn_t *conn, rdt_status_t status, int err)
{
    if (conn->base.status != RDT_OK) return;
    conn->base.status = status;
    conn->base.sys_errno = err;
}

static tcp_frame_t *frame_at(tcp_conn_t *conn, uint64_t pos)
{
    return &conn->tx[pos % TCP_TX_FRAMES];
}

/* HOT. The head takes along what the peer may be waiting for. */
static tcp_frame_t *new_frame(tcp_conn_t *conn, uint8_t lane, uint32_t len)
{
    tcp_frame_t *frame = frame_at(conn, conn->tx_head);

    assert(conn->tx_head - conn->tx_done < TCP_TX_FRAMES);
    memset(&frame->head, 0, sizeof(frame->head));
    frame->head.lane = lane;
    frame->head.len = len;
    for (int l = 0; l < RDT_NUM_LANES; l++) {
        frame->head.credits[l] = conn->lanes[l].due;
        conn->lanes[l].due = 0;
    }
    conn->tx_head++;
    return frame;
}

static int fill_iov(tcp_conn_t *conn, struct iovec *iov)
{
    size_t skip = conn->tx_off;
    int n = 0;

    for (uint64_t pos = conn->tx_done; pos < conn->tx_head && n + 2 <= MAX_IOV; pos++) {
        tcp_frame_t *frame = frame_at(conn, pos);
        size_t head = skip < sizeof(frame->head) ? skip : sizeof(frame->head);

        if (head < sizeof(frame->head))
            iov[n++] = (struct iovec){(uint8_t *)&frame->head + head, sizeof(frame->head) - head};
        skip -= head;
        if (frame->head.len > skip)
            iov[n++] =
                (struct iovec){(void *)(uintptr_t)(frame->data + skip), frame->head.len - skip};
        skip = 0;
    }
    return n;
}

/* Invariant: flushed counts the frames of send() that are wholly with the kernel. */
static void took(tcp_conn_t *conn, size_t bytes)
{
    conn->tx_off += bytes;
    while (conn->tx_done < conn->tx_head) {
        tcp_frame_t *frame = frame_at(conn, conn->tx_done);
        size_t whole = sizeof(frame->head) + frame->head.len;

        if (conn->tx_off < whole) return;
        conn->tx_off -= whole;
        if (frame->head.lane != TCP_LANE_NONE) conn->base.flushed[frame->head.lane]++;
        conn->tx_done++;
    }
}

/* HOT. Gives the kernel as much as it takes. */
static void flush(tcp_conn_t *conn)
{
    while (conn->tx_done < conn->tx_head && conn->base.status == RDT_OK) {
        struct iovec iov[MAX_IOV];
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)fill_iov(conn, iov)};
        ssize_t n = sendmsg(conn->sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n >= 0) {
            took(conn, (size_t)n);
            continue;
        }
        if (errno == EAGAIN || errno == EINTR) return;
        /* What the peer sent before it went is still to be read: only sending is over. */
        fail(conn, RDT_PEER_LOST, errno);
    }
}

/* HOT. As send where at is 0. */
rdt_status_t rdt_tcp_put(rdt_conn_t *base, rdt_lane_t lane_id, const void *hdr, const void *data,
                         uint32_t len, uint64_t at)
{
    tcp_conn_t *conn = (tcp_conn_t *)base;
    tcp_lane_t *lane = &conn->lanes[lane_id];
    tcp_frame_t *frame;

    assert(len <= base->ctx->cfg.chunk_bytes);
    /* A socket that cannot be written may still hold what the peer said before it went. */
    if (__builtin_expect(base->status != RDT_OK, 0)) return conn->ended ? base->status : RDT_AGAIN;
    /* Credits bound the queue, so there is room whenever there is one. One place stays free for a
     * frame of credits alone. */
    if (lane->credits == 0 || conn->tx_head - conn->tx_done >= TCP_TX_FRAMES - 1) {
        if (base->unjoined) rdt_tcp_need(conn, lane_id == RDT_LANE_P2P);
        return RDT_AGAIN;
    }
    frame = new_frame(conn, (uint8_t)lane_id, len);
    frame->head.at = at;
    memcpy(frame->head.hdr, hdr, RDT_HDR_BYTES);
    frame->data = data;
    lane->credits--;
    base->posted[lane_id]++;
    rdt_count_bytes(&base->sent_bytes, len);
    flush(conn);
    return RDT_OK;
}

/* HOT. */
rdt_status_t rdt_tcp_send(rdt_conn_t *base, rdt_lane_t lane_id, const void *hdr, const void *data,
                          uint32_t len)
{
    return rdt_tcp_put(base, lane_id, hdr, data, len, 0);
}

/* HOT. Any memory will do: it is the kernel that stores there. */
rdt_status_t rdt_tcp_expose(rdt_conn_t *base, void *addr, size_t len, uint64_t *at_p)
{
    return rdt_windows_expose(&((tcp_conn_t *)base)->windows, addr, len, at_p);
}

/* HOT. */
rdt_status_t rdt_tcp_peek(rdt_conn_t *base, rdt_lane_t lane_id, rdt_msg_t *msg_p)
{
    tcp_conn_t *conn = (tcp_conn_t *)base;
    tcp_lane_t *lane = &conn->lanes[lane_id];
    tcp_slot_t *slot = &lane->slots[lane->consumed % TCP_SLOTS];

    if (lane->consumed == lane->arrived) {
        if (base->unjoined && lane_id == RDT_LANE_COLL) rdt_tcp_need(conn, false);
        return base->status != RDT_OK && conn->ended ? base->status : RDT_AGAIN;
    }
    *msg_p =
        (rdt_msg_t){.hdr = slot->hdr, .data = slot->placed ? NULL : slot->data, .len = slot->len};
    return RDT_OK;
}

/* Half of a lane's slots: seldom enough to be cheap, soon enough to keep the sender going. With the
 * queue full nothing is added: frames are going out, and poll comes back to it. */
static void report_credits(tcp_conn_t *conn)
{
    bool due = false;

    for (int l = 0; l < RDT_NUM_LANES; l++)
        due |= conn->lanes[l].due >= TCP_SLOTS / 2;
    if (!due || conn->tx_head - conn->tx_done >= TCP_TX_FRAMES) return;
    new_frame(conn, TCP_LANE_NONE, 0);
    flush(conn);
}

/* HOT. */
void rdt_tcp_release(rdt_conn_t *base, rdt_lane_t lane_id)
{
    tcp_conn_t *conn = (tcp_conn_t *)base;
    tcp_lane_t *lane = &conn->lanes[lane_id];

    rdt_count_bytes(&base->received_bytes, lane->slots[lane->consumed % TCP_SLOTS].len);
    lane->consumed++;
    lane->due++;
    report_credits(conn);
}

static bool head_is_sane(const tcp_conn_t *conn, const tcp_head_t *head)
{
    const tcp_lane_t *lane;

    if (head->lane == TCP_LANE_NONE) return head->len == 0 && head->at == 0;
    if (head->lane >= RDT_NUM_LANES || head->len > conn->base.ctx->cfg.chunk_bytes) return false;
    lane = &conn->lanes[head->lane];
    return lane->arrived - lane->consumed < TCP_SLOTS;
}

static bool take_credits(tcp_conn_t *conn, const tcp_head_t *head)
{
    for (int l = 0; l < RDT_NUM_LANES; l++) {
        if (head->credits[l] > TCP_SLOTS - conn->lanes[l].credits) return false;
        conn->lanes[l].credits = (uint16_t)(conn->lanes[l].credits + head->credits[l]);
    }
    return true;
}

static tcp_slot_t *arriving_slot(tcp_conn_t *conn)
{
    tcp_lane_t *lane = &conn->lanes[conn->rx_head.lane];

    return &lane->slots[lane->arrived % TCP_SLOTS];
}

/* False when the data of the frame in rx_head is for memory that was not exposed. What comes after
 * revocation goes to the slot, where nobody looks at it. */
static bool find_place(tcp_conn_t *conn)
{
    const tcp_head_t *head = &conn->rx_head;
    uint8_t *window = NULL;

    if (head->lane == TCP_LANE_NONE) return true;
    if (head->at != 0) {
        window = rdt_windows_use(&conn->windows, head->at, head->len);
        if (window == NULL) return false;
    }
    conn->rx_data = window != NULL && !conn->windows.revoked ? window : arriving_slot(conn)->data;
    return true;
}

/* A frame that is half there goes on in its slot. */
static void revoke_conn(tcp_conn_t *conn)
{
    conn->windows.revoked = true;
    if (conn->rx_off >= sizeof(conn->rx_head) && conn->rx_head.lane != TCP_LANE_NONE)
        conn->rx_data = arriving_slot(conn)->data;
}

/* This is all it takes: only the driver, which calls it, moves data from the sockets. */
void rdt_tcp_revoke(rdt_ctx_t *base, uint64_t from)
{
    tcp_ctx_t *ctx = (tcp_ctx_t *)base;

    (void)from; /* operations that are over have no window any more */
    for (uint32_t i = 0; i < ctx->num_conns; i++)
        revoke_conn(&ctx->conns[i]);
}

/* The frame in rx_head is complete: it becomes visible to peek. */
static void arrive(tcp_conn_t *conn)
{
    if (conn->rx_head.lane != TCP_LANE_NONE) {
        tcp_slot_t *slot = arriving_slot(conn);

        memcpy(slot->hdr, conn->rx_head.hdr, RDT_HDR_BYTES);
        slot->len = conn->rx_head.len;
        slot->placed = conn->rx_head.at != 0;
        conn->lanes[conn->rx_head.lane].arrived++;
    }
    conn->rx_off = 0;
}

/* Bytes that came for the frame in rx_head: n of them are new. False when the stream is broken. */
static bool advance(tcp_conn_t *conn, size_t n)
{
    const size_t head = sizeof(conn->rx_head);
    bool had_head = conn->rx_off >= head;

    conn->rx_off += n;
    if (conn->rx_off < head) return true;
    if (!had_head && !(head_is_sane(conn, &conn->rx_head) && take_credits(conn, &conn->rx_head) &&
                       find_place(conn)))
        return false;
    if (conn->rx_off == head + conn->rx_head.len) arrive(conn);
    return true;
}

/* One recv: the rest of the head, or the rest of the data with the next head behind it.
 * Returns false when there is no more to be had now. */
static bool receive(tcp_conn_t *conn)
{
    const size_t head = sizeof(conn->rx_head);
    tcp_head_t next;
    struct iovec iov[2];
    size_t data_left = 0;
    ssize_t n;

    if (conn->rx_off < head) {
        iov[0] = (struct iovec){(uint8_t *)&conn->rx_head + conn->rx_off, head - conn->rx_off};
        n = readv(conn->sock, iov, 1);
    } else {
        data_left = head + conn->rx_head.len - conn->rx_off;
        iov[0] = (struct iovec){conn->rx_data + conn->rx_head.len - data_left, data_left};
        iov[1] = (struct iovec){&next, head};
        n = readv(conn->sock, iov, 2);
    }
    if (n <= 0) {
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
        conn->ended = true;
        fail(conn, RDT_PEER_LOST, n < 0 ? errno : 0);
        return false;
    }
    if (data_left > 0 && (size_t)n > data_left) {
        (void)advance(conn, data_left);
        memcpy(&conn->rx_head, &next, (size_t)n - data_left);
        n -= (ssize_t)data_left;
    }
    if (advance(conn, (size_t)n)) return true;
    conn->ended = true;
    fail(conn, RDT_PROTOCOL, 0);
    return false;
}

void rdt_tcp_poll(rdt_ctx_t *base)
{
    tcp_ctx_t *ctx = (tcp_ctx_t *)base;

    rdt_lazy_step(&ctx->lazy);
    for (uint32_t i = 0; i < ctx->num_conns; i++) {
        tcp_conn_t *conn = &ctx->conns[i];

        while (!conn->ended && receive(conn)) {
        }
        flush(conn);
        report_credits(conn);
    }
}

/* poll() reads every socket anyway, and a read is how a death is seen. */
void rdt_tcp_check(rdt_ctx_t *base)
{
    rdt_lazy_hurry(&((tcp_ctx_t *)base)->lazy);
}

void rdt_tcp_watch(const tcp_conn_t *conn, rdt_sleep_t *sleep)
{
    short events = conn->tx_done < conn->tx_head ? POLLIN | POLLOUT : POLLIN;

    sleep->fds[sleep->num_fds++] = (struct pollfd){.fd = conn->sock, .events = events};
}

void rdt_tcp_arm(rdt_ctx_t *base, rdt_sleep_t *sleep)
{
    tcp_ctx_t *ctx = (tcp_ctx_t *)base;

    assert(!sleep->use_futex);
    rdt_lazy_watch(&ctx->lazy, sleep);
    for (uint32_t i = 0; i < ctx->num_conns; i++) {
        const tcp_conn_t *conn = &ctx->conns[i];

        if (!conn->ended) rdt_tcp_watch(conn, sleep);
    }
    ctx->sleep = sleep;
}

void rdt_tcp_disarm(rdt_ctx_t *ctx)
{
    ((tcp_ctx_t *)ctx)->sleep = NULL;
}
