/* SPDX-License-Identifier: Apache-2.0 */
/* The fast kernels: plain loops that the compiler vectorizes for the flags of the file that
 * includes this one (by way of kernel_table.inc.h). Each includer gets its own static copy.
 *
 * Bits are equal on every instruction set because each element sees the same operations in the
 * same order: no reassociation, no contraction (-ffp-contract=off), one NaN (see half.h; float32
 * and float64 results get the same treatment). Of two equal operands (0.0 and -0.0), MIN and MAX
 * keep the earlier. A single source is copied bit for bit, NaNs included, whatever the op.
 *
 * Aliasing: dst may be the very address of one source. Element i of dst is written after element
 * i of every source was read, and no other element is read through the same address later: with up
 * to four sources by the loop itself, with more because a block's accumulator is private and dst is
 * written in the pass that reads the last source, after all others were read for that block.
 */
#ifndef RDT_REDUCE_KERNELS_INC_H
#define RDT_REDUCE_KERNELS_INC_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "reduce/half.h"
#include "reduce/half_vec.h"
#include "reduce/isa.h"
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

/* For the loop over one vector: unrolled before it is vectorized, gcc leaves it scalar. */
#if defined(__clang__)
#define RDT_ROLLED _Pragma("clang loop unroll(disable)")
#else
#define RDT_ROLLED _Pragma("GCC unroll 1")
#endif

#define RDT_ALWAYS_INLINE __attribute__((always_inline))
#define RDT_NOINLINE __attribute__((noinline))

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
RDT_ENDS(F16, uint16_t, float, rdt_f16_to_f32(x), rdt_f32_to_f16(acc),
         rdt_f32_to_f16(acc / (float)num_src))
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

/* Element i of n more sources onto the accumulator, and the passes that fill a block of
 * accumulators. n is a constant in each copy, so that one loop reads up to four sources. Passes are
 * not inlined: gcc would merge them (unroll and jam) and then vectorize neither. */
#define RDT_PASSES(fn, T, A, WIDEN, OP)                                                         \
    static inline RDT_ALWAYS_INLINE A fn##_more(A acc, const T *const *x, uint32_t n, size_t i) \
    {                                                                                           \
        if (n > 0) acc = OP(acc, WIDEN(x[0][i]));                                               \
        if (n > 1) acc = OP(acc, WIDEN(x[1][i]));                                               \
        if (n > 2) acc = OP(acc, WIDEN(x[2][i]));                                               \
        if (n > 3) acc = OP(acc, WIDEN(x[3][i]));                                               \
        return acc;                                                                             \
    }                                                                                           \
    static inline RDT_ALWAYS_INLINE void fn##_head_of(A *acc, const T *const *x, uint32_t n,    \
                                                      size_t count)                             \
    {                                                                                           \
        for (size_t i = 0; i < count; i++)                                                      \
            acc[i] = fn##_more(WIDEN(x[0][i]), x + 1, n - 1, i);                                \
    }                                                                                           \
    RDT_NOINLINE static void fn##_head(A *acc, const T *const *x, uint32_t n, size_t count)     \
    {                                                                                           \
        if (n == 1)                                                                             \
            fn##_head_of(acc, x, 1, count);                                                     \
        else if (n == 2)                                                                        \
            fn##_head_of(acc, x, 2, count);                                                     \
        else if (n == 3)                                                                        \
            fn##_head_of(acc, x, 3, count);                                                     \
        else                                                                                    \
            fn##_head_of(acc, x, 4, count);                                                     \
    }                                                                                           \
    RDT_NOINLINE static void fn##_fold(A *acc, const T *const *x, size_t count)                 \
    {                                                                                           \
        for (size_t i = 0; i < count; i++)                                                      \
            acc[i] = fn##_more(acc[i], x, 4, i);                                                \
    }

/* A vector at a time, which the compiler keeps in a register from the sources to the store. */
#if defined(RDT_HALF_VECTORS)
#define RDT_STREAM_KERNEL(fn, pass, T, WIDEN, FINISH)                                       \
    static void fn##_stream(void *dst, const void *first, const void *second, size_t count) \
    {                                                                                       \
        const T *a = first, *b = second;                                                    \
        T *to = dst, vector[sizeof(rdt_vi_t) / sizeof(T)];                                  \
                                                                                            \
        for (size_t i = 0; i < count; i += sizeof(rdt_vi_t) / sizeof(T)) {                  \
            const T *const x[1] = {b + i};                                                  \
                                                                                            \
            RDT_ROLLED                                                                      \
            for (size_t k = 0; k < sizeof(rdt_vi_t) / sizeof(T); k++)                       \
                vector[k] = FINISH(pass##_more(WIDEN(a[i + k]), x, 1, k), 2);               \
            RDT_VI_STREAM(to + i, RDT_VI_LOAD(vector));                                     \
        }                                                                                   \
    }
#define RDT_STREAM_ENTRY(fn) fn##_stream
#else
#define RDT_STREAM_KERNEL(fn, pass, T, WIDEN, FINISH)
#define RDT_STREAM_ENTRY(fn) NULL
#endif

/* One kernel over the passes of its operation; FINISH writes an element. Two to four sources are
 * read in one pass, more through blocks: a head that leaves a multiple of four, then four a pass. */
#define RDT_KERNEL(fn, pass, T, A, WIDEN, FINISH)                                                 \
    static inline RDT_ALWAYS_INLINE void fn##_all(T *dst, const void *const *src, uint32_t n,     \
                                                  size_t count)                                   \
    {                                                                                             \
        const T *const first = src[0];                                                            \
        const T *const x[3] = {src[1], src[n > 2 ? 2 : 1], src[n > 3 ? 3 : 1]};                   \
                                                                                                  \
        RDT_IVDEP                                                                                 \
        for (size_t i = 0; i < count; i++)                                                        \
            dst[i] = FINISH(pass##_more(WIDEN(first[i]), x, n - 1, i), n);                        \
    }                                                                                             \
    RDT_NOINLINE static void fn##_tail(T *dst, const A *acc, const T *const *x, uint32_t num_src, \
                                       size_t count)                                              \
    {                                                                                             \
        RDT_IVDEP                                                                                 \
        for (size_t i = 0; i < count; i++)                                                        \
            dst[i] = FINISH(pass##_more(acc[i], x, 4, i), num_src);                               \
    }                                                                                             \
    static void fn##_block(T *dst, const void *const *src, uint32_t num_src, size_t at, size_t n) \
    {                                                                                             \
        const uint32_t num_head = (num_src - 1) % 4 + 1;                                          \
        A acc[RDT_BLOCK_BYTES / sizeof(A)];                                                       \
        const T *x[4] = {0};                                                                      \
                                                                                                  \
        for (uint32_t k = 0; k < num_head; k++)                                                   \
            x[k] = (const T *)src[k] + at;                                                        \
        pass##_head(acc, x, num_head, n);                                                         \
        for (uint32_t done = num_head; done < num_src; done += 4) {                               \
            for (uint32_t k = 0; k < 4; k++)                                                      \
                x[k] = (const T *)src[done + k] + at;                                             \
            if (done + 4 < num_src)                                                               \
                pass##_fold(acc, x, n);                                                           \
            else                                                                                  \
                fn##_tail(dst + at, acc, x, num_src, n);                                          \
        }                                                                                         \
    }                                                                                             \
    static void fn(void *dst, const void *const *src, uint32_t num_src, size_t count)             \
    {                                                                                             \
        const size_t step = RDT_BLOCK_BYTES / sizeof(A);                                          \
                                                                                                  \
        if (num_src == 1)                                                                         \
            copy_one(dst, src[0], count * sizeof(T));                                             \
        else if (num_src == 2)                                                                    \
            fn##_all(dst, src, 2, count);                                                         \
        else if (num_src == 3)                                                                    \
            fn##_all(dst, src, 3, count);                                                         \
        else if (num_src == 4)                                                                    \
            fn##_all(dst, src, 4, count);                                                         \
        else                                                                                      \
            for (size_t at = 0; at < count; at += step)                                           \
                fn##_block(dst, src, num_src, at, block_len(count, at, step));                    \
    }                                                                                             \
    static void fn##_both(void *first, void *second, size_t count)                                \
    {                                                                                             \
        T *a = first, *b = second;                                                                \
        const T *const x[1] = {second};                                                           \
                                                                                                  \
        RDT_IVDEP                                                                                 \
        for (size_t i = 0; i < count; i++) {                                                      \
            const T sum = FINISH(pass##_more(WIDEN(a[i]), x, 1, i), 2);                           \
                                                                                                  \
            a[i] = sum;                                                                           \
            b[i] = sum;                                                                           \
        }                                                                                         \
    }                                                                                             \
    RDT_STREAM_KERNEL(fn, pass, T, WIDEN, FINISH)

/* The five kernels of one dtype; ops names the accumulator's operations. AVG is SUM but for its
 * end. */
#define RDT_KERNELS(tag, T, A, ops)                                                    \
    RDT_PASSES(pass_##tag##_SUM, T, A, tag##_widen, ops##_SUM)                         \
    RDT_PASSES(pass_##tag##_MIN, T, A, tag##_widen, ops##_MIN)                         \
    RDT_PASSES(pass_##tag##_MAX, T, A, tag##_widen, ops##_MAX)                         \
    RDT_PASSES(pass_##tag##_PRODUCT, T, A, tag##_widen, ops##_PRODUCT)                 \
    RDT_KERNEL(reduce_##tag##_SUM, pass_##tag##_SUM, T, A, tag##_widen, tag##_finish)  \
    RDT_KERNEL(reduce_##tag##_AVG, pass_##tag##_SUM, T, A, tag##_widen, tag##_average) \
    RDT_KERNEL(reduce_##tag##_MIN, pass_##tag##_MIN, T, A, tag##_widen, tag##_finish)  \
    RDT_KERNEL(reduce_##tag##_MAX, pass_##tag##_MAX, T, A, tag##_widen, tag##_finish)  \
    RDT_KERNEL(reduce_##tag##_PRODUCT, pass_##tag##_PRODUCT, T, A, tag##_widen, tag##_finish)

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

#if defined(RDT_HALF_VECTORS)
RDT_HALF_KERNELS(F16)
RDT_HALF_KERNELS(BF16)
#else
RDT_KERNELS(F16, uint16_t, float, F32)
RDT_KERNELS(BF16, uint16_t, float, F32)
#endif

#endif
