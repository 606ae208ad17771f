/* SPDX-License-Identifier: Apache-2.0 */
/* The questions of rdmatrain/verbs.h, asked of a table: libibverbs, or the fake. */
#ifndef RDT_IBV_IBV_PROBE_H
#define RDT_IBV_IBV_PROBE_H

#include "ibv/ibv_api.h"
#include "rdmatrain/verbs.h"

rdt_status_t rdt_ibv_devices(const rdt_ibv_api_t *api, rdt_device_fn visit, void *arg);
rdt_status_t rdt_ibv_ports(const rdt_ibv_api_t *api, rdt_port_fn visit, void *arg);
rdt_status_t rdt_ibv_test_gid(const rdt_ibv_api_t *api, const char *device, uint32_t port,
                              uint32_t index);
rdt_status_t rdt_ibv_limits(const rdt_ibv_api_t *api, rdt_limits_fn visit, void *arg);
rdt_status_t rdt_ibv_test_register(const rdt_ibv_api_t *api, const char *device, uint64_t nbytes,
                                   uint64_t *registered_p);

#endif
