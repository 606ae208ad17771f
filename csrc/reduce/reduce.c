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

static bool cpu_has_avx512bf16(void)
{
    unsigned eax, ebx, ecx, edx;

    return cpu_has_avx512() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 &&
           (eax & bit_AVX512BF16) != 0;
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

static bool cpu_has_avx512bf16(void)
{
    return false;
}
#endif

static bool always(void)
{
    return true;
}

typedef struct isa_entry {
    const char *name;
    bool (*is_usable)(void);
    rdt_kernel_t (*lookup)(rdt_dtype_t dtype, rdt_redop_t op);
} isa_entry_t;

static const isa_entry_t isas[RDT_NUM_ISAS] = {
    [RDT_ISA_SCALAR] = {"scalar", always, rdt_reduce_scalar},
    [RDT_ISA_BASE] = {"base", always, rdt_reduce_base},
    [RDT_ISA_AVX2] = {"avx2", cpu_has_avx2, rdt_reduce_avx2},
    [RDT_ISA_AVX512] = {"avx512", cpu_has_avx512, rdt_reduce_avx512},
    [RDT_ISA_AVX512BF16] = {"avx512bf16", cpu_has_avx512bf16, rdt_reduce_avx512bf16},
};

rdt_kernel_t rdt_kernel_get(rdt_isa_t isa, rdt_dtype_t dtype, rdt_redop_t op)
{
    if ((unsigned)isa >= RDT_NUM_ISAS || (unsigned)dtype >= RDT_NUM_DTYPES ||
        (unsigned)op >= RDT_NUM_REDOPS || !isas[isa].is_usable())
        return (rdt_kernel_t){0};
    return isas[isa].lookup(dtype, op);
}

rdt_wide_t rdt_wide_get(rdt_isa_t isa, rdt_dtype_t dtype)
{
    if ((unsigned)dtype >= RDT_NUM_DTYPES) return (rdt_wide_t){0};
    if (isa >= RDT_ISA_AVX512 && cpu_has_avx512()) return rdt_wide_avx512(dtype);
    if (isa >= RDT_ISA_AVX2 && cpu_has_avx2()) return rdt_wide_avx2(dtype);
    return rdt_wide_base(dtype);
}

rdt_reduce_fn rdt_reduce_get(rdt_isa_t isa, rdt_dtype_t dtype, rdt_redop_t op)
{
    return rdt_kernel_get(isa, dtype, op).reduce;
}

rdt_isa_t rdt_reduce_best_isa(void)
{
    rdt_isa_t isa = RDT_NUM_ISAS - 1;

    while (isa > RDT_ISA_BASE && rdt_reduce_get(isa, RDT_F32, RDT_SUM) == NULL)
        isa--;
    return isa;
}

const char *rdt_isa_name(rdt_isa_t isa)
{
    return (unsigned)isa < RDT_NUM_ISAS ? isas[isa].name : "unknown";
}

bool rdt_can_reduce(rdt_dtype_t dtype, rdt_redop_t op)
{
    const rdt_kernel_t kernel = rdt_kernel_get(RDT_ISA_SCALAR, dtype, op);

    return kernel.reduce != NULL || kernel.premul != NULL;
}
