/* SPDX-License-Identifier: Apache-2.0 */
/* Vectors of float32 as wide as the compiler's flags allow, read from and written to float16 by
 * the F16C instructions: the same results as half.h and the F32 operations of kernels.inc.h, bit
 * for bit. Empty where the flags do not include F16C. */
#ifndef RDT_REDUCE_F16C_H
#define RDT_REDUCE_F16C_H

#include <math.h>
#include <stdint.h>

#if defined(__F16C__)
#include <immintrin.h>

#if defined(__AVX512F__)
#define RDT_VF_LEN 16
typedef __m512 rdt_vf_t;
#define RDT_VF_SET1 _mm512_set1_ps
/* yes where the comparison of a with b holds, no elsewhere */
#define RDT_VF_PICK(a, how, b, yes, no) \
    _mm512_mask_blend_ps(_mm512_cmp_ps_mask((a), (b), (how)), (no), (yes))
#else
#define RDT_VF_LEN 8
typedef __m256 rdt_vf_t;
#define RDT_VF_SET1 _mm256_set1_ps
#define RDT_VF_PICK(a, how, b, yes, no) \
    _mm256_blendv_ps((no), (yes), _mm256_cmp_ps((a), (b), (how)))
#endif

static inline rdt_vf_t rdt_vf_load_f16(const uint16_t *src)
{
#if defined(__AVX512F__)
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)src));
#else
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)src));
#endif
}

/* The conversion would keep a NaN's sign and payload: it gets the one NaN to convert. */
static inline void rdt_vf_store_f16(uint16_t *dst, rdt_vf_t x)
{
    const rdt_vf_t one_nan = RDT_VF_PICK(x, _CMP_UNORD_Q, x, RDT_VF_SET1(NAN), x);

#if defined(__AVX512F__)
    _mm256_storeu_si256((void *)dst, _mm512_cvtps_ph(one_nan, _MM_FROUND_TO_NEAREST_INT));
#else
    _mm_storeu_si128((void *)dst, _mm256_cvtps_ph(one_nan, _MM_FROUND_TO_NEAREST_INT));
#endif
}

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
#endif

#endif
