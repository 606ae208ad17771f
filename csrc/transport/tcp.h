/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the tcp transport.
 *
 * One socket per peer carries both lanes as frames: a fixed head, then the data. Credits keep the
 * lanes apart: a frame is sent only when the receiver is known to have a slot for it, so that the
 * reader never has to stop in the middle of the stream. Data is received straight into its slot, or
 * into the window that the receiver exposed.
 * Consumed slots are reported in the head of whatever goes out next, or alone when half are due.
 * All ranks of a job are of one byte order; the magic number of the hello says so.
 */
#ifndef RDT_TRANSPORT_TCP_H
#define RDT_TRANSPORT_TCP_H

#include <netinet/in.h>

#include "rdmatrain/transport.h"
#include "transport/lazy.h"
#include "transport/windows.h"

#define TCP_SLOTS 8        /* receive slots per lane */
#define TCP_TX_FRAMES 32   /* frames accepted and not yet with the kernel; >= all credits + 2 */
#define TCP_LANE_NONE 0xff /* a frame that only carries credits */

typedef struct tcp_head {
    uint32_t len;
    uint8_t lane;
    uint8_t reserved;
    uint16_t credits[RDT_NUM_LANES]; /* slots freed since the last frame */
    uint16_t reserved2[3];
    uint64_t at; /* of the data in what the receiver exposed, or 0: it is for the slot */
    uint8_t hdr[RDT_HDR_BYTES];
} tcp_head_t;

_Static_assert(sizeof(tcp_head_t) == RDT_HDR_BYTES + 24, "a wire format has no padding");
_Static_assert(TCP_TX_FRAMES >= RDT_NUM_LANES * TCP_SLOTS + 2, "credits bound the queue");

typedef struct tcp_frame {
    tcp_head_t head;
    const uint8_t *data;
} tcp_frame_t;

typedef struct tcp_slot {
    uint8_t hdr[RDT_HDR_BYTES];
    uint32_t len;
    bool placed;   /* its data is in a window, or was thrown away after revocation */
    uint8_t *data; /* chunk_bytes of room, aligned to RDT_DATA_ALIGN */
} tcp_slot_t;

/* Invariant of each lane: consumed <= arrived <= consumed + TCP_SLOTS. */
typedef struct tcp_lane {
    tcp_slot_t slots[TCP_SLOTS];
    uint64_t arrived, consumed; /* receive side */
    uint16_t due;               /* consumed, and not yet reported to the sender */
    uint16_t credits;           /* send side: free slots at the peer */
} tcp_lane_t;

typedef struct tcp_conn {
    rdt_conn_t base;
    int sock;
    tcp_lane_t lanes[RDT_NUM_LANES];
    uint8_t *slot_memory;
    /* send: frames [tx_done, tx_head) wait; tx_off bytes of the first are with the kernel */
    tcp_frame_t tx[TCP_TX_FRAMES];
    uint64_t tx_head, tx_done;
    size_t tx_off;
    /* receive: the frame that is arriving; rx_off counts its head and data bytes */
    tcp_head_t rx_head;
    size_t rx_off;
    uint8_t *rx_data; /* where its data goes, once the head is there */
    rdt_windows_t windows;
    bool ended; /* the peer's side of the stream is over, or has not begun: sock is -1 then */
} tcp_conn_t;

typedef struct tcp_ctx {
    rdt_ctx_t base;
    int listen_fd;
    struct sockaddr_storage addr; /* that listen_fd is bound to */
    socklen_t addr_len;
    tcp_conn_t *conns;
    uint32_t num_conns;
    rdt_sleep_t *sleep; /* between arm and disarm: who is joined then is to be watched as well */
    rdt_lazy_t lazy;    /* zero where all are connected at once */
} tcp_ctx_t;

/* tcp_conn.c */
rdt_status_t rdt_tcp_connect(rdt_ctx_t *ctx, const rdt_peer_t *peers, uint32_t num,
                             uint64_t deadline_ns, rdt_conn_t **conns);
void rdt_tcp_cut(rdt_conn_t *conn);
void rdt_tcp_disconnect(tcp_ctx_t *ctx);
/* Of one that is not made yet: see rdt_lazy_need. */
void rdt_tcp_need(tcp_conn_t *conn, bool dials);
void rdt_tcp_expect(rdt_conn_t *conn);
bool rdt_tcp_let_in(rdt_ctx_t *ctx);
/* Has the sleeper watch the connection's socket. */
void rdt_tcp_watch(const tcp_conn_t *conn, rdt_sleep_t *sleep);

/* tcp_data.c */
rdt_status_t rdt_tcp_send(rdt_conn_t *conn, rdt_lane_t lane, const void *hdr, const void *data,
                          uint32_t len);
rdt_status_t rdt_tcp_expose(rdt_conn_t *conn, void *addr, size_t len, uint64_t *at_p);
rdt_status_t rdt_tcp_put(rdt_conn_t *conn, rdt_lane_t lane, const void *hdr, const void *data,
                         uint32_t len, uint64_t at);
rdt_status_t rdt_tcp_peek(rdt_conn_t *conn, rdt_lane_t lane, rdt_msg_t *msg_p);
void rdt_tcp_release(rdt_conn_t *conn, rdt_lane_t lane);
void rdt_tcp_revoke(rdt_ctx_t *ctx, uint64_t from);
void rdt_tcp_poll(rdt_ctx_t *ctx);
void rdt_tcp_check(rdt_ctx_t *ctx);
void rdt_tcp_arm(rdt_ctx_t *ctx, rdt_sleep_t *sleep);
void rdt_tcp_disarm(rdt_ctx_t *ctx);

#endif
