/* SPDX-License-Identifier: Apache-2.0 */
/* float16 and bfloat16 to float32 and back, without branches so that loops over them vectorize.
 *
 * Rounding is to nearest, ties to even. Every NaN rounds to one positive quiet NaN with an empty
 * payload, in this code and in the F16C code (half_vec.h): the hardware would keep sign and payload,
 * and which operand's payload an addition keeps depends on how a compiler orders it. With one NaN,
 * the result has the same bits on every instruction set. Widening may leave any NaN.
 *
 * The rounding mode must be the default one. Flushing denormals in MXCSR does not change these
 * functions (float32 denormals are zero in float16 anyway), only the arithmetic around them.
 */
#ifndef RDT_REDUCE_HALF_H
#define RDT_REDUCE_HALF_H

#include <stdint.h>
#include <string.h>

#define RDT_F16_NAN 0x7e00u
#define RDT_BF16_NAN 0x7fc0u

static inline uint32_t rdt_f32_bits(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static inline float rdt_f32_from_bits(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* By masks: a conditional expression would let the compiler compute one side only where it is
 * needed, behind a branch that keeps the loop from being vectorized. */
static inline uint32_t rdt_select(int condition, uint32_t yes, uint32_t no)
{
    const uint32_t mask = 0u - (uint32_t)condition;

    return (yes & mask) | (no & ~mask);
}

static inline float rdt_bf16_to_f32(uint16_t half)
{
    return rdt_f32_from_bits((uint32_t)half << 16);
}

static inline uint16_t rdt_f32_to_bf16(float value)
{
    const uint32_t bits = rdt_f32_bits(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;

    return (uint16_t)(value == value ? rounded : RDT_BF16_NAN);
}

static inline float rdt_f16_to_f32(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t shifted = (uint32_t)(half & 0x7fffu) << 13;
    const uint32_t exponent = shifted & 0x0f800000u;
    /* The exponent field moves from bias 15 to bias 127; all ones must stay all ones. */
    const uint32_t to_ones = rdt_select(exponent == 0x0f800000u, 112u << 23, 0u);
    const uint32_t normal = shifted + (112u << 23) + to_ones;
    /* A denormal's bits become the low mantissa bits of 2^-14, which is then taken away. Both
     * operands are normal float32 numbers, so that flushing denormals cannot interfere. */
    const float small = rdt_f32_from_bits(shifted + (113u << 23)) - 0x1p-14f;

    return rdt_f32_from_bits(sign | rdt_select(exponent == 0, rdt_f32_bits(small), normal));
}

static inline uint16_t rdt_f32_to_f16(float value)
{
    const uint32_t bits = rdt_f32_bits(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    /* The last bit of 0.5 weighs 2^-24, as the last bit of a float16 denormal does: the addition
     * itself rounds, to nearest even. */
    const float small = rdt_f32_from_bits(magnitude) + 0.5f;
    uint32_t half =
        rdt_select(magnitude < (113u << 23), rdt_f32_bits(small) - (126u << 23), normal);

    half = sign | rdt_select(magnitude >= (143u << 23), 0x7c00u, half);
    return (uint16_t)rdt_select(magnitude > 0x7f800000u, RDT_F16_NAN, half);
}

#endif
