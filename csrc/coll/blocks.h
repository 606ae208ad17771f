/* SPDX-License-Identifier: Apache-2.0 */
/* An all_gather and a reduce_scatter by levels (coll/levels.h): of one block of each rank, or for each.
 *
 *   reduce_scatter   the ranks of a host add up, host by host, what is for that host's ranks, each for its
 *                    own rail; then over the levels of hosts each takes what is for fewer hosts, and at
 *                    last for itself.
 *   all_gather       the other way round: over the levels of hosts a rank gets the blocks of its rail;
 *                    then the ranks of a host give each other those of their rails, host by host.
 *
 * So a block passes between two hosts once, and not once for each rank of one of them. Partial sums of half
 * types are twice the bytes: a reduce_scatter is flat where they would be no fewer than all the inputs.
 *
 * The blocks of a rail lie in scratch, so that neighbours can add up first, and gather last, when there is
 * most to move; but in the caller's tensor where they can: with one level of hosts, and where hosts have one
 * rank, whose blocks are in a row by host, as they are taken when those that are far apart come first. A list
 * of tensors that are not in a row is copied where a row is needed. Partial sums are in scratch in any case.
 */
#ifndef RDT_COLL_BLOCKS_H
#define RDT_COLL_BLOCKS_H

#include "coll/stages.h"

uint32_t rdt_blocks_num_stages(const rdt_stages_t *stages);
/* Finds where blocks will lie: with so many bytes of stages->scratch. */
size_t rdt_blocks_plan(rdt_stages_t *stages);
/* Before the first stage; scratch is there. */
void rdt_blocks_begin(const rdt_stages_t *stages);
/* Makes the call of stage stages->at. */
void rdt_blocks_set_stage(rdt_stages_t *stages);
/* After the last one. */
void rdt_blocks_end(const rdt_stages_t *stages);

#endif
