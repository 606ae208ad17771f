/* SPDX-License-Identifier: Apache-2.0 */
/* The text of the last failure on this thread. The function that first decides which error it is
 * writes the text, once, with the cause; callers pass the status on silently. */
#ifndef RDT_BASE_ERROR_H
#define RDT_BASE_ERROR_H

#include "rdmatrain/status.h"

#define RDT_ERROR_BYTES 512

/* Stores the text for rdt_last_error() (status.h) and returns status, so that it fits in a return. */
rdt_status_t rdt_fail(rdt_status_t status, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif
