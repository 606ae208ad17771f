/* SPDX-License-Identifier: Apache-2.0 */
/* Monotonic time only: wall clocks of pods jump. */
#ifndef RDT_BASE_CLOCK_H
#define RDT_BASE_CLOCK_H

#include <limits.h>
#include <stdint.h>
#include <time.h>

#define RDT_NS_PER_MS 1000000ull
#define RDT_NS_PER_S 1000000000ull

static inline uint64_t rdt_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * RDT_NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* The CPU's own counter, of a constant rate, for who counts microseconds: where the kernel does not trust it, a
 * clock is a system call, which in a VM takes as long. */
static inline uint64_t rdt_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t ticks;

    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#else
    return rdt_now_ns();
#endif
}

/* Milliseconds until deadline_ns for poll(): 0 when it has passed, rounded up so that a caller
 * that sleeps this long finds the deadline passed. */
static inline int rdt_ms_until(uint64_t deadline_ns)
{
    uint64_t now = rdt_now_ns();
    uint64_t ms;

    if (now >= deadline_ns) return 0;
    ms = (deadline_ns - now + RDT_NS_PER_MS - 1) / RDT_NS_PER_MS;
    return ms > INT_MAX ? INT_MAX : (int)ms;
}

static inline void rdt_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

/* The end of time for a timeout that reaches beyond it. */
static inline uint64_t rdt_deadline_after(uint64_t now, uint64_t timeout_ns)
{
    return timeout_ns < UINT64_MAX - now ? now + timeout_ns : UINT64_MAX;
}

#endif
