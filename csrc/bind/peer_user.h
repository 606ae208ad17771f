/* SPDX-License-Identifier: Apache-2.0 */
/* Whose process is at the other end of a connection on loopback: what listens there is in reach of
 * every user of the host, and TCP has no SO_PEERCRED. */
#ifndef RDT_BIND_PEER_USER_H
#define RDT_BIND_PEER_USER_H

#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The user that made the other end's socket, which is on this host. 0, or an errno: ENOTCONN when that
 * end is closed or closing, EAFNOSUPPORT when it is not IPv4, else why the kernel does not tell. The
 * first call opens a descriptor, which stays. For one thread at a time. */
int rdt_peer_user(int sock, uid_t *user_p);

#ifdef __cplusplus
}
#endif

#endif
