/* SPDX-License-Identifier: Apache-2.0 */
/* What a rank exposes on one connection, for transports whose receiver stores the data itself: a peer
 * is told a number, never an address, so what it puts lands in a window or is refused.
 *
 * A window takes as many bytes as were exposed, and is gone then: nothing can be put after the
 * operation that it was exposed for. The owner of the table guards it.
 */
#ifndef RDT_TRANSPORT_WINDOWS_H
#define RDT_TRANSPORT_WINDOWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rdmatrain/status.h"

/* A collective needs one, and each recv that its sender was told of one more. */
#define RDT_NUM_WINDOWS 64

typedef struct rdt_window {
    uint8_t *addr;
    size_t len, left; /* free when nothing is left to come */
} rdt_window_t;

typedef struct rdt_windows {
    rdt_window_t windows[RDT_NUM_WINDOWS];
    bool revoked; /* what comes for a window from here on goes elsewhere */
} rdt_windows_t;

/* HOT. UNSUPPORTED when all windows are taken, or after revocation. *at_p is not 0. */
rdt_status_t rdt_windows_expose(rdt_windows_t *table, void *addr, size_t len, uint64_t *at_p);
/* HOT. Where len bytes for at go; NULL when they were not exposed, or have come before. Takes them off
 * what is left; the caller looks at revoked before it stores there. */
uint8_t *rdt_windows_use(rdt_windows_t *table, uint64_t at, size_t len);

#endif
