/* SPDX-License-Identifier: Apache-2.0 */
#include "reduce/isa.h"

#if defined(__x86_64__) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "reduce/kernel_table.inc.h"

rdt_kernel_t rdt_reduce_avx2(rdt_dtype_t dtype, rdt_redop_t op)
{
    return kernel_table[dtype][op];
}

rdt_wide_t rdt_wide_avx2(rdt_dtype_t dtype)
{
    return wide_table[dtype];
}
#else
rdt_kernel_t rdt_reduce_avx2(rdt_dtype_t dtype, rdt_redop_t op)
{
    (void)dtype;
    (void)op;
    return (rdt_kernel_t){0};
}

rdt_wide_t rdt_wide_avx2(rdt_dtype_t dtype)
{
    (void)dtype;
    return (rdt_wide_t){0};
}
#endif
