/* SPDX-License-Identifier: Apache-2.0 */
/* One lookup for each instruction set, whether this CPU has it or not: dispatch is reduce.c's.
 * dtype and op must be in range. NULLs where the build lacks the instruction set. Any thread. */
#ifndef RDT_REDUCE_ISA_H
#define RDT_REDUCE_ISA_H

#include <string.h>

#include "reduce/reduce.h"

/* The reductions that have a meaning (see types.h), by the kernels there are: with both and stream; */
#define RDT_SUM_OPS(X, tag) X(tag, SUM) X(tag, AVG)
#define RDT_ORDER_OPS(X, tag) X(tag, MIN) X(tag, MAX)
#define RDT_BIT_OPS(X, tag) X(tag, BAND) X(tag, BOR) X(tag, BXOR)
#define RDT_FLOAT_ROW(X, tag) RDT_SUM_OPS(X, tag) RDT_ORDER_OPS(X, tag) X(tag, PRODUCT)
#define RDT_INT_ROW(X, tag) RDT_FLOAT_ROW(X, tag) RDT_BIT_OPS(X, tag)
#define RDT_BOOL_ROW(X, tag) X(tag, SUM) X(tag, PRODUCT) RDT_ORDER_OPS(X, tag) RDT_BIT_OPS(X, tag)
#define RDT_FAST_TABLE(X)  \
    RDT_FLOAT_ROW(X, F16)  \
    RDT_FLOAT_ROW(X, BF16) \
    RDT_FLOAT_ROW(X, F32)  \
    RDT_FLOAT_ROW(X, F64)  \
    RDT_INT_ROW(X, I8)     \
    RDT_INT_ROW(X, U8)     \
    RDT_INT_ROW(X, I16)    \
    RDT_INT_ROW(X, U16)    \
    RDT_INT_ROW(X, I32)    \
    RDT_INT_ROW(X, U32)    \
    RDT_INT_ROW(X, I64)    \
    RDT_INT_ROW(X, U64)    \
    RDT_BOOL_ROW(X, BOOL)  \
    RDT_SUM_OPS(X, C32)    \
    RDT_SUM_OPS(X, C64)    \
    RDT_SUM_OPS(X, C128)
/* reduce alone; */
#define RDT_PLAIN_TABLE(X)       \
    RDT_FLOAT_ROW(X, F8E4M3FN)   \
    RDT_FLOAT_ROW(X, F8E5M2)     \
    RDT_FLOAT_ROW(X, F8E4M3FNUZ) \
    RDT_FLOAT_ROW(X, F8E5M2FNUZ) \
    X(C32, PRODUCT)              \
    X(C64, PRODUCT)              \
    X(C128, PRODUCT)
/* and PREMUL_SUM. */
#define RDT_PREMUL_TABLE(X) \
    X(F16)                  \
    X(BF16) X(F32) X(F64) X(F8E4M3FN) X(F8E5M2) X(F8E4M3FNUZ) X(F8E5M2FNUZ) X(C32) X(C64) X(C128)

/* Types that are narrower than what they are accumulated in. */
#define RDT_NARROW_TABLE(X) X(F16) X(BF16) X(F8E4M3FN) X(F8E5M2) X(F8E4M3FNUZ) X(F8E5M2FNUZ) X(C32)

rdt_kernel_t rdt_reduce_scalar(rdt_dtype_t dtype, rdt_redop_t op);
rdt_kernel_t rdt_reduce_base(rdt_dtype_t dtype, rdt_redop_t op);
rdt_kernel_t rdt_reduce_avx2(rdt_dtype_t dtype, rdt_redop_t op);
rdt_kernel_t rdt_reduce_avx512(rdt_dtype_t dtype, rdt_redop_t op);
rdt_kernel_t rdt_reduce_avx512bf16(rdt_dtype_t dtype, rdt_redop_t op);

rdt_wide_t rdt_wide_base(rdt_dtype_t dtype);
rdt_wide_t rdt_wide_avx2(rdt_dtype_t dtype);
rdt_wide_t rdt_wide_avx512(rdt_dtype_t dtype);

/* What every kernel but PREMUL_SUM does with a single source. */
static inline void copy_one(void *dst, const void *src, size_t bytes)
{
    if (dst != src && bytes != 0) memcpy(dst, src, bytes);
}

#endif
