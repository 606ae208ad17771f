/* SPDX-License-Identifier: Apache-2.0 */
/* Speed of the reduction kernels and of the copies, one core, no transport.
 *
 *   kernels [dtype [op [num_src [bytes of one source]]]]     "all" stands for every value
 *   kernels copy        hot blocks of 16 KiB to all of a buffer, and one buffer to another
 *   kernels stream [dtype [num_src [bytes]]]     sums into a buffer apart from the sources: through
 *                       the caches, and past them by way of blocks and straight from registers
 *
 * GB/s (1e9) of what the call reads and writes: (num_src + 1) buffers, in place: dst is source 0, as
 * in an all-reduce. The median of the rounds; every round visits all columns, so that whatever else
 * the machine does hits all of them. Time is the thread's on a CPU: waiting for one is not counted.
 * Below 4 KiB read the ns of one call instead. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "rdmatrain/types.h"
#include "reduce/copy.h"
#include "reduce/reduce.h"

#define MAX_SRC 8
#define NUM_ROUNDS 15
#define ROUND_BYTES (24u << 20) /* what one timing moves at least, but for tiny buffers */
#define MAX_CALLS 4000
#define COPY_BLOCK ((size_t)16 << 10)
#define MAX_BYTES ((size_t)32 << 20)
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static char *buffers[MAX_SRC];

static uint64_t cpu_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof(*values), by_value);
    return values[count / 2];
}

/* The bits of one, or of the real part of a complex one. */
static uint64_t bits_of_one(rdt_dtype_t dtype)
{
    static const uint64_t ones[RDT_NUM_DTYPES] = {
        [RDT_F16] = 0x3c00,         [RDT_BF16] = 0x3f80,         [RDT_F32] = 0x3f800000,
        [RDT_F64] = 0x3ffull << 52, [RDT_F8E4M3FN] = 0x38,       [RDT_F8E5M2] = 0x3c,
        [RDT_F8E4M3FNUZ] = 0x40,    [RDT_F8E5M2FNUZ] = 0x40,     [RDT_C32] = 0x3c00,
        [RDT_C64] = 0x3f800000,     [RDT_C128] = 0x3ffull << 52,
    };

    return ones[dtype] != 0 ? ones[dtype] : 1;
}

/* One, in every type: sums grow without reaching a denormal, products stay. */
static void fill_ones(rdt_dtype_t dtype, size_t bytes)
{
    const uint64_t one[2] = {bits_of_one(dtype), 0}; /* little endian */
    const size_t width = rdt_dtype_bytes(dtype);

    for (uint32_t k = 0; k < MAX_SRC; k++)
        for (size_t at = 0; at + width <= bytes; at += width)
            memcpy(buffers[k] + at, one, width);
}

static void reduce_by(const rdt_kernel_t *kernel, const void *const *src, uint32_t num_src,
                      size_t count)
{
    if (kernel->premul != NULL)
        kernel->premul(buffers[0], src, num_src, count, 1.0 / num_src);
    else
        kernel->reduce(buffers[0], src, num_src, count);
}

/* Nanoseconds of one call; 0 without a kernel. */
static double time_reduce(const rdt_kernel_t *kernel, uint32_t num_src, size_t count,
                          uint32_t num_calls)
{
    const void *src[MAX_SRC];
    uint64_t start;

    if (kernel->reduce == NULL && kernel->premul == NULL) return 0;
    for (uint32_t k = 0; k < MAX_SRC; k++)
        src[k] = buffers[k];
    reduce_by(kernel, src, num_src, count);
    start = cpu_ns();
    for (uint32_t call = 0; call < num_calls; call++)
        reduce_by(kernel, src, num_src, count);
    return (double)(cpu_ns() - start) / num_calls;
}

static uint32_t calls_for(size_t moved)
{
    const size_t calls = ROUND_BYTES / (moved + 1) + 1;

    return calls < MAX_CALLS ? (uint32_t)calls : MAX_CALLS;
}

static void print_row(rdt_dtype_t dtype, rdt_redop_t op, uint32_t num_src, size_t bytes)
{
    const size_t count = bytes / rdt_dtype_bytes(dtype);
    const size_t moved = bytes * (num_src + 1);
    double ns[RDT_NUM_ISAS][NUM_ROUNDS];

    fill_ones(dtype, bytes);
    for (size_t round = 0; round < NUM_ROUNDS; round++) {
        for (rdt_isa_t isa = RDT_ISA_BASE; isa < RDT_NUM_ISAS; isa++) {
            const rdt_kernel_t kernel = rdt_kernel_get(isa, dtype, op);

            ns[isa][round] = time_reduce(&kernel, num_src, count, calls_for(moved));
        }
    }
    printf("%-15s %-10s %3u %9zu ", rdt_dtype_name(dtype), rdt_redop_name(op), num_src, bytes);
    for (rdt_isa_t isa = RDT_ISA_BASE; isa < RDT_NUM_ISAS; isa++) {
        const double middle = median(ns[isa], NUM_ROUNDS);

        if (middle > 0)
            printf(" %7.1f %9.0f", (double)moved / middle, middle);
        else
            printf(" %7s %9s", "-", "-");
    }
    putchar('\n');
    fflush(stdout);
}

static bool wanted(const char *argument, const char *name, bool by_default)
{
    if (argument == NULL) return by_default;
    return strcmp(argument, "all") == 0 || strcmp(argument, name) == 0;
}

static bool wanted_number(const char *argument, size_t number)
{
    return argument == NULL || strcmp(argument, "all") == 0 ||
           strtoull(argument, NULL, 10) == number;
}

static void print_sizes(rdt_dtype_t dtype, rdt_redop_t op, const char *num_src, const char *bytes)
{
    static const uint32_t nums[] = {2, 3, 4, 8};
    static const size_t sizes[] = {64, 4096, 32768, 262144, 4u << 20, MAX_BYTES};

    for (size_t k = 0; k < COUNT_OF(nums); k++)
        for (size_t i = 0; i < COUNT_OF(sizes); i++)
            if (wanted_number(num_src, nums[k]) && wanted_number(bytes, sizes[i]))
                print_row(dtype, op, nums[k], sizes[i]);
}

static void print_table(const char *dtype_name, const char *op_name, const char *num_src,
                        const char *bytes)
{
    printf("%-15s %-10s %3s %9s ", "dtype", "op", "src", "bytes");
    for (rdt_isa_t isa = RDT_ISA_BASE; isa < RDT_NUM_ISAS; isa++)
        printf(" %7s %9s", rdt_isa_name(isa), "ns");
    putchar('\n');
    for (rdt_dtype_t dtype = 0; dtype < RDT_NUM_DTYPES; dtype++)
        for (rdt_redop_t op = 0; op < RDT_NUM_REDOPS; op++)
            if (rdt_can_reduce(dtype, op) &&
                wanted(dtype_name, rdt_dtype_name(dtype), dtype <= RDT_F32) &&
                wanted(op_name, rdt_redop_name(op), op == RDT_SUM))
                print_sizes(dtype, op, num_src, bytes);
}

/* GB/s of bytes written. In blocks, as the direct all-reduce copies. */
static double time_copy(rdt_copy_fn copy, const char *src, size_t src_step, size_t bytes)
{
    uint64_t start = 0;

    /* The first time only brings the caches to where this way leaves them. */
    for (size_t at = 0; at < bytes; at += COPY_BLOCK)
        copy(buffers[0] + at, src + at / COPY_BLOCK * src_step, COPY_BLOCK);
    start = cpu_ns();
    for (size_t at = 0; at < bytes; at += COPY_BLOCK)
        copy(buffers[0] + at, src + at / COPY_BLOCK * src_step, COPY_BLOCK);
    rdt_copy_fence();
    return (double)bytes / (double)(cpu_ns() - start);
}

static void print_copy_row(const char *what, const char *src, size_t src_step, size_t bytes)
{
    double gbps[RDT_NUM_COPIES][NUM_ROUNDS];

    for (size_t round = 0; round < NUM_ROUNDS; round++)
        for (rdt_copy_isa_t isa = 0; isa < RDT_NUM_COPIES; isa++)
            gbps[isa][round] =
                rdt_copy_get(isa) == NULL ? 0 : time_copy(rdt_copy_get(isa), src, src_step, bytes);
    printf("%-10s %9zu", what, bytes);
    for (rdt_copy_isa_t isa = 0; isa < RDT_NUM_COPIES; isa++)
        printf(" %7.1f", median(gbps[isa], NUM_ROUNDS));
    putchar('\n');
}

static void print_copies(void)
{
    printf("%-10s %9s", "copy", "bytes");
    for (rdt_copy_isa_t isa = 0; isa < RDT_NUM_COPIES; isa++)
        printf(" %7s", rdt_copy_isa_name(isa));
    printf("     streaming pays from %zu bytes\n", rdt_copy_stream_bytes());
    for (size_t bytes = 1 << 20; bytes <= MAX_BYTES; bytes *= 2)
        print_copy_row("hot block", buffers[1], 0, bytes);
    for (size_t bytes = 1 << 20; bytes <= MAX_BYTES; bytes *= 2)
        print_copy_row("buffer", buffers[1], COPY_BLOCK, bytes);
}

/* GB/s of the output, which is apart from the sources. A kernel without stream goes by way of
 * blocks. */
static double time_apart(const rdt_kernel_t *kernel, bool stream, rdt_dtype_t dtype,
                         uint32_t num_src, size_t bytes)
{
    const size_t width = rdt_dtype_bytes(dtype);
    const void *const src[] = {buffers[1], buffers[2], buffers[3], buffers[4]};
    const uint64_t start = cpu_ns();

    if (stream)
        rdt_reduce_stream(kernel, width, buffers[0], src, num_src, bytes / width);
    else
        kernel->reduce(buffers[0], src, num_src, bytes / width);
    return (double)bytes / (double)(cpu_ns() - start);
}

static void print_stream_row(rdt_isa_t isa, rdt_dtype_t dtype, uint32_t num_src, size_t bytes)
{
    enum { CACHED, BLOCKS, STREAM, NUM_WAYS };
    const rdt_kernel_t kernel = rdt_kernel_get(isa, dtype, RDT_SUM);
    const rdt_kernel_t blocks = {.reduce = kernel.reduce};
    double gbps[NUM_WAYS][NUM_ROUNDS];

    for (size_t round = 0; round < NUM_ROUNDS; round++) {
        for (int way = 0; way < NUM_WAYS; way++) {
            const rdt_kernel_t *by = way == STREAM ? &kernel : &blocks;

            /* The first time only brings the caches to where this way leaves them. */
            time_apart(by, way != CACHED, dtype, num_src, bytes);
            gbps[way][round] = time_apart(by, way != CACHED, dtype, num_src, bytes);
        }
    }
    printf("%-10s %-15s %3u %9zu %7.1f %7.1f", rdt_isa_name(isa), rdt_dtype_name(dtype), num_src,
           bytes, median(gbps[CACHED], NUM_ROUNDS), median(gbps[BLOCKS], NUM_ROUNDS));
    if (num_src == 2)
        printf(" %7.1f\n", median(gbps[STREAM], NUM_ROUNDS));
    else
        printf(" %7s\n", "-");
    fflush(stdout);
}

static void print_streams(const char *dtype_name, const char *num_src, const char *bytes)
{
    static const uint32_t nums[] = {2, 4};

    printf("%-10s %-15s %3s %9s %7s %7s %7s\n", "isa", "dtype", "src", "bytes", "cached", "blocks",
           "stream");
    for (rdt_isa_t isa = RDT_ISA_AVX2; isa < RDT_NUM_ISAS; isa++)
        for (rdt_dtype_t dtype = 0; dtype < RDT_NUM_DTYPES; dtype++)
            for (size_t k = 0; k < COUNT_OF(nums); k++)
                for (size_t size = 1 << 20; size <= MAX_BYTES; size *= 2)
                    if (rdt_kernel_get(isa, dtype, RDT_SUM).stream != NULL &&
                        wanted(dtype_name, rdt_dtype_name(dtype), dtype == RDT_F32) &&
                        wanted_number(num_src, nums[k]) && wanted_number(bytes, size))
                        print_stream_row(isa, dtype, nums[k], size);
}

static bool allocate_buffers(void)
{
    for (size_t k = 0; k < MAX_SRC; k++) {
        buffers[k] = aligned_alloc(4096, MAX_BYTES);
        if (buffers[k] == NULL) return false;
        memset(buffers[k], 0, MAX_BYTES);
    }
    return true;
}

int main(int argc, char **argv)
{
    const char *names[4] = {NULL};

    for (int i = 1; i < argc && i <= 4; i++)
        names[i - 1] = argv[i];
    if (!allocate_buffers()) {
        fprintf(stderr, "out of memory\n");
        return 1;
    }
    if (names[0] != NULL && strcmp(names[0], "copy") == 0)
        print_copies();
    else if (names[0] != NULL && strcmp(names[0], "stream") == 0)
        print_streams(names[1], names[2], names[3]);
    else
        print_table(names[0], names[1], names[2], names[3]);
    return 0;
}
