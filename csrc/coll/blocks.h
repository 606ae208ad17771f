/* SPDX-License-Identifier: Apache-2.0 */
/* An all_gather and a reduce_scatter by levels (coll/levels.h): of one block of each rank, or for each.
 *
 *   all_gather       over the levels of hosts, neighbours first, a rank gets the blocks of its rail; then
 *                    the ranks of a host give each other those of their rails, host by host.
 *   reduce_scatter   the other way round: the ranks of a host add up, host by host, what is for that
 *                    host's ranks, each for its own rail; then over the levels of hosts, those that are
 *                    far apart first, each takes what is for fewer, and at last for itself.
 *
 * So a block passes between two hosts once, and not once for each rank of one of them. What lies in a row is
 * that of hosts in a row. Blocks of a rail lie in scratch, in the order of the hosts; but in the caller's
 * own buffers where they can: with one level of hosts they need not lie in a row at all, and hosts of one
 * rank have only one rail. A reduce_scatter has partial sums in scratch, in any case.
 */
#ifndef RDT_COLL_BLOCKS_H
#define RDT_COLL_BLOCKS_H

#include "coll/stages.h"

uint32_t rdt_blocks_num_stages(const rdt_stages_t *stages);
/* That the collective works in: stages->scratch has as many when it begins. */
size_t rdt_blocks_scratch_bytes(const rdt_stages_t *stages);
/* Before the first stage. */
void rdt_blocks_begin(const rdt_stages_t *stages);
/* Makes the call of stage stages->at. */
void rdt_blocks_set_stage(rdt_stages_t *stages);
/* After the last one. */
void rdt_blocks_end(const rdt_stages_t *stages);

#endif
