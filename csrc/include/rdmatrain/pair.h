/* SPDX-License-Identifier: Apache-2.0 */
/* Two ranks on one connection of one transport, without a communicator: what a transport gives, to be
 * set beside what its wire gives.
 *
 * Nobody drives a pair between calls. Both ends make the same calls in the same order, each from one
 * thread at a time, and meet in run. After a failure only close may follow.
 * Statuses of failed calls are explained by rdt_last_error().
 */
#ifndef RDMATRAIN_PAIR_H
#define RDMATRAIN_PAIR_H

#include <stdbool.h>
#include <stdint.h>

#include "rdmatrain/coll.h"
#include "rdmatrain/dmabuf.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rdt_pair rdt_pair_t;

typedef struct rdt_pair_cfg {
    const char *transport;
    const char *arg; /* as for rdt_comm_listen */
    uint32_t side;   /* 0 or 1 */
    uint8_t token[RDT_COMM_TOKEN_BYTES];
} rdt_pair_cfg_t;

typedef enum rdt_pair_op {
    RDT_PAIR_PINGPONG, /* nbytes from side 0 to side 1, and as many back */
    RDT_PAIR_WRITE,    /* nbytes from side 0 into memory that side 1 exposes, many under way */
} rdt_pair_op_t;

typedef struct rdt_pair_run {
    rdt_pair_op_t op;
    uint32_t calls; /* at least 1 */
    bool check;     /* contents differ for each side, index and call, and are compared */
    uint64_t timeout_ns;
    /* Written on side 0. PINGPONG: calls entries, nanoseconds of half the way there and back. WRITE: one
     * entry, from the first write to the word that the last one is there, for all calls together. */
    uint64_t *ns;
    uint64_t nwrong; /* out: bytes that came here and are not what was sent; 0 without check */
} rdt_pair_run_t;

/* Opens the transport and the arena. BAD_ARG, NO_MEMORY, IO_ERROR. */
RDT_API rdt_status_t rdt_pair_open(const rdt_pair_cfg_t *cfg, rdt_pair_t **pair_p);
/* What the other side needs to connect; wire has RDT_COMM_WIRE_BYTES. Returns how many are used. */
RDT_API uint32_t rdt_pair_address(const rdt_pair_t *pair, uint8_t *wire);
/* Once. What rdt_comm_connect returns. */
RDT_API rdt_status_t rdt_pair_connect(rdt_pair_t *pair, const uint8_t *wire, uint32_t wire_len,
                                      uint64_t timeout_ns);
/* Memory of the arena for what is sent and for what comes; 0 frees it. NO_MEMORY. */
RDT_API rdt_status_t rdt_pair_reserve(rdt_pair_t *pair, uint64_t nbytes);
/* The same in memory of a device: its first half for what is sent, the second for what comes, until the next
 * reserve or close. The CPU sees neither, so only WRITE can be run, and without check. UNSUPPORTED: the
 * transport cannot, or a NIC or its driver; BAD_ARG, NO_MEMORY, IO_ERROR. */
RDT_API rdt_status_t rdt_pair_reserve_dmabuf(rdt_pair_t *pair, const rdt_dmabuf_t *memory);
/* TIMEOUT, UNSUPPORTED (the transport cannot write there), or what became of the connection. */
RDT_API rdt_status_t rdt_pair_run(rdt_pair_t *pair, rdt_pair_run_t *run);
/* Ends the connection and frees the memory. */
RDT_API void rdt_pair_close(rdt_pair_t *pair);

#ifdef __cplusplus
}
#endif

#endif
