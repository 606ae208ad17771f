/* SPDX-License-Identifier: Apache-2.0 */
/* The float8 kinds against a list of all their values and a search for the nearest: each conversion,
 * and each pair of codes through the kernels of every instruction set. */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "check.h"
#include "rdmatrain/types.h"
#include "reduce/float8.h"
#include "reduce/reduce.h"

#define NUM_CODES 256
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

typedef struct kind {
    rdt_dtype_t dtype;
    rdt_f8_kind_t how; /* under test */
    uint32_t end;      /* the codes from here on are not numbers */
    uint32_t infinity; /* 0 where there is none */
    uint8_t too_large, nan;
    double smallest, largest;
    uint32_t mantissa_codes;
    double
        value[129]; /* of the codes without sign, to end, which counts as the next number would */
} kind_t;

static kind_t kinds[] = {
    {RDT_F8E4M3FN, RDT_F8E4M3FN_KIND, 0x7f, 0, 0x7e, 0x7f, 0x1p-9, 448, 8, {0}},
    {RDT_F8E5M2, RDT_F8E5M2_KIND, 0x7c, 0x7c, 0x7c, 0x7f, 0x1p-16, 57344, 4, {0}},
    {RDT_F8E4M3FNUZ, RDT_F8E4M3FNUZ_KIND, 0x80, 0, 0x80, 0x80, 0x1p-10, 240, 8, {0}},
    {RDT_F8E5M2FNUZ, RDT_F8E5M2FNUZ_KIND, 0x80, 0, 0x80, 0x80, 0x1p-17, 57344, 4, {0}},
};

/* Codes are equally spaced, and the spacing doubles each time the mantissa starts again. */
static void fill_values(kind_t *kind)
{
    double spacing = kind->smallest;

    for (uint32_t code = 1; code <= kind->end; code++) {
        kind->value[code] = kind->value[code - 1] + spacing;
        if (code % kind->mantissa_codes == 0 && code > kind->mantissa_codes) spacing *= 2.0;
    }
    CHECK(kind->value[kind->end - 1] == kind->largest, "%s: largest %g, expected %g",
          rdt_dtype_name(kind->dtype), kind->value[kind->end - 1], kind->largest);
}

static bool has_minus_zero(const kind_t *kind)
{
    return kind->nan != 0x80;
}

/* The nearest of all values, of two equally near the even code. */
static uint8_t nearest(const kind_t *kind, float value)
{
    const double magnitude = fabs((double)value);
    uint32_t code = 0;

    if (isnan(value)) return kind->nan;
    while (code < kind->end && kind->value[code] < magnitude)
        code++;
    if (code > 0 && magnitude < kind->value[code]) {
        const double below = magnitude - kind->value[code - 1];
        const double above = kind->value[code] - magnitude;

        if (below < above || (below == above && code % 2 == 1)) code--;
    }
    if (code >= kind->end) code = kind->too_large;
    if (!signbit(value) || (code == 0 && !has_minus_zero(kind))) return (uint8_t)code;
    return (uint8_t)(code | 0x80);
}

static float value_of(const kind_t *kind, uint32_t code)
{
    const uint32_t magnitude = code & 0x7f;
    const double sign = code < 0x80 ? 1.0 : -1.0;

    if (code == kind->nan || (magnitude >= kind->end && magnitude != kind->infinity)) return NAN;
    if (magnitude >= kind->end) return (float)(sign * (double)INFINITY);
    return (float)(sign * kind->value[magnitude]);
}

static void check_widening(const kind_t *kind)
{
    for (uint32_t code = 0; code < NUM_CODES; code++) {
        const float want = value_of(kind, code), got = rdt_f8_to_f32(kind->how, (uint8_t)code);

        CHECK(isnan(want) ? isnan(got) : rdt_f32_bits(want) == rdt_f32_bits(got),
              "%s: code 0x%x is %g, expected %g", rdt_dtype_name(kind->dtype), code, (double)got,
              (double)want);
    }
}

static void check_rounding_of(const kind_t *kind, uint32_t bits)
{
    const float value = rdt_f32_from_bits(bits);
    const uint8_t want = nearest(kind, value), got = rdt_f32_to_f8(kind->how, value);

    CHECK(want == got, "%s: %a becomes 0x%x, expected 0x%x", rdt_dtype_name(kind->dtype),
          (double)value, got, want);
}

/* Every value and every half way point with their float32 neighbours, then a stride through all of
 * float32; both signs. */
static void check_rounding(const kind_t *kind)
{
    for (uint32_t sign = 0; sign < 2; sign++) {
        for (uint32_t code = 0; code < 2 * kind->end; code++) {
            const double at = (kind->value[code / 2] + kind->value[(code + 1) / 2]) / 2;

            for (uint32_t near = 0; near < 3; near++)
                check_rounding_of(kind, (rdt_f32_bits((float)at) + near - 1) ^ sign << 31);
        }
        for (uint32_t bits = 0; bits < 0x80000000u; bits += 40009)
            check_rounding_of(kind, bits | sign << 31);
        check_rounding_of(kind, 0x7f800000u | sign << 31);
    }
}

static float combine(rdt_redop_t op, float a, float b)
{
    if (op == RDT_SUM) return a + b;
    if (op == RDT_PRODUCT) return a * b;
    if (isnan(a) || isnan(b)) return NAN;
    if (op == RDT_MIN) return b < a ? b : a;
    return b > a ? b : a;
}

static void check_pairs(rdt_isa_t isa, const kind_t *kind, rdt_redop_t op)
{
    static uint8_t first[NUM_CODES * NUM_CODES], second[NUM_CODES * NUM_CODES];
    static uint8_t got[NUM_CODES * NUM_CODES];
    const void *const src[2] = {first, second};

    for (uint32_t i = 0; i < NUM_CODES * NUM_CODES; i++) {
        first[i] = (uint8_t)(i / NUM_CODES);
        second[i] = (uint8_t)i;
    }
    rdt_reduce_get(isa, kind->dtype, op)(got, src, 2, NUM_CODES * NUM_CODES);
    for (uint32_t i = 0; i < NUM_CODES * NUM_CODES; i++) {
        const float both = combine(op, value_of(kind, first[i]), value_of(kind, second[i]));
        const uint8_t want = nearest(kind, both);

        CHECK(want == got[i], "%s, %s of %s 0x%x and 0x%x is 0x%x, expected 0x%x",
              rdt_isa_name(isa), rdt_redop_name(op), rdt_dtype_name(kind->dtype), first[i],
              second[i], got[i], want);
    }
}

int main(void)
{
    static const rdt_redop_t ops[] = {RDT_SUM, RDT_PRODUCT, RDT_MIN, RDT_MAX};

    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        fill_values(&kinds[k]);
        check_widening(&kinds[k]);
        check_rounding(&kinds[k]);
    }
    for (rdt_isa_t isa = RDT_ISA_SCALAR; isa < RDT_NUM_ISAS; isa++) {
        if (rdt_reduce_get(isa, RDT_F8E5M2, RDT_SUM) == NULL) {
            printf("SKIP %s: not in this build or not on this CPU\n", rdt_isa_name(isa));
            continue;
        }
        for (size_t k = 0; k < COUNT_OF(kinds); k++)
            for (size_t i = 0; i < COUNT_OF(ops); i++)
                check_pairs(isa, &kinds[k], ops[i]);
    }
    return 0;
}
