/* SPDX-License-Identifier: Apache-2.0 */
#include "reduce/isa.h"
#include "reduce/kernel_table.inc.h"

rdt_kernel_t rdt_reduce_base(rdt_dtype_t dtype, rdt_redop_t op)
{
    return kernel_table[dtype][op];
}

rdt_wide_t rdt_wide_base(rdt_dtype_t dtype)
{
    return wide_table[dtype];
}
