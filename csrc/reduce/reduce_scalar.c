/* SPDX-License-Identifier: Apache-2.0 */
/* The oracle: one element at a time, written to be read, sharing nothing with the fast kernels.
 * Half types are decoded and rounded by arithmetic, integers of every width go through 64 bits.
 * The rules that reduce.h leaves open: a NaN result is the positive quiet NaN without payload; of
 * equal operands MIN and MAX keep the earlier; one source is copied bit for bit. */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "reduce/isa.h"

#define RDT_ELEMENT_BYTES(dtype, bytes, text) [RDT_##dtype] = (bytes),
static const size_t element_bytes[RDT_NUM_DTYPES] = {RDT_DTYPE_TABLE(RDT_ELEMENT_BYTES)};

typedef struct half_format {
    int mantissa_bits;
    int min_exponent; /* of the smallest normal number, 2^min_exponent */
} half_format_t;

static const half_format_t format_f16 = {10, -14};
static const half_format_t format_bf16 = {7, -126};

static double half_decode(half_format_t format, uint16_t half)
{
    const int hidden = 1 << format.mantissa_bits;
    const int exponent = (half & 0x7fff) >> format.mantissa_bits;
    const int max_exponent = 0x7fff >> format.mantissa_bits;
    const int mantissa = half & (hidden - 1);
    const double sign = (half & 0x8000) != 0 ? -1.0 : 1.0;
    const int unit = format.min_exponent - format.mantissa_bits;

    if (exponent == max_exponent) return mantissa != 0 ? (double)NAN : sign * (double)INFINITY;
    if (exponent == 0) return sign * ldexp(mantissa, unit);
    return sign * ldexp(hidden + mantissa, unit + exponent - 1);
}

/* value is a non-negative number of units in the last place, far below INT_MAX. */
static int round_half_even(double value)
{
    const int down = (int)value;
    const double rest = value - down;

    return rest > 0.5 || (rest == 0.5 && down % 2 == 1) ? down + 1 : down;
}

static uint16_t half_encode(half_format_t format, float value)
{
    const int infinity = (0x7fff >> format.mantissa_bits) << format.mantissa_bits;
    const int sign = signbit(value) ? 0x8000 : 0;
    int exponent, units, code;

    if (isnan(value)) return (uint16_t)(infinity | (1 << (format.mantissa_bits - 1)));
    if (isinf(value)) return (uint16_t)(sign | infinity);
    if (value == 0.0f) return (uint16_t)sign;
    frexp(fabs((double)value), &exponent);
    exponent = exponent - 1 > format.min_exponent ? exponent - 1 : format.min_exponent;
    units = round_half_even(ldexp(fabs((double)value), format.mantissa_bits - exponent));
    /* Codes of one sign are in the order of their values: a carry out of the mantissa, also from
     * denormal to normal and from the largest number to infinity, is an addition. */
    code = ((exponent - format.min_exponent) << format.mantissa_bits) + units;
    return (uint16_t)(sign | (code < infinity ? code : infinity));
}

static float load_float(rdt_dtype_t dtype, const void *src, size_t i)
{
    if (dtype == RDT_F16) return (float)half_decode(format_f16, ((const uint16_t *)src)[i]);
    if (dtype == RDT_BF16) return (float)half_decode(format_bf16, ((const uint16_t *)src)[i]);
    return ((const float *)src)[i];
}

static void store_float(rdt_dtype_t dtype, void *dst, size_t i, float value)
{
    if (dtype == RDT_F16)
        ((uint16_t *)dst)[i] = half_encode(format_f16, value);
    else if (dtype == RDT_BF16)
        ((uint16_t *)dst)[i] = half_encode(format_bf16, value);
    else
        ((float *)dst)[i] = isnan(value) ? NAN : value;
}

static float float_op(rdt_redop_t op, float a, float b)
{
    if (op == RDT_SUM || op == RDT_AVG) return a + b;
    if (op == RDT_PRODUCT) return a * b;
    if (isnan(a) || isnan(b)) return NAN;
    if (op == RDT_MIN) return b < a ? b : a;
    return b > a ? b : a;
}

static void reduce_float(rdt_dtype_t dtype, rdt_redop_t op, void *dst, const void *const *src,
                         uint32_t num_src, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        float acc = load_float(dtype, src[0], i);

        for (uint32_t k = 1; k < num_src; k++)
            acc = float_op(op, acc, load_float(dtype, src[k], i));
        if (op == RDT_AVG) acc = acc / (float)num_src;
        store_float(dtype, dst, i, acc);
    }
}

static double double_op(rdt_redop_t op, double a, double b)
{
    if (op == RDT_SUM || op == RDT_AVG) return a + b;
    if (op == RDT_PRODUCT) return a * b;
    if (isnan(a) || isnan(b)) return (double)NAN;
    if (op == RDT_MIN) return b < a ? b : a;
    return b > a ? b : a;
}

static void reduce_double(rdt_redop_t op, void *dst, const void *const *src, uint32_t num_src,
                          size_t count)
{
    for (size_t i = 0; i < count; i++) {
        double acc = ((const double *)src[0])[i];

        for (uint32_t k = 1; k < num_src; k++)
            acc = double_op(op, acc, ((const double *)src[k])[i]);
        if (op == RDT_AVG) acc = acc / (double)num_src;
        ((double *)dst)[i] = isnan(acc) ? (double)NAN : acc;
    }
}

/* Every integer is held in 64 bits, sign-extended where its type is signed. */
static uint64_t load_int(rdt_dtype_t dtype, const void *src, size_t i)
{
    switch (dtype) {
    case RDT_I8:
        return (uint64_t)(int64_t)((const int8_t *)src)[i];
    case RDT_U8:
        return ((const uint8_t *)src)[i];
    case RDT_I16:
        return (uint64_t)(int64_t)((const int16_t *)src)[i];
    case RDT_U16:
        return ((const uint16_t *)src)[i];
    case RDT_I32:
        return (uint64_t)(int64_t)((const int32_t *)src)[i];
    case RDT_U32:
        return ((const uint32_t *)src)[i];
    default:
        return ((const uint64_t *)src)[i];
    }
}

/* What is left of a 64-bit value in dtype, again sign-extended. */
static uint64_t wrap_int(rdt_dtype_t dtype, uint64_t value)
{
    switch (dtype) {
    case RDT_I8:
        return (uint64_t)(int64_t)(int8_t)value;
    case RDT_U8:
        return (uint8_t)value;
    case RDT_I16:
        return (uint64_t)(int64_t)(int16_t)value;
    case RDT_U16:
        return (uint16_t)value;
    case RDT_I32:
        return (uint64_t)(int64_t)(int32_t)value;
    case RDT_U32:
        return (uint32_t)value;
    default:
        return value;
    }
}

static void store_int(size_t bytes, void *dst, size_t i, uint64_t value)
{
    if (bytes == 1)
        ((uint8_t *)dst)[i] = (uint8_t)value;
    else if (bytes == 2)
        ((uint16_t *)dst)[i] = (uint16_t)value;
    else if (bytes == 4)
        ((uint32_t *)dst)[i] = (uint32_t)value;
    else
        ((uint64_t *)dst)[i] = value;
}

static bool is_signed(rdt_dtype_t dtype)
{
    return dtype == RDT_I8 || dtype == RDT_I16 || dtype == RDT_I32 || dtype == RDT_I64;
}

/* Sums and products modulo 2^64 are right modulo any smaller power of two. */
static uint64_t int_op(rdt_dtype_t dtype, rdt_redop_t op, uint64_t a, uint64_t b)
{
    bool b_is_less;

    if (op == RDT_SUM || op == RDT_AVG) return a + b;
    if (op == RDT_PRODUCT) return a * b;
    b_is_less = is_signed(dtype) ? (int64_t)b < (int64_t)a : b < a;
    return b_is_less == (op == RDT_MIN) ? b : a;
}

static uint64_t int_average(rdt_dtype_t dtype, uint64_t sum, uint32_t num_src)
{
    const uint64_t wrapped = wrap_int(dtype, sum);

    if (is_signed(dtype)) return (uint64_t)((int64_t)wrapped / (int64_t)num_src);
    return wrapped / num_src;
}

static void reduce_int(rdt_dtype_t dtype, rdt_redop_t op, void *dst, const void *const *src,
                       uint32_t num_src, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t acc = load_int(dtype, src[0], i);

        for (uint32_t k = 1; k < num_src; k++)
            acc = int_op(dtype, op, acc, load_int(dtype, src[k], i));
        if (op == RDT_AVG) acc = int_average(dtype, acc, num_src);
        store_int(element_bytes[dtype], dst, i, acc);
    }
}

static void reduce_any(rdt_dtype_t dtype, rdt_redop_t op, void *dst, const void *const *src,
                       uint32_t num_src, size_t count)
{
    if (num_src == 1 && count != 0)
        memmove(dst, src[0], count * element_bytes[dtype]);
    else if (dtype == RDT_F64)
        reduce_double(op, dst, src, num_src, count);
    else if (dtype == RDT_F16 || dtype == RDT_BF16 || dtype == RDT_F32)
        reduce_float(dtype, op, dst, src, num_src, count);
    else
        reduce_int(dtype, op, dst, src, num_src, count);
}

#define RDT_SCALAR_KERNEL(dtype, op)                                                       \
    static void scalar_##dtype##_##op(void *dst, const void *const *src, uint32_t num_src, \
                                      size_t count)                                        \
    {                                                                                      \
        reduce_any(RDT_##dtype, RDT_##op, dst, src, num_src, count);                       \
    }
#define RDT_SCALAR_KERNELS(dtype, bytes, text) \
    RDT_SCALAR_KERNEL(dtype, SUM)              \
    RDT_SCALAR_KERNEL(dtype, AVG)              \
    RDT_SCALAR_KERNEL(dtype, MIN)              \
    RDT_SCALAR_KERNEL(dtype, MAX)              \
    RDT_SCALAR_KERNEL(dtype, PRODUCT)
#define RDT_SCALAR_ROW(dtype, bytes, text)                      \
    [RDT_##dtype] = {                                           \
        [RDT_SUM] = {scalar_##dtype##_SUM, NULL, NULL},         \
        [RDT_AVG] = {scalar_##dtype##_AVG, NULL, NULL},         \
        [RDT_MIN] = {scalar_##dtype##_MIN, NULL, NULL},         \
        [RDT_MAX] = {scalar_##dtype##_MAX, NULL, NULL},         \
        [RDT_PRODUCT] = {scalar_##dtype##_PRODUCT, NULL, NULL}, \
    },

RDT_NUMBER_TABLE(RDT_SCALAR_KERNELS)

rdt_kernel_t rdt_reduce_scalar(rdt_dtype_t dtype, rdt_redop_t op)
{
    static const rdt_kernel_t table[RDT_NUM_DTYPES][RDT_NUM_REDOPS] = {
        RDT_NUMBER_TABLE(RDT_SCALAR_ROW)};

    return table[dtype][op];
}
