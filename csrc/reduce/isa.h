/* SPDX-License-Identifier: Apache-2.0 */
/* One lookup for each instruction set, whether this CPU has it or not: dispatch is reduce.c's.
 * dtype and op must be in range. NULLs where the build lacks the instruction set. Any thread. */
#ifndef RDT_REDUCE_ISA_H
#define RDT_REDUCE_ISA_H

#include <string.h>

#include "reduce/reduce.h"

rdt_kernel_t rdt_reduce_scalar(rdt_dtype_t dtype, rdt_redop_t op);
rdt_kernel_t rdt_reduce_base(rdt_dtype_t dtype, rdt_redop_t op);
rdt_kernel_t rdt_reduce_avx2(rdt_dtype_t dtype, rdt_redop_t op);
rdt_kernel_t rdt_reduce_avx512(rdt_dtype_t dtype, rdt_redop_t op);
rdt_kernel_t rdt_reduce_avx512bf16(rdt_dtype_t dtype, rdt_redop_t op);

/* What every kernel does with a single source. */
static inline void copy_one(void *dst, const void *src, size_t bytes)
{
    if (dst != src && bytes != 0) memcpy(dst, src, bytes);
}

#endif
