/* SPDX-License-Identifier: Apache-2.0 */
/* The oracle: one element at a time, written to be read, sharing nothing with the fast kernels.
 * Floating point of every width goes through float64, rounded to float32 after each operation where
 * that is what the sum is made in: with more than twice its bits, rounding twice is rounding once.
 * Narrower types are decoded and rounded by arithmetic. Integers go through 64 bits.
 * The rules that reduce.h leaves open: a NaN result is the positive quiet NaN without payload; of
 * equal operands MIN and MAX keep the earlier; one source is copied bit for bit. */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "reduce/isa.h"

#define RDT_ELEMENT_BYTES(dtype, bytes, text) [RDT_##dtype] = (bytes),
static const size_t element_bytes[RDT_NUM_DTYPES] = {RDT_DTYPE_TABLE(RDT_ELEMENT_BYTES)};

/* One reduction. */
typedef struct task {
    rdt_dtype_t dtype;
    rdt_redop_t op;
    double factor; /* PREMUL_SUM */
} task_t;

/* A float of 8 or 16 bits. Codes without sign are in the order of their values. */
typedef struct format {
    int sign; /* the bit */
    int mantissa_bits;
    int min_exponent; /* of the smallest normal number, 2^min_exponent */
    int end;          /* the first code that is not a number */
    int overflow;     /* the code of what is too large: infinity, if that is the end */
    int nan;
} format_t;

static const format_t formats[RDT_NUM_DTYPES] = {
    [RDT_F16] = {0x8000, 10, -14, 0x7c00, 0x7c00, 0x7e00},
    [RDT_BF16] = {0x8000, 7, -126, 0x7f80, 0x7f80, 0x7fc0},
    [RDT_F8E4M3FN] = {0x80, 3, -6, 0x7f, 0x7e, 0x7f},
    [RDT_F8E5M2] = {0x80, 2, -14, 0x7c, 0x7c, 0x7f},
    [RDT_F8E4M3FNUZ] = {0x80, 3, -7, 0x80, 0x80, 0x80},
    [RDT_F8E5M2FNUZ] = {0x80, 2, -15, 0x80, 0x80, 0x80},
};

static double decode(const format_t *format, int code)
{
    const int hidden = 1 << format->mantissa_bits;
    const int magnitude = code & (format->sign - 1);
    const int exponent = magnitude >> format->mantissa_bits;
    const int mantissa = magnitude & (hidden - 1);
    const double sign = (code & format->sign) != 0 ? -1.0 : 1.0;
    const int unit = format->min_exponent - format->mantissa_bits;

    if (code == format->nan || magnitude > format->overflow) return (double)NAN;
    if (magnitude >= format->end) return sign * (double)INFINITY;
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

/* The code of a finite magnitude, as if there were no largest number. A carry out of the mantissa,
 * also from denormal to normal, is an addition. */
static int round_code(const format_t *format, double magnitude)
{
    int exponent, units;

    if (magnitude == 0.0) return 0;
    frexp(magnitude, &exponent);
    exponent = exponent - 1 > format->min_exponent ? exponent - 1 : format->min_exponent;
    units = round_half_even(ldexp(magnitude, format->mantissa_bits - exponent));
    return ((exponent - format->min_exponent) << format->mantissa_bits) + units;
}

static int encode(const format_t *format, double value)
{
    const bool has_minus_zero = format->nan != format->sign;
    int code;

    if (isnan(value)) return format->nan;
    code = isinf(value) ? format->end : round_code(format, fabs(value));
    if (code >= format->end) code = format->overflow;
    return signbit(value) && (code != 0 || has_minus_zero) ? code | format->sign : code;
}

static double load_float(rdt_dtype_t dtype, const void *src, size_t i)
{
    if (dtype == RDT_F64) return ((const double *)src)[i];
    if (dtype == RDT_F32) return (double)((const float *)src)[i];
    if (element_bytes[dtype] == 2) return decode(&formats[dtype], ((const uint16_t *)src)[i]);
    return decode(&formats[dtype], ((const uint8_t *)src)[i]);
}

static void store_float(rdt_dtype_t dtype, void *dst, size_t i, double value)
{
    if (dtype == RDT_F64)
        ((double *)dst)[i] = isnan(value) ? (double)NAN : value;
    else if (dtype == RDT_F32)
        ((float *)dst)[i] = isnan(value) ? NAN : (float)value;
    else if (element_bytes[dtype] == 2)
        ((uint16_t *)dst)[i] = (uint16_t)encode(&formats[dtype], value);
    else
        ((uint8_t *)dst)[i] = (uint8_t)encode(&formats[dtype], value);
}

/* The result of an operation, in what the dtype accumulates in. */
static double rounded(rdt_dtype_t dtype, double value)
{
    return dtype == RDT_F64 ? value : (double)(float)value;
}

static double float_op(rdt_redop_t op, double a, double b)
{
    if (op == RDT_SUM || op == RDT_AVG || op == RDT_PREMUL_SUM) return a + b;
    if (op == RDT_PRODUCT) return a * b;
    if (isnan(a) || isnan(b)) return (double)NAN;
    if (op == RDT_MIN) return b < a ? b : a;
    return b > a ? b : a;
}

static double load_scaled(const task_t *task, const void *src, size_t i)
{
    const double value = load_float(task->dtype, src, i);

    if (task->op != RDT_PREMUL_SUM) return value;
    return rounded(task->dtype, value * rounded(task->dtype, task->factor));
}

static void reduce_float(const task_t *task, void *dst, const void *const *src, uint32_t num_src,
                         size_t count)
{
    for (size_t i = 0; i < count; i++) {
        double acc = load_scaled(task, src[0], i);

        for (uint32_t k = 1; k < num_src; k++)
            acc = rounded(task->dtype, float_op(task->op, acc, load_scaled(task, src[k], i)));
        if (task->op == RDT_AVG) acc = rounded(task->dtype, acc / num_src);
        store_float(task->dtype, dst, i, acc);
    }
}

/* a * b, as pairs of real and imaginary part. */
static void multiply_complex(rdt_dtype_t part, double a[2], const double b[2])
{
    const double re = rounded(part, a[0] * b[0]) - rounded(part, a[1] * b[1]);
    const double im = rounded(part, a[0] * b[1]) + rounded(part, a[1] * b[0]);

    a[0] = rounded(part, re);
    a[1] = rounded(part, im);
}

static void reduce_complex(const task_t *task, void *dst, const void *const *src, uint32_t num_src,
                           size_t count)
{
    const rdt_dtype_t part = task->dtype == RDT_C32   ? RDT_F16
                             : task->dtype == RDT_C64 ? RDT_F32
                                                      : RDT_F64;

    if (task->op != RDT_PRODUCT) {
        reduce_float(&(task_t){part, task->op, task->factor}, dst, src, num_src, 2 * count);
        return;
    }
    for (size_t i = 0; i < 2 * count; i += 2) {
        double acc[2] = {load_float(part, src[0], i), load_float(part, src[0], i + 1)};

        for (uint32_t k = 1; k < num_src; k++) {
            const double by[2] = {load_float(part, src[k], i), load_float(part, src[k], i + 1)};

            multiply_complex(part, acc, by);
        }
        store_float(part, dst, i, acc[0]);
        store_float(part, dst, i + 1, acc[1]);
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
    if (op == RDT_BAND) return a & b;
    if (op == RDT_BOR) return a | b;
    if (op == RDT_BXOR) return a ^ b;
    b_is_less = is_signed(dtype) ? (int64_t)b < (int64_t)a : b < a;
    return b_is_less == (op == RDT_MIN) ? b : a;
}

static uint64_t int_average(rdt_dtype_t dtype, uint64_t sum, uint32_t num_src)
{
    const uint64_t wrapped = wrap_int(dtype, sum);

    if (is_signed(dtype)) return (uint64_t)((int64_t)wrapped / (int64_t)num_src);
    return wrapped / num_src;
}

static void reduce_int(const task_t *task, void *dst, const void *const *src, uint32_t num_src,
                       size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t acc = load_int(task->dtype, src[0], i);

        for (uint32_t k = 1; k < num_src; k++)
            acc = int_op(task->dtype, task->op, acc, load_int(task->dtype, src[k], i));
        if (task->op == RDT_AVG) acc = int_average(task->dtype, acc, num_src);
        store_int(element_bytes[task->dtype], dst, i, acc);
    }
}

/* How many sources are true decides. */
static void reduce_bool(rdt_redop_t op, void *dst, const void *const *src, uint32_t num_src,
                        size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t num_true = 0;
        bool result = false;

        for (uint32_t k = 0; k < num_src; k++)
            num_true += ((const uint8_t *)src[k])[i] != 0;
        if (op == RDT_BXOR)
            result = num_true % 2 == 1;
        else if (op == RDT_PRODUCT || op == RDT_MIN || op == RDT_BAND)
            result = num_true == num_src;
        else
            result = num_true > 0;
        ((uint8_t *)dst)[i] = result;
    }
}

static void reduce_any(const task_t *task, void *dst, const void *const *src, uint32_t num_src,
                       size_t count)
{
    if (num_src == 1 && task->op != RDT_PREMUL_SUM) {
        if (count != 0) memmove(dst, src[0], count * element_bytes[task->dtype]);
        return;
    }
    if (task->dtype == RDT_BOOL)
        reduce_bool(task->op, dst, src, num_src, count);
    else if (task->dtype >= RDT_C32)
        reduce_complex(task, dst, src, num_src, count);
    else if (task->dtype <= RDT_F64 || task->dtype > RDT_BOOL)
        reduce_float(task, dst, src, num_src, count);
    else
        reduce_int(task, dst, src, num_src, count);
}

#define RDT_SCALAR_KERNEL(dtype, op)                                                       \
    static void scalar_##dtype##_##op(void *dst, const void *const *src, uint32_t num_src, \
                                      size_t count)                                        \
    {                                                                                      \
        reduce_any(&(const task_t){RDT_##dtype, RDT_##op, 0}, dst, src, num_src, count);   \
    }
#define RDT_SCALAR_PREMUL(dtype)                                                             \
    static void scalar_##dtype##_PREMUL(void *dst, const void *const *src, uint32_t num_src, \
                                        size_t count, double factor)                         \
    {                                                                                        \
        reduce_any(&(const task_t){RDT_##dtype, RDT_PREMUL_SUM, factor}, dst, src, num_src,  \
                   count);                                                                   \
    }
#define RDT_SCALAR_ENTRY(dtype, op) [RDT_##dtype][RDT_##op] = {.reduce = scalar_##dtype##_##op},
#define RDT_SCALAR_PREMUL_ENTRY(dtype) \
    [RDT_##dtype][RDT_PREMUL_SUM] = {.premul = scalar_##dtype##_PREMUL},

RDT_FAST_TABLE(RDT_SCALAR_KERNEL)
RDT_PLAIN_TABLE(RDT_SCALAR_KERNEL)
RDT_PREMUL_TABLE(RDT_SCALAR_PREMUL)

rdt_kernel_t rdt_reduce_scalar(rdt_dtype_t dtype, rdt_redop_t op)
{
    static const rdt_kernel_t table[RDT_NUM_DTYPES][RDT_NUM_REDOPS] = {
        RDT_FAST_TABLE(RDT_SCALAR_ENTRY) RDT_PLAIN_TABLE(RDT_SCALAR_ENTRY)
            RDT_PREMUL_TABLE(RDT_SCALAR_PREMUL_ENTRY)};

    return table[dtype][op];
}
