/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks as a grid of several dimensions, the levels: in each, a rank meets those that differ from it in
 * that one alone. It meets few, and what it knows of all comes by way of them.
 *
 *   by_host   the ranks of a host; the hosts.
 *   halving   the ranks of a host; the hosts in several levels, neighbours first, whose sizes multiply to
 *             their number. In levels of two this is recursive halving and doubling (Rabenseifner 2004);
 *             of other sizes, recursive multiplying (Ruefenacht, Bull and Booth 2017).
 */
#ifndef RDT_COLL_LEVELS_H
#define RDT_COLL_LEVELS_H

#include <stdbool.h>

#include "coll/layout.h"

/* Ranks of a host, and 2^31 hosts. */
#define RDT_MAX_LEVELS 32

typedef struct rdt_levels {
    uint32_t num;
    uint32_t sizes[RDT_MAX_LEVELS];
    bool has_host; /* the first one is the ranks of a host: there are several */
} rdt_levels_t;

/* Of hosts with as many ranks each. */
rdt_levels_t rdt_levels_by_host(const rdt_grid_t *grid);
/* Of two levels of hosts and more those that cost a rank least, where a level costs latency, and message
 * for each rank that it meets. As by_host where there are none: a prime number of hosts. */
rdt_levels_t rdt_levels_halving(const rdt_grid_t *grid, uint64_t latency, uint64_t message);
/* Which one of sizes[level] a rank is among those that it meets. */
uint32_t rdt_levels_place(const rdt_levels_t *levels, const rdt_layout_t *layout, uint32_t level,
                          uint32_t rank);
/* Whom this rank meets at a level, itself among them, hosts in order; ranks has room for as many, and is
 * what the answer points to. */
rdt_members_t rdt_levels_members(const rdt_levels_t *levels, const rdt_layout_t *layout,
                                 uint32_t level, uint32_t *ranks);

#endif
