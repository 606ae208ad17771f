/* SPDX-License-Identifier: Apache-2.0 */
/* AVX-512 with AVX512_BF16: bfloat16 kernels of its own, all others are those of AVX-512. */
#include "reduce/isa.h"

#if defined(__x86_64__) && defined(__AVX512F__) && defined(__AVX512BW__) && \
    defined(__AVX512VL__) && defined(__AVX512DQ__) && defined(__AVX512BF16__)
#include <stddef.h>

#include "reduce/half_vec.h"

RDT_HALF_KERNELS(BF16)

rdt_kernel_t rdt_reduce_avx512bf16(rdt_dtype_t dtype, rdt_redop_t op)
{
    static const rdt_kernel_t table[RDT_NUM_REDOPS] = {
        [RDT_SUM] = {reduce_BF16_SUM, reduce_BF16_SUM_both, reduce_BF16_SUM_stream, NULL},
        [RDT_AVG] = {reduce_BF16_AVG, reduce_BF16_AVG_both, reduce_BF16_AVG_stream, NULL},
        [RDT_MIN] = {reduce_BF16_MIN, reduce_BF16_MIN_both, reduce_BF16_MIN_stream, NULL},
        [RDT_MAX] = {reduce_BF16_MAX, reduce_BF16_MAX_both, reduce_BF16_MAX_stream, NULL},
        [RDT_PRODUCT] = {reduce_BF16_PRODUCT, reduce_BF16_PRODUCT_both, reduce_BF16_PRODUCT_stream,
                         NULL},
    };

    return dtype == RDT_BF16 && table[op].reduce != NULL ? table[op] : rdt_reduce_avx512(dtype, op);
}
#else
rdt_kernel_t rdt_reduce_avx512bf16(rdt_dtype_t dtype, rdt_redop_t op)
{
    (void)dtype;
    (void)op;
    return (rdt_kernel_t){0};
}
#endif
