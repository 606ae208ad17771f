/* SPDX-License-Identifier: Apache-2.0 */
/* Blocking-with-a-deadline helpers over non-blocking sockets, for connection set-up only. */
#ifndef RDT_BASE_SOCK_H
#define RDT_BASE_SOCK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "rdmatrain/status.h"

/* A listening, non-blocking, close-on-exec socket. IO_ERROR with the address's text otherwise. */
rdt_status_t rdt_sock_listen(const struct sockaddr *addr, socklen_t addr_len, int *fd_p);

/* A connected, non-blocking socket. CONNECT_TIMEOUT at the deadline, PEER_REFUSED, IO_ERROR. */
rdt_status_t rdt_sock_connect(const struct sockaddr *addr, socklen_t addr_len, uint64_t deadline_ns,
                              int *fd_p);

/* CONNECT_TIMEOUT at the deadline, else IO_ERROR. */
rdt_status_t rdt_sock_accept(int listen_fd, uint64_t deadline_ns, int *fd_p);

#define RDT_SOCK_FDS 2

/* Descriptors that travel over a unix socket; -1 from the first missing one on. */
typedef struct rdt_fds {
    int fd[RDT_SOCK_FDS];
} rdt_fds_t;

#define RDT_NO_FDS ((rdt_fds_t){{-1, -1}})

/* Exactly len bytes. fds, when not NULL, travel with the first byte and stay the caller's; fds_p,
 * when not NULL, receives descriptors that the caller then owns. CONNECT_TIMEOUT at the deadline,
 * PEER_LOST at end of file or reset. */
rdt_status_t rdt_sock_send(int fd, const void *buf, size_t len, const rdt_fds_t *fds,
                           uint64_t deadline_ns);
rdt_status_t rdt_sock_recv(int fd, void *buf, size_t len, rdt_fds_t *fds_p, uint64_t deadline_ns);
/* Closes those that are there. */
void rdt_fds_close(rdt_fds_t *fds);

#endif
