/* SPDX-License-Identifier: Apache-2.0 */
/* What the stress test sends and what must come of it, element by element: nothing is shared with
 * the product but the names of dtypes and reductions. */
#ifndef TESTS_C_STRESS_VALUES_H
#define TESTS_C_STRESS_VALUES_H

#include <stdint.h>
#include <string.h>

#include "rdmatrain/coll.h"

#define MAX_ELEM_BYTES 16

/* One collective, as all ranks call it. */
typedef struct op {
    uint64_t seq, count;
    rdt_coll_t coll;
    rdt_dtype_t dtype;
    rdt_redop_t redop;
    uint32_t root, world;
    uint32_t hosts; /* whose ranks are added up first; they take turns. 1: all ranks in order */
} op_t;

/* splitmix64: a number for each state, and the next state. */
static inline uint64_t draw(uint64_t *state)
{
    uint64_t x = *state += 0x9E3779B97F4A7C15u;

    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

static inline uint64_t below(uint64_t *state, uint64_t end)
{
    return (draw(state) >> 16) % end;
}

static inline uint64_t scrambled(const op_t *op, uint32_t rank, uint64_t i)
{
    uint64_t x = op->seq * 0xD6E8FEB86659FD93u + rank * 0xBF58476D1CE4E5B9u + i;

    x *= 0x9E3779B97F4A7C15u;
    x ^= x >> 32;
    return x * 0x94D049BB133111EBu >> 24;
}

/* Few bits: 16, or 8. */
static inline bool is_narrow(rdt_dtype_t dtype)
{
    return dtype == RDT_F16 || dtype == RDT_BF16 ||
           (dtype >= RDT_F8E4M3FN && dtype <= RDT_F8E5M2FNUZ);
}

static inline bool is_unsigned(rdt_dtype_t dtype)
{
    return dtype == RDT_U8 || dtype == RDT_U16 || dtype == RDT_U32 || dtype == RDT_U64 ||
           dtype == RDT_F8E8M0FNU;
}

/* Of the numbers that a complex number is made of; else the dtype itself. */
static inline rdt_dtype_t part_of(rdt_dtype_t dtype)
{
    if (dtype < RDT_C32) return dtype;
    return dtype == RDT_C32 ? RDT_F16 : dtype == RDT_C64 ? RDT_F32 : RDT_F64;
}

/* The same collective of twice as many numbers, where the elements are complex. */
static inline op_t parts_of(const op_t *op)
{
    op_t parts = *op;

    parts.dtype = part_of(op->dtype);
    if (parts.dtype != op->dtype) parts.count *= 2;
    return parts;
}

/* Of PREMUL_SUM: not exact where the sums are not. */
static inline double factor(const op_t *op)
{
    return is_narrow(part_of(op->dtype)) ? 0.5 : 0.3;
}

/* Number i of rank, op being one of parts_of. Sums of float32 and float64 are rounded, and so tell the
 * order of the ranks; those of narrow types are exact, so that the oracle need not round. */
static inline double value(const op_t *op, uint32_t rank, uint64_t i)
{
    uint64_t x = scrambled(op, rank, i);

    if (op->dtype == RDT_F32 || op->dtype == RDT_F64)
        return ((double)(x & 0x1FFFFF) - 1048576.0) / (double)(1u << (x >> 21 & 15));
    if (is_narrow(op->dtype) && op->redop == RDT_PRODUCT)
        return ((x & 1) != 0 ? -1.0 : 1.0) * (double)(1 + (x >> 1 & 1));
    if (op->dtype == RDT_BOOL) return (double)(x & 1);
    if (is_narrow(op->dtype) && rdt_dtype_bytes(op->dtype) == 1) return (double)(x & 3) - 2.0;
    return is_unsigned(op->dtype) ? (double)(x & 7) : (double)(x & 15) - 8.0;
}

/* Only what the narrow type holds exactly, and no denormals. */
static inline uint32_t narrow_bits(rdt_dtype_t dtype, float v)
{
    static const struct {
        uint32_t mantissa_bits, bias;
    } formats[RDT_NUM_DTYPES] = {
        [RDT_F16] = {10, 15},   [RDT_BF16] = {7, 127},     [RDT_F8E4M3FN] = {3, 7},
        [RDT_F8E5M2] = {2, 15}, [RDT_F8E4M3FNUZ] = {3, 8}, [RDT_F8E5M2FNUZ] = {2, 16},
    };
    const uint32_t sign = 1u << (8 * rdt_dtype_bytes(dtype) - 1);
    const uint32_t shift = 23 - formats[dtype].mantissa_bits;
    uint32_t bits;

    memcpy(&bits, &v, sizeof(bits));
    if (v == 0) return (bits >> 31) * sign;
    return (bits >> 31) * sign +
           (((bits & 0x7FFFFFFF) - ((127 - formats[dtype].bias) << 23)) >> shift);
}

/* v as a number of part_of: the ones of integers are their low bytes, so that what wraps is right. */
static inline void encode(rdt_dtype_t dtype, double v, uint8_t *number)
{
    float narrow = (float)v;
    int64_t bits = is_narrow(dtype) ? (int64_t)narrow_bits(dtype, narrow) : (int64_t)v;

    if (dtype == RDT_F64)
        memcpy(number, &v, sizeof(v));
    else if (dtype == RDT_F32)
        memcpy(number, &narrow, sizeof(narrow));
    else
        memcpy(number, &bits, rdt_dtype_bytes(dtype)); /* little endian, as all that this runs on */
}

static inline double combine_bits(rdt_redop_t redop, int64_t acc, int64_t x)
{
    return (double)(redop == RDT_BAND ? acc & x : redop == RDT_BOR ? acc | x : acc ^ x);
}

#define COMBINE(acc, x, redop)                              \
    ((redop) == RDT_MIN       ? ((x) < (acc) ? (x) : (acc)) \
     : (redop) == RDT_MAX     ? ((x) > (acc) ? (x) : (acc)) \
     : (redop) == RDT_PRODUCT ? (acc) * (x)                 \
                              : (acc) + (x))

/* A number as float64 and as float32: which one counts, the dtype says. Integers fit in a double: at most
 * 8^4. */
typedef struct sum {
    double wide;
    float narrow;
} sum_t;

static inline sum_t number_of(const op_t *op, uint32_t rank, uint64_t i)
{
    const double by = op->redop == RDT_PREMUL_SUM ? factor(op) : 1.0;
    const double v = value(op, rank, i);

    return (sum_t){v * by, (float)v * (float)by};
}

static inline sum_t combine(const op_t *op, sum_t a, sum_t b)
{
    const rdt_redop_t redop = op->dtype == RDT_BOOL && op->redop == RDT_SUM ? RDT_MAX : op->redop;
    const bool is_bits = redop == RDT_BAND || redop == RDT_BOR || redop == RDT_BXOR;

    if (is_bits)
        a.wide = combine_bits(redop, (int64_t)a.wide, (int64_t)b.wide);
    else
        a.wide = COMBINE(a.wide, b.wide, redop);
    a.narrow = COMBINE(a.narrow, b.narrow, redop);
    return a;
}

/* Of number i of all ranks: by rank on each host, and over the hosts. */
static inline double reduced(const op_t *op, uint64_t i)
{
    sum_t all = {0, 0};

    for (uint32_t h = 0; h < op->hosts; h++) {
        sum_t part = number_of(op, h, i);

        for (uint32_t r = h + op->hosts; r < op->world; r += op->hosts)
            part = combine(op, part, number_of(op, r, i));
        all = h == 0 ? part : combine(op, all, part);
    }
    if (op->redop == RDT_AVG) all = (sum_t){all.wide / op->world, all.narrow / (float)op->world};
    return op->dtype == RDT_F32 ? (double)all.narrow : all.wide;
}

typedef struct complex_sum {
    sum_t re, im;
} complex_sum_t;

static inline complex_sum_t complex_of(const op_t *op, uint32_t rank, uint64_t i)
{
    return (complex_sum_t){number_of(op, rank, i & ~1ull), number_of(op, rank, i | 1)};
}

static inline complex_sum_t multiply(complex_sum_t a, complex_sum_t b)
{
    return (complex_sum_t){{a.re.wide * b.re.wide - a.im.wide * b.im.wide,
                            a.re.narrow * b.re.narrow - a.im.narrow * b.im.narrow},
                           {a.re.wide * b.im.wide + a.im.wide * b.re.wide,
                            a.re.narrow * b.im.narrow + a.im.narrow * b.re.narrow}};
}

/* Number i of the products of all ranks' complex numbers: it is real or imaginary. */
static inline double complex_product(const op_t *op, uint64_t i)
{
    complex_sum_t all = {{0, 0}, {0, 0}};
    sum_t number;

    for (uint32_t h = 0; h < op->hosts; h++) {
        complex_sum_t part = complex_of(op, h, i);

        for (uint32_t r = h + op->hosts; r < op->world; r += op->hosts)
            part = multiply(part, complex_of(op, r, i));
        all = h == 0 ? part : multiply(all, part);
    }
    number = (i & 1) != 0 ? all.im : all.re;
    return op->dtype == RDT_F32 ? (double)number.narrow : number.wide;
}

/* Elements of the input and output of a rank. */
static inline uint64_t num_in(const op_t *op)
{
    bool shards =
        op->coll == RDT_REDUCE_SCATTER || op->coll == RDT_SCATTER || op->coll == RDT_ALL_TO_ALL;

    if (op->coll == RDT_BARRIER) return 0;
    return shards ? op->count * op->world : op->count;
}

static inline uint64_t num_out(const op_t *op, uint32_t rank)
{
    bool shards =
        op->coll == RDT_ALL_GATHER || op->coll == RDT_GATHER || op->coll == RDT_ALL_TO_ALL;

    if (op->coll == RDT_BARRIER) return 0;
    if ((op->coll == RDT_REDUCE || op->coll == RDT_GATHER) && rank != op->root) return 0;
    return shards ? op->count * op->world : op->count;
}

/* Number i of the output of rank; op is one of parts_of, and pairs says that it stands for another. */
static inline double expect_number(const op_t *op, uint32_t rank, uint64_t i, bool pairs)
{
    uint64_t first = op->count * rank; /* of its shard */

    switch (op->coll) {
    case RDT_REDUCE_SCATTER:
        i += first;
        /* fall through */
    case RDT_ALL_REDUCE:
    case RDT_REDUCE:
        return pairs && op->redop == RDT_PRODUCT ? complex_product(op, i) : reduced(op, i);
    case RDT_ALL_GATHER:
    case RDT_GATHER:
        return value(op, (uint32_t)(i / op->count), i % op->count);
    case RDT_ALL_TO_ALL:
        return value(op, (uint32_t)(i / op->count), first + i % op->count);
    case RDT_SCATTER:
        return value(op, op->root, first + i);
    default:
        return value(op, op->root, i);
    }
}

/* Element i of the output of rank. */
static inline void expect(const op_t *op, uint32_t rank, uint64_t i, uint8_t *elem)
{
    const op_t parts = parts_of(op);
    const bool pairs = parts.dtype != op->dtype;
    const size_t bytes = rdt_dtype_bytes(parts.dtype);

    for (uint64_t k = 0; k < 1u + pairs; k++)
        encode(parts.dtype, expect_number(&parts, rank, (1u + pairs) * i + k, pairs),
               elem + k * bytes);
}

/* Elements first and on of the input of rank. */
static inline void fill(const op_t *op, uint32_t rank, uint64_t first, uint64_t num, uint8_t *data)
{
    const op_t parts = parts_of(op);
    const size_t bytes = rdt_dtype_bytes(parts.dtype);
    const uint64_t times = rdt_dtype_bytes(op->dtype) / bytes;

    for (uint64_t i = 0; i < num * times; i++)
        encode(parts.dtype, value(&parts, rank, first * times + i), data + i * bytes);
}

#endif
