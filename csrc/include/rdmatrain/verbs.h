/* SPDX-License-Identifier: Apache-2.0 */
/* What libibverbs says of this machine, where it is installed. */
#ifndef RDMATRAIN_VERBS_H
#define RDMATRAIN_VERBS_H

#include "rdmatrain/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef void (*rdt_device_fn)(void *arg, const char *name);

/* Calls visit for each RDMA device that this process sees; name is valid during the call.
 * NO_LIBRARY without libibverbs, IO_ERROR. Any thread. */
RDT_API rdt_status_t rdt_verbs_devices(rdt_device_fn visit, void *arg);

#ifdef __cplusplus
}
#endif

#endif
