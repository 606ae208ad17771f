/* SPDX-License-Identifier: Apache-2.0 */
/* Reductions in two steps, over 2 hosts of 3 ranks, against the plain kernel over the 6 ranks, whose
 * results are the same bits wherever the partial sums are exact. */
#include <stdbool.h>
#include <string.h>

#include "check.h"
#include "reduce/half.h"
#include "reduce/partial.h"

#define HOSTS 2
#define LOCAL 3
#define RANKS (HOSTS * LOCAL)
#define COUNT 1000 /* more than one block, and a part of one */
#define MAX_BYTES 16

static unsigned char input[RANKS][COUNT * MAX_BYTES];
static unsigned char partial[HOSTS][COUNT * MAX_BYTES];
static rdt_kernels_t kernels[RDT_NUM_ISAS];
static unsigned char got[COUNT * MAX_BYTES], want[COUNT * MAX_BYTES];

/* A different small number for each rank and element: sums and products of six are exact in float32. */
static float small_number(uint32_t rank, size_t i)
{
    static const float numbers[] = {1, 2, -1, 0.5F, -2, 3, 0, -0.0F};

    return numbers[(i * 7 + rank * 5 + i / 8) % 8];
}

static bool is_complex(rdt_dtype_t dtype)
{
    return dtype == RDT_C32 || dtype == RDT_C64 || dtype == RDT_C128;
}

static void fill_floats(rdt_dtype_t dtype, uint32_t rank)
{
    const rdt_wide_t wide = rdt_wide_get(RDT_ISA_BASE, dtype);
    const size_t parts = is_complex(dtype) ? 2 : 1;
    const size_t part_bytes = rdt_dtype_bytes(dtype) / parts;

    for (size_t i = 0; i < COUNT * parts; i++) {
        const float x = small_number(rank, i);
        const double d = x;

        if (part_bytes == 8)
            memcpy(input[rank] + i * 8, &d, 8);
        else if (part_bytes == 4)
            memcpy(input[rank] + i * 4, &x, 4);
        else if (dtype == RDT_C32)
            memcpy(input[rank] + i * 2, &(uint16_t){rdt_f32_to_f16(x)}, 2);
        else
            wide.store(input[rank] + i * part_bytes, &x, 1);
    }
}

static void fill(rdt_dtype_t dtype, uint32_t rank)
{
    bool is_float = rdt_can_reduce(dtype, RDT_PREMUL_SUM);

    if (is_float) {
        fill_floats(dtype, rank);
        return;
    }
    for (size_t i = 0; i < COUNT * MAX_BYTES; i++)
        input[rank][i] = (unsigned char)((i * 2654435761u + rank * 40503u + (i << rank)) >> 7);
}

static void plain(rdt_dtype_t dtype, rdt_redop_t op, double factor)
{
    const rdt_kernel_t kernel = rdt_kernel_get(RDT_ISA_SCALAR, dtype, op);
    const void *src[RANKS];

    for (uint32_t r = 0; r < RANKS; r++)
        src[r] = input[r];
    if (kernel.premul != NULL)
        kernel.premul(want, src, RANKS, COUNT, factor);
    else
        kernel.reduce(want, src, RANKS, COUNT);
}

static void in_steps(rdt_isa_t isa, rdt_dtype_t dtype, rdt_redop_t op, double factor)
{
    const rdt_step_t first = rdt_step_first(&kernels[isa], dtype, op, factor);
    const rdt_step_t last = rdt_step_last(&kernels[isa], dtype, op, RANKS);
    const void *src[LOCAL], *parts[HOSTS];

    CHECK_EQ(first.to, last.from);
    for (uint32_t h = 0; h < HOSTS; h++) {
        for (uint32_t k = 0; k < LOCAL; k++)
            src[k] = input[h * LOCAL + k];
        rdt_step_reduce(&first, partial[h], src, LOCAL, COUNT);
        parts[h] = partial[h];
    }
    rdt_step_reduce(&last, got, parts, HOSTS, COUNT);
}

/* The sign of a zero in a complex product depends on the order of the products. */
static void clear_signs_of_zeros(rdt_dtype_t dtype, unsigned char *data)
{
    const size_t bytes = rdt_dtype_bytes(dtype) / 2;

    for (size_t i = 0; i < 2 * COUNT; i++, data += bytes) {
        bool is_zero = (data[bytes - 1] & 0x7f) == 0;

        for (size_t b = 0; b + 1 < bytes; b++)
            is_zero &= data[b] == 0;
        if (is_zero) data[bytes - 1] = 0;
    }
}

static void compare(rdt_isa_t isa, rdt_dtype_t dtype, rdt_redop_t op)
{
    const size_t bytes = rdt_dtype_bytes(dtype);
    const double factor = 0.5;

    plain(dtype, op, factor);
    in_steps(isa, dtype, op, factor);
    if (is_complex(dtype) && op == RDT_PRODUCT) {
        clear_signs_of_zeros(dtype, want);
        clear_signs_of_zeros(dtype, got);
    }
    for (size_t i = 0; i < COUNT; i++)
        CHECK(memcmp(got + i * bytes, want + i * bytes, bytes) == 0, "%s %s %s: element %zu",
              rdt_isa_name(isa), rdt_dtype_name(dtype), rdt_redop_name(op), i);
}

static void two_steps_give_what_one_gives(void)
{
    for (int d = 0; d < RDT_NUM_DTYPES; d++) {
        for (uint32_t r = 0; r < RANKS; r++)
            fill((rdt_dtype_t)d, r);
        for (int o = 0; o < RDT_NUM_REDOPS; o++) {
            if (!rdt_can_reduce((rdt_dtype_t)d, (rdt_redop_t)o)) continue;
            for (int isa = RDT_ISA_SCALAR; isa < RDT_NUM_ISAS; isa++)
                if (rdt_reduce_get((rdt_isa_t)isa, RDT_F32, RDT_SUM) != NULL)
                    compare((rdt_isa_t)isa, (rdt_dtype_t)d, (rdt_redop_t)o);
        }
    }
}

/* 1 + 2^-9 + 2^-9 in bfloat16, which has 8 digits: rounded after each host the small ones would be
 * lost, one by one. */
static void half_types_are_rounded_once(void)
{
    const float numbers[RANKS] = {1, 0x1p-9F, 0x1p-9F, 0x1p-8F, 0x1p-9F, 0x1p-9F};
    uint16_t result;

    for (uint32_t r = 0; r < RANKS; r++)
        memcpy(input[r], &(uint16_t){rdt_f32_to_bf16(numbers[r])}, 2);
    in_steps(RDT_ISA_BASE, RDT_BF16, RDT_SUM, 1);
    memcpy(&result, got, 2);
    CHECK_EQ(result, 0x3f82); /* 1 + 3 * 2^-8, a tie, becomes 1 + 2^-6 */
}

static void the_partial_type_is_the_accumulator(void)
{
    CHECK_EQ(rdt_partial_dtype(RDT_BF16, RDT_SUM), RDT_F32);
    CHECK_EQ(rdt_partial_dtype(RDT_F8E5M2, RDT_PRODUCT), RDT_F32);
    CHECK_EQ(rdt_partial_dtype(RDT_C32, RDT_AVG), RDT_C64);
    CHECK_EQ(rdt_partial_dtype(RDT_F16, RDT_MAX), RDT_F16);
    CHECK_EQ(rdt_partial_dtype(RDT_F32, RDT_SUM), RDT_F32);
    CHECK_EQ(rdt_partial_dtype(RDT_I8, RDT_AVG), RDT_I8);
}

int main(void)
{
    for (int isa = 0; isa < RDT_NUM_ISAS; isa++)
        rdt_kernels_get((rdt_isa_t)isa, &kernels[isa]);
    the_partial_type_is_the_accumulator();
    two_steps_give_what_one_gives();
    half_types_are_rounded_once();
    return 0;
}
