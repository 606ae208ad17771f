/* SPDX-License-Identifier: Apache-2.0 */
#include <stdbool.h>

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

static void stream_blocks(rdt_reduce_fn reduce, size_t element_bytes, char *dst,
                          const void *const *src, uint32_t num_src, size_t count)
{
    const rdt_copy_fn copy = rdt_copy_get(rdt_copy_best_isa());
    _Alignas(LINE_BYTES) char block[BLOCK_BYTES];
    const void *at[RDT_MAX_STREAM_SRC];

    for (size_t done = 0, n; done < count; done += n) {
        n = block_count(dst, element_bytes, count - done);
        for (uint32_t k = 0; k < num_src; k++)
            at[k] = (const char *)src[k] + done * element_bytes;
        reduce(block, at, num_src, n);
        copy(dst, block, n * element_bytes);
        dst += n * element_bytes;
    }
}

/* What is outside of whole lines of dst goes through the cache, by kernel->reduce. */
static void stream_two(const rdt_kernel_t *kernel, size_t element_bytes, char *dst,
                       const void *const *src, size_t count)
{
    const size_t to_line = -(uintptr_t)dst % LINE_BYTES / element_bytes;
    const size_t head = to_line < count ? to_line : count;
    const size_t rest = (count - head) % (LINE_BYTES / element_bytes);
    const size_t begin = head * element_bytes, end = (count - rest) * element_bytes;
    const char *first = src[0], *second = src[1];

    if (head != 0) kernel->reduce(dst, src, 2, head);
    kernel->stream(dst + begin, first + begin, second + begin, count - head - rest);
    if (rest != 0)
        kernel->reduce(dst + end, (const void *const[]){first + end, second + end}, 2, rest);
}

void rdt_reduce_stream(const rdt_kernel_t *kernel, size_t element_bytes, void *dst,
                       const void *const *src, uint32_t num_src, size_t count)
{
    /* A dst off its elements' alignment has no elements that end where a line does, and a store past
     * the cache to elsewhere faults. */
    const bool has_lines = (uintptr_t)dst % element_bytes == 0;

    if (num_src == 2 && kernel->stream != NULL && has_lines)
        stream_two(kernel, element_bytes, dst, src, count);
    else if (num_src <= RDT_MAX_STREAM_SRC && rdt_copy_best_isa() != RDT_COPY_MEMCPY)
        stream_blocks(kernel->reduce, element_bytes, dst, src, num_src, count);
    else
        kernel->reduce(dst, src, num_src, count);
    rdt_copy_fence();
}
