/* SPDX-License-Identifier: Apache-2.0 */
/* The reduction kernels: every instruction set against the scalar oracle bit for bit, and the
 * oracle against values worked out by hand and against an independent search for the nearest half.
 * usage: test_reduce [scalar|base|avx2|avx512|avx512bf16]; without an argument, all that this CPU has. */
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rdmatrain/types.h"
#include "reduce/copy.h"
#include "reduce/half.h"
#include "reduce/reduce.h"

#define SKIPPED 77
#define MAX_PRINTED 20
#define MAX_SRC 16
#define MANY_SRC 300
#define NUM_HALVES 65536
#define GUARD_BYTES 64
#define LINE_BYTES 64
#define FACTOR 0.3 /* of PREMUL_SUM: no float, and no double either */
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static int num_failures;

/* Elements as bits, whatever their type: the low bytes of an integer, on little-endian CPUs. */
static uint64_t get_bits(size_t bytes, const void *buffer, size_t i)
{
    uint64_t value = 0;

    memcpy(&value, (const char *)buffer + i * bytes, bytes);
    return value;
}

static void put_bits(size_t bytes, void *buffer, size_t i, uint64_t value)
{
    memcpy((char *)buffer + i * bytes, &value, bytes);
}

static void *must_alloc(size_t bytes)
{
    void *p = malloc(bytes + (bytes == 0));

    if (p == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return p;
}

/* One kernel under test, for messages. */
typedef struct subject {
    rdt_isa_t isa;
    rdt_dtype_t dtype;
    rdt_redop_t op;
    uint32_t num_src;
} subject_t;

/* Complex numbers are looked at as two numbers. */
static rdt_dtype_t part_of(rdt_dtype_t dtype)
{
    if (dtype < RDT_C32) return dtype;
    return dtype == RDT_C32 ? RDT_F16 : dtype == RDT_C64 ? RDT_F32 : RDT_F64;
}

/* What only reduce does, neither both nor stream. */
static bool is_plain(rdt_dtype_t dtype, rdt_redop_t op)
{
    return (dtype > RDT_BOOL && dtype < RDT_C32) || (dtype >= RDT_C32 && op == RDT_PRODUCT) ||
           op == RDT_PREMUL_SUM;
}

static void reduce_by(const subject_t *who, void *dst, const void *const *src, size_t count)
{
    const rdt_kernel_t kernel = rdt_kernel_get(who->isa, who->dtype, who->op);

    if (who->op == RDT_PREMUL_SUM)
        kernel.premul(dst, src, who->num_src, count, FACTOR);
    else
        kernel.reduce(dst, src, who->num_src, count);
}

static bool failed(bool equal)
{
    num_failures += equal ? 0 : 1;
    return !equal && num_failures <= MAX_PRINTED;
}

static void expect_value(const char *what, uint64_t input, uint64_t want, uint64_t got)
{
    if (failed(want == got))
        printf("FAIL %s of 0x%" PRIx64 ": expected 0x%" PRIx64 ", got 0x%" PRIx64 "\n", what, input,
               want, got);
}

/* Compares count elements; the first difference is the failure. */
static void expect_equal(const subject_t *who, const char *what, const void *want, const void *got,
                         size_t count)
{
    const size_t bytes = rdt_dtype_bytes(part_of(who->dtype));
    size_t i = 0;

    count *= rdt_dtype_bytes(who->dtype) / bytes;
    if (memcmp(want, got, count * bytes) == 0) i = count;
    while (i < count && get_bits(bytes, want, i) == get_bits(bytes, got, i))
        i++;
    if (failed(i == count))
        printf("FAIL %s %s %s, %u sources, %s: element %zu of %zu: expected 0x%" PRIx64
               ", got 0x%" PRIx64 "\n",
               rdt_isa_name(who->isa), rdt_dtype_name(who->dtype), rdt_redop_name(who->op),
               who->num_src, what, i, count, get_bits(bytes, want, i), get_bits(bytes, got, i));
}

/* Elements as bits, of up to 8 bytes; from the third on, all sources are alike. */
typedef struct known {
    const char *what;
    rdt_dtype_t dtype;
    rdt_redop_t op;
    uint32_t num_src;
    uint64_t in[3];
    uint64_t want;
} known_t;

static const known_t known_values[] = {
    {"(1e8 + 1) - 1e8", RDT_F32, RDT_SUM, 3, {0x4cbebc20, 0x3f800000, 0xccbebc20}, 0},
    {"(1e8 - 1e8) + 1", RDT_F32, RDT_SUM, 3, {0x4cbebc20, 0xccbebc20, 0x3f800000}, 0x3f800000},
    {"(1 + 0 + 0) / 3", RDT_F32, RDT_AVG, 3, {0x3f800000, 0, 0}, 0x3eaaaaab},
    {"inf - inf", RDT_F32, RDT_SUM, 2, {0x7f800000, 0xff800000}, 0x7fc00000},
    {"nan + nan", RDT_F32, RDT_SUM, 2, {0xffc01234, 0x7fc05678}, 0x7fc00000},
    {"min(nan, 1)", RDT_F32, RDT_MIN, 2, {0xff800001, 0x3f800000}, 0x7fc00000},
    {"min(nan, 1, 0)", RDT_F32, RDT_MIN, 3, {0x7fc00000, 0x3f800000, 0}, 0x7fc00000},
    {"max(1, nan, 2)", RDT_F32, RDT_MAX, 3, {0x3f800000, 0xffc00000, 0x40000000}, 0x7fc00000},
    {"min(-0, 0)", RDT_F32, RDT_MIN, 2, {0x80000000, 0}, 0x80000000},
    {"min(0, -0)", RDT_F32, RDT_MIN, 2, {0, 0x80000000}, 0},
    {"min(-1, 2)", RDT_F32, RDT_MIN, 2, {0xbf800000, 0x40000000}, 0xbf800000},
    {"max(-1, 2)", RDT_F32, RDT_MAX, 2, {0xbf800000, 0x40000000}, 0x40000000},
    {"one nan", RDT_F32, RDT_AVG, 1, {0xffa00001}, 0xffa00001},
    {"(2^53 + 1) - 2^53", RDT_F64, RDT_SUM, 3, {0x434ull << 52, 0x3ffull << 52, 0xc34ull << 52}, 0},
    {"max(1, nan)", RDT_F64, RDT_MAX, 2, {0x3ffull << 52, 0xfff8ull << 48 | 1}, 0x7ff8ull << 48},
    {"rounds once, at the end", RDT_BF16, RDT_SUM, 3, {0x3f80, 0x3b80, 0x3780}, 0x3f81},
    {"(82 - 41 / 256) / 41, to even", RDT_BF16, RDT_AVG, 41, {0x42a4, 0xbe24, 0}, 0x4000},
    {"(82 - 41 / 2048) / 41, to even", RDT_F16, RDT_AVG, 41, {0x5520, 0xa520, 0}, 0x4000},
    {"largest + largest", RDT_BF16, RDT_SUM, 2, {0x7f7f, 0x7f7f}, 0x7f80},
    {"1 + half an ulp, to even", RDT_F16, RDT_SUM, 2, {0x3c00, 0x1000}, 0x3c00},
    {"rounds once, at the end", RDT_F16, RDT_SUM, 3, {0x3c00, 0x1000, 0x0002}, 0x3c01},
    {"65504 + 16", RDT_F16, RDT_SUM, 2, {0x7bff, 0x4c00}, 0x7c00},
    {"no overflow in float32", RDT_F16, RDT_AVG, 2, {0x7bff, 0x7bff}, 0x7bff},
    {"half the smallest, to even", RDT_F16, RDT_AVG, 2, {0x0001, 0}, 0x0000},
    {"min(1, nan)", RDT_F16, RDT_MIN, 2, {0x3c00, 0x7c01}, 0x7e00},
    {"(-1 - 2) / 2", RDT_I8, RDT_AVG, 2, {0xff, 0xfe}, 0xff},
    {"-7 / 3", RDT_I8, RDT_AVG, 3, {0xf9, 0, 0}, 0xfe},
    {"(127 + 1) / 2, wrapped", RDT_I8, RDT_AVG, 2, {0x7f, 1}, 0xc0},
    {"min(-128, 127)", RDT_I8, RDT_MIN, 2, {0x80, 0x7f}, 0x80},
    {"(255 + 2) / 2, wrapped", RDT_U8, RDT_AVG, 2, {255, 2}, 0},
    {"max(128, 127)", RDT_U8, RDT_MAX, 2, {128, 127}, 128},
    /* more sources than the type can count: the divisor must not be narrowed */
    {"200 ones, wrapped", RDT_I8, RDT_AVG, 200, {1, 1, 1}, 0},
    {"200 ones", RDT_U8, RDT_AVG, 200, {1, 1, 1}, 1},
    {"300 hundreds", RDT_I16, RDT_AVG, 300, {100, 100, 100}, 100},
    {"-32768 - 1", RDT_I16, RDT_SUM, 2, {0x8000, 0xffff}, 0x7fff},
    {"65535 * 65535", RDT_U16, RDT_PRODUCT, 2, {0xffff, 0xffff}, 1},
    {"INT_MIN - 1", RDT_I32, RDT_SUM, 2, {0x80000000, 0xffffffff}, 0x7fffffff},
    {"(INT_MAX + 1) / 3, wrapped", RDT_I32, RDT_AVG, 3, {0x7fffffff, 1, 0}, 0xd5555556},
    {"(INT64_MAX + 1) / 2", RDT_I64, RDT_AVG, 2, {INT64_MAX, 1}, 0xc000000000000000},
    {"-7 / 2", RDT_I64, RDT_AVG, 2, {0xfffffffffffffff9, 0}, 0xfffffffffffffffd},
    {"(UINT64_MAX + 1) / 2", RDT_U64, RDT_AVG, 2, {UINT64_MAX, 1}, 0},
    {"6 & 3", RDT_I8, RDT_BAND, 2, {6, 3}, 2},
    {"all but the last bit, of three", RDT_I64, RDT_BAND, 3, {-2ull, -1ull, -2ull}, -2ull},
    {"a bit of each", RDT_U32, RDT_BOR, 3, {1, 0x80000000, 0x100}, 0x80000101},
    {"x ^ x ^ y", RDT_I16, RDT_BXOR, 3, {0x8001, 0x8001, 0x7ff0}, 0x7ff0},
    {"true + 2", RDT_BOOL, RDT_SUM, 2, {1, 2}, 1},
    {"256 times true", RDT_BOOL, RDT_SUM, 256, {1, 1, 1}, 1},
    {"max(0, 128)", RDT_BOOL, RDT_MAX, 2, {0, 128}, 1},
    {"0 | 0 | 255", RDT_BOOL, RDT_BOR, 3, {0, 0, 255}, 1},
    {"1 * 2", RDT_BOOL, RDT_PRODUCT, 2, {1, 2}, 1},
    {"1 & 2 & 4", RDT_BOOL, RDT_BAND, 3, {1, 2, 4}, 1},
    {"min(3, 0)", RDT_BOOL, RDT_MIN, 2, {3, 0}, 0},
    {"1 ^ 2", RDT_BOOL, RDT_BXOR, 2, {1, 2}, 0},
    {"1 ^ 2 ^ 7", RDT_BOOL, RDT_BXOR, 3, {1, 2, 7}, 1},
    {"max(448, 448) + 32, to the largest", RDT_F8E4M3FN, RDT_SUM, 2, {0x7e, 0x60}, 0x7e},
    {"nan + 1", RDT_F8E4M3FN, RDT_SUM, 2, {0xff, 0x38}, 0x7f},
    {"no overflow in float32", RDT_F8E4M3FN, RDT_AVG, 2, {0x7e, 0x7e}, 0x7e},
    {"rounds once, at the end", RDT_F8E4M3FN, RDT_SUM, 3, {0x38, 0x18, 0x01}, 0x39},
    {"1 + half an ulp, to even", RDT_F8E4M3FN, RDT_SUM, 2, {0x38, 0x18}, 0x38},
    {"57344 * 2", RDT_F8E5M2, RDT_PRODUCT, 2, {0x7b, 0x40}, 0x7c},
    {"inf - inf", RDT_F8E5M2, RDT_SUM, 2, {0x7c, 0xfc}, 0x7f},
    {"min(-1, 2)", RDT_F8E5M2, RDT_MIN, 2, {0xbc, 0x40}, 0xbc},
    {"-240 * 2", RDT_F8E4M3FNUZ, RDT_PRODUCT, 2, {0xff, 0x48}, 0x80},
    {"-1 * 0 is 0", RDT_F8E4M3FNUZ, RDT_PRODUCT, 2, {0xc0, 0}, 0},
    {"max(nan, 1)", RDT_F8E5M2FNUZ, RDT_MAX, 2, {0x80, 0x40}, 0x80},
    {"10 * 0.3", RDT_F32, RDT_PREMUL_SUM, 1, {0x41200000}, 0x40400000},
    {"0.3 + 0.3 of 1",
     RDT_F64,
     RDT_PREMUL_SUM,
     2,
     {0x3ffull << 52, 0x3ffull << 52},
     0x3fe3333333333333},
    {"nan * 0.3", RDT_F16, RDT_PREMUL_SUM, 1, {0xfc01}, 0x7e00},
    {"0.3 * 10 + 0.3 * 10", RDT_BF16, RDT_PREMUL_SUM, 2, {0x4120, 0x4120}, 0x40c0},
    {"0.3 * 10", RDT_F8E4M3FN, RDT_PREMUL_SUM, 1, {0x52}, 0x44},
    {"(1 + 2i) + (3 - i)", RDT_C32, RDT_SUM, 2, {0x40003c00, 0xbc004200}, 0x3c004400},
    {"(1 + 2i) * (3 - i)", RDT_C32, RDT_PRODUCT, 2, {0x40003c00, 0xbc004200}, 0x45004500},
    {"i * i * i",
     RDT_C64,
     RDT_PRODUCT,
     3,
     {1016ull << 52, 1016ull << 52, 1016ull << 52},
     0xbf80000080000000},
    {"(2 + 10i) / 2", RDT_C64, RDT_AVG, 2, {0x4120000040000000, 0}, 0x40a000003f800000},
    {"0.3 * (10 - 10i)", RDT_C64, RDT_PREMUL_SUM, 1, {0xc120000041200000}, 0xc040000040400000},
    {"max(2^63, 1)", RDT_U64, RDT_MAX, 2, {0x8000000000000000, 1}, 0x8000000000000000},
};

/* Copies of the case, so that vector bodies and remainders both see it. */
static void check_known(rdt_isa_t isa, const known_t *known)
{
    enum { COPIES = 70 };
    const subject_t who = {isa, known->dtype, known->op, known->num_src};
    const size_t bytes = rdt_dtype_bytes(known->dtype);
    uint64_t in[3][COPIES], want[COPIES], got[COPIES];
    const void *src[MANY_SRC];

    for (size_t i = 0; i < COPIES; i++) {
        for (size_t k = 0; k < 3; k++)
            put_bits(bytes, in[k], i, known->in[k]);
        put_bits(bytes, want, i, known->want);
    }
    for (size_t k = 0; k < MANY_SRC; k++)
        src[k] = in[k < 3 ? k : 2];
    memset(got, 0x5a, sizeof(got));
    reduce_by(&who, got, src, COPIES);
    expect_equal(&who, known->what, want, got, COPIES);
}

typedef struct half_kind {
    rdt_dtype_t dtype;
    uint16_t infinity, nan;
    double smallest; /* the smallest denormal */
    uint32_t mantissa_codes;
    float (*widen)(uint16_t half);
    uint16_t (*round)(float value);
    double value[0x8000]; /* of the codes without sign, up to infinity, which counts as the next
                             power of two would: the half way point to it rounds to it */
} half_kind_t;

static half_kind_t kinds[] = {
    {RDT_F16, 0x7c00, 0x7e00, 0x1p-24, 1024, rdt_f16_to_f32, rdt_f32_to_f16, {0}},
    {RDT_BF16, 0x7f80, 0x7fc0, 0x1p-133, 128, rdt_bf16_to_f32, rdt_f32_to_bf16, {0}},
};

/* Codes are equally spaced, and the spacing doubles each time the mantissa starts again. */
static void fill_half_values(half_kind_t *kind)
{
    double spacing = kind->smallest;

    kind->value[0] = 0.0;
    for (uint32_t code = 1; code <= kind->infinity; code++) {
        kind->value[code] = kind->value[code - 1] + spacing;
        if (code % kind->mantissa_codes == 0 && code > kind->mantissa_codes) spacing *= 2.0;
    }
}

/* By bisection among all values: the nearest, of two equally near the even code. */
static uint16_t nearest_half(const half_kind_t *kind, float value)
{
    const uint16_t sign = signbit(value) ? 0x8000 : 0;
    const double magnitude = fabs((double)value);
    uint32_t low = 0, high = kind->infinity;

    if (isnan(value)) return kind->nan;
    if (magnitude >= kind->value[high]) return (uint16_t)(sign | kind->infinity);
    while (high - low > 1) { /* value[low] <= magnitude < value[high] */
        const uint32_t middle = (low + high) / 2;

        if (kind->value[middle] <= magnitude)
            low = middle;
        else
            high = middle;
    }
    const double below = magnitude - kind->value[low];
    const double above = kind->value[high] - magnitude;

    if (above < below || (above == below && low % 2 == 1)) low = high;
    return (uint16_t)(sign | low);
}

static void check_widening(const half_kind_t *kind)
{
    for (uint32_t code = 0; code < NUM_HALVES; code++) {
        const uint32_t magnitude = code & 0x7fff;
        const uint32_t sign = (code & 0x8000) << 16;
        const float wide = kind->widen((uint16_t)code);
        const float want = magnitude == kind->infinity ? INFINITY : (float)kind->value[magnitude];

        expect_value("round trip", code, magnitude > kind->infinity ? kind->nan : code,
                     kind->round(wide));
        if (magnitude <= kind->infinity)
            expect_value("widening", code, rdt_f32_bits(want) | sign, rdt_f32_bits(wide));
    }
}

static void check_rounding_of(const half_kind_t *kind, uint32_t bits)
{
    const float value = rdt_f32_from_bits(bits);

    expect_value("rounding", bits, nearest_half(kind, value), kind->round(value));
    expect_value("rounding minus", bits, nearest_half(kind, -value), kind->round(-value));
}

/* Every half way point and its float32 neighbours, then a stride through all of float32. */
static void check_rounding(const half_kind_t *kind)
{
    for (uint32_t code = 0; code < kind->infinity; code++)
        for (uint32_t near = 0; near < 3; near++)
            check_rounding_of(
                kind, rdt_f32_bits((float)(kind->value[code] / 2 + kind->value[code + 1] / 2)) +
                          near - 1);
    for (uint32_t bits = 0; bits < 0x80000000; bits += 4093)
        check_rounding_of(kind, bits);
}

/* All halves, each with one partner, against the search; the product or sum is float32's. */
static void check_half_kernel(rdt_isa_t isa, const half_kind_t *kind, rdt_redop_t op,
                              uint16_t partner)
{
    static uint16_t all[NUM_HALVES], other[NUM_HALVES], want[NUM_HALVES], got[NUM_HALVES];
    const subject_t who = {isa, kind->dtype, op, 2};
    const void *const src[2] = {all, other};
    const float y = kind->widen(partner);

    for (uint32_t code = 0; code < NUM_HALVES; code++) {
        const float x = kind->widen((uint16_t)code);

        all[code] = (uint16_t)code;
        other[code] = partner;
        want[code] = nearest_half(kind, op == RDT_SUM ? x + y : x * y);
    }
    rdt_reduce_get(isa, kind->dtype, op)(got, src, 2, NUM_HALVES);
    expect_equal(&who, "all halves with one", want, got, NUM_HALVES);
}

static void check_half_kernels(rdt_isa_t isa)
{
    /* -0 leaves every number as it is; the smallest halves of both types give ties. */
    static const uint16_t addends[] = {0x8000, 0x0001, 0x1000, 0x3b80, 0x8fff, 0x4c00, 0x7c00};
    static const uint16_t factors[] = {0x3800, 0x3f00, 0x3555, 0x83ff, 0x3f81, 0x7bff, 0xfc00};

    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        for (size_t k = 0; k < COUNT_OF(addends); k++)
            check_half_kernel(isa, &kinds[i], RDT_SUM, addends[k]);
        for (size_t k = 0; k < COUNT_OF(factors); k++)
            check_half_kernel(isa, &kinds[i], RDT_PRODUCT, factors[k]);
    }
}

static void check_averages_of(rdt_isa_t isa, rdt_dtype_t dtype, uint32_t num_src)
{
    static uint32_t sums[NUM_HALVES], zeros[NUM_HALVES], want[NUM_HALVES], got[NUM_HALVES];
    const subject_t who = {isa, dtype, RDT_AVG, num_src};
    const size_t bytes = rdt_dtype_bytes(dtype);
    const void *src[MANY_SRC];

    for (uint32_t i = 0; i < NUM_HALVES; i++) /* all 16-bit sums; 32-bit ones by a stride */
        put_bits(bytes, sums, i, bytes == 4 ? i * 65537u - (i % 3) : i);
    for (uint32_t k = 0; k < num_src; k++)
        src[k] = k == 0 ? sums : zeros;
    rdt_reduce_get(RDT_ISA_SCALAR, dtype, RDT_AVG)(want, src, num_src, NUM_HALVES);
    rdt_reduce_get(isa, dtype, RDT_AVG)(got, src, num_src, NUM_HALVES);
    expect_equal(&who, "all sums", want, got, NUM_HALVES);
}

static void check_averages(rdt_isa_t isa)
{
    static const uint32_t divisors[] = {2, 3, 7, 16, 41, 83, 255, 256, MANY_SRC};

    for (size_t i = 0; i < COUNT_OF(divisors); i++)
        for (rdt_dtype_t dtype = RDT_I8; dtype <= RDT_U32; dtype++)
            check_averages_of(isa, dtype, divisors[i]);
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Near 1 with a full mantissa, so that sums round, or a special value of either sign: among
 * them inf, NaNs, the edges of the denormals, the largest number, and half an ulp of 1. */
static uint64_t float_bits(rdt_dtype_t dtype, uint64_t random, bool special)
{
    static const uint32_t mantissa_bits[] = {
        [RDT_F16] = 10, [RDT_BF16] = 7, [RDT_F32] = 23, [RDT_F64] = 52};
    const uint64_t ulps = 1ull << mantissa_bits[dtype]; /* from one power of two to the next */
    const uint64_t sign = 1ull << (8 * rdt_dtype_bytes(dtype) - 1);
    const uint64_t inf = sign - ulps;
    const uint64_t one = inf / ulps / 2 * ulps;
    const uint64_t half_ulp = one - (mantissa_bits[dtype] + 1) * ulps;
    const uint64_t specials[] = {0,   1,   ulps - 1, ulps,     inf - 1,
                                 inf, inf, inf | 1,  half_ulp, one + 1};

    if (special) return specials[random % COUNT_OF(specials)] | (random >> 8 & 1) * sign;
    return (random & (sign | (ulps - 1))) | (one - ulps + (random >> 58 & 1) * ulps);
}

/* Depends on source and index; integers are any bits, or an edge of their type; of float8 codes and
 * bools, each is as likely, but that most bools are 0 or 1 and not the other every second time. */
static uint64_t value_of(rdt_dtype_t dtype, size_t src, size_t i)
{
    const uint64_t random = mix(src * 1000003 + i + 1);
    const bool special = i % 16 == 5 || (i % 8 == 5 && src % 3 == 0);
    const uint64_t top = 1ull << (8 * rdt_dtype_bytes(dtype) - 1);
    const uint64_t edges[] = {0, 1, 2, UINT64_MAX, top, top - 1};

    if (dtype <= RDT_F64) return float_bits(dtype, random, special);
    if (dtype == RDT_BOOL && !special) return (random % 16 == 0) == (i % 2 == 0);
    return special ? edges[random % COUNT_OF(edges)] : random;
}

static void fill_values(rdt_dtype_t dtype, void *dst, size_t src, size_t count)
{
    const size_t bytes = rdt_dtype_bytes(part_of(dtype));

    for (size_t i = 0; i < count * rdt_dtype_bytes(dtype) / bytes; i++)
        put_bits(bytes, dst, i, value_of(part_of(dtype), src, i));
}

/* Sources at different distances from what malloc aligns; block owns, src points inside.
 * No bytes to spare behind a source, for the address sanitizer. */
typedef struct sources {
    size_t bytes, count;
    char *block[MAX_SRC];
    char *src[MAX_SRC];
    char *pristine[MAX_SRC];
} sources_t;

static void make_sources(sources_t *set, rdt_dtype_t dtype, size_t count, size_t shift)
{
    set->bytes = rdt_dtype_bytes(dtype);
    set->count = count;
    for (size_t k = 0; k < MAX_SRC; k++) {
        const size_t skip = shift * (k + 1) % 5 * set->bytes;

        set->block[k] = must_alloc(skip + count * set->bytes);
        set->src[k] = set->block[k] + skip;
        set->pristine[k] = must_alloc(count * set->bytes);
        fill_values(dtype, set->src[k], k, count);
        memcpy(set->pristine[k], set->src[k], count * set->bytes);
    }
}

static void free_sources(sources_t *set)
{
    for (size_t k = 0; k < MAX_SRC; k++) {
        free(set->block[k]);
        free(set->pristine[k]);
    }
}

/* dst apart from the sources, off its alignment, with guard bytes on both sides. */
static void check_apart(const subject_t *who, const sources_t *set, const char *want, size_t shift)
{
    const size_t size = set->count * set->bytes;
    const size_t before = GUARD_BYTES + shift * set->bytes;
    const size_t total = before + size + GUARD_BYTES;
    unsigned char *room = must_alloc(total);
    size_t touched = 0;

    memset(room, 0x5a, total);
    reduce_by(who, room + before, (const void *const *)set->src, set->count);
    expect_equal(who, "dst apart", want, room + before, set->count);
    for (size_t i = 0; i < total; i++)
        touched += (i < before || i >= before + size) && room[i] != 0x5a;
    expect_value("bytes touched around dst, count", set->count, 0, touched);
    free(room);
}

/* dst is source number same; the other sources must not change. */
static void check_aliased(const subject_t *who, const sources_t *set, const char *want, size_t same)
{
    char what[48];

    snprintf(what, sizeof(what), "dst is source %zu", same);
    reduce_by(who, set->src[same], (const void *const *)set->src, set->count);
    expect_equal(who, what, want, set->src[same], set->count);
    memcpy(set->src[same], set->pristine[same], set->count * set->bytes);
    for (size_t k = 0; k < MAX_SRC; k++)
        expect_equal(who, "source unchanged", set->pristine[k], set->src[k], set->count);
}

/* The first two sources both become the result. */
static void check_both(const subject_t *who, const sources_t *set, const char *want)
{
    rdt_reduce_both_fn both = rdt_kernel_get(who->isa, who->dtype, who->op).both;

    expect_value("both, ISA", who->isa, who->isa > RDT_ISA_SCALAR && !is_plain(who->dtype, who->op),
                 both != NULL);
    if (who->num_src != 2 || both == NULL) return;
    both(set->src[0], set->src[1], set->count);
    for (size_t k = 0; k < 2; k++) {
        expect_equal(who, "both", want, set->src[k], set->count);
        memcpy(set->src[k], set->pristine[k], set->count * set->bytes);
    }
}

/* Whole lines of two sources: what is streamed, and not a byte more. */
static void check_stream(const subject_t *who, const sources_t *set, const char *want)
{
    const rdt_reduce_stream_fn stream = rdt_kernel_get(who->isa, who->dtype, who->op).stream;
    const size_t count = set->count - set->count % (LINE_BYTES / set->bytes);
    const size_t size = count * set->bytes;
    unsigned char *room, *dst;
    size_t touched = 0;

    expect_value("streams, ISA", who->isa,
                 who->isa > RDT_ISA_BASE && !is_plain(who->dtype, who->op), stream != NULL);
    if (who->num_src != 2 || stream == NULL) return;
    room = must_alloc(size + 3 * LINE_BYTES);
    dst = room + LINE_BYTES + -(uintptr_t)room % LINE_BYTES;
    memset(room, 0x5a, size + 3 * LINE_BYTES);
    stream(dst, set->src[0], set->src[1], count);
    rdt_copy_fence();
    expect_equal(who, "streamed", want, dst, count);
    for (unsigned char *p = room; p < room + size + 3 * LINE_BYTES; p++)
        touched += (p < dst || p >= dst + size) && *p != 0x5a;
    expect_value("bytes touched around a streamed dst, count", count, 0, touched);
    for (size_t k = 0; k < 2; k++)
        expect_equal(who, "source unchanged", set->pristine[k], set->src[k], set->count);
    free(room);
}

static void check_against_oracle(rdt_isa_t isa, rdt_dtype_t dtype, const sources_t *set,
                                 size_t shift)
{
    static const uint32_t nums[] = {1, 2, 3, 4, 5, 6, 7, 9, 16};
    char *want = must_alloc(set->count * set->bytes);

    for (size_t i = 0; i < COUNT_OF(nums); i++) {
        for (rdt_redop_t op = RDT_SUM; op < RDT_NUM_REDOPS; op++) {
            const subject_t who = {isa, dtype, op, nums[i]};
            const subject_t oracle = {RDT_ISA_SCALAR, dtype, op, nums[i]};

            if (!rdt_can_reduce(dtype, op)) continue;
            reduce_by(&oracle, want, (const void *const *)set->src, set->count);
            check_apart(&who, set, want, shift);
            check_both(&who, set, want);
            check_stream(&who, set, want);
            for (size_t same = 0; shift != 0 && same < nums[i]; same++)
                check_aliased(&who, set, want, same);
        }
    }
    free(want);
}

static void check_all_kernels(rdt_isa_t isa)
{
    static const size_t counts[] = {0, 1, 7, 63, 64, 65, 1000, 4099};
    sources_t set;

    for (rdt_dtype_t dtype = 0; dtype < RDT_NUM_DTYPES; dtype++) {
        for (size_t i = 0; i < COUNT_OF(counts); i++) {
            for (size_t shift = 0; shift < 2; shift++) {
                make_sources(&set, dtype, counts[i], shift);
                check_against_oracle(isa, dtype, &set, shift);
                free_sources(&set);
            }
        }
    }
}

static bool has_meaning(rdt_dtype_t dtype, rdt_redop_t op)
{
    const bool is_bits = op == RDT_BAND || op == RDT_BOR || op == RDT_BXOR;

    if (dtype == RDT_F8E8M0FNU) return false;
    if (dtype == RDT_BOOL) return op != RDT_AVG && op != RDT_PREMUL_SUM;
    if (dtype >= RDT_I8 && dtype <= RDT_U64) return op != RDT_PREMUL_SUM;
    if (dtype >= RDT_C32) return !is_bits && op != RDT_MIN && op != RDT_MAX;
    return !is_bits;
}

/* Each instruction set that is there has one kernel for what has a meaning, and none else. */
static void check_kernel_of(rdt_isa_t isa, rdt_dtype_t dtype, rdt_redop_t op)
{
    const rdt_kernel_t kernel = rdt_kernel_get(isa, dtype, op);
    const bool is_premul = op == RDT_PREMUL_SUM;

    expect_value("can reduce, dtype", dtype, has_meaning(dtype, op), rdt_can_reduce(dtype, op));
    expect_value("reduce, dtype", dtype, has_meaning(dtype, op) && !is_premul,
                 kernel.reduce != NULL);
    expect_value("premul, dtype", dtype, has_meaning(dtype, op) && is_premul,
                 kernel.premul != NULL);
}

static void check_dispatch(void)
{
    for (rdt_isa_t isa = RDT_ISA_SCALAR; isa <= rdt_reduce_best_isa(); isa++)
        for (rdt_dtype_t dtype = 0; dtype < RDT_NUM_DTYPES; dtype++)
            for (rdt_redop_t op = 0; op < RDT_NUM_REDOPS; op++)
                check_kernel_of(isa, dtype, op);
    expect_value("out of range: can reduce", RDT_NUM_DTYPES, false,
                 rdt_can_reduce(RDT_NUM_DTYPES, RDT_SUM) ||
                     rdt_can_reduce(RDT_F32, RDT_NUM_REDOPS));
    expect_value("out of range: ISA", RDT_NUM_ISAS, true,
                 rdt_reduce_get(RDT_NUM_ISAS, RDT_F32, RDT_SUM) == NULL);
    expect_value("out of range: dtype", RDT_NUM_DTYPES, true,
                 rdt_reduce_get(RDT_ISA_BASE, RDT_NUM_DTYPES, RDT_SUM) == NULL);
    expect_value("out of range: op", RDT_NUM_REDOPS, true,
                 rdt_reduce_get(RDT_ISA_BASE, RDT_F32, RDT_NUM_REDOPS) == NULL);
}

/* False where it is not available. */
static bool check_isa(rdt_isa_t isa)
{
    if (rdt_reduce_get(isa, RDT_F32, RDT_SUM) == NULL) {
        printf("SKIP %s: not in this build or not on this CPU\n", rdt_isa_name(isa));
        return false;
    }
    for (size_t i = 0; i < COUNT_OF(known_values); i++)
        check_known(isa, &known_values[i]);
    check_half_kernels(isa);
    check_averages(isa);
    check_all_kernels(isa);
    return true;
}

int main(int argc, char **argv)
{
    int num_named = 0, num_checked = 0;

    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        fill_half_values(&kinds[i]);
        check_widening(&kinds[i]);
        check_rounding(&kinds[i]);
    }
    check_dispatch();
    for (rdt_isa_t isa = RDT_ISA_SCALAR; isa < RDT_NUM_ISAS; isa++) {
        if (argc > 1 && strcmp(argv[1], rdt_isa_name(isa)) != 0) continue;
        num_named++;
        num_checked += check_isa(isa);
    }
    printf("%d of %d instruction sets checked, %d failures\n", num_checked, num_named,
           num_failures);
    if (num_failures != 0 || num_named == 0) return 1;
    return num_checked == 0 ? SKIPPED : 0;
}
