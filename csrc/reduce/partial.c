/* SPDX-License-Identifier: Apache-2.0 */
#include "reduce/partial.h"

#include <stdbool.h>
#include <stddef.h>

/* Elements that are widened at a time, to stay in the first cache with what they are added to. */
#define BLOCK_COUNT 256

/* Accumulators of narrow types: one float32 an element, two of C32. */
typedef struct block {
    float floats[2 * BLOCK_COUNT];
} block_t;

rdt_dtype_t rdt_partial_dtype(rdt_dtype_t dtype, rdt_redop_t op)
{
    if (op == RDT_MIN || op == RDT_MAX || rdt_wide_get(RDT_ISA_BASE, dtype).load == NULL)
        return dtype;
    return dtype == RDT_C32 ? RDT_C64 : RDT_F32;
}

/* What is left of the operation once each input is loaded and before the sum is divided. */
static rdt_redop_t plain_op(rdt_redop_t op)
{
    return op == RDT_AVG || op == RDT_PREMUL_SUM ? RDT_SUM : op;
}

void rdt_kernels_get(rdt_isa_t isa, rdt_kernels_t *kernels_p)
{
    for (int d = 0; d < RDT_NUM_DTYPES; d++) {
        kernels_p->wide[d] = rdt_wide_get(isa, (rdt_dtype_t)d);
        for (int o = 0; o < RDT_NUM_REDOPS; o++)
            kernels_p->of[d][o] = rdt_kernel_get(isa, (rdt_dtype_t)d, (rdt_redop_t)o);
    }
}

rdt_step_t rdt_step_only(const rdt_kernels_t *kernels, rdt_dtype_t dtype, rdt_redop_t op,
                         double factor)
{
    return (rdt_step_t){
        .from = dtype, .to = dtype, .kernel = kernels->of[dtype][op], .factor = factor};
}

rdt_step_t rdt_step_first(const rdt_kernels_t *kernels, rdt_dtype_t dtype, rdt_redop_t op,
                          double factor)
{
    const rdt_dtype_t to = rdt_partial_dtype(dtype, op);
    const bool widens = to != dtype;
    /* What is widened is multiplied on the way. */
    rdt_step_t step = {.from = dtype, .to = to, .factor = op == RDT_PREMUL_SUM ? factor : 1};

    if (widens) step.wide = kernels->wide[dtype];
    if (widens || op != RDT_PREMUL_SUM) op = plain_op(op);
    step.kernel = kernels->of[to][op];
    return step;
}

rdt_step_t rdt_step_middle(const rdt_kernels_t *kernels, rdt_dtype_t dtype, rdt_redop_t op)
{
    return rdt_step_only(kernels, rdt_partial_dtype(dtype, op), plain_op(op), 1);
}

rdt_step_t rdt_step_last(const rdt_kernels_t *kernels, rdt_dtype_t dtype, rdt_redop_t op,
                         uint32_t num_ranks)
{
    rdt_step_t step = {.from = rdt_partial_dtype(dtype, op), .to = dtype, .factor = 1};

    if (op == RDT_AVG) step.divisor = num_ranks;
    if (step.from != dtype) step.wide = kernels->wide[dtype];
    step.kernel = kernels->of[step.from][plain_op(op)];
    return step;
}

/* As the AVG kernels do it, see kernels.inc.h: truncated towards zero, by way of float64 where that is
 * exact, since a division of integers does not vectorize. */
#define DIVIDE(tag, T, quotient)                                    \
    static void divide_##tag(void *data, uint32_t by, size_t count) \
    {                                                               \
        T *const x = data;                                          \
                                                                    \
        for (size_t i = 0; i < count; i++)                          \
            x[i] = (T)(quotient);                                   \
    }

DIVIDE(F32, float, x[i] / (float)by)
DIVIDE(F64, double, x[i] / (double)by)
DIVIDE(I8, int8_t, (int32_t)((double)x[i] / (double)by))
DIVIDE(U8, uint8_t, (int32_t)((double)x[i] / (double)by))
DIVIDE(I16, int16_t, (int32_t)((double)x[i] / (double)by))
DIVIDE(U16, uint16_t, (int32_t)((double)x[i] / (double)by))
DIVIDE(I32, int32_t, (double)x[i] / (double)by)
DIVIDE(U32, uint32_t, x[i] / by)
DIVIDE(I64, int64_t, x[i] / (int64_t)by)
DIVIDE(U64, uint64_t, x[i] / by)

static void divide_C64(void *data, uint32_t by, size_t count)
{
    divide_F32(data, by, 2 * count);
}

static void divide_C128(void *data, uint32_t by, size_t count)
{
    divide_F64(data, by, 2 * count);
}

#define DIVIDE_ENTRY(tag) [RDT_##tag] = divide_##tag,

static void divide(rdt_dtype_t dtype, void *data, uint32_t by, size_t count)
{
    static void (*const of[RDT_NUM_DTYPES])(void *, uint32_t, size_t) = {
        DIVIDE_ENTRY(F32) DIVIDE_ENTRY(F64) DIVIDE_ENTRY(I8) DIVIDE_ENTRY(U8) DIVIDE_ENTRY(I16)
            DIVIDE_ENTRY(U16) DIVIDE_ENTRY(I32) DIVIDE_ENTRY(U32) DIVIDE_ENTRY(I64)
                DIVIDE_ENTRY(U64) DIVIDE_ENTRY(C64) DIVIDE_ENTRY(C128)};

    if (by != 0) of[dtype](data, by, count);
}

static const char *at(const rdt_step_t *step, const void *src, size_t i)
{
    return (const char *)src + i * rdt_dtype_bytes(step->from);
}

/* Sources that are narrower: each is widened to a block, and added to the first one's. */
static void widen(const rdt_step_t *step, void *dst, const void *const *src, uint32_t num_src,
                  size_t count)
{
    block_t next;
    char *to = dst;

    for (size_t i = 0, n; i < count; i += n) {
        const void *const both[2] = {to, &next};

        n = count - i < BLOCK_COUNT ? count - i : BLOCK_COUNT;
        step->wide.load(to, at(step, src[0], i), step->factor, n);
        for (uint32_t k = 1; k < num_src; k++) {
            step->wide.load(&next, at(step, src[k], i), step->factor, n);
            step->kernel.reduce(to, both, 2, n);
        }
        to += n * rdt_dtype_bytes(step->to);
    }
}

/* Sources that are wider: a block of them is reduced, divided and rounded. */
static void narrow(const rdt_step_t *step, void *dst, const void *const *src, uint32_t num_src,
                   size_t count)
{
    block_t acc;
    char *to = dst;

    for (size_t i = 0, n; i < count; i += n) {
        const void *both[2] = {at(step, src[0], i), NULL};

        n = count - i < BLOCK_COUNT ? count - i : BLOCK_COUNT;
        for (uint32_t k = 1; k < num_src; k++) {
            both[1] = at(step, src[k], i);
            step->kernel.reduce(&acc, both, 2, n);
            both[0] = &acc;
        }
        divide(step->from, &acc, step->divisor, n);
        step->wide.store(to, both[0], n);
        to += n * rdt_dtype_bytes(step->to);
    }
}

void rdt_step_reduce(const rdt_step_t *step, void *dst, const void *const *src, uint32_t num_src,
                     size_t count)
{
    if (step->from != step->to) {
        if (rdt_dtype_bytes(step->from) < rdt_dtype_bytes(step->to))
            widen(step, dst, src, num_src, count);
        else
            narrow(step, dst, src, num_src, count);
    } else if (step->kernel.premul != NULL) {
        step->kernel.premul(dst, src, num_src, count, step->factor);
    } else {
        step->kernel.reduce(dst, src, num_src, count);
        divide(step->to, dst, step->divisor, count);
    }
}
