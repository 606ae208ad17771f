/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of every size and alignment, by every way that this CPU has, byte by byte and with guards;
 * and reductions past the caches against the scalar oracle. */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "check.h"
#include "reduce/copy.h"
#include "reduce/reduce.h"

#define MAX_BYTES 20000
#define GUARD_BYTES 128
#define MAX_OFFSET 65
#define NUM_SRC 5
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* No period of a power of two, so that a line in the wrong place is seen. */
static unsigned char byte_of(size_t src, size_t i)
{
    return (unsigned char)((i * 167 + i / 251 + src * 59) % 255);
}

/* 255 is no value of byte_of: what was not written is told from what was. */
static void check_result(const unsigned char *room, size_t offset, size_t bytes, const char *name)
{
    const size_t begin = GUARD_BYTES + offset;

    for (size_t i = 0; i < begin + bytes + GUARD_BYTES; i++) {
        const bool inside = i >= begin && i < begin + bytes;
        const unsigned char want = inside ? byte_of(0, i - begin) : 255;

        CHECK(room[i] == want, "%s of %zu bytes to offset %zu: byte %zd is %u, expected %u", name,
              bytes, offset, (ssize_t)(i - begin), room[i], want);
    }
}

static void check_copy(rdt_copy_isa_t isa, size_t bytes, size_t to, size_t from)
{
    static _Alignas(64) unsigned char room[2 * GUARD_BYTES + MAX_OFFSET + MAX_BYTES];
    static _Alignas(64) unsigned char source[MAX_OFFSET + MAX_BYTES];

    for (size_t i = 0; i < bytes; i++)
        source[from + i] = byte_of(0, i);
    memset(room, 255, sizeof(room));
    if (isa == RDT_NUM_COPIES)
        rdt_copy(room + GUARD_BYTES + to, source + from, bytes, (bytes + to) % 2 == 0);
    else
        rdt_copy_get(isa)(room + GUARD_BYTES + to, source + from, bytes);
    rdt_copy_fence();
    check_result(room, to, bytes, rdt_copy_isa_name(isa));
}

static void check_copies(rdt_copy_isa_t isa)
{
    static const size_t sizes[] = {0,   1,   2,   31,  32,   33,   63,   64,   65,
                                   127, 128, 129, 191, 1000, 4096, 4099, 16384};

    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        for (size_t to = 0; to < MAX_OFFSET; to += sizes[i] > 1000 ? 7 : 1) {
            check_copy(isa, sizes[i], to, 0);
            check_copy(isa, sizes[i], to, (to * 5 + 3) % MAX_OFFSET);
        }
    }
}

static void check_dispatch(void)
{
    const size_t from = rdt_copy_stream_bytes();

    CHECK(rdt_copy_get(RDT_NUM_COPIES) == NULL, "a way that does not exist");
    CHECK(rdt_copy_get(rdt_copy_best_isa()) != NULL, "%s", rdt_copy_isa_name(rdt_copy_best_isa()));
    CHECK(from >= (size_t)1 << 20 && from <= (size_t)1 << 28, "stream from %zu bytes", from);
    printf("best %s, streams from %zu bytes\n", rdt_copy_isa_name(rdt_copy_best_isa()), from);
}

/* Elements at an offset from a cache line in dst, and at others in the sources; the guards stay. */
static void check_stream(rdt_isa_t isa, rdt_dtype_t dtype, uint32_t num_src, size_t count,
                         size_t offset)
{
    static _Alignas(64) unsigned char room[3 * GUARD_BYTES + MAX_BYTES];
    static _Alignas(64) unsigned char want[MAX_BYTES];
    static _Alignas(64) unsigned char sources[NUM_SRC][MAX_BYTES];
    const bool averages = (count + offset) % 3 == 0 && rdt_can_reduce(dtype, RDT_AVG);
    const rdt_redop_t op = averages ? RDT_AVG : RDT_SUM;
    const rdt_kernel_t kernel = rdt_kernel_get(isa, dtype, op);
    const size_t width = rdt_dtype_bytes(dtype), bytes = count * width;
    unsigned char *dst = room + GUARD_BYTES + offset * width;
    const void *src[RDT_MAX_STREAM_SRC + 1];

    for (size_t k = 0; k < NUM_SRC; k++)
        for (size_t i = 0; i < MAX_BYTES; i++)
            sources[k][i] = byte_of(k, i);
    for (uint32_t k = 0; k < num_src; k++)
        src[k] = sources[k % NUM_SRC] + k % NUM_SRC * width;
    memset(room, 255, sizeof(room));
    rdt_reduce_get(RDT_ISA_SCALAR, dtype, op)(want, src, num_src, count);
    rdt_reduce_stream(&kernel, width, dst, src, num_src, count);
    CHECK(memcmp(dst, want, bytes) == 0, "%s, %s, %u sources, %zu elements, offset %zu",
          rdt_isa_name(isa), rdt_dtype_name(dtype), num_src, count, offset);
    for (unsigned char *p = room; p < room + sizeof(room); p++)
        CHECK((p >= dst && p < dst + bytes) || *p == 255, "%s, %zu elements: byte %td was written",
              rdt_dtype_name(dtype), count, p - dst);
}

static void check_offsets(rdt_isa_t isa, rdt_dtype_t dtype, uint32_t num_src, size_t count)
{
    if ((count + NUM_SRC) * rdt_dtype_bytes(dtype) > MAX_BYTES) return;
    for (size_t offset = 0; offset < 12; offset += 1 + offset / 2)
        check_stream(isa, dtype, num_src, count, offset);
}

/* BASE cannot stream by itself: two sources, too, go by way of blocks. */
static void check_streams(rdt_isa_t isa)
{
    static const uint32_t nums[] = {1, 2, 5, RDT_MAX_STREAM_SRC, RDT_MAX_STREAM_SRC + 1};
    static const size_t counts[] = {0, 1, 7, 64, 127, 128, 129, 1000, 2400};

    if (rdt_reduce_get(isa, RDT_F32, RDT_SUM) == NULL) {
        printf("SKIP reductions by %s: not in this build or not on this CPU\n", rdt_isa_name(isa));
        return;
    }
    for (rdt_dtype_t dtype = 0; dtype < RDT_NUM_DTYPES; dtype++)
        for (size_t n = 0; n < COUNT_OF(nums); n++)
            for (size_t i = 0; i < COUNT_OF(counts); i++)
                if (rdt_can_reduce(dtype, RDT_SUM)) check_offsets(isa, dtype, nums[n], counts[i]);
}

int main(void)
{
    for (rdt_copy_isa_t isa = 0; isa < RDT_NUM_COPIES; isa++) {
        if (rdt_copy_get(isa) == NULL)
            printf("SKIP %s: not in this build or not on this CPU\n", rdt_copy_isa_name(isa));
        else
            check_copies(isa);
    }
    check_copies(RDT_NUM_COPIES); /* rdt_copy itself, with and without streaming */
    check_dispatch();
    for (rdt_isa_t isa = RDT_ISA_BASE; isa < RDT_NUM_ISAS; isa++)
        check_streams(isa);
    return 0;
}
