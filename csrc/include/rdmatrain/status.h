/* SPDX-License-Identifier: Apache-2.0 */
/* One table for every status: the C enum, the C strings and the Python mapping
 * (rdmatrain.errors, checked by tests/repo) are generated from it. */
#ifndef RDMATRAIN_STATUS_H
#define RDMATRAIN_STATUS_H

#define RDT_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* name, value, what is damaged (NONE, CALL, EP, COMM), text.
 * Values are grouped by the largest thing that an error damages, so that a caller decides by
 * range what to rebuild: a call, the connection to one peer, or the whole communicator. */
#define RDT_STATUS_TABLE(X)                                                           \
    X(OK, 0, NONE, "success")                                                         \
    X(AGAIN, 1, NONE, "not now: make progress, then retry")                           \
    X(BAD_ARG, -1, CALL, "argument out of contract")                                  \
    X(NO_MEMORY, -2, CALL, "out of memory or of a limited resource")                  \
    X(UNSUPPORTED, -3, CALL, "not supported for this dtype, operation or transport")  \
    X(WAIT_TIMEOUT, -4, CALL, "the wait ended before the operation did")              \
    X(NO_LIBRARY, -5, CALL, "a shared library that this needs is not installed")      \
    X(PEER_LOST, -20, EP, "peer died or closed its connection")                       \
    X(PEER_REFUSED, -21, EP, "peer refused the connection")                           \
    X(CONNECT_TIMEOUT, -22, EP, "peer did not connect in time")                       \
    X(PROTOCOL, -23, EP, "peer sent something that this version does not understand") \
    X(IO_ERROR, -24, EP, "the operating system refused an I/O call")                  \
    X(TIMEOUT, -40, COMM, "operation did not finish before its deadline")             \
    X(MISMATCH, -41, COMM, "ranks called different collectives")                      \
    X(REMOTE_ERROR, -42, COMM, "another rank reported an error")                      \
    X(CLOSED, -43, COMM, "communicator is closed")

#define RDT_STATUS_ENUM(name, value, scope, text) RDT_##name = (value),
typedef enum rdt_status { RDT_STATUS_TABLE(RDT_STATUS_ENUM) } rdt_status_t;
#undef RDT_STATUS_ENUM

/* Static strings, never NULL; any thread. An unknown value gives "unknown status". */
RDT_API const char *rdt_status_name(rdt_status_t status);
RDT_API const char *rdt_status_text(rdt_status_t status);
RDT_API const char *rdt_status_scope(rdt_status_t status);

/* Explanation of the last call that failed on this thread: valid until the next one; never NULL. */
RDT_API const char *rdt_last_error(void);

#ifdef __cplusplus
}
#endif

#endif
