/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the shm transport.
 *
 * Each rank owns one memfd: a page with its bell, then one inbox per local peer. An inbox holds the
 * slots of both lanes, written by that peer alone and consumed by the owner alone. The owner's pages
 * are its own to touch first, so they lie on its NUMA node. Its descriptor, and that of the arena
 * that the rank's tensors live in, travel over a unix socket in the abstract namespace, which then
 * stays open: the kernel closes it when a process dies, and that is how a death is seen. Nothing here
 * has a name in a file system, so nothing is left.
 */
#ifndef RDT_TRANSPORT_SHM_H
#define RDT_TRANSPORT_SHM_H

#include <stdatomic.h>

#include "rdmatrain/transport.h"
#include "reduce/copy.h"

#define SHM_LINE 128 /* two cache lines: the prefetcher of x86 takes them in pairs */
#define SHM_PAGE 4096
#define SHM_COLL_SLOTS 8
#define SHM_P2P_SLOTS 4
#define SHM_INLINE_BYTES 40 /* data that travels in the slot's first line, beside the flag */

enum { SHM_AWAKE, SHM_ON_FUTEX, SHM_ON_SOCKET };

/* Written by peers that have something for the owner, who sleeps on it; the rest by the owner. */
typedef struct shm_bell {
    _Alignas(SHM_LINE) _Atomic uint32_t rings;
    _Alignas(SHM_LINE) _Atomic uint32_t sleeping;
    _Alignas(SHM_LINE) _Atomic uint64_t revoked;
} shm_bell_t;

/* First line of a slot. flag is the last thing written: position + 1 of the message it holds. */
typedef struct shm_slot {
    _Alignas(SHM_LINE) _Atomic uint64_t flag;
    uint32_t len;
    uint32_t reserved;
    uint8_t hdr[RDT_HDR_BYTES];
    uint8_t inline_data[SHM_INLINE_BYTES];
    uint8_t data[]; /* longer data, chunk_bytes of room */
} shm_slot_t;

_Static_assert(sizeof(shm_slot_t) == SHM_LINE, "the flag, the header and small data share a line");

/* In shared memory, written by the receiver: messages consumed so far, per lane. */
typedef struct shm_inbox {
    struct {
        _Alignas(SHM_LINE) _Atomic uint64_t count;
    } consumed[RDT_NUM_LANES];
} shm_inbox_t;

/* One direction of one lane, as one side sees it. */
typedef struct shm_lane {
    uint8_t *slots;
    _Atomic uint64_t *consumed; /* shared: written by the receiver */
    uint64_t pos;               /* next message to write, or to read */
    uint64_t seen;              /* sender: consumed as last read, so that it is read rarely */
    uint32_t num_slots;         /* a power of two */
    uint32_t num_slow;          /* sender: large messages written slowly, in a row */
    uint32_t num_streamed;      /* sender: of those to come, go past the caches */
} shm_lane_t;

typedef struct shm_conn {
    rdt_conn_t base;
    int sock;
    uint8_t *rx_map, *tx_map; /* my inbox from the peer (inside my map); the peer's from me */
    shm_bell_t *peer_bell;
    shm_lane_t rx[RDT_NUM_LANES], tx[RDT_NUM_LANES];
} shm_conn_t;

typedef struct shm_ctx {
    rdt_ctx_t base;
    int listen_fd;
    int memfd;
    uint8_t name[RDT_WIRE_BYTES]; /* of the listening socket */
    uint32_t name_len;
    size_t slot_bytes, inbox_bytes, map_bytes;
    uint8_t *map; /* all of my memfd */
    rdt_copy_fn stream;
    shm_bell_t *bell;
    shm_conn_t *conns;
    uint32_t num_conns;
} shm_ctx_t;

/* shm_conn.c */
rdt_status_t rdt_shm_connect(rdt_ctx_t *ctx, const rdt_peer_t *peers, uint32_t num,
                             uint64_t deadline_ns, rdt_conn_t **conns);
void rdt_shm_cut(rdt_conn_t *conn);
void rdt_shm_revoke(rdt_ctx_t *ctx, uint64_t from);
void rdt_shm_disconnect(shm_ctx_t *ctx);

/* shm_data.c */
rdt_status_t rdt_shm_send(rdt_conn_t *conn, rdt_lane_t lane, const void *hdr, const void *data,
                          uint32_t len);
rdt_status_t rdt_shm_peek(rdt_conn_t *conn, rdt_lane_t lane, rdt_msg_t *msg_p);
void rdt_shm_release(rdt_conn_t *conn, rdt_lane_t lane);
void rdt_shm_poll(rdt_ctx_t *ctx);
void rdt_shm_check(rdt_ctx_t *ctx);
void rdt_shm_arm(rdt_ctx_t *ctx, rdt_sleep_t *sleep);
void rdt_shm_disarm(rdt_ctx_t *ctx);

#endif
