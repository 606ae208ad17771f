/* SPDX-License-Identifier: Apache-2.0 */
/* All kernels of an instruction set: those of kernels.inc.h, what is made of them (bits, bools,
 * complex numbers, float8, products with a factor), and the table of all. The same bits on every
 * instruction set, and dst may be a source, by the same rules. */
#ifndef RDT_REDUCE_KERNEL_TABLE_INC_H
#define RDT_REDUCE_KERNEL_TABLE_INC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reduce/float8.h"
#include "reduce/isa.h"
#include "reduce/kernels.inc.h"

static inline uint8_t bits_BAND(uint8_t a, uint8_t b)
{
    return a & b;
}

static inline uint8_t bits_BOR(uint8_t a, uint8_t b)
{
    return a | b;
}

static inline uint8_t bits_BXOR(uint8_t a, uint8_t b)
{
    return a ^ b;
}

static inline uint8_t BOOL_widen(uint8_t x)
{
    return x != 0;
}

#define RDT_BIT_KERNEL(tag, op)                                             \
    RDT_PASSES(pass_##tag##_##op, uint8_t, uint8_t, tag##_widen, bits_##op) \
    RDT_KERNEL(reduce_##tag##_##op, pass_##tag##_##op, uint8_t, uint8_t, tag##_widen, U8_finish)

RDT_BIT_OPS(RDT_BIT_KERNEL, U8)
RDT_BIT_OPS(RDT_BIT_KERNEL, BOOL)

/* fn is other for elements that are made of so many of other's. */
#define RDT_SAME_AS(fn, other, times)                                                 \
    static void fn(void *dst, const void *const *src, uint32_t num_src, size_t count) \
    {                                                                                 \
        other(dst, src, num_src, (times) * count);                                    \
    }                                                                                 \
    static void fn##_both(void *first, void *second, size_t count)                    \
    {                                                                                 \
        other##_both(first, second, (times) * count);                                 \
    }                                                                                 \
    RDT_SAME_STREAM_AS(fn, other, times)
#if defined(RDT_HALF_VECTORS)
#define RDT_SAME_STREAM_AS(fn, other, times)                                                \
    static void fn##_stream(void *dst, const void *first, const void *second, size_t count) \
    {                                                                                       \
        other##_stream(dst, first, second, (times) * count);                                \
    }
#else
#define RDT_SAME_STREAM_AS(fn, other, times)
#endif

RDT_SAME_AS(reduce_BOOL_SUM, reduce_BOOL_BOR, 1)
RDT_SAME_AS(reduce_BOOL_MAX, reduce_BOOL_BOR, 1)
RDT_SAME_AS(reduce_BOOL_MIN, reduce_BOOL_BAND, 1)
RDT_SAME_AS(reduce_BOOL_PRODUCT, reduce_BOOL_BAND, 1)

#define RDT_BITS_OF(tag, bytes)                             \
    RDT_SAME_AS(reduce_##tag##_BAND, reduce_U8_BAND, bytes) \
    RDT_SAME_AS(reduce_##tag##_BOR, reduce_U8_BOR, bytes)   \
    RDT_SAME_AS(reduce_##tag##_BXOR, reduce_U8_BXOR, bytes)

RDT_BITS_OF(I8, 1)
RDT_BITS_OF(I16, 2)
RDT_BITS_OF(U16, 2)
RDT_BITS_OF(I32, 4)
RDT_BITS_OF(U32, 4)
RDT_BITS_OF(I64, 8)
RDT_BITS_OF(U64, 8)

/* What is rare or wants a factor: each source in turn is widened to a block of accumulators, times the
 * factor, and folded into another by the kernel of these. Sources of a block are all read before the
 * block of dst is written. */
#define RDT_WIDE_COUNT 256

typedef union wide_block {
    float floats[RDT_WIDE_COUNT];
    double doubles[RDT_WIDE_COUNT];
} wide_block_t;

typedef struct wide {
    rdt_wide_t ends;
    rdt_reduce_fn fold;
    size_t bytes;  /* of an element */
    double factor; /* 1 changes nothing but the payloads of NaNs */
    bool divides;  /* float accumulators, by the number of sources */
} wide_t;

static void divide_block(wide_block_t *block, float divisor, size_t count)
{
    for (size_t i = 0; i < count; i++)
        block->floats[i] /= divisor;
}

static void reduce_wide(const wide_t *wide, void *dst, const void *const *src, uint32_t num_src,
                        size_t count)
{
    wide_block_t acc, next;
    const void *const both[2] = {&acc, &next};

    for (size_t at = 0; at < count; at += RDT_WIDE_COUNT) {
        const size_t n = block_len(count, at, RDT_WIDE_COUNT);

        wide->ends.load(&acc, (const char *)src[0] + at * wide->bytes, wide->factor, n);
        for (uint32_t k = 1; k < num_src; k++) {
            wide->ends.load(&next, (const char *)src[k] + at * wide->bytes, wide->factor, n);
            wide->fold(&acc, both, 2, n);
        }
        if (wide->divides) divide_block(&acc, (float)num_src, n);
        wide->ends.store((char *)dst + at * wide->bytes, &acc, n);
    }
}

#define RDT_PREMUL_KERNEL(tag, T, A, WIDEN, NARROW, fold)                                       \
    static void load_##tag(void *to, const void *from, double factor, size_t count)             \
    {                                                                                           \
        const T *const x = from;                                                                \
        A *const acc = to;                                                                      \
                                                                                                \
        RDT_IVDEP                                                                               \
        for (size_t i = 0; i < count; i++)                                                      \
            acc[i] = WIDEN * (A)factor;                                                         \
    }                                                                                           \
    static void store_##tag(void *to, const void *from, size_t count)                           \
    {                                                                                           \
        const A *const acc = from;                                                              \
        T *const dst = to;                                                                      \
                                                                                                \
        RDT_IVDEP                                                                               \
        for (size_t i = 0; i < count; i++)                                                      \
            dst[i] = NARROW;                                                                    \
    }                                                                                           \
    static void premul_##tag(void *dst, const void *const *src, uint32_t num_src, size_t count, \
                             double factor)                                                     \
    {                                                                                           \
        reduce_wide(&(const wide_t){{load_##tag, store_##tag}, fold, sizeof(T), factor, false}, \
                    dst, src, num_src, count);                                                  \
    }

#define RDT_F8_KERNEL(tag, op, fold, divides)                                                      \
    static void reduce_##tag##_##op(void *dst, const void *const *src, uint32_t num_src,           \
                                    size_t count)                                                  \
    {                                                                                              \
        if (num_src == 1)                                                                          \
            copy_one(dst, src[0], count);                                                          \
        else                                                                                       \
            reduce_wide(&(const wide_t){{load_##tag, store_##tag}, fold, 1, 1, divides}, dst, src, \
                        num_src, count);                                                           \
    }

#define RDT_F8_KERNELS(tag)                                                       \
    RDT_PREMUL_KERNEL(tag, uint8_t, float, rdt_f8_to_f32(RDT_##tag##_KIND, x[i]), \
                      rdt_f32_to_f8(RDT_##tag##_KIND, acc[i]), reduce_F32_SUM)    \
    RDT_F8_KERNEL(tag, SUM, reduce_F32_SUM, false)                                \
    RDT_F8_KERNEL(tag, AVG, reduce_F32_SUM, true)                                 \
    RDT_F8_KERNEL(tag, MIN, reduce_F32_MIN, false)                                \
    RDT_F8_KERNEL(tag, MAX, reduce_F32_MAX, false)                                \
    RDT_F8_KERNEL(tag, PRODUCT, reduce_F32_PRODUCT, false)

RDT_PREMUL_KERNEL(F16, uint16_t, float, F16_widen(x[i]), F16_finish(acc[i], 1), reduce_F32_SUM)
RDT_PREMUL_KERNEL(BF16, uint16_t, float, BF16_widen(x[i]), BF16_finish(acc[i], 1), reduce_F32_SUM)
RDT_PREMUL_KERNEL(F32, float, float, x[i], RDT_ONE_NAN(acc[i]), reduce_F32_SUM)
RDT_PREMUL_KERNEL(F64, double, double, x[i], RDT_ONE_NAN(acc[i]), reduce_F64_SUM)
RDT_F8_KERNELS(F8E4M3FN)
RDT_F8_KERNELS(F8E5M2)
RDT_F8_KERNELS(F8E4M3FNUZ)
RDT_F8_KERNELS(F8E5M2FNUZ)

/* part is the dtype of the real and of the imaginary part. */
#define RDT_COMPLEX_KERNELS(tag, part, T, A)                                                    \
    RDT_SAME_AS(reduce_##tag##_SUM, reduce_##part##_SUM, 2)                                     \
    RDT_SAME_AS(reduce_##tag##_AVG, reduce_##part##_AVG, 2)                                     \
    static void premul_##tag(void *dst, const void *const *src, uint32_t num_src, size_t count, \
                             double factor)                                                     \
    {                                                                                           \
        premul_##part(dst, src, num_src, 2 * count, factor);                                    \
    }                                                                                           \
    static void reduce_##tag##_PRODUCT(void *dst, const void *const *src, uint32_t num_src,     \
                                       size_t count)                                            \
    {                                                                                           \
        T *to = dst;                                                                            \
                                                                                                \
        if (num_src == 1) {                                                                     \
            copy_one(dst, src[0], 2 * count * sizeof(T));                                       \
            return;                                                                             \
        }                                                                                       \
        for (size_t i = 0; i < 2 * count; i += 2) {                                             \
            A re = part##_widen(((const T *)src[0])[i]);                                        \
            A im = part##_widen(((const T *)src[0])[i + 1]);                                    \
                                                                                                \
            for (uint32_t k = 1; k < num_src; k++) {                                            \
                const A by_re = part##_widen(((const T *)src[k])[i]);                           \
                const A by_im = part##_widen(((const T *)src[k])[i + 1]);                       \
                const A product_re = re * by_re - im * by_im;                                   \
                                                                                                \
                im = re * by_im + im * by_re;                                                   \
                re = product_re;                                                                \
            }                                                                                   \
            to[i] = part##_finish(re, num_src);                                                 \
            to[i + 1] = part##_finish(im, num_src);                                             \
        }                                                                                       \
    }

RDT_COMPLEX_KERNELS(C32, F16, uint16_t, float)
RDT_COMPLEX_KERNELS(C64, F32, float, float)
RDT_COMPLEX_KERNELS(C128, F64, double, double)

#define RDT_KERNEL_ENTRY(tag, op)                                             \
    [RDT_##tag][RDT_##op] = {reduce_##tag##_##op, reduce_##tag##_##op##_both, \
                             RDT_STREAM_ENTRY(reduce_##tag##_##op), NULL},
#define RDT_PLAIN_ENTRY(tag, op) [RDT_##tag][RDT_##op] = {.reduce = reduce_##tag##_##op},
#define RDT_PREMUL_ENTRY(tag) [RDT_##tag][RDT_PREMUL_SUM] = {.premul = premul_##tag},

static const rdt_kernel_t kernel_table[RDT_NUM_DTYPES][RDT_NUM_REDOPS] = {RDT_FAST_TABLE(
    RDT_KERNEL_ENTRY) RDT_PLAIN_TABLE(RDT_PLAIN_ENTRY) RDT_PREMUL_TABLE(RDT_PREMUL_ENTRY)};

static void load_C32(void *to, const void *from, double factor, size_t count)
{
    load_F16(to, from, factor, 2 * count);
}

static void store_C32(void *to, const void *from, size_t count)
{
    store_F16(to, from, 2 * count);
}

#define RDT_WIDE_ENTRY(tag) [RDT_##tag] = {load_##tag, store_##tag},

static const rdt_wide_t wide_table[RDT_NUM_DTYPES] = {RDT_NARROW_TABLE(RDT_WIDE_ENTRY)};

#endif
