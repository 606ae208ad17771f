/* SPDX-License-Identifier: Apache-2.0 */
/* Element types and reduction operations, as tables: C enum, names and sizes come from here. */
#ifndef RDMATRAIN_TYPES_H
#define RDMATRAIN_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rdmatrain/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RDT_MAX_RAILS 4 /* of a pair of ranks */
#define RDT_GID_BYTES 16

/* A port of a NIC that joins two ranks, and how: of verbs. */
typedef struct rdt_rail {
    uint32_t gid_index; /* of this rank's port */
    uint32_t mtu;       /* of the path, in bytes */
    uint8_t gid[RDT_GID_BYTES], peer_gid[RDT_GID_BYTES];
} rdt_rail_t;

/* name, bytes. Of the float8 kinds, F8E8M0FNU is a bare exponent. Complex numbers are pairs, real part
 * first. */
#define RDT_DTYPE_TABLE(X)              \
    X(F16, 2, "float16")                \
    X(BF16, 2, "bfloat16")              \
    X(F32, 4, "float32")                \
    X(F64, 8, "float64")                \
    X(I8, 1, "int8")                    \
    X(U8, 1, "uint8")                   \
    X(I16, 2, "int16")                  \
    X(U16, 2, "uint16")                 \
    X(I32, 4, "int32")                  \
    X(U32, 4, "uint32")                 \
    X(I64, 8, "int64")                  \
    X(U64, 8, "uint64")                 \
    X(BOOL, 1, "bool")                  \
    X(F8E4M3FN, 1, "float8_e4m3fn")     \
    X(F8E5M2, 1, "float8_e5m2")         \
    X(F8E4M3FNUZ, 1, "float8_e4m3fnuz") \
    X(F8E5M2FNUZ, 1, "float8_e5m2fnuz") \
    X(F8E8M0FNU, 1, "float8_e8m0fnu")   \
    X(C32, 4, "complex32")              \
    X(C64, 8, "complex64")              \
    X(C128, 16, "complex128")

#define RDT_DTYPE_ENUM(name, bytes, text) RDT_##name,
typedef enum rdt_dtype { RDT_DTYPE_TABLE(RDT_DTYPE_ENUM) RDT_NUM_DTYPES } rdt_dtype_t;
#undef RDT_DTYPE_ENUM

/* What has a meaning, and which:
 *   integers   all but PREMUL_SUM. Sums and products wrap modulo 2^bits; AVG is the wrapped sum
 *              divided by the number of ranks, truncated towards zero.
 *   floats     all but BAND, BOR and BXOR, in the precision of the dtype; F16, BF16 and the float8
 *              kinds in float32, rounded once at the end. MIN and MAX are NaN if any operand is.
 *              PREMUL_SUM multiplies every input by the call's factor, then sums.
 *   complex    SUM, AVG and PREMUL_SUM of each part as of floats (of C32, as of F16), and PRODUCT;
 *              no MIN and MAX, since they have no order.
 *   BOOL       SUM, MAX and BOR are "or", PRODUCT, MIN and BAND are "and", BXOR is whether the
 *              number of trues is odd. A byte other than 0 is true; true is written as 1.
 *   F8E8M0FNU  none: it is only moved.
 * The result of a single rank is its input, bit by bit; but PREMUL_SUM multiplies it, too. */
#define RDT_REDOP_TABLE(X) \
    X(SUM, "SUM")          \
    X(AVG, "AVG")          \
    X(MIN, "MIN")          \
    X(MAX, "MAX")          \
    X(PRODUCT, "PRODUCT")  \
    X(BAND, "BAND")        \
    X(BOR, "BOR")          \
    X(BXOR, "BXOR")        \
    X(PREMUL_SUM, "PREMUL_SUM")

#define RDT_REDOP_ENUM(name, text) RDT_##name,
typedef enum rdt_redop { RDT_REDOP_TABLE(RDT_REDOP_ENUM) RDT_NUM_REDOPS } rdt_redop_t;
#undef RDT_REDOP_ENUM

/* Any thread. An unknown value gives size 0 and the name "unknown". */
RDT_API size_t rdt_dtype_bytes(rdt_dtype_t dtype);
RDT_API const char *rdt_dtype_name(rdt_dtype_t dtype);
RDT_API const char *rdt_redop_name(rdt_redop_t op);
/* Whether the reduction has a meaning for the dtype. Any thread. */
RDT_API bool rdt_can_reduce(rdt_dtype_t dtype, rdt_redop_t op);

#ifdef __cplusplus
}
#endif

#endif
