/* SPDX-License-Identifier: Apache-2.0 */
/* Helpers over non-blocking sockets, for connection set-up only. */
#ifndef RDT_BASE_SOCK_H
#define RDT_BASE_SOCK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "rdmatrain/status.h"

/* A listening, non-blocking, close-on-exec socket. IO_ERROR with the address's text otherwise. */
rdt_status_t rdt_sock_listen(const struct sockaddr *addr, socklen_t addr_len, int *fd_p);

/* The same on a free port of a numeric address; addr becomes what peers dial. BAD_ARG, IO_ERROR. */
rdt_status_t rdt_sock_listen_at(const char *text, struct sockaddr_storage *addr, socklen_t *len_p,
                                int *fd_p);

/* Begins to connect, without waiting: a refusal may come from here or from the first push. AGAIN: the
 * peer is there, but its queue is full. PEER_REFUSED, IO_ERROR. */
rdt_status_t rdt_sock_dial(const struct sockaddr *addr, socklen_t addr_len, int *fd_p);

/* A caller that waits, non-blocking and close-on-exec. AGAIN: there is none. IO_ERROR. */
rdt_status_t rdt_sock_accept(int listen_fd, int *fd_p);

/* A peer whose machine vanished is given up by the kernel within about 10 s. IO_ERROR. */
rdt_status_t rdt_sock_keep_alive(int fd);

#define RDT_SOCK_FDS 2

/* Descriptors that travel over a unix socket; -1 from the first missing one on. */
typedef struct rdt_fds {
    int fd[RDT_SOCK_FDS];
} rdt_fds_t;

#define RDT_NO_FDS ((rdt_fds_t){{-1, -1}})

/* As much of len bytes from *done on as goes now, and moves *done; OK when that is all, AGAIN when not.
 * fds, when not NULL, travel with the first byte and stay the caller's; fds_p, when not NULL, receives
 * descriptors that the caller then owns: it must be RDT_NO_FDS at first. PEER_REFUSED when a dialled
 * socket turns out not to connect, PEER_LOST at end of file or reset, IO_ERROR. */
rdt_status_t rdt_sock_push(int fd, const void *buf, size_t len, size_t *done, const rdt_fds_t *fds);
rdt_status_t rdt_sock_pull(int fd, void *buf, size_t len, size_t *done, rdt_fds_t *fds_p);
/* Closes those that are there. */
void rdt_fds_close(rdt_fds_t *fds);

#endif
