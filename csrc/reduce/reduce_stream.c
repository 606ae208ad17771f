/* SPDX-License-Identifier: Apache-2.0 */
#include "reduce/copy.h"
#include "reduce/reduce.h"

#define LINE_BYTES 64u
/* Measured: with longer blocks the prefetchers of the sources rest while a block is written. */
#define BLOCK_BYTES 1024u

/* Elements of the block at dst, so that the next one begins with a whole line of dst. */
static size_t block_count(const char *dst, size_t element_bytes, size_t left)
{
    const size_t count = (BLOCK_BYTES - (uintptr_t)dst % LINE_BYTES) / element_bytes;

    return count < left ? count : left;
}

void rdt_reduce_stream(rdt_reduce_fn reduce, size_t element_bytes, void *dst,
                       const void *const *src, uint32_t num_src, size_t count)
{
    const rdt_copy_isa_t isa = rdt_copy_best_isa();
    const rdt_copy_fn copy = rdt_copy_get(isa);
    _Alignas(LINE_BYTES) char block[BLOCK_BYTES];
    const void *at[RDT_MAX_STREAM_SRC];
    char *to = dst;

    if (isa == RDT_COPY_MEMCPY || num_src > RDT_MAX_STREAM_SRC) {
        reduce(dst, src, num_src, count);
        return;
    }
    for (size_t done = 0, n; done < count; done += n) {
        n = block_count(to, element_bytes, count - done);
        for (uint32_t k = 0; k < num_src; k++)
            at[k] = (const char *)src[k] + done * element_bytes;
        reduce(block, at, num_src, n);
        copy(to, block, n * element_bytes);
        to += n * element_bytes;
    }
    rdt_copy_fence();
}
