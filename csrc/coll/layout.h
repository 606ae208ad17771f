/* SPDX-License-Identifier: Apache-2.0 */
/* Which ranks of a group share a host. */
#ifndef RDT_COLL_LAYOUT_H
#define RDT_COLL_LAYOUT_H

#include <stdint.h>

#include "rdmatrain/status.h"

typedef struct rdt_grid {
    uint32_t world, num_hosts;
    uint32_t per_host; /* ranks of each host; 0 where hosts differ in that */
} rdt_grid_t;

/* Lists of ranks, and which entry this rank is. */
typedef struct rdt_members {
    const uint32_t *ranks;
    uint32_t num, me;
} rdt_members_t;

typedef struct rdt_layout {
    rdt_grid_t grid;
    rdt_members_t all;
    rdt_members_t host; /* the ranks of this host, in order */
    rdt_members_t rail; /* of each host the rank with this one's place in its host, the hosts in the
                         * order of their first ranks; only where per_host is not 0 */
    const uint32_t *host_of,
        *place_of;           /* of each rank: its host, in that order, and its place there */
    const uint32_t *rank_at; /* [host * per_host + place]: the rank; only where per_host is not 0 */
    uint64_t digest;         /* of who shares a host with whom: equal on all ranks */
    uint32_t *ranks;         /* owned: behind the lists */
} rdt_layout_t;

/* hosts: the host of each rank, by any numbers, or NULL for one host. NO_MEMORY. */
rdt_status_t rdt_layout_make(const uint32_t *hosts, uint32_t world, uint32_t rank,
                             rdt_layout_t *layout_p);
void rdt_layout_free(rdt_layout_t *layout);

#endif
