/* SPDX-License-Identifier: Apache-2.0 */
/* The one door to libibverbs: every call that we make, and no other. The library is opened when it is
 * first needed and never linked, so that the package installs, imports and works without it. */
#ifndef RDT_IBV_IBV_API_H
#define RDT_IBV_IBV_API_H

#include "rdmatrain/status.h"

struct ibv_device; /* of <infiniband/verbs.h>, which the build does not need */

typedef struct rdt_ibv_api {
    struct ibv_device **(*get_device_list)(int *num_devices);
    void (*free_device_list)(struct ibv_device **list);
    const char *(*get_device_name)(struct ibv_device *device);
} rdt_ibv_api_t;

/* Fills the table from libibverbs.so.1, which then stays loaded: its providers cannot be unloaded.
 * NO_LIBRARY when it is missing or too old, naming what was looked for. Any thread. */
rdt_status_t rdt_ibv_load(rdt_ibv_api_t *api_p);

#endif
