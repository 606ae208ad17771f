/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine tells the flight recorder. Each call is a handful of stores: no lock, no system
 * call but the clock. A work that is not recorded has record 0, and these do nothing. */
#ifndef RDT_COLL_RECORDER_H
#define RDT_COLL_RECORDER_H

#include "coll/comm.h"
#include "rdmatrain/recorder.h"

/* A number for a new communicator: 1, 2, 3... Makes the default ring if there is none. */
uint32_t rdt_recorder_number(void);
/* Sets work->record. Before anybody else has the work. */
void rdt_record_created(rdt_work_t *work, uint64_t now_ns);
/* seq is known, and so is work->call.peer. */
void rdt_record_seq_st(const rdt_work_t *work, uint64_t seq);
void rdt_record_started_st(const rdt_work_t *work);
void rdt_record_over_st(const rdt_work_t *work, rdt_status_t status);
/* A communicator has latched its first error. */
void rdt_recorder_error(const char *text);

#endif
