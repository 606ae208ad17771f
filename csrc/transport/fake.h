/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the fake transport: ranks are threads of one process, and a script makes trouble.
 *
 * It is slow and simple on purpose (one lock), and as unkind as the contract allows: a source is read
 * late, messages of different lanes and peers overtake each other, sends fail. The script, given as
 * the address to listen on, is a list of key=number:
 *   seed=N     of the random numbers; the rank is added
 *   delay=N    a message is read from its source, and again shown to its receiver, after up to N polls
 *   slots=N    slots per lane
 *   fail=N     the Nth send loses the connection it was for, at both ends
 *   place=1    ranks that both say so put data in place; else they share their arena
 */
#ifndef RDT_TRANSPORT_FAKE_H
#define RDT_TRANSPORT_FAKE_H

#include <pthread.h>
#include <stdatomic.h>

#include "rdmatrain/transport.h"
#include "transport/windows.h"

#define FAKE_MAX_SLOTS 16

typedef struct fake_script {
    uint32_t seed, delay, slots, fail, place;
} fake_script_t;

typedef struct fake_slot {
    uint8_t hdr[RDT_HDR_BYTES];
    const void *source;
    uint8_t *data;
    uint64_t at; /* in the receiver's windows, or 0 */
    uint32_t len, source_delay, show_delay;
} fake_slot_t;

/* Invariant: consumed <= read <= written <= consumed + slots. */
typedef struct fake_lane {
    fake_slot_t slots[FAKE_MAX_SLOTS];
    uint64_t written, read, consumed;
} fake_lane_t;

typedef struct fake_conn {
    rdt_conn_t base;
    bool joined, cut;              /* cut: lost, and the owner's next call latches it */
    bool broken;                   /* the same, for what the peer put where it was not told to */
    struct fake_conn *other;       /* the peer's end, once joined; NULL when that is gone */
    fake_lane_t in[RDT_NUM_LANES]; /* written by the peer */
    uint8_t *memory;               /* of the slots */
    _Atomic uint64_t revoked;      /* written by the peer */
    rdt_windows_t windows;
} fake_conn_t;

typedef struct fake_ctx {
    rdt_ctx_t base;
    struct fake_ctx *next; /* in the list of all contexts of the process */
    fake_script_t script;
    uint32_t random, num_sends;
    _Atomic uint32_t bell;
    fake_conn_t *conns;
    uint32_t num_conns;
} fake_ctx_t;

/* Guards everything of all contexts. */
extern pthread_mutex_t rdt_fake_lock;

/* fake_data.c */
rdt_status_t rdt_fake_send(rdt_conn_t *conn, rdt_lane_t lane, const void *hdr, const void *data,
                           uint32_t len);
rdt_status_t rdt_fake_expose(rdt_conn_t *conn, void *addr, size_t len, uint64_t *at_p);
rdt_status_t rdt_fake_put(rdt_conn_t *conn, rdt_lane_t lane, const void *hdr, const void *data,
                          uint32_t len, uint64_t at);
rdt_status_t rdt_fake_peek(rdt_conn_t *conn, rdt_lane_t lane, rdt_msg_t *msg_p);
void rdt_fake_release(rdt_conn_t *conn, rdt_lane_t lane);
void rdt_fake_poll(rdt_ctx_t *ctx);
void rdt_fake_check(rdt_ctx_t *ctx);
void rdt_fake_arm(rdt_ctx_t *ctx, rdt_sleep_t *sleep);
void rdt_fake_disarm(rdt_ctx_t *ctx);
void rdt_fake_cut(fake_conn_t *conn); /* with the lock */
void rdt_fake_cut_conn(rdt_conn_t *conn);
void rdt_fake_revoke(rdt_ctx_t *ctx, uint64_t from);

#endif
