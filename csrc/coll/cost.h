/* SPDX-License-Identifier: Apache-2.0 */
/* What a collective of ranks on several hosts costs in each way, and which way is taken: pure arithmetic
 * on what all ranks have alike, so that all take the same.
 *
 * A rank's exchange with m others of a level (the memory of its host, the network) costs
 *     latency + m * message + bytes / bandwidth
 * by the tuning table; bytes are the rank's own in memory, and those of all ranks of the host on the
 * network, which they share. For n bytes on H hosts with L ranks each, N = HL:
 *
 *   all_reduce          exchanges in the host      exchanges between hosts
 *   flat, one shot      1: L-1,  (L-1) n           1: N-L,  L (N-L) n
 *   flat, two phases    2: L-1,  (L-1) n/N each    2: N-L,  L (N-L) n/N each
 *   by_host             2: L-1,  (L-1) n/L each    2: H-1,  (H-1) n/H each
 *   gather                                         log2 N: 2,  in all L (N-1) n
 *   halving             2: L-1,  (L-1) n/L each    2 of each level of h: h-1,  in all 2 (H-1) n/H
 *
 *   all_gather of n each, reduce_scatter to n each
 *   flat                1: L-1,  (L-1) n           1: N-L,  L (N-L) n
 *   by_host, halving    H: L-1,  (L-1) n           1 of each level of h: h-1,  in all L (H-1) n
 *   gather              as an all_reduce; an all_gather
 *
 * Types that have wider partial sums are reckoned with as if they had none, so that few meet; how many bytes
 * these would be decides afterwards, where it is too many (coll/stages.c).
 *
 * A barrier has one phase, and no bytes. A broadcast is as an all_reduce: in one exchange, or scattered and
 * gathered.
 */
#ifndef RDT_COLL_COST_H
#define RDT_COLL_COST_H

#include <stdbool.h>
#include <stdint.h>

#include "coll/levels.h"
#include "rdmatrain/coll.h"
#include "rdmatrain/tuning.h"

/* What is added in the order of the ranks has the same bits in flat and in gather. */
typedef enum rdt_way {
    RDT_WAY_FLAT,    /* every rank with every other: the plan's one shot, or two phases */
    RDT_WAY_BY_HOST, /* in the host, then between hosts each rank its own shard, then in the host */
    RDT_WAY_GATHER,  /* in log2 N stages every rank gets all inputs, and reduces them itself */
    RDT_WAY_HALVING, /* as by_host, but the hosts in several levels, each of some of them */
} rdt_way_t;

/* "flat", ...; tuning.way is 1 + way, and 0 for what costs least. */
const char *rdt_way_name(rdt_way_t way);

/* Of by_host and halving, where they fit: the levels that a call goes through. */
rdt_levels_t rdt_way_levels(rdt_way_t way, const rdt_grid_t *grid, const rdt_tuning_t *tuning);
/* What the way can do for a collective of so many bytes of each rank: by_host wants several hosts with as
 * many ranks each, two at least, and halving a number of them that is no prime, for what can be in levels:
 * all_reduce, broadcast, barrier, all_gather, reduce_scatter. gather keeps all inputs, which must be
 * small, of all_reduce, all_gather and barrier. */
bool rdt_way_fits(rdt_way_t way, rdt_coll_t coll, const rdt_grid_t *grid, uint64_t bytes,
                  const rdt_tuning_t *tuning);
uint64_t rdt_way_cost_ns(rdt_way_t way, rdt_coll_t coll, const rdt_grid_t *grid, uint64_t bytes,
                         const rdt_tuning_t *tuning);
/* The way that tuning.way says, where it fits; else flat on one host, and what costs least on several. */
rdt_way_t rdt_way_choose(rdt_coll_t coll, const rdt_grid_t *grid, uint64_t bytes,
                         const rdt_tuning_t *tuning);

#endif
