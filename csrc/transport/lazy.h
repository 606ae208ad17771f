/* SPDX-License-Identifier: Apache-2.0 */
/* Peers that are met when they are first needed: what tcp and verbs share.
 *
 * In a collective both ranks of a pair know that they need each other, and the higher one dials. A message
 * from one to the other only the sender may know of, so it dials, whichever it is. Who was left to call
 * and does not is dialled after a while: it may not know yet, or be gone, which dialling shows.
 */
#ifndef RDT_TRANSPORT_LAZY_H
#define RDT_TRANSPORT_LAZY_H

#include "transport/wire.h"

typedef struct rdt_need {
    uint32_t rank;
    uint64_t since_ns; /* when the peer was first needed, or 0 */
    bool dials;        /* this rank was told to make it */
    bool settled;      /* met, or never will be */
} rdt_need_t;

typedef struct rdt_lazy {
    const rdt_ctx_cfg_t *cfg;
    rdt_wire_t *wire; /* NULL where all are connected at once */
    rdt_wire_listener_t listener;
    rdt_need_t *needs; /* of each peer */
    uint32_t num;
    uint32_t num_unmet, num_wanted; /* not settled; and of these, needed */
} rdt_lazy_t;

/* The listener is called from rdt_lazy_step, as rdt_wire_listener_t says; lazy is zeroed, and does not
 * move. NO_MEMORY, IO_ERROR. */
rdt_status_t rdt_lazy_open(rdt_lazy_t *lazy, const rdt_dial_t *dial, const rdt_peer_t *peers,
                           uint32_t num, const rdt_wire_listener_t *listener);
/* HOT: called for each attempt to send, so what has been said before costs little. Peer i is needed; dials:
 * it need not know. */
void rdt_lazy_need(rdt_lazy_t *lazy, uint32_t i, bool dials);
/* Makes what is needed, as far as it gets: some system calls, where somebody was not met yet. */
void rdt_lazy_step(rdt_lazy_t *lazy);
/* Dials whom was left to call, and has taken too long. */
void rdt_lazy_hurry(rdt_lazy_t *lazy);
/* Somebody is in the middle of a handshake with this rank, and waits for the next step. */
bool rdt_lazy_has_callers(const rdt_lazy_t *lazy);
/* HOT. So a step is due, or may be. */
bool rdt_lazy_is_busy(const rdt_lazy_t *lazy);
/* When the peer is to have been met; UINT64_MAX where that was not asked, or the group has no timeout. */
uint64_t rdt_lazy_deadline(const rdt_lazy_t *lazy, uint32_t i);
/* Why a connection was not made, once: what came first counts. */
void rdt_lazy_fail(rdt_conn_t *conn, rdt_status_t status, const char *text);
/* Has the sleeper woken when step has something to do. */
void rdt_lazy_watch(const rdt_lazy_t *lazy, rdt_sleep_t *sleep);
/* Also of one that was never opened, or not wholly. */
void rdt_lazy_close(rdt_lazy_t *lazy);

#endif
