/* SPDX-License-Identifier: Apache-2.0 */
/* Communicators, collectives and point-to-point: the C surface that bind/ and tests use.
 *
 * Collectives of a communicator run in the order in which they are posted, and every rank must post
 * the same ones in the same order: operation, dtype, shape, count, reduction, factor and root travel
 * with each, and a difference fails the communicator on every rank, naming both sides. Reductions are made in a fixed
 * order, so that every rank holds the same bits, on every transport and chunk size: that of the ranks;
 * but an all_reduce or a reduce_scatter of ranks on several hosts may be made of the hosts' sums (way in
 * tuning.h).
 *
 * The first error that damages a communicator is latched, told to the other ranks, and is the
 * result of everything that is pending or posted later.
 */
#ifndef RDMATRAIN_COLL_H
#define RDMATRAIN_COLL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rdmatrain/tuning.h"
#include "rdmatrain/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rdt_comm rdt_comm_t;
typedef struct rdt_work rdt_work_t;

#define RDT_COMM_TOKEN_BYTES 16
#define RDT_COMM_WIRE_BYTES 128
#define RDT_COMM_LABEL_BYTES 96
#define RDT_MAX_WORLD 4096u
#define RDT_NO_TIMEOUT UINT64_MAX

typedef struct rdt_comm_cfg {
    uint32_t rank;
    uint32_t world;             /* 1 to RDT_MAX_WORLD */
    const rdt_tuning_t *tuning; /* equal on all ranks, copied; NULL for the default */
    const uint32_t
        *hosts; /* of each rank, by any numbers; NULL when all are on one. Equal on all ranks,
                            * as said at way in tuning.h; not kept */
    uint8_t token[RDT_COMM_TOKEN_BYTES]; /* random, equal on all ranks, new for each group */
    /* Ranks are connected when they first need each other, where the transport can: what is wrong with
     * a peer is then found by the first operation that needs it, not by rdt_comm_connect; and a recv
     * from any rank does not notice the end of one that nothing was exchanged with. */
    bool lazy;
    uint64_t spin_ns; /* how long a waiter polls before it sleeps; 0 when ranks share cores */
    uint64_t
        timeout_ns; /* of its operations, in general: of who is needed to join, and a bound of what a
                     * NIC retries for; 0: unknown */
} rdt_comm_cfg_t;

/* How rank i is reached. The entry of the rank itself is ignored but for its label. */
typedef struct rdt_peer_info {
    const char *transport;             /* "shm", "verbs", "tcp" or "fake"; must be open */
    uint8_t wire[RDT_COMM_WIRE_BYTES]; /* what that rank's rdt_comm_address gave */
    uint32_t wire_len;
    char label[RDT_COMM_LABEL_BYTES]; /* "host, pid": for error texts */
} rdt_peer_info_t;

/* Statuses of failed calls are explained by rdt_last_error() on the same thread. */

RDT_API rdt_status_t rdt_comm_open(const rdt_comm_cfg_t *cfg, rdt_comm_t **comm_p);
/* Opens one transport; arg: the numeric address to listen on (tcp), the devices (verbs, see
 * transport/verbs.h), the script (fake), or NULL.
 * wire_p gets what peers need to connect here. */
RDT_API rdt_status_t rdt_comm_listen(rdt_comm_t *comm, const char *transport, const char *arg,
                                     uint8_t wire[RDT_COMM_WIRE_BYTES], uint32_t *wire_len_p);
/* Connects to all peers and starts the progress thread. peers has world entries. Once per comm. */
RDT_API rdt_status_t rdt_comm_connect(rdt_comm_t *comm, const rdt_peer_info_t *peers,
                                      uint64_t timeout_ns);
/* Latches the error and fails all work; to the peers this rank has left the group. Any thread, once
 * connected; then close. */
RDT_API void rdt_comm_abort(rdt_comm_t *comm, const char *reason);
/* Says goodbye, fails pending work with CLOSED, joins the thread (so it may wait), frees. No other
 * call on comm may be running; works are over then, and may be freed later. */
RDT_API void rdt_comm_close(rdt_comm_t *comm);
/* In a child that was forked from the rank's process nothing may be posted, and abort and close do
 * nothing: peers would take its words for the rank's. */
RDT_API bool rdt_comm_is_forked(const rdt_comm_t *comm);
/* OK or the latched error; text gets its explanation, or "". Any thread. */
RDT_API rdt_status_t rdt_comm_status(rdt_comm_t *comm, char *text, size_t text_bytes);
/* By which the flight recorder knows it: 1, 2, 3... in this process. */
RDT_API uint32_t rdt_comm_number(const rdt_comm_t *comm);
/* What went to and came from one peer. */
typedef struct rdt_peer_stats {
    uint64_t sent_bytes, received_bytes; /* of data, without headers */
    uint64_t
        staged_bytes; /* of these: copied by the CPU between a tensor and a transport's memory */
    /* Over which ports, where it is verbs, once the two have joined: 0 before, see lazy of rdt_comm_cfg_t. */
    uint32_t num_rails;
    rdt_rail_t rails[RDT_MAX_RAILS];
} rdt_peer_stats_t;

/* A snapshot, all 0 for the rank itself. BAD_ARG. Any thread; a driver may be counting meanwhile. */
RDT_API rdt_status_t rdt_comm_stats(const rdt_comm_t *comm, uint32_t peer,
                                    rdt_peer_stats_t *stats_p);
/* Name of the transport that joins this rank to peer; "self" for itself. */
RDT_API const char *rdt_comm_transport(const rdt_comm_t *comm, uint32_t peer);

typedef enum rdt_coll {
    RDT_ALL_REDUCE,     /* in, out: count elements; in == out is in place */
    RDT_REDUCE,         /* in: count elements; out: count, written on the root alone */
    RDT_BROADCAST,      /* out: count elements, read on the root, written elsewhere */
    RDT_ALL_GATHER,     /* in: count elements; out: world shards of count */
    RDT_GATHER,         /* the same, with an output on the root alone */
    RDT_SCATTER,        /* in: world shards of count elements, on the root alone; out: count */
    RDT_REDUCE_SCATTER, /* in: world shards of count elements; out: count */
    RDT_ALL_TO_ALL, /* in: world shards of count elements, one to each rank; out: one from each */
    RDT_BARRIER,    /* nothing moves */
    RDT_SEND,       /* in: count elements to peer; done when a recv has them coming, or kept */
    RDT_RECV,       /* out: count elements from peer with the same tag, in order of sending */
    RDT_REFUSED,    /* moves nothing: tells the others that this rank refused, see rdt_call_t */
    RDT_NUM_COLLS
} rdt_coll_t;

RDT_API const char *rdt_coll_name(rdt_coll_t coll);

#define RDT_ANY_PEER UINT32_MAX /* a recv from whoever sends with the tag */

/* The dimensions of a tensor, packed to travel with a call: all zero where none are said. */
typedef struct rdt_shape {
    uint8_t code[16];
} rdt_shape_t;

/* Never fails: what does not fit becomes a hash. Any thread. */
RDT_API rdt_shape_t rdt_shape_pack(const int64_t *dims, size_t num_dims);
#define RDT_SHAPE_MAX_DIMS 15
/* False where no shape was said, or only a hash is left. dims has room for RDT_SHAPE_MAX_DIMS. */
RDT_API bool rdt_shape_unpack(const rdt_shape_t *shape, int64_t *dims, size_t *num_dims_p);

typedef struct rdt_call {
    rdt_coll_t coll;
    rdt_dtype_t dtype;
    rdt_redop_t op;
    uint32_t peer;     /* root, receiver of a send, sender for a recv (or RDT_ANY_PEER) */
    int32_t tag;       /* send and recv */
    uint32_t parts;    /* collectives: how many of them one call of the program is; 0 for one alone.
                        * Equal on all ranks, so that none is taken for a part of another call. */
    double factor;     /* PREMUL_SUM; equal on all ranks */
    uint64_t count;    /* elements, as said at each rdt_coll_t */
    rdt_shape_t shape; /* of the tensor, where it must be the same on all ranks; not looked at in
                        * all_to_all, send, recv, and where there are in_counts or out_counts */
    const void *in;
    void *out;
    /* Shards that do not lie one behind the other: world pointers instead of in or out. */
    const void *const *in_shards;
    void *const *out_shards;
    /* Shards that differ in size: world counts of elements, else NULL. The rank's own shard has count
     * elements (all_to_all: no matter). All four arrays are copied by post. */
    const uint64_t *in_counts, *out_counts;
    uint64_t timeout_ns; /* from now; RDT_NO_TIMEOUT for none */
    const char *refusal; /* RDT_REFUSED: the reason, shown to ranks that did not refuse */
    bool background;     /* nobody will wait soon: wake the progress thread at once */
    /* Called once when the work is over, from a thread that waits or the progress thread, with no
     * lock held; it may post. text explains status. NULL for none. */
    void (*done)(void *arg, rdt_status_t status, const char *text);
    void *arg;
} rdt_call_t;

/* Buffers belong to the library from here until the work is done. Any thread. On an error status
 * nothing was posted: BAD_ARG, NO_MEMORY, UNSUPPORTED, or the latched error of the communicator. */
RDT_API rdt_status_t rdt_post(rdt_comm_t *comm, const rdt_call_t *call, rdt_work_t **work_p);
/* Drives the communicator until the work is done: its status, or WAIT_TIMEOUT (it goes on).
 * Any thread, several at once. Must not be called from a done callback. */
RDT_API rdt_status_t rdt_work_wait(rdt_work_t *work, uint64_t timeout_ns);
/* AGAIN while it is pending, else its status. Any thread. */
RDT_API rdt_status_t rdt_work_test(const rdt_work_t *work);
/* Explanation of a status that is not OK: valid until the work is freed. */
RDT_API const char *rdt_work_text(const rdt_work_t *work);
/* The sender of a recv that is done, whoever it was asked of. */
RDT_API uint32_t rdt_work_peer(const rdt_work_t *work);
/* Gives up the caller's handle; a work that was posted with background runs on. */
RDT_API void rdt_work_free(rdt_work_t *work);

/* A way of a collective of ranks on several hosts. */
typedef struct rdt_way_info {
    const char *name;
    uint64_t cost_ns; /* by the cost model */
    bool fits;        /* such a group can take it for so many bytes, */
    bool chosen;      /* and would */
} rdt_way_info_t;

/* Of world ranks that are spread evenly over num_hosts, for bytes of each rank: of an all_gather those that
 * each has, of a reduce_scatter those that each gets. ways has RDT_NUM_WAYS entries. Any thread. */
RDT_API void rdt_coll_ways(rdt_coll_t coll, const rdt_tuning_t *tuning, uint32_t world,
                           uint32_t num_hosts, uint64_t bytes, rdt_way_info_t *ways);

#ifdef __cplusplus
}
#endif

#endif
