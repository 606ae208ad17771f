/* SPDX-License-Identifier: Apache-2.0 */
#include "reduce/copy.h"

#include <stdint.h>
#include <string.h>

#define MIN_STREAM_BYTES ((size_t)4 << 20)
#define MAX_STREAM_BYTES ((size_t)64 << 20)

static void copy_plain(void *dst, const void *src, size_t bytes)
{
    if (bytes != 0) memcpy(dst, src, bytes);
}

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#define LINE_BYTES 64u

/* Bytes before the first whole line of dst. */
static size_t head_bytes(const void *dst, size_t bytes)
{
    const size_t head = -(uintptr_t)dst % LINE_BYTES;

    return head < bytes ? head : bytes;
}

/* A line is always written whole, by adjacent stores: a part of it would go to memory as a read and
 * a write. What is outside of whole lines goes through the cache. */
__attribute__((target("avx2"))) static void copy_avx2(void *dst, const void *src, size_t bytes)
{
    const size_t head = head_bytes(dst, bytes);
    const size_t end = bytes - (bytes - head) % LINE_BYTES;
    const char *from = src;
    char *to = dst;

    copy_plain(to, from, head);
    for (size_t at = head; at < end; at += LINE_BYTES) {
        const __m256i low = _mm256_loadu_si256((const void *)(from + at));
        const __m256i high = _mm256_loadu_si256((const void *)(from + at + sizeof(low)));

        _mm256_stream_si256((void *)(to + at), low);
        _mm256_stream_si256((void *)(to + at + sizeof(low)), high);
    }
    copy_plain(to + end, from + end, bytes - end);
}

__attribute__((target("avx512f"))) static void copy_avx512(void *dst, const void *src, size_t bytes)
{
    const size_t head = head_bytes(dst, bytes);
    const size_t end = bytes - (bytes - head) % LINE_BYTES;
    const char *from = src;
    char *to = dst;

    copy_plain(to, from, head);
    for (size_t at = head; at < end; at += LINE_BYTES)
        _mm512_stream_si512((void *)(to + at), _mm512_loadu_si512(from + at));
    copy_plain(to + end, from + end, bytes - end);
}

rdt_copy_fn rdt_copy_get(rdt_copy_isa_t isa)
{
    switch (isa) {
    case RDT_COPY_MEMCPY:
        return copy_plain;
    case RDT_COPY_AVX2:
        return __builtin_cpu_supports("avx2") ? copy_avx2 : NULL;
    case RDT_COPY_AVX512:
        return __builtin_cpu_supports("avx512f") ? copy_avx512 : NULL;
    default:
        return NULL;
    }
}
void rdt_copy_fence(void)
{
    _mm_sfence();
}

/* Leaf 4 of Intel's CPUs and leaf 0x8000001d of AMD's list caches in the same form. sysconf is not
 * asked: in a VM it adds up the caches of the whole host. */
static size_t last_cache_bytes(void)
{
    static const unsigned leaves[] = {4, 0x8000001d};
    size_t largest = 0;

    for (size_t i = 0; i < sizeof(leaves) / sizeof(leaves[0]); i++) {
        for (unsigned index = 0; index < 8; index++) {
            unsigned eax, ebx, ecx, edx;
            size_t bytes;

            if (__get_cpuid_count(leaves[i], index, &eax, &ebx, &ecx, &edx) == 0) break;
            if ((eax & 0x1f) == 0) break; /* no further cache */
            /* ways x partitions x line x sets */
            bytes = ((size_t)(ebx >> 22) + 1) * ((ebx >> 12 & 0x3ff) + 1) * ((ebx & 0xfff) + 1) *
                    ((size_t)ecx + 1);
            if (bytes > largest) largest = bytes;
        }
    }
    return largest;
}
#else
rdt_copy_fn rdt_copy_get(rdt_copy_isa_t isa)
{
    return isa == RDT_COPY_MEMCPY ? copy_plain : NULL;
}

void rdt_copy_fence(void) {}

static size_t last_cache_bytes(void)
{
    return 0;
}
#endif

rdt_copy_isa_t rdt_copy_best_isa(void)
{
    rdt_copy_isa_t isa = RDT_NUM_COPIES - 1;

    while (isa > RDT_COPY_MEMCPY && rdt_copy_get(isa) == NULL)
        isa--;
    return isa;
}

const char *rdt_copy_isa_name(rdt_copy_isa_t isa)
{
    static const char *const names[RDT_NUM_COPIES] = {
        [RDT_COPY_MEMCPY] = "memcpy",
        [RDT_COPY_AVX2] = "avx2",
        [RDT_COPY_AVX512] = "avx512",
    };

    return (unsigned)isa < RDT_NUM_COPIES ? names[isa] : "unknown";
}

void rdt_copy(void *dst, const void *src, size_t bytes, bool stream)
{
    if (!stream) {
        copy_plain(dst, src, bytes);
        return;
    }
    rdt_copy_get(rdt_copy_best_isa())(dst, src, bytes);
    rdt_copy_fence();
}

size_t rdt_copy_stream_bytes(void)
{
    const size_t quarter = last_cache_bytes() / 4;

    if (quarter < MIN_STREAM_BYTES) return MIN_STREAM_BYTES;
    return quarter < MAX_STREAM_BYTES ? quarter : MAX_STREAM_BYTES;
}
