/* SPDX-License-Identifier: Apache-2.0 */
/* Where the pieces of a plan lie in the buffers of a call. */
#ifndef RDT_COLL_BUFFERS_H
#define RDT_COLL_BUFFERS_H

#include "coll/comm.h"

static inline size_t rdt_elem_bytes(const rdt_work_t *work)
{
    return rdt_dtype_bytes(work->call.dtype);
}

/* base, or shards where they do not lie one behind the other. */
static inline uint8_t *rdt_piece_at(void *base, void *const *shards, const rdt_work_t *work,
                                    const rdt_piece_t *p)
{
    uint64_t first = p->first;

    if (shards != NULL)
        base = shards[p->shard];
    else
        first += p->shard * work->call.count;
    return (uint8_t *)base + first * rdt_elem_bytes(work);
}

static inline uint8_t *rdt_input_at(const rdt_work_t *work, const rdt_piece_t *p)
{
    void *base = (void *)(uintptr_t)work->call.in;

    if (work->call.coll == RDT_BROADCAST) base = work->call.out;
    return rdt_piece_at(base, (void *const *)work->call.in_shards, work, p);
}

static inline uint8_t *rdt_output_at(const rdt_work_t *work, const rdt_piece_t *p)
{
    return rdt_piece_at(work->call.out, work->call.out_shards, work, p);
}

#endif
