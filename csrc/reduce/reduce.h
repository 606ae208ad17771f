/* SPDX-License-Identifier: Apache-2.0 */
/* dtype x op kernels that reduce any number of buffers into one, in the order given.
 *
 * The order is the contract (DESIGN decision 2): dst[i] = ((src[0][i] op src[1][i]) op src[2][i])...
 * whatever the buffer sizes, the chunking or the instruction set, so that every build gives the same
 * bits. What has a meaning, and which, is said in types.h.
 * F16, BF16, C32 and the float8 kinds are widened to float32, accumulated there, and rounded once, to
 * nearest even; overflow of float8 is as in torch, see float8.h. PREMUL_SUM rounds its factor and each
 * product to what it accumulates in. No product is contracted with a sum.
 * Signed integers wrap (computed as unsigned). Integer AVG divides the wrapped sum, truncating.
 * Every NaN result is the positive quiet NaN with an empty payload (of float8 kinds, the one of
 * float8.h), in each part of a complex number by itself; MIN and MAX of equal operands (0.0 and -0.0)
 * keep the earlier one. But a single source is copied bit by bit, unless PREMUL_SUM multiplies it.
 * The rounding mode of the thread must be the default, to nearest even.
 */
#ifndef RDT_REDUCE_REDUCE_H
#define RDT_REDUCE_REDUCE_H

#include <stddef.h>
#include <stdint.h>

#include "rdmatrain/types.h"

/* dst: count elements; may be the same address as any one src, and must not overlap one otherwise.
 * src: num_src >= 1 pointers to count elements each. Pointers are aligned to the element's size.
 * AVG divides by num_src. No allocation, no system call; any thread. */
typedef void (*rdt_reduce_fn)(void *dst, const void *const *src, uint32_t num_src, size_t count);

/* The same for two buffers that both become the result, in one pass; they do not overlap. */
typedef void (*rdt_reduce_both_fn)(void *first, void *second, size_t count);

/* The same for two sources and a dst apart from both, of whole 64-byte lines, that is written by
 * non-temporal stores; without rdt_copy_fence. */
typedef void (*rdt_reduce_stream_fn)(void *dst, const void *first, const void *second,
                                     size_t count);

/* PREMUL_SUM, as rdt_reduce_fn but for the factor that each source is multiplied by first. */
typedef void (*rdt_premul_fn)(void *dst, const void *const *src, uint32_t num_src, size_t count,
                              double factor);

typedef struct rdt_kernel {
    rdt_reduce_fn reduce;        /* NULL for PREMUL_SUM, and where there is no meaning */
    rdt_reduce_both_fn both;     /* NULL for these, SCALAR, float8, products of complex numbers */
    rdt_reduce_stream_fn stream; /* NULL for these and BASE */
    rdt_premul_fn premul;        /* NULL for all but PREMUL_SUM */
} rdt_kernel_t;

/* Between a type that is narrower than its accumulator, and the accumulator: float32, or pairs of it.
 * load multiplies by the factor; store rounds. NULLs for the other types. */
typedef struct rdt_wide {
    void (*load)(void *to, const void *from, double factor, size_t count);
    void (*store)(void *to, const void *from, size_t count);
} rdt_wide_t;

#define RDT_MAX_STREAM_SRC 64

/* What kernel->reduce does for elements of that many bytes, but past the caches: for a dst that is
 * none of the sources and so large that it would not stay in them (rdt_copy_stream_bytes). Ends with
 * rdt_copy_fence. Just the kernel where the CPU cannot stream, and beyond RDT_MAX_STREAM_SRC. Not for
 * PREMUL_SUM. */
void rdt_reduce_stream(const rdt_kernel_t *kernel, size_t element_bytes, void *dst,
                       const void *const *src, uint32_t num_src, size_t count);

typedef enum rdt_isa {
    RDT_ISA_SCALAR,
    RDT_ISA_BASE,
    RDT_ISA_AVX2,
    RDT_ISA_AVX512,
    RDT_ISA_AVX512BF16,
    RDT_NUM_ISAS
} rdt_isa_t;

/* SCALAR is the plain oracle; BASE what the compiler makes of the generic kernels on any CPU. */
rdt_isa_t rdt_reduce_best_isa(void);
/* NULLs where this CPU or build lacks the instruction set, or for values out of the tables. */
rdt_kernel_t rdt_kernel_get(rdt_isa_t isa, rdt_dtype_t dtype, rdt_redop_t op);
rdt_wide_t rdt_wide_get(rdt_isa_t isa, rdt_dtype_t dtype);
/* Its reduce. */
rdt_reduce_fn rdt_reduce_get(rdt_isa_t isa, rdt_dtype_t dtype, rdt_redop_t op);
const char *rdt_isa_name(rdt_isa_t isa);

#endif
