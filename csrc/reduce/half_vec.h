/* SPDX-License-Identifier: Apache-2.0 */
/* float16 and bfloat16 kernels by hand, where compilers do not find the instructions: F16C for
 * float16; for bfloat16 the two elements of a 32-bit lane are widened in place and rounded in 16-bit
 * lanes, or by AVX512_BF16. The same results as half.h and the F32 operations of kernels.inc.h, bit
 * for bit. RDT_HALF_VECTORS is defined where the compiler's flags include F16C and AVX2.
 *
 * A register of halves becomes two of float32: float16 by its lower and upper half, bfloat16 by its
 * even and odd elements. The sum stays in registers over all sources, and dst is written after
 * every source was read: dst may be any one of them. */
#ifndef RDT_REDUCE_HALF_VEC_H
#define RDT_REDUCE_HALF_VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "reduce/isa.h"

#if defined(__AVX2__) && defined(__F16C__)
#include <immintrin.h>

#define RDT_HALF_VECTORS 1

/* VF: vector of float32; VI: of integers; VH: half of a VI. */
#if defined(__AVX512BW__)
typedef __m512 rdt_vf_t;
typedef __m512i rdt_vi_t;
#define RDT_VF_SET1 _mm512_set1_ps
/* yes where the comparison of a with b holds, no elsewhere */
#define RDT_VF_PICK(a, how, b, yes, no) \
    _mm512_mask_blend_ps(_mm512_cmp_ps_mask((a), (b), (how)), (no), (yes))
#define RDT_VF_ANY_NAN(a, b) (_mm512_cmp_ps_mask((a), (b), _CMP_UNORD_Q) != 0)
#define RDT_VF_BITS _mm512_castps_si512
#define RDT_VF_OF_BITS _mm512_castsi512_ps
#define RDT_VF_OF_F16(src) _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(src)))
#define RDT_VF_TO_F16(x) _mm512_cvtps_ph((x), _MM_FROUND_TO_NEAREST_INT)
#define RDT_VI_JOIN(low, high) _mm512_inserti64x4(_mm512_castsi256_si512(low), (high), 1)
#define RDT_VI_LOAD(src) _mm512_loadu_si512(src)
#define RDT_VI_STORE(dst, x) _mm512_storeu_si512((dst), (x))
#define RDT_VI_STREAM(dst, x) _mm512_stream_si512((void *)(dst), (x))
#define RDT_VI_SET1_32(x) _mm512_set1_epi32((int)(x))
#define RDT_VI_SET1_16(x) _mm512_set1_epi16(x)
#define RDT_VI_SHL_32 _mm512_slli_epi32
#define RDT_VI_SHR_32 _mm512_srli_epi32
#define RDT_VI_SHR_16 _mm512_srli_epi16
#define RDT_VI_AND _mm512_and_si512
#define RDT_VI_OR _mm512_or_si512
#define RDT_VI_ADD_16 _mm512_add_epi16
#define RDT_VI_AVG_16 _mm512_avg_epu16
#define RDT_VI_EVEN_ODD_16(even, odd) _mm512_mask_blend_epi16(0xaaaaaaaa, (even), (odd))
#else
typedef __m256 rdt_vf_t;
typedef __m256i rdt_vi_t;
#define RDT_VF_SET1 _mm256_set1_ps
#define RDT_VF_PICK(a, how, b, yes, no) \
    _mm256_blendv_ps((no), (yes), _mm256_cmp_ps((a), (b), (how)))
#define RDT_VF_ANY_NAN(a, b) (_mm256_movemask_ps(_mm256_cmp_ps((a), (b), _CMP_UNORD_Q)) != 0)
#define RDT_VF_BITS _mm256_castps_si256
#define RDT_VF_OF_BITS _mm256_castsi256_ps
#define RDT_VF_OF_F16(src) _mm256_cvtph_ps(_mm_loadu_si128((const void *)(src)))
#define RDT_VF_TO_F16(x) _mm256_cvtps_ph((x), _MM_FROUND_TO_NEAREST_INT)
#define RDT_VI_JOIN(low, high) _mm256_inserti128_si256(_mm256_castsi128_si256(low), (high), 1)
#define RDT_VI_LOAD(src) _mm256_loadu_si256((const void *)(src))
#define RDT_VI_STORE(dst, x) _mm256_storeu_si256((void *)(dst), (x))
#define RDT_VI_STREAM(dst, x) _mm256_stream_si256((void *)(dst), (x))
#define RDT_VI_SET1_32(x) _mm256_set1_epi32((int)(x))
#define RDT_VI_SET1_16(x) _mm256_set1_epi16(x)
#define RDT_VI_SHL_32 _mm256_slli_epi32
#define RDT_VI_SHR_32 _mm256_srli_epi32
#define RDT_VI_SHR_16 _mm256_srli_epi16
#define RDT_VI_AND _mm256_and_si256
#define RDT_VI_OR _mm256_or_si256
#define RDT_VI_ADD_16 _mm256_add_epi16
#define RDT_VI_AVG_16 _mm256_avg_epu16
#define RDT_VI_EVEN_ODD_16(even, odd) _mm256_blend_epi16((even), (odd), 0xaa)
#endif

#define RDT_VF_LEN (sizeof(rdt_vf_t) / sizeof(float))
#define RDT_VH_LEN (2 * RDT_VF_LEN) /* halves at a time */

typedef struct rdt_vf2 {
    rdt_vf_t a, b;
} rdt_vf2_t;

/* By a branch that NaNs alone take: cheaper than a blend of every vector. */
static inline rdt_vf2_t rdt_vf2_one_nan(rdt_vf2_t x)
{
    if (__builtin_expect(RDT_VF_ANY_NAN(x.a, x.b), 0)) {
        x.a = RDT_VF_PICK(x.a, _CMP_UNORD_Q, x.a, RDT_VF_SET1(NAN), x.a);
        x.b = RDT_VF_PICK(x.b, _CMP_UNORD_Q, x.b, RDT_VF_SET1(NAN), x.b);
    }
    return x;
}

static inline rdt_vf2_t rdt_vf2_load_F16(const uint16_t *src)
{
    return (rdt_vf2_t){RDT_VF_OF_F16(src), RDT_VF_OF_F16(src + RDT_VF_LEN)};
}

/* The conversion would keep a NaN's sign and payload: it gets the one NaN to convert. */
static inline rdt_vi_t rdt_vf2_round_F16(rdt_vf2_t x)
{
    x = rdt_vf2_one_nan(x);
    return RDT_VI_JOIN(RDT_VF_TO_F16(x.a), RDT_VF_TO_F16(x.b));
}

static inline rdt_vf2_t rdt_vf2_load_BF16(const uint16_t *src)
{
    const rdt_vi_t x = RDT_VI_LOAD(src);

    return (rdt_vf2_t){RDT_VF_OF_BITS(RDT_VI_SHL_32(x, 16)),
                       RDT_VF_OF_BITS(RDT_VI_AND(x, RDT_VI_SET1_32(0xffff0000)))};
}

/* The upper halves of all elements, and one more where the lower half and the upper's last bit make
 * it so: (low + 0x7fff + odd) >> 16. An average, which is one bit wider inside, gives that carry. */
static inline rdt_vi_t rdt_vf2_exact_BF16(rdt_vf2_t x)
{
    const rdt_vf2_t y = rdt_vf2_one_nan(x);
    const rdt_vi_t even = RDT_VF_BITS(y.a), odd = RDT_VF_BITS(y.b);
    const rdt_vi_t high = RDT_VI_EVEN_ODD_16(RDT_VI_SHR_32(even, 16), odd);
    const rdt_vi_t low = RDT_VI_EVEN_ODD_16(even, RDT_VI_SHL_32(odd, 16));
    const rdt_vi_t bias = RDT_VI_OR(RDT_VI_AND(high, RDT_VI_SET1_16(1)), RDT_VI_SET1_16(0x7ffe));

    return RDT_VI_ADD_16(high, RDT_VI_SHR_16(RDT_VI_AVG_16(low, bias), 15));
}

#if defined(__AVX512BF16__)
/* vcvtne2ps2bf16 takes denormals for zero, whatever MXCSR says, and keeps the payloads of NaNs. */
#define RDT_CLASS_DENORMAL_OR_NAN 0xa1

static inline rdt_vi_t rdt_vi_interleave_index(void)
{
    return _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                            6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
}

static inline rdt_vi_t rdt_vf2_round_BF16(rdt_vf2_t x)
{
    const __mmask16 special_a = _mm512_fpclass_ps_mask(x.a, RDT_CLASS_DENORMAL_OR_NAN);
    const __mmask16 special_b = _mm512_fpclass_ps_mask(x.b, RDT_CLASS_DENORMAL_OR_NAN);

    if (__builtin_expect(_mm512_kortestz(special_a, special_b), 1))
        return _mm512_permutexvar_epi16(rdt_vi_interleave_index(),
                                        (rdt_vi_t)_mm512_cvtne2ps_pbh(x.b, x.a));
    return rdt_vf2_exact_BF16(x);
}
#else
#define rdt_vf2_round_BF16 rdt_vf2_exact_BF16
#endif

static inline rdt_vf_t rdt_vf_SUM(rdt_vf_t a, rdt_vf_t b)
{
    return a + b;
}

static inline rdt_vf_t rdt_vf_PRODUCT(rdt_vf_t a, rdt_vf_t b)
{
    return a * b;
}

static inline rdt_vf_t rdt_vf_MIN(rdt_vf_t a, rdt_vf_t b)
{
    const rdt_vf_t least = RDT_VF_PICK(a, _CMP_LE_OQ, b, a, b);

    return RDT_VF_PICK(a, _CMP_UNORD_Q, a, a, least);
}

static inline rdt_vf_t rdt_vf_MAX(rdt_vf_t a, rdt_vf_t b)
{
    const rdt_vf_t most = RDT_VF_PICK(a, _CMP_GE_OQ, b, a, b);

    return RDT_VF_PICK(a, _CMP_UNORD_Q, a, a, most);
}

/* What happens to the accumulator before it is rounded. */
static inline rdt_vf_t rdt_vf_finish(rdt_vf_t acc, uint32_t num_src)
{
    (void)num_src;
    return acc;
}

static inline rdt_vf_t rdt_vf_average(rdt_vf_t acc, uint32_t num_src)
{
    return acc / (float)num_src;
}

/* One kernel. _run is inlined with a constant num_src where one is known, so that the pointers to
 * the sources stay in registers. The last elements go through registers of their own, padded. */
#define RDT_HALF_KERNEL(fn, tag, OP, FINISH)                                                   \
    static inline rdt_vf2_t fn##_more(rdt_vf2_t acc, const uint16_t *src)                      \
    {                                                                                          \
        const rdt_vf2_t x = rdt_vf2_load_##tag(src);                                           \
                                                                                               \
        return (rdt_vf2_t){rdt_vf_##OP(acc.a, x.a), rdt_vf_##OP(acc.b, x.b)};                  \
    }                                                                                          \
    static inline rdt_vi_t fn##_end(rdt_vf2_t acc, uint32_t num_src)                           \
    {                                                                                          \
        acc.a = rdt_vf_##FINISH(acc.a, num_src);                                               \
        acc.b = rdt_vf_##FINISH(acc.b, num_src);                                               \
        return rdt_vf2_round_##tag(acc);                                                       \
    }                                                                                          \
    static inline __attribute__((always_inline)) void fn##_run(                                \
        uint16_t *dst, const void *const *src, uint32_t num_src, size_t count)                 \
    {                                                                                          \
        const uint16_t *const x[4] = {src[0], src[1], src[num_src > 2 ? 2 : 1],                \
                                      src[num_src > 3 ? 3 : 1]};                               \
                                                                                               \
        for (size_t i = 0; i + RDT_VH_LEN <= count; i += RDT_VH_LEN) {                         \
            rdt_vf2_t acc = fn##_more(rdt_vf2_load_##tag(x[0] + i), x[1] + i);                 \
                                                                                               \
            if (num_src > 2) acc = fn##_more(acc, x[2] + i);                                   \
            if (num_src > 3) acc = fn##_more(acc, x[3] + i);                                   \
            for (uint32_t k = 4; k < num_src; k++)                                             \
                acc = fn##_more(acc, (const uint16_t *)src[k] + i);                            \
            RDT_VI_STORE(dst + i, fn##_end(acc, num_src));                                     \
        }                                                                                      \
    }                                                                                          \
    __attribute__((noinline)) static void fn##_rest(uint16_t *dst, const void *const *src,     \
                                                    uint32_t num_src, size_t at, size_t count) \
    {                                                                                          \
        uint16_t pad[RDT_VH_LEN] = {0};                                                        \
        rdt_vf2_t acc;                                                                         \
                                                                                               \
        memcpy(pad, (const uint16_t *)src[0] + at, count * sizeof(uint16_t));                  \
        acc = rdt_vf2_load_##tag(pad);                                                         \
        for (uint32_t k = 1; k < num_src; k++) {                                               \
            memcpy(pad, (const uint16_t *)src[k] + at, count * sizeof(uint16_t));              \
            acc = fn##_more(acc, pad);                                                         \
        }                                                                                      \
        RDT_VI_STORE(pad, fn##_end(acc, num_src));                                             \
        memcpy(dst + at, pad, count * sizeof(uint16_t));                                       \
    }                                                                                          \
    static void fn(void *dst, const void *const *src, uint32_t num_src, size_t count)          \
    {                                                                                          \
        const size_t rest = count % RDT_VH_LEN;                                                \
                                                                                               \
        if (num_src == 1)                                                                      \
            copy_one(dst, src[0], count * sizeof(uint16_t));                                   \
        else if (num_src == 2)                                                                 \
            fn##_run(dst, src, 2, count);                                                      \
        else if (num_src == 3)                                                                 \
            fn##_run(dst, src, 3, count);                                                      \
        else if (num_src == 4)                                                                 \
            fn##_run(dst, src, 4, count);                                                      \
        else                                                                                   \
            fn##_run(dst, src, num_src, count);                                                \
        if (rest != 0 && num_src > 1) fn##_rest(dst, src, num_src, count - rest, rest);        \
    }                                                                                          \
    static void fn##_both(void *first, void *second, size_t count)                             \
    {                                                                                          \
        const void *const src[2] = {first, second};                                            \
        const size_t whole = count - count % RDT_VH_LEN;                                       \
        uint16_t *a = first, *b = second;                                                      \
                                                                                               \
        for (size_t i = 0; i < whole; i += RDT_VH_LEN) {                                       \
            const rdt_vi_t x = fn##_end(fn##_more(rdt_vf2_load_##tag(a + i), b + i), 2);       \
                                                                                               \
            RDT_VI_STORE(a + i, x);                                                            \
            RDT_VI_STORE(b + i, x);                                                            \
        }                                                                                      \
        if (whole == count) return;                                                            \
        fn##_rest(a, src, 2, whole, count - whole);                                            \
        memcpy(b + whole, a + whole, (count - whole) * sizeof(uint16_t));                      \
    }                                                                                          \
    static void fn##_stream(void *dst, const void *first, const void *second, size_t count)    \
    {                                                                                          \
        const uint16_t *a = first, *b = second;                                                \
        uint16_t *to = dst;                                                                    \
                                                                                               \
        for (size_t i = 0; i < count; i += RDT_VH_LEN)                                         \
            RDT_VI_STREAM(to + i, fn##_end(fn##_more(rdt_vf2_load_##tag(a + i), b + i), 2));   \
    }

#define RDT_HALF_KERNELS(tag)                              \
    RDT_HALF_KERNEL(reduce_##tag##_SUM, tag, SUM, finish)  \
    RDT_HALF_KERNEL(reduce_##tag##_AVG, tag, SUM, average) \
    RDT_HALF_KERNEL(reduce_##tag##_MIN, tag, MIN, finish)  \
    RDT_HALF_KERNEL(reduce_##tag##_MAX, tag, MAX, finish)  \
    RDT_HALF_KERNEL(reduce_##tag##_PRODUCT, tag, PRODUCT, finish)
#endif

#endif
