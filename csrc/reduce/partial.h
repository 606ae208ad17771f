/* SPDX-License-Identifier: Apache-2.0 */
/* A reduction in steps: first over some ranks, such as those of a host, then over what they have made.
 *
 * What is between two steps is in the type that the reduction accumulates in, so that half types are
 * still rounded once, at the end; AVG divides there, too, by the number of all the ranks. */
#ifndef RDT_REDUCE_PARTIAL_H
#define RDT_REDUCE_PARTIAL_H

#include "reduce/reduce.h"

/* All that an instruction set has: to ask for each kernel anew is slow, because it asks the CPU. */
typedef struct rdt_kernels {
    rdt_kernel_t of[RDT_NUM_DTYPES][RDT_NUM_REDOPS];
    rdt_wide_t wide[RDT_NUM_DTYPES];
} rdt_kernels_t;

void rdt_kernels_get(rdt_isa_t isa, rdt_kernels_t *kernels_p);

/* What is between the steps: F32 or C64 for what is narrower, else dtype. MIN and MAX lose nothing in
 * a narrow type. */
rdt_dtype_t rdt_partial_dtype(rdt_dtype_t dtype, rdt_redop_t op);

/* A step over buffers of from, into one of to; one of the two is the call's dtype, and the other it or
 * its partial dtype. */
typedef struct rdt_step {
    rdt_dtype_t from, to;
    rdt_kernel_t kernel; /* of the wider one */
    rdt_wide_t wide;     /* of the narrower one, where the two differ */
    double factor;       /* PREMUL_SUM: of the first step; 1 */
    uint32_t divisor;    /* AVG: of the last step; 0 for none */
} rdt_step_t;

/* op is one that has a meaning for the dtype of the call. num_ranks: of all the steps together. */
rdt_step_t rdt_step_first(const rdt_kernels_t *kernels, rdt_dtype_t dtype, rdt_redop_t op,
                          double factor);
/* Between the first one and the last one. */
rdt_step_t rdt_step_middle(const rdt_kernels_t *kernels, rdt_dtype_t dtype, rdt_redop_t op);
rdt_step_t rdt_step_last(const rdt_kernels_t *kernels, rdt_dtype_t dtype, rdt_redop_t op,
                         uint32_t num_ranks);
/* The only step: with the plain kernel, which divides by the number of its sources. */
rdt_step_t rdt_step_only(const rdt_kernels_t *kernels, rdt_dtype_t dtype, rdt_redop_t op,
                         double factor);

/* As rdt_reduce_fn; but where the types differ, of two sources or more, which dst does not overlap. */
void rdt_step_reduce(const rdt_step_t *step, void *dst, const void *const *src, uint32_t num_src,
                     size_t count);

#endif
