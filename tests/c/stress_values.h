/* SPDX-License-Identifier: Apache-2.0 */
/* What the stress test sends and what must come of it, element by element: nothing is shared with
 * the product but the names of dtypes and reductions. */
#ifndef TESTS_C_STRESS_VALUES_H
#define TESTS_C_STRESS_VALUES_H

#include <stdint.h>
#include <string.h>

#include "rdmatrain/coll.h"

#define MAX_ELEM_BYTES 8

/* One collective, as all ranks call it. */
typedef struct op {
    uint64_t seq, count;
    rdt_coll_t coll;
    rdt_dtype_t dtype;
    rdt_redop_t redop;
    uint32_t root, world;
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

static inline bool is_half(rdt_dtype_t dtype)
{
    return dtype == RDT_F16 || dtype == RDT_BF16;
}

static inline bool is_unsigned(rdt_dtype_t dtype)
{
    return dtype == RDT_U8 || dtype == RDT_U16 || dtype == RDT_U32 || dtype == RDT_U64;
}

/* Element i of rank. Sums of float32 and float64 are rounded, and so tell the order of the ranks;
 * those of the half types are exact, so that the oracle need not round. */
static inline double value(const op_t *op, uint32_t rank, uint64_t i)
{
    uint64_t x = scrambled(op, rank, i);

    if (op->dtype == RDT_F32 || op->dtype == RDT_F64)
        return ((double)(x & 0x1FFFFF) - 1048576.0) / (double)(1u << (x >> 21 & 15));
    if (is_half(op->dtype) && op->redop == RDT_PRODUCT)
        return ((x & 1) != 0 ? -1.0 : 1.0) * (double)(1 + (x >> 1 & 1));
    return is_unsigned(op->dtype) ? (double)(x & 7) : (double)(x & 15) - 8.0;
}

/* Only what float16 holds exactly. */
static inline uint16_t half_bits(float v)
{
    uint32_t bits;

    memcpy(&bits, &v, sizeof(bits));
    if (v == 0) return 0;
    return (uint16_t)((bits >> 16 & 0x8000) |
                      ((((bits >> 23 & 0xFF) - 127 + 15) << 10) + (bits >> 13 & 0x3FF)));
}

/* v as an element: the ones of integers are their low bytes, so that what wraps is right. */
static inline void encode(rdt_dtype_t dtype, double v, uint8_t *elem)
{
    float narrow = (float)v;
    int64_t whole = (int64_t)v;
    uint16_t half;
    uint32_t bits;

    memcpy(&bits, &narrow, sizeof(bits));
    half = dtype == RDT_F16 ? half_bits(narrow) : (uint16_t)(bits >> 16);
    if (dtype == RDT_F64)
        memcpy(elem, &v, sizeof(v));
    else if (dtype == RDT_F32)
        memcpy(elem, &narrow, sizeof(narrow));
    else if (is_half(dtype))
        memcpy(elem, &half, sizeof(half));
    else
        memcpy(elem, &whole, rdt_dtype_bytes(dtype)); /* little endian, as all that this runs on */
}

#define COMBINE(acc, x, redop)                              \
    ((redop) == RDT_MIN       ? ((x) < (acc) ? (x) : (acc)) \
     : (redop) == RDT_MAX     ? ((x) > (acc) ? (x) : (acc)) \
     : (redop) == RDT_PRODUCT ? (acc) * (x)                 \
                              : (acc) + (x))

/* Of element i of all ranks, in their order. Integers fit in a double: at most 8^4. */
static inline double reduced(const op_t *op, uint64_t i)
{
    double wide = value(op, 0, i);
    float narrow = (float)wide;

    for (uint32_t r = 1; r < op->world; r++) {
        double x = value(op, r, i);

        wide = COMBINE(wide, x, op->redop);
        narrow = COMBINE(narrow, (float)x, op->redop);
    }
    if (op->dtype == RDT_F32) return op->redop == RDT_AVG ? narrow / (float)op->world : narrow;
    return op->redop == RDT_AVG ? wide / op->world : wide;
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

/* Element i of the output of rank. */
static inline void expect(const op_t *op, uint32_t rank, uint64_t i, uint8_t *elem)
{
    uint64_t first = op->count * rank; /* of its shard */
    double v = 0;

    switch (op->coll) {
    case RDT_ALL_REDUCE:
    case RDT_REDUCE:
        v = reduced(op, i);
        break;
    case RDT_REDUCE_SCATTER:
        v = reduced(op, first + i);
        break;
    case RDT_ALL_GATHER:
    case RDT_GATHER:
        v = value(op, (uint32_t)(i / op->count), i % op->count);
        break;
    case RDT_ALL_TO_ALL:
        v = value(op, (uint32_t)(i / op->count), first + i % op->count);
        break;
    case RDT_SCATTER:
        v = value(op, op->root, first + i);
        break;
    default:
        v = value(op, op->root, i);
    }
    encode(op->dtype, v, elem);
}

#endif
