/* SPDX-License-Identifier: Apache-2.0 */
/* The float8 kinds to float32 and back, without branches as in half.h, and under the same rules.
 *
 * Codes of one sign are in the order of their values; rounding is to nearest, ties to even, and what
 * is too large becomes what torch makes of it: the largest number in E4M3FN (infinity too), infinity
 * in E5M2, NaN in the FNUZ kinds, which have neither infinity nor -0 and whose only NaN is the code
 * that -0 would have. */
#ifndef RDT_REDUCE_FLOAT8_H
#define RDT_REDUCE_FLOAT8_H

#include <stdint.h>

#include "reduce/half.h"

typedef struct rdt_f8_kind {
    uint32_t mantissa_bits, bias;
    uint32_t end;       /* the first code without sign that is no finite number */
    uint32_t too_large; /* what rounds beyond the largest number, without sign */
    uint32_t nan;
} rdt_f8_kind_t;

#define RDT_F8E4M3FN_KIND ((rdt_f8_kind_t){3, 7, 0x7f, 0x7e, 0x7f})
#define RDT_F8E5M2_KIND ((rdt_f8_kind_t){2, 15, 0x7c, 0x7c, 0x7f})
#define RDT_F8E4M3FNUZ_KIND ((rdt_f8_kind_t){3, 8, 0x80, 0x80, 0x80})
#define RDT_F8E5M2FNUZ_KIND ((rdt_f8_kind_t){2, 16, 0x80, 0x80, 0x80})

static inline __attribute__((always_inline)) float rdt_f8_to_f32(rdt_f8_kind_t kind, uint8_t code)
{
    const uint32_t magnitude = code & 0x7fu;
    const uint32_t shifted = magnitude << (23 - kind.mantissa_bits);
    const uint32_t normal = shifted + ((127 - kind.bias) << 23);
    /* As in half.h: a denormal is what its bits add to the smallest normal number. */
    const uint32_t least = (128 - kind.bias) << 23;
    const float small = rdt_f32_from_bits(shifted + least) - rdt_f32_from_bits(least);
    uint32_t bits = rdt_select(shifted < 1u << 23, rdt_f32_bits(small), normal);

    bits = rdt_select(magnitude >= kind.end, 0x7f800000u, bits);
    bits = rdt_select((magnitude > kind.too_large) | (code == kind.nan), 0x7fc00000u, bits);
    return rdt_f32_from_bits(bits | (code & 0x80u) << 24);
}

static inline __attribute__((always_inline)) uint8_t rdt_f32_to_f8(rdt_f8_kind_t kind, float value)
{
    const uint32_t shift = 23 - kind.mantissa_bits;
    const uint32_t sign = rdt_f32_bits(value) >> 24 & 0x80u;
    const uint32_t magnitude = rdt_f32_bits(value) & 0x7fffffffu;
    const uint32_t half = (1u << (shift - 1)) - 1 + (magnitude >> shift & 1u);
    const uint32_t normal = (magnitude - ((127 - kind.bias) << 23) + half) >> shift;
    /* The last bit of this number weighs what that of a denormal does: the addition rounds. */
    const uint32_t unit = (128 - kind.bias + shift) << 23;
    const uint32_t small =
        rdt_f32_bits(rdt_f32_from_bits(magnitude) + rdt_f32_from_bits(unit)) - unit;
    uint32_t code = rdt_select(magnitude < (128 - kind.bias) << 23, small, normal);

    code = rdt_select(code >= kind.end, kind.too_large, code);
    code |= rdt_select((code == 0) & (kind.nan == 0x80u), 0, sign);
    return (uint8_t)rdt_select(magnitude > 0x7f800000u, kind.nan, code);
}

#endif
