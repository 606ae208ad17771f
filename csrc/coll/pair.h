/* SPDX-License-Identifier: Apache-2.0 */
/* Private to coll/pair*.c.
 *
 * Where the transport has stores, as verbs has, a run consists of them (pair_store.c): these are perftest's
 * loops. Elsewhere it consists of messages (pair_message.c). */
#ifndef RDT_COLL_PAIR_H
#define RDT_COLL_PAIR_H

#include "rdmatrain/pair.h"
#include "rdmatrain/transport.h"

#define RDT_PAIR_LANE RDT_LANE_P2P
#define RDT_PAIR_GRANT 8 /* places named in a message */

struct rdt_pair {
    rdt_ctx_t *ctx;
    rdt_conn_t *conn; /* NULL before connect */
    uint32_t side;
    rdt_status_t status;    /* of the first failure */
    uint8_t *tx, *rx;       /* nbytes each: owned, of the arena; or of a device, adopted */
    bool adopted;           /* tx and rx: no CPU reads or writes there */
    uint64_t nbytes, place; /* place: from here on a ping that is a message is put in place */
    bool streams;           /* a write into a peer's arena goes past the caches */
    uint32_t num_calls;     /* in all runs so far: a part of the values that are compared */
    /* of the current run */
    uint64_t deadline_ns, check_ns;
    uint32_t num_idle; /* polls since the last message */
    bool dozes;        /* sleeps while none comes */
};

/* Of every message. */
typedef struct rdt_pair_hdr {
    uint64_t num;                /* of the places */
    uint64_t at[RDT_PAIR_GRANT]; /* from expose, or offsets + 1 in the sender's arena */
} rdt_pair_hdr_t;

_Static_assert(sizeof(rdt_pair_hdr_t) == RDT_HDR_BYTES, "a header");

/* -- pair_run.c -- */

rdt_status_t rdt_pair_lost(const rdt_pair_t *pair);
/* HOT. Between attempts. */
rdt_status_t rdt_pair_turn(rdt_pair_t *pair);
/* HOT. at: where the data goes; 0 for a slot. */
rdt_status_t rdt_pair_post(rdt_pair_t *pair, const rdt_pair_hdr_t *hdr, const uint8_t *data,
                           uint32_t len, uint64_t at);
/* HOT. The next message, to be released. */
rdt_status_t rdt_pair_next(rdt_pair_t *pair, rdt_msg_t *msg);
/* HOT. The next message, which has no data. */
rdt_status_t rdt_pair_take(rdt_pair_t *pair, rdt_pair_hdr_t *hdr);
/* Until nothing of tx is read any more. */
rdt_status_t rdt_pair_flush(rdt_pair_t *pair);

/* What is compared: values of the side, the call and the index. */
uint8_t rdt_pair_value(uint32_t side, uint32_t call, uint64_t i);
void rdt_pair_fill_tx(const rdt_pair_t *pair, uint32_t call);
/* No byte is right before it comes. */
void rdt_pair_spoil_rx(const rdt_pair_t *pair, uint32_t call);
uint64_t rdt_pair_count_wrong(const rdt_pair_t *pair, uint32_t call);

/* -- pair_message.c, pair_store.c: HOT. i: number of the call in the run. at: where the other side wants what
 * comes next; take_ping of messages writes it. -- */

rdt_status_t rdt_pair_offer(rdt_pair_t *pair, rdt_pair_hdr_t *hdr);
rdt_status_t rdt_pair_send_ping(rdt_pair_t *pair, const rdt_pair_run_t *run, uint32_t i,
                                uint64_t at);
rdt_status_t rdt_pair_take_ping(rdt_pair_t *pair, rdt_pair_run_t *run, uint32_t i, uint64_t *at);
rdt_status_t rdt_pair_write_all(rdt_pair_t *pair, rdt_pair_run_t *run);
rdt_status_t rdt_pair_receive_all(rdt_pair_t *pair, const rdt_pair_run_t *run);

static inline bool rdt_pair_has_stores(const rdt_pair_t *pair)
{
    return pair->ctx->ops->store != NULL && pair->conn->places;
}

/* Before the run: no ping is there yet. */
void rdt_pair_await_store(const rdt_pair_t *pair);
rdt_status_t rdt_pair_store_ping(rdt_pair_t *pair, const rdt_pair_run_t *run, uint32_t i,
                                 uint64_t at);
rdt_status_t rdt_pair_watch_ping(rdt_pair_t *pair, rdt_pair_run_t *run, uint32_t i);
rdt_status_t rdt_pair_store_all(rdt_pair_t *pair, rdt_pair_run_t *run, uint64_t at);
rdt_status_t rdt_pair_answer_all(rdt_pair_t *pair);

#endif
