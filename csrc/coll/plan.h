/* SPDX-License-Identifier: Apache-2.0 */
/* Who sends what to whom: pure arithmetic, no buffers, no transport.
 *
 * Every collective is made of two streams of chunks from each rank to each other one:
 *   INPUT   pieces of the sender's own input, ready from the start;
 *   RESULT  pieces of what the sender itself has produced for its shard, ready once produced.
 * An arriving chunk is either REDUCEd with the same chunk of all the other ranks, or PLACEd.
 * Steps and bytes that a rank sends, for p ranks and n bytes:
 *   all_reduce, one shot        1 step,  (p-1) n            every rank reduces everything
 *   all_reduce, two phases      2 steps, 2 (p-1)/p n        reduce-scatter, then all-gather
 *   reduce_scatter (n in)       1 step,  (p-1)/p n          straight to the owner of the shard
 *   reduce                      1 step,  n                  straight to the root
 *   all_gather (n out)          1 step,  (p-1)/p n
 *   gather, scatter, all_to_all 1 step,  what each pair of ranks exchanges
 *   broadcast, flat             1 step,  (p-1) n by the root
 *   broadcast, scattered        2 steps, n by the root, (p-2)/(p-1) n by the others
 * The owner of a shard has all its inputs side by side, so it can reduce in the order of the ranks
 * and round half types once, which a ring cannot; the bytes on the wire are those of a ring.
 */
#ifndef RDT_COLL_PLAN_H
#define RDT_COLL_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "rdmatrain/coll.h"

typedef enum rdt_stream { RDT_STREAM_INPUT, RDT_STREAM_RESULT, RDT_NUM_STREAMS } rdt_stream_t;

typedef enum rdt_algo {
    RDT_ALGO_NOTHING, /* barrier, refusal: one empty message to every rank */
    RDT_ALGO_ONE_SHOT,
    RDT_ALGO_TWO_PHASE,
    RDT_ALGO_REDUCE,
    RDT_ALGO_REDUCE_SCATTER,
    RDT_ALGO_EXCHANGE, /* a piece of the input for each rank: all_gather, gather, scatter, all_to_all */
    RDT_ALGO_FLAT_BROADCAST,
    RDT_ALGO_SCATTERED_BROADCAST,
    RDT_NUM_ALGOS
} rdt_algo_t;

typedef struct rdt_plan {
    rdt_algo_t algo;
    rdt_coll_t coll;
    uint32_t rank, world, root;
    const uint64_t *in_counts, *out_counts; /* the call's */
    uint64_t count;                         /* elements of the call */
    uint64_t chunk;                         /* elements of a full chunk */
    uint64_t shard; /* elements of a full shard, where a buffer is cut into shards */
} rdt_plan_t;

/* A piece of a buffer: elements [first, first + count) of shard. Buffers that are not made of
 * shards have the one shard 0. */
typedef struct rdt_piece {
    uint32_t shard;
    uint64_t first, count;
} rdt_piece_t;

/* elem_bytes of the dtype. */
rdt_plan_t rdt_plan_make(const rdt_call_t *call, uint32_t rank, uint32_t world, uint32_t elem_bytes,
                         const rdt_tuning_t *tuning);

/* Elements that the stream from one rank to another carries; one of the two is this rank, where the
 * shards of a buffer differ in size. */
uint64_t rdt_plan_count(const rdt_plan_t *plan, uint32_t from, uint32_t to, rdt_stream_t s);
/* Chunks that from sends to to. At most one empty chunk, never none in all: each pair of ranks
 * exchanges at least one message, which carries the call for comparison. */
uint32_t rdt_plan_num_chunks(const rdt_plan_t *plan, uint32_t from, uint32_t to, rdt_stream_t s);
/* Which elements of the sender's buffer (its input for INPUT, its output for RESULT) chunk i is. */
rdt_piece_t rdt_plan_source(const rdt_plan_t *plan, uint32_t from, uint32_t to, rdt_stream_t s,
                            uint32_t i);
/* Which elements of the receiver's output chunk i becomes; also when it is reduced first. */
rdt_piece_t rdt_plan_target(const rdt_plan_t *plan, uint32_t from, uint32_t to, rdt_stream_t s,
                            uint32_t i);
/* Of an exchange: where all that goes from one rank to another, or to itself, begins and ends in the
 * sender's input and in the receiver's output. */
rdt_piece_t rdt_plan_exchange_source(const rdt_plan_t *plan, uint32_t from, uint32_t to);
rdt_piece_t rdt_plan_exchange_target(const rdt_plan_t *plan, uint32_t from, uint32_t to);
/* Chunks that this rank reduces, 0 if none. */
uint32_t rdt_plan_num_reduced(const rdt_plan_t *plan);
/* Elements of the own input that take part in reducing chunk i (as the peers' chunk i do). */
rdt_piece_t rdt_plan_own_input(const rdt_plan_t *plan, uint32_t i);
/* The same for the own output. */
rdt_piece_t rdt_plan_own_output(const rdt_plan_t *plan, uint32_t i);
/* Elements that an operation writes on this rank, where it does not also read them. */
uint64_t rdt_plan_num_written(const rdt_plan_t *plan);
/* What arrives on the stream is reduced, not placed. */
bool rdt_plan_reduces(const rdt_plan_t *plan, rdt_stream_t s);

#endif
