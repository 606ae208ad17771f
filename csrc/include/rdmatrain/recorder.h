/* SPDX-License-Identifier: Apache-2.0 */
/* The flight recorder: what this process posted last, and how far it came. One ring for all
 * communicators, which outlives them. Any thread may call what is declared here, at any time. */
#ifndef RDMATRAIN_RECORDER_H
#define RDMATRAIN_RECORDER_H

#include "rdmatrain/coll.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RDT_RECORDER_SIZE 2048u /* records, 128 bytes each, where nobody says otherwise */
#define RDT_RECORDER_MAX (1u << 20)

typedef struct rdt_record {
    uint64_t id;                              /* 1, 2, 3... in the order of posting */
    uint64_t created_ns, started_ns, over_ns; /* CLOCK_MONOTONIC; 0 for what has not happened */
    uint64_t
        seq; /* of a collective in its communicator; of a send, and its recv once they have met,
                   * the sender's count of works with that peer; 0 when not known yet */
    uint64_t in_count, out_count; /* elements */
    uint64_t timeout_ns;
    rdt_shape_t shape;
    uint32_t comm; /* rdt_comm_number */
    uint32_t peer;
    int32_t tag;
    rdt_coll_t coll;
    rdt_dtype_t dtype;
    rdt_redop_t op;
    bool uneven;         /* the shards differ in size */
    rdt_status_t status; /* once it is over */
} rdt_record_t;

/* Makes the ring, of num_records rounded up to a power of two; 0 records nothing. The first call in a
 * process decides, and the first communicator makes the default ring if there is none. BAD_ARG,
 * NO_MEMORY. */
RDT_API rdt_status_t rdt_recorder_open(uint32_t num_records);
/* How many records the ring has room for; 0 when there is none. */
RDT_API size_t rdt_recorder_size(void);
/* Copies what the ring holds, oldest first; how many records that was. records has room for
 * rdt_recorder_size() of them. What is overwritten meanwhile is left out. */
RDT_API size_t rdt_recorder_read(rdt_record_t *records);
/* The oldest that is not over, of the last RDT_RECORDER_SIZE; false when all are. */
RDT_API bool rdt_recorder_waiting(rdt_record_t *record);

typedef struct rdt_recorder_events {
    uint32_t errors;  /* first errors of communicators, but for those that were closed or aborted */
    uint32_t signals; /* that came after rdt_recorder_on_signal */
} rdt_recorder_events_t;

/* What has happened so far; text gets the last of the errors, or "". */
RDT_API rdt_recorder_events_t rdt_recorder_events(char *text, size_t text_bytes);
/* 8 bytes, as an eventfd takes them, are written to fd at each event; -1 for none. */
RDT_API void rdt_recorder_notify(int fd);
/* The signal becomes an event. BAD_ARG when something else handles or ignores it. */
RDT_API rdt_status_t rdt_recorder_on_signal(int signum);

#ifdef __cplusplus
}
#endif

#endif
