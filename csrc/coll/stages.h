/* SPDX-License-Identifier: Apache-2.0 */
/* A collective is one plan over all ranks, or several stages, each a plan over some of them. No
 * transport: where buffers lie, and who takes part.
 *
 *   flat      1 stage: the call itself, by all ranks.
 *   by_host   an all_reduce by levels (coll/levels.h): at each one, a reduce_scatter of what is left to a
 *             rank among those that it meets there; at the last one an all_reduce; and back, an all_gather
 *             at each. Its levels are the ranks of a host, and those with the same place on each host (a
 *             rail). Sums are made by rank in each host, and then over the hosts in the order of their
 *             first ranks.
 *   halving   the same with more levels of hosts: over neighbours first, and then over what they made.
 *   gather    log2 N stages: in stage k a rank passes the first 2^k inputs that it has to the rank 2^k
 *             before it, and has twice as many then; after the last one it reduces all N in the order
 *             of the ranks, as a single stage would, or, in an all_gather, gives them all. For any N
 *             (Bruck's all-gather).
 *
 * What a level adds up is, for types that are accumulated in a wider one, a partial sum in that one
 * (reduce/partial.h), up to the last level, which is then a reduce_scatter of these and an all_gather of
 * results. By host, where such a sum is no fewer bytes than the inputs of the host's ranks, as of two with
 * half types, one reduce_scatter of all ranks, in their order, comes before the levels' all_gathers.
 *
 * A barrier goes through the levels once, without data. A broadcast scatters where an all_reduce would
 * reduce: the root among those that it meets at the first level, each of these at the next one, and so on;
 * those who have nothing yet only compare their calls. It gathers at all levels. An all_gather and a
 * reduce_scatter are made of a block for each rank: coll/blocks.h.
 *
 * A message is taken for the stage that it was sent in: each pair of ranks exchanges a number of
 * messages in each stage that both know, on a lane that is FIFO. Two ranks that differ in their calls are
 * found by each other, by ranks between them, or, where they go through other stages and so wait for
 * other ranks, by who looks at messages that are not yet due (rdt_collective_compare_st).
 */
#ifndef RDT_COLL_STAGES_H
#define RDT_COLL_STAGES_H

#include "coll/cost.h"
#include "coll/layout.h"
#include "rdmatrain/coll.h"
#include "reduce/partial.h"

typedef struct rdt_stages {
    const rdt_layout_t *layout;
    const rdt_kernels_t *kernels;
    const rdt_tuning_t *tuning;
    /* of the active collective */
    const rdt_call_t *whole;
    rdt_way_t way;
    rdt_levels_t levels; /* of by_host and halving */
    bool is_packed;      /* of blocks: the caller's do not lie in a row */
    uint32_t num, at;    /* stages, and the current one */
    /* the current stage: a call of its members, whose shards are by their order */
    rdt_call_t call;
    rdt_members_t members;
    rdt_step_t
        step; /* from the inputs' type to the output's, which are the same unless it reduces */
    /* owned */
    uint8_t *scratch;
    size_t scratch_bytes;
    const void **in_shards; /* these four: world entries each */
    void **out_shards;
    uint64_t *in_counts, *out_counts;
    uint32_t *met; /* members of a stage: world entries, three at least */
} rdt_stages_t;

/* Where the shard of a member lies in the call of the current stage; for who makes that call. */
void rdt_stages_in_shard(rdt_stages_t *stages, uint32_t member, void *at, uint64_t count);
void rdt_stages_out_shard(rdt_stages_t *stages, uint32_t member, void *at, uint64_t count);

/* Borrows all three. NO_MEMORY. */
rdt_status_t rdt_stages_open(const rdt_layout_t *layout, const rdt_kernels_t *kernels,
                             const rdt_tuning_t *tuning, rdt_stages_t *stages_p);
void rdt_stages_close(rdt_stages_t *stages);
/* The first stage of the call, which must stay until the last one is over. NO_MEMORY. */
rdt_status_t rdt_stages_begin(rdt_stages_t *stages, const rdt_call_t *whole);
/* The stage is over: on to the next one. False when it was the last, and the call is done. */
bool rdt_stages_next(rdt_stages_t *stages);

#endif
