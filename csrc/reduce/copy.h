/* SPDX-License-Identifier: Apache-2.0 */
/* Copies for data paths: by memcpy, or past the caches where the destination would not stay in
 * them. Ranges do not overlap; any alignment, any size; any thread. */
#ifndef RDT_REDUCE_COPY_H
#define RDT_REDUCE_COPY_H

#include <stdbool.h>
#include <stddef.h>

/* With stream, whole cache lines of dst are written by non-temporal stores (by memcpy where the CPU
 * has neither AVX2 nor AVX-512), and rdt_copy_fence ends the copy. The fence waits for memory: who copies many blocks
 * streams them with rdt_copy_get and fences once. */
void rdt_copy(void *dst, const void *src, size_t bytes, bool stream);

/* What this thread stores later, a flag for instance, is seen after what it streamed, as it is after
 * a memcpy without further ado. */
void rdt_copy_fence(void);

/* From how many bytes written in one operation, to all destinations together, streaming pays: a
 * quarter of the last-level cache. Asks the CPU anew each time, microseconds in a VM: for set-up. */
size_t rdt_copy_stream_bytes(void);

typedef enum rdt_copy_isa {
    RDT_COPY_MEMCPY,
    RDT_COPY_AVX2,
    RDT_COPY_AVX512,
    RDT_NUM_COPIES
} rdt_copy_isa_t;

/* Without the fence. */
typedef void (*rdt_copy_fn)(void *dst, const void *src, size_t bytes);

/* MEMCPY where the CPU cannot stream. */
rdt_copy_isa_t rdt_copy_best_isa(void);
/* NULL where this CPU or build lacks the instructions, or for a value out of range. */
rdt_copy_fn rdt_copy_get(rdt_copy_isa_t isa);
const char *rdt_copy_isa_name(rdt_copy_isa_t isa);

#endif
