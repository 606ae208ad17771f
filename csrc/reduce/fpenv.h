/* SPDX-License-Identifier: Apache-2.0 */
/* The floating-point mode that all ranks reduce in, whatever a thread was set to: a program may call
 * torch.set_flush_denormal, and then the bits of a sum would depend on which thread happened to make
 * it. */
#ifndef RDT_REDUCE_FPENV_H
#define RDT_REDUCE_FPENV_H

#include <stdint.h>

#if defined(__x86_64__)
#define RDT_FP_DEFAULT 0x1f80u /* exceptions masked, to nearest even, denormals kept */

static inline uint64_t rdt_fp_get(void)
{
    return __builtin_ia32_stmxcsr();
}

static inline void rdt_fp_set(uint64_t mode)
{
    __builtin_ia32_ldmxcsr((uint32_t)mode);
}
#elif defined(__aarch64__)
#define RDT_FP_DEFAULT 0u

static inline uint64_t rdt_fp_get(void)
{
    uint64_t mode;

    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}

static inline void rdt_fp_set(uint64_t mode)
{
    __asm__ volatile("msr fpcr, %0" ::"r"(mode));
}
#else
#define RDT_FP_DEFAULT 0u

static inline uint64_t rdt_fp_get(void)
{
    return RDT_FP_DEFAULT;
}

static inline void rdt_fp_set(uint64_t mode)
{
    (void)mode;
}
#endif

#endif
