/* SPDX-License-Identifier: Apache-2.0 */
#include "reduce/reduce.h"

#include <stdbool.h>

#include "reduce/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>

/* By cpuid, because not every compiler's __builtin_cpu_supports knows the name. That the system
 * saves the wide registers is what the "avx2" and "avx512f" queries check. */
static bool cpu_has_f16c(void)
{
    unsigned eax, ebx, ecx, edx;

    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

static bool cpu_has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && cpu_has_f16c();
}

static bool cpu_has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           cpu_has_avx2();
}
#else
static bool cpu_has_avx2(void)
{
    return false;
}

static bool cpu_has_avx512(void)
{
    return false;
}
#endif

rdt_reduce_fn rdt_reduce_get(rdt_isa_t isa, rdt_dtype_t dtype, rdt_redop_t op)
{
    if ((unsigned)dtype >= RDT_NUM_DTYPES || (unsigned)op >= RDT_NUM_REDOPS) return NULL;
    switch (isa) {
    case RDT_ISA_SCALAR:
        return rdt_reduce_scalar(dtype, op);
    case RDT_ISA_BASE:
        return rdt_reduce_base(dtype, op);
    case RDT_ISA_AVX2:
        return cpu_has_avx2() ? rdt_reduce_avx2(dtype, op) : NULL;
    case RDT_ISA_AVX512:
        return cpu_has_avx512() ? rdt_reduce_avx512(dtype, op) : NULL;
    default:
        return NULL;
    }
}

rdt_isa_t rdt_reduce_best_isa(void)
{
    if (rdt_reduce_get(RDT_ISA_AVX512, RDT_F32, RDT_SUM) != NULL) return RDT_ISA_AVX512;
    if (rdt_reduce_get(RDT_ISA_AVX2, RDT_F32, RDT_SUM) != NULL) return RDT_ISA_AVX2;
    return RDT_ISA_BASE;
}

const char *rdt_isa_name(rdt_isa_t isa)
{
    static const char *const names[RDT_NUM_ISAS] = {
        [RDT_ISA_SCALAR] = "scalar",
        [RDT_ISA_BASE] = "base",
        [RDT_ISA_AVX2] = "avx2",
        [RDT_ISA_AVX512] = "avx512",
    };

    return (unsigned)isa < RDT_NUM_ISAS ? names[isa] : "unknown";
}
