/* SPDX-License-Identifier: Apache-2.0 */
/* futex(2) on a word that may be shared between processes. */
#ifndef RDT_BASE_FUTEX_H
#define RDT_BASE_FUTEX_H

#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

/* Sleeps while *word == expected, at most timeout_ns; may return early. */
static inline void rdt_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
    struct timespec ts = {.tv_sec = (time_t)(timeout_ns / RDT_NS_PER_S),
                          .tv_nsec = (long)(timeout_ns % RDT_NS_PER_S)};

    syscall(SYS_futex, word, FUTEX_WAIT, expected, &ts, NULL, 0);
}

static inline void rdt_futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

#endif
