/* SPDX-License-Identifier: Apache-2.0 */
/* What libibverbs says of this machine, where it is installed. */
#ifndef RDMATRAIN_VERBS_H
#define RDMATRAIN_VERBS_H

#include <stdint.h>

#include "rdmatrain/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef void (*rdt_device_fn)(void *arg, const char *name);

/* Calls visit for each RDMA device that this process sees; name is valid during the call.
 * NO_LIBRARY without libibverbs, IO_ERROR. Any thread. */
RDT_API rdt_status_t rdt_verbs_devices(rdt_device_fn visit, void *arg);

/* A port, or a device that tells nothing of its ports: then port is 0, error says why and what to do,
 * and of the rest only device is set. Texts are never NULL. */
typedef struct rdt_port {
    const char *device, *error, *firmware;
    const char *state;      /* "DOWN", "INIT", "ARMED", "ACTIVE", "ACTIVE_DEFER" or "UNKNOWN" */
    const char *link_layer; /* "Ethernet", "InfiniBand" or "UNKNOWN" */
    uint32_t port;          /* from 1 */
    uint32_t lid, active_mtu_bytes, num_gids, num_pkeys;
    uint32_t max_msg_bytes;
    double speed_gbps; /* of all lanes, data only; 0 when it is not known */
} rdt_port_t;

typedef void (*rdt_port_fn)(void *arg, const rdt_port_t *port);

/* Calls visit for each port of each device, in the order of libibverbs; port is valid during the call.
 * A device that fails is visited, too, and the others all the same. NO_LIBRARY, IO_ERROR. Any thread. */
RDT_API rdt_status_t rdt_verbs_ports(rdt_port_fn visit, void *arg);

/* OK when this process can use the GID with that index. A GID in the table may be empty, of another
 * network namespace, or of an address that is gone; only an address handle tells, so one is made, to
 * that very GID. UNSUPPORTED, with the reason in rdt_last_error(), when it is not usable; BAD_ARG where
 * there is no such device or port, NO_LIBRARY, IO_ERROR. Any thread. */
RDT_API rdt_status_t rdt_verbs_test_gid(const char *device, uint32_t port, uint32_t index);

/* What a device can have at most, of each; or, when error says why it does not tell, nothing. Texts are
 * never NULL. */
typedef struct rdt_limits {
    const char *device, *error;
    uint64_t max_mr_bytes; /* of one registration */
    uint32_t max_mr, max_qp, max_cq, max_pd;
    uint32_t max_cqe;   /* entries of a completion queue */
    uint32_t max_qp_wr; /* work requests of a queue pair */
    uint32_t max_sge;   /* pieces of a work request */
    uint32_t max_pkeys; /* entries of a port's table */
    /* Why it registers no dmabuf, as GPUs give of their memory; "" where it does, or it is not known. */
    const char *no_dmabuf;
} rdt_limits_t;

typedef void (*rdt_limits_fn)(void *arg, const rdt_limits_t *limits);

/* Calls visit for each device, one that fails too; limits is valid during the call. NO_LIBRARY,
 * IO_ERROR. Any thread. */
RDT_API rdt_status_t rdt_verbs_limits(rdt_limits_fn visit, void *arg);

/* How much memory this process can have registered with a device at once, up to nbytes. A limit counts
 * each registration, and so a few MiB are registered again and again, which needs no memory and little
 * time. OK when *registered_p is nbytes; NO_MEMORY, with the reason in rdt_last_error(), when no more
 * than that could be, to a page; WAIT_TIMEOUT when half a second did not suffice, or nbytes is more
 * than 8 GiB. BAD_ARG where there is no such device, NO_LIBRARY, IO_ERROR: nothing was found out. Any
 * thread; what else it registers meanwhile counts. */
RDT_API rdt_status_t rdt_verbs_test_register(const char *device, uint64_t nbytes,
                                             uint64_t *registered_p);

#ifdef __cplusplus
}
#endif

#endif
