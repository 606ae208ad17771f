/* SPDX-License-Identifier: Apache-2.0 */
/* The first bytes on every new connection, both ways: who is calling, and in which group. */
#ifndef RDT_TRANSPORT_WIRE_H
#define RDT_TRANSPORT_WIRE_H

#include "base/sock.h"
#include "rdmatrain/transport.h"

#define RDT_WIRE_MAGIC 0x334d4152544d4452ull /* "RDMTRAM3": changes with the protocol */

typedef struct rdt_hello {
    uint64_t magic;
    uint8_t token[RDT_TOKEN_BYTES];
    uint32_t rank;
    uint32_t world;
    uint32_t chunk_bytes;
    uint32_t tuning; /* rdt_ctx_cfg_t */
} rdt_hello_t;

_Static_assert(sizeof(rdt_hello_t) == 40, "a wire format has no padding");

typedef struct rdt_link {
    int fd;             /* the socket, owned by the caller of rdt_wire_connect from then on */
    rdt_fds_t peer_fds; /* the descriptors that the peer passed along; likewise */
} rdt_link_t;

typedef struct rdt_dial {
    const rdt_ctx_cfg_t *cfg;
    int listen_fd;
    rdt_fds_t pass_fds; /* sent to every peer with the hello (unix sockets) */
    /* Connects to the address in wire: rdt_sock_connect's statuses. */
    rdt_status_t (*dial)(const rdt_peer_t *peer, uint64_t deadline_ns, int *fd_p);
} rdt_dial_t;

/* Connects every pair of a transport's ranks once: each rank dials the lower ranks and accepts the
 * higher ones. links[i] belongs to peers[i]; on failure all are closed and -1. A caller that does
 * not know the token is dropped and waited past; a peer with another world size or chunk size is
 * refused by name. */
rdt_status_t rdt_wire_connect(const rdt_dial_t *dial, const rdt_peer_t *peers, uint32_t num,
                              uint64_t deadline_ns, rdt_link_t *links);

#endif
