/* SPDX-License-Identifier: Apache-2.0 */
/* Element types and reduction operations, as tables: C enum, names and sizes come from here. */
#ifndef RDMATRAIN_TYPES_H
#define RDMATRAIN_TYPES_H

#include <stddef.h>

#include "rdmatrain/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* name, bytes. Sums of integers wrap modulo 2^bits; F16 and BF16 accumulate in float32. */
#define RDT_DTYPE_TABLE(X) \
    X(F16, 2, "float16")   \
    X(BF16, 2, "bfloat16") \
    X(F32, 4, "float32")   \
    X(F64, 8, "float64")   \
    X(I8, 1, "int8")       \
    X(U8, 1, "uint8")      \
    X(I16, 2, "int16")     \
    X(U16, 2, "uint16")    \
    X(I32, 4, "int32")     \
    X(U32, 4, "uint32")    \
    X(I64, 8, "int64")     \
    X(U64, 8, "uint64")

#define RDT_DTYPE_ENUM(name, bytes, text) RDT_##name,
typedef enum rdt_dtype { RDT_DTYPE_TABLE(RDT_DTYPE_ENUM) RDT_NUM_DTYPES } rdt_dtype_t;
#undef RDT_DTYPE_ENUM

/* AVG is the sum divided by the number of ranks: in float32 before the one rounding for half
 * types, truncated towards zero for integers. MIN and MAX return NaN if any operand is NaN. */
#define RDT_REDOP_TABLE(X) \
    X(SUM, "SUM")          \
    X(AVG, "AVG")          \
    X(MIN, "MIN")          \
    X(MAX, "MAX")          \
    X(PRODUCT, "PRODUCT")

#define RDT_REDOP_ENUM(name, text) RDT_##name,
typedef enum rdt_redop { RDT_REDOP_TABLE(RDT_REDOP_ENUM) RDT_NUM_REDOPS } rdt_redop_t;
#undef RDT_REDOP_ENUM

/* Any thread. An unknown value gives size 0 and the name "unknown". */
RDT_API size_t rdt_dtype_bytes(rdt_dtype_t dtype);
RDT_API const char *rdt_dtype_name(rdt_dtype_t dtype);
RDT_API const char *rdt_redop_name(rdt_redop_t op);

#ifdef __cplusplus
}
#endif

#endif
