/* SPDX-License-Identifier: Apache-2.0 */
/* The connections of one transport while they are made: all at once, whoever is slow.
 *
 * Either rank of a pair may dial. Where both do, the call of the higher rank stands: it turns the
 * other's away, and the lower one gives its own up when it lets the higher one in. Callers that prove
 * nothing have a short time each, shorter where there is no room for more, and never hold up others.
 * See handshake.h for what is said.
 */
#ifndef RDT_TRANSPORT_WIRE_H
#define RDT_TRANSPORT_WIRE_H

#include "base/sock.h"
#include "rdmatrain/transport.h"

typedef struct rdt_link {
    int fd;             /* the socket, owned by whoever is given the link */
    rdt_fds_t peer_fds; /* the descriptors that the peer passed along; likewise */
} rdt_link_t;

typedef struct rdt_dial {
    const rdt_ctx_cfg_t *cfg;
    int listen_fd;
    rdt_fds_t pass_fds; /* sent to every peer that has proven itself (unix sockets) */
    /* Begins to connect to the address in wire: rdt_sock_dial's statuses. */
    rdt_status_t (*dial)(const rdt_peer_t *peer, int *fd_p);
} rdt_dial_t;

/* Connects every pair of a transport's ranks once: each rank dials the lower ranks and lets the
 * higher ones in. links[i] belongs to peers[i]; on failure all are closed and -1, and nobody is
 * answered any more. A caller that does not know the token is dropped and waited past; a peer that was
 * set up otherwise is refused by name. */
rdt_status_t rdt_wire_connect(const rdt_dial_t *dial, const rdt_peer_t *peers, uint32_t num,
                              uint64_t deadline_ns, rdt_link_t *links);

/* -- one by one: only the peers that are wanted -- */

typedef struct rdt_wire rdt_wire_t;

/* Called from rdt_wire_step: the link is the listener's; the text says what failed, and names no rank.
 * Each peer is joined or failed at most once. */
typedef struct rdt_wire_listener {
    void (*joined)(void *arg, uint32_t i, rdt_link_t *link);
    void (*failed)(void *arg, uint32_t i, rdt_status_t status, const char *text);
    void *arg;
} rdt_wire_listener_t;

/* dial and peers are copied. Nobody is dialled yet. NO_MEMORY, IO_ERROR. */
rdt_status_t rdt_wire_open(const rdt_dial_t *dial, const rdt_peer_t *peers, uint32_t num,
                           const rdt_wire_listener_t *listener, rdt_wire_t **wire_p);
/* The peer is to be joined until deadline_ns, by our call or, where dials is false, by its own. Asked
 * again it changes nothing but may add a call. */
void rdt_wire_want(rdt_wire_t *wire, uint32_t i, bool dials, uint64_t deadline_ns);
/* Moves what can be moved, waiting until until_ns (0: not at all) for something to move. */
void rdt_wire_step(rdt_wire_t *wire, uint64_t until_ns);
/* Readable when step has something to do. What times out is seen by stepping now and then. */
int rdt_wire_fd(const rdt_wire_t *wire);
/* Somebody is in the middle of a handshake with this rank, and waits for its next step. */
bool rdt_wire_has_callers(const rdt_wire_t *wire);
/* Gives up what is still being made. */
void rdt_wire_close(rdt_wire_t *wire);

#endif
