/* SPDX-License-Identifier: Apache-2.0 */
/* Who sends how much to whom in an all_reduce, stage by stage: the plans that the library runs, for
 * simulators and tests. Nothing is connected and nothing is sent. */
#ifndef RDMATRAIN_SCHEDULE_H
#define RDMATRAIN_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#include "rdmatrain/tuning.h"
#include "rdmatrain/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rdt_schedule {
    const rdt_tuning_t *tuning;
    uint32_t world;     /* more than RDT_MAX_WORLD too, to see what would be */
    uint32_t num_hosts; /* divides world; ranks of a host follow each other */
    rdt_dtype_t dtype;
    uint64_t count; /* elements */
} rdt_schedule_t;

/* What a rank sends in one stage, on one of its two streams. */
typedef struct rdt_sends {
    uint32_t stage;
    bool is_result;     /* waits for what the same stage reduces */
    bool is_reduced;    /* the receiver adds it to its own, else it is put in its place */
    uint32_t num;       /* of the entries of these three */
    const uint32_t *to; /* ranks */
    const uint64_t *bytes;
    const uint32_t *messages; /* a pair exchanges at least one in a stage, be it empty */
} rdt_sends_t;

/* Calls each for every stage and stream, in order; what it is given is valid until it returns.
 * BAD_ARG, NO_MEMORY. Any thread. */
RDT_API rdt_status_t rdt_schedule_all_reduce(const rdt_schedule_t *schedule, uint32_t rank,
                                             void (*each)(void *arg, const rdt_sends_t *sends),
                                             void *arg);

#ifdef __cplusplus
}
#endif

#endif
