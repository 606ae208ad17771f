/* SPDX-License-Identifier: Apache-2.0 */
/* The fast kernels: plain loops that the compiler vectorizes for the flags of the file that
 * includes this one. Each includer gets its own static copy, reached through kernel_table.
 *
 * Bits are equal on every instruction set because each element sees the same operations in the
 * same order: no reassociation, no contraction (-ffp-contract=off), one NaN (see half.h; float32
 * and float64 results get the same treatment). Of two equal operands (0.0 and -0.0), MIN and MAX
 * keep the earlier. A single source is copied bit for bit, NaNs included, whatever the op.
 *
 * Aliasing: dst may be the very address of one source. Element i of dst is written after element
 * i of every source was read, and no other element is read through the same address later: with
 * two sources by the loop itself, with more because a block's accumulator is private and dst is
 * written in the pass that reads the last source, after all others were read for that block.
 */
#ifndef RDT_REDUCE_KERNELS_INC_H
#define RDT_REDUCE_KERNELS_INC_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "reduce/f16c.h"
#include "reduce/half.h"
#include "reduce/reduce.h"

/* Bytes of one accumulator block, in L1 throughout. The per-block overhead is visible below 1 KiB,
 * and long visits to one source at a time defeat the prefetching of the others above. */
#define RDT_BLOCK_BYTES 1024

/* The compiler must assume that dst overlaps a source in any way. The contract allows only the
 * same address, where each iteration reads what it later writes: nothing is carried from one
 * iteration to the next, which is what this pragma promises. */
#if defined(__clang__)
#define RDT_IVDEP _Pragma("clang loop vectorize(assume_safety)")
#else
#define RDT_IVDEP _Pragma("GCC ivdep")
#endif

/* Operations. U is an unsigned type at least as wide as int, where wrapping is defined. */
#define RDT_INT_OPS(tag, T, U)              \
    static inline T tag##_SUM(T a, T b)     \
    {                                       \
        return (T)((U)a + (U)b);            \
    }                                       \
    static inline T tag##_PRODUCT(T a, T b) \
    {                                       \
        return (T)((U)a * (U)b);            \
    }                                       \
    static inline T tag##_MIN(T a, T b)     \
    {                                       \
        return b < a ? b : a;               \
    }                                       \
    static inline T tag##_MAX(T a, T b)     \
    {                                       \
        return b > a ? b : a;               \
    }

/* MIN and MAX: the first comparison also picks b when either is NaN, the second picks a NaN a. */
#define RDT_FLOAT_OPS(tag, T)               \
    static inline T tag##_SUM(T a, T b)     \
    {                                       \
        return a + b;                       \
    }                                       \
    static inline T tag##_PRODUCT(T a, T b) \
    {                                       \
        return a * b;                       \
    }                                       \
    static inline T tag##_MIN(T a, T b)     \
    {                                       \
        const T least = a <= b ? a : b;     \
                                            \
        return a == a ? least : a;          \
    }                                       \
    static inline T tag##_MAX(T a, T b)     \
    {                                       \
        const T most = a >= b ? a : b;      \
                                            \
        return a == a ? most : a;           \
    }

RDT_FLOAT_OPS(F32, float)
RDT_FLOAT_OPS(F64, double)
RDT_INT_OPS(I8, int8_t, uint32_t)
RDT_INT_OPS(U8, uint8_t, uint32_t)
RDT_INT_OPS(I16, int16_t, uint32_t)
RDT_INT_OPS(U16, uint16_t, uint32_t)
RDT_INT_OPS(I32, int32_t, uint32_t)
RDT_INT_OPS(U32, uint32_t, uint32_t)
RDT_INT_OPS(I64, int64_t, uint64_t)
RDT_INT_OPS(U64, uint64_t, uint64_t)

/* From element to accumulator, from accumulator to element, and the same with AVG's division. */
#define RDT_ENDS(tag, T, A, widen, finish, average)        \
    static inline A tag##_widen(T x)                       \
    {                                                      \
        return widen;                                      \
    }                                                      \
    static inline T tag##_finish(A acc, uint32_t num_src)  \
    {                                                      \
        (void)num_src;                                     \
        return finish;                                     \
    }                                                      \
    static inline T tag##_average(A acc, uint32_t num_src) \
    {                                                      \
        return average;                                    \
    }

#define RDT_ONE_NAN(x) ((x) == (x) ? (x) : NAN)

/* A quotient of integers below 2^24 by way of float32 (below 2^53 by way of float64) truncates
 * exactly: an inexact quotient is at least 1/num_src away from the next integer, the rounding
 * moves it by less than that. A num_src too large for float32 gives 0 either way. Floating point
 * division vectorizes, integer division does not. */
#define RDT_SMALL_QUOTIENT(T) (T)(int32_t)((float)acc / (float)num_src)

RDT_ENDS(F32, float, float, x, RDT_ONE_NAN(acc), RDT_ONE_NAN(acc / (float)num_src))
RDT_ENDS(F64, double, double, x, RDT_ONE_NAN(acc), RDT_ONE_NAN(acc / (double)num_src))
RDT_ENDS(BF16, uint16_t, float, rdt_bf16_to_f32(x), rdt_f32_to_bf16(acc),
         rdt_f32_to_bf16(acc / (float)num_src))
RDT_ENDS(I8, int8_t, int8_t, x, acc, RDT_SMALL_QUOTIENT(int8_t))
RDT_ENDS(U8, uint8_t, uint8_t, x, acc, RDT_SMALL_QUOTIENT(uint8_t))
RDT_ENDS(I16, int16_t, int16_t, x, acc, RDT_SMALL_QUOTIENT(int16_t))
RDT_ENDS(U16, uint16_t, uint16_t, x, acc, RDT_SMALL_QUOTIENT(uint16_t))
RDT_ENDS(I32, int32_t, int32_t, x, acc, (int32_t)((double)acc / (double)num_src))
RDT_ENDS(U32, uint32_t, uint32_t, x, acc, acc / num_src)
RDT_ENDS(I64, int64_t, int64_t, x, acc, acc / (int64_t)num_src)
RDT_ENDS(U64, uint64_t, uint64_t, x, acc, acc / num_src)

static inline size_t block_len(size_t count, size_t at, size_t step)
{
    return count - at < step ? count - at : step;
}

static inline void copy_one(void *dst, const void *src, size_t bytes)
{
    if (dst != src && bytes != 0) memcpy(dst, src, bytes);
}

/* One kernel. OP is the accumulator's operation, FINISH writes an element. _fold is not inlined:
 * gcc would merge the passes of two sources (unroll and jam) and then vectorize neither. */
#define RDT_KERNEL(fn, T, A, WIDEN, OP, FINISH)                                                   \
    static void fn##_pair(T *dst, const T *a, const T *b, size_t count)                           \
    {                                                                                             \
        RDT_IVDEP                                                                                 \
        for (size_t i = 0; i < count; i++)                                                        \
            dst[i] = FINISH(OP(WIDEN(a[i]), WIDEN(b[i])), 2);                                     \
    }                                                                                             \
    __attribute__((noinline)) static void fn##_fold(A *acc, const T *x, size_t n)                 \
    {                                                                                             \
        RDT_IVDEP                                                                                 \
        for (size_t i = 0; i < n; i++)                                                            \
            acc[i] = OP(acc[i], WIDEN(x[i]));                                                     \
    }                                                                                             \
    static void fn##_block(T *dst, const void *const *src, uint32_t num_src, size_t at, size_t n) \
    {                                                                                             \
        A acc[RDT_BLOCK_BYTES / sizeof(A)];                                                       \
        const T *x = (const T *)src[0] + at;                                                      \
        const T *y = (const T *)src[1] + at;                                                      \
                                                                                                  \
        for (size_t i = 0; i < n; i++)                                                            \
            acc[i] = OP(WIDEN(x[i]), WIDEN(y[i]));                                                \
        for (uint32_t k = 2; k + 1 < num_src; k++)                                                \
            fn##_fold(acc, (const T *)src[k] + at, n);                                            \
        y = (const T *)src[num_src - 1] + at;                                                     \
        RDT_IVDEP                                                                                 \
        for (size_t i = 0; i < n; i++)                                                            \
            dst[at + i] = FINISH(OP(acc[i], WIDEN(y[i])), num_src);                               \
    }                                                                                             \
    static void fn(void *dst, const void *const *src, uint32_t num_src, size_t count)             \
    {                                                                                             \
        const size_t step = RDT_BLOCK_BYTES / sizeof(A);                                          \
                                                                                                  \
        if (num_src == 1)                                                                         \
            copy_one(dst, src[0], count * sizeof(T));                                             \
        else if (num_src == 2)                                                                    \
            fn##_pair(dst, src[0], src[1], count);                                                \
        else                                                                                      \
            for (size_t at = 0; at < count; at += step)                                           \
                fn##_block(dst, src, num_src, at, block_len(count, at, step));                    \
    }

/* The five kernels of one dtype; ops names the accumulator's operations. */
#define RDT_KERNELS(tag, T, A, ops)                                             \
    RDT_KERNEL(reduce_##tag##_SUM, T, A, tag##_widen, ops##_SUM, tag##_finish)  \
    RDT_KERNEL(reduce_##tag##_AVG, T, A, tag##_widen, ops##_SUM, tag##_average) \
    RDT_KERNEL(reduce_##tag##_MIN, T, A, tag##_widen, ops##_MIN, tag##_finish)  \
    RDT_KERNEL(reduce_##tag##_MAX, T, A, tag##_widen, ops##_MAX, tag##_finish)  \
    RDT_KERNEL(reduce_##tag##_PRODUCT, T, A, tag##_widen, ops##_PRODUCT, tag##_finish)

RDT_KERNELS(BF16, uint16_t, float, F32)
RDT_KERNELS(F32, float, float, F32)
RDT_KERNELS(F64, double, double, F64)
RDT_KERNELS(I8, int8_t, int8_t, I8)
RDT_KERNELS(U8, uint8_t, uint8_t, U8)
RDT_KERNELS(I16, int16_t, int16_t, I16)
RDT_KERNELS(U16, uint16_t, uint16_t, U16)
RDT_KERNELS(I32, int32_t, int32_t, I32)
RDT_KERNELS(U32, uint32_t, uint32_t, U32)
RDT_KERNELS(I64, int64_t, int64_t, I64)
RDT_KERNELS(U64, uint64_t, uint64_t, U64)

RDT_ENDS(F16, uint16_t, float, rdt_f16_to_f32(x), rdt_f32_to_f16(acc),
         rdt_f32_to_f16(acc / (float)num_src))
#if defined(__F16C__)
/* Compilers do not vectorize the conversion instructions on their own. With intrinsics the
 * accumulator is a register, and each vector of dst is written after that of every source was
 * read. What is left at the end goes through the portable conversions, which give equal bits. */
#define RDT_KERNEL_F16(op, OP, FINISH)                                                             \
    static void reduce_F16_##op(void *dst, const void *const *src, uint32_t num_src, size_t count) \
    {                                                                                              \
        const size_t whole = count - count % RDT_VF_LEN;                                           \
        uint16_t *out = dst;                                                                       \
                                                                                                   \
        if (num_src == 1) {                                                                        \
            copy_one(dst, src[0], count * sizeof(uint16_t));                                       \
            return;                                                                                \
        }                                                                                          \
        for (size_t i = 0; i < whole; i += RDT_VF_LEN) {                                           \
            rdt_vf_t acc = rdt_vf_load_f16((const uint16_t *)src[0] + i);                          \
                                                                                                   \
            for (uint32_t k = 1; k < num_src; k++)                                                 \
                acc = rdt_vf_##OP(acc, rdt_vf_load_f16((const uint16_t *)src[k] + i));             \
            rdt_vf_store_f16(out + i, rdt_vf_##FINISH(acc, num_src));                              \
        }                                                                                          \
        for (size_t i = whole; i < count; i++) {                                                   \
            float acc = rdt_f16_to_f32(((const uint16_t *)src[0])[i]);                             \
                                                                                                   \
            for (uint32_t k = 1; k < num_src; k++)                                                 \
                acc = F32_##OP(acc, rdt_f16_to_f32(((const uint16_t *)src[k])[i]));                \
            out[i] = F16_##FINISH(acc, num_src);                                                   \
        }                                                                                          \
    }

RDT_KERNEL_F16(SUM, SUM, finish)
RDT_KERNEL_F16(AVG, SUM, average)
RDT_KERNEL_F16(MIN, MIN, finish)
RDT_KERNEL_F16(MAX, MAX, finish)
RDT_KERNEL_F16(PRODUCT, PRODUCT, finish)
#else
RDT_KERNELS(F16, uint16_t, float, F32)
#endif

#define RDT_KERNEL_ROW(tag, bytes, text)                                        \
    [RDT_##tag] = {                                                             \
        [RDT_SUM] = reduce_##tag##_SUM,         [RDT_AVG] = reduce_##tag##_AVG, \
        [RDT_MIN] = reduce_##tag##_MIN,         [RDT_MAX] = reduce_##tag##_MAX, \
        [RDT_PRODUCT] = reduce_##tag##_PRODUCT,                                 \
    },

/* unused: where this file is compiled alone, to check that it includes what it needs. */
__attribute__((unused)) static const rdt_reduce_fn kernel_table[RDT_NUM_DTYPES][RDT_NUM_REDOPS] = {
    RDT_DTYPE_TABLE(RDT_KERNEL_ROW)};

#endif
