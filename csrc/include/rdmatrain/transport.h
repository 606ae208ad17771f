/* SPDX-License-Identifier: Apache-2.0 */
/* The contract that every transport signs: shm, verbs, tcp and fake.
 *
 * A context is one rank's end of one transport; a connection joins it to one peer. A connection
 * carries messages on lanes. A lane is FIFO and loses nothing; lanes are independent, so that a lane
 * whose receiver does not consume never holds up another. The receiver owns a fixed number of slots
 * per lane, agreed when the connection is made, and a message is written straight into the next one:
 * by a store (shm), by RDMA WRITE (verbs), by recv() (tcp). A sender without a free slot gets AGAIN.
 * Where both ends can (verbs, tcp), data need not go through a slot: the receiver exposes the tensor
 * that it is for, and the sender puts it there. The header still takes a slot.
 *
 * Thread rule: set-up calls come from one thread at a time; functions marked HOT may be called only
 * by the thread that drives the communicator, never block, never allocate, never lock.
 */
#ifndef RDMATRAIN_TRANSPORT_H
#define RDMATRAIN_TRANSPORT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rdmatrain/dmabuf.h"
#include "rdmatrain/status.h"
#include "rdmatrain/types.h"

#define RDT_HDR_BYTES 72   /* header of a message, opaque to the transport */
#define RDT_WIRE_BYTES 128 /* largest address that a context publishes */
#define RDT_TOKEN_BYTES 16 /* incarnation of the group: a stale or foreign peer is refused by it */
#define RDT_LABEL_BYTES 96 /* "host, pid" of a peer, for error texts */
#define RDT_DETAIL_BYTES 400
#define RDT_DATA_ALIGN 64 /* alignment of received data */
#define RDT_SLEEP_FDS 16  /* that a context watches, besides one for each connection */

typedef enum rdt_lane { RDT_LANE_COLL, RDT_LANE_P2P, RDT_NUM_LANES } rdt_lane_t;

typedef struct rdt_transport_ops rdt_transport_ops_t;

typedef struct rdt_ctx_cfg {
    uint32_t rank;
    uint32_t world;
    uint32_t chunk_bytes;            /* largest data of one message; equal on all ranks */
    uint32_t tuning;                 /* digest of what ranks must have equal besides */
    uint32_t stream_from, stream_to; /* bytes of data that shm writes past the caches */
    uint8_t token[RDT_TOKEN_BYTES];
    bool lazy; /* tcp, verbs: a peer is connected when it is first needed, not by connect */
    uint64_t
        timeout_ns; /* of the group's operations: of who is needed to join, and a bound of what a
                          * NIC retries for; 0: unknown */
    /* tcp: numeric address to listen on. fake: its script. verbs: see transport/verbs.h. else unused */
    const char *addr;
} rdt_ctx_cfg_t;

/* First member of each transport's own context. */
typedef struct rdt_ctx {
    const rdt_transport_ops_t *ops;
    rdt_ctx_cfg_t cfg;
} rdt_ctx_t;

/* First member of each transport's own connection. */
typedef struct rdt_conn {
    const rdt_transport_ops_t *ops;
    rdt_ctx_t *ctx;
    uint32_t peer;
    /* OK, or latched: PEER_LOST, PROTOCOL, IO_ERROR; CLOSED after cut. No source is read any more then. */
    rdt_status_t status;
    int sys_errno; /* behind status, 0 where there is none */
    char detail
        [RDT_DETAIL_BYTES]; /* what the device said, behind status; "" where there is nothing */
    /* Per lane: messages that send accepted, and how many of these no longer need their source, in
     * the order of sending; flushed <= posted. Lanes are flushed independently. */
    uint64_t posted[RDT_NUM_LANES], flushed[RDT_NUM_LANES];
    /* Nobody has needed it yet, or it is being made: nothing was sent on it, and what came is not seen. */
    bool unjoined;
    /* Both ends have expose and put, and memory for them. */
    bool places;
    /* Bytes of data, without headers, that this rank sent and took; and of these, how many the CPU
     * copied between a tensor and memory of the transport. Any thread may read them. */
    _Atomic uint64_t sent_bytes, received_bytes, staged_bytes;
    /* Direct access: the peer's arena, mapped here for loads and stores, or NULL; and whether the
     * peer has mapped this rank's. What a message says of the memory of its sender is an offset in
     * there. */
    uint8_t *arena;
    size_t arena_bytes;
    bool shares_arena;
    /* The peer's revocation, see revoke; set where arena is. */
    const _Atomic uint64_t *revoked;
} rdt_conn_t;

typedef struct rdt_peer {
    uint32_t rank;
    uint8_t wire[RDT_WIRE_BYTES];
    uint32_t wire_len;
} rdt_peer_t;

typedef struct rdt_msg {
    const void *hdr;  /* RDT_HDR_BYTES */
    const void *data; /* len bytes, aligned to RDT_DATA_ALIGN; NULL where they were put in place */
    uint32_t len;
} rdt_msg_t;

/* What a sleeper must watch: see arm. */
typedef struct rdt_sleep {
    bool use_futex; /* in: no descriptors are watched, so a futex will do */
    _Atomic uint32_t *futex;
    uint32_t futex_value;
    struct pollfd *fds; /* in: room for one for each peer, and RDT_SLEEP_FDS for each context */
    uint32_t num_fds;
} rdt_sleep_t;

struct rdt_transport_ops {
    const char *name;
    bool has_futex; /* arrivals can wake a futex, see arm; else only descriptors */

    /* -- set-up: may block and allocate; texts of failures are in rdt_last_error() -- */

    /* BAD_ARG, NO_MEMORY, IO_ERROR. */
    rdt_status_t (*open)(const rdt_ctx_cfg_t *cfg, rdt_ctx_t **ctx_p);
    /* The address that peers need to connect: at most RDT_WIRE_BYTES. Cannot fail once open. */
    uint32_t (*address)(const rdt_ctx_t *ctx, uint8_t *wire);
    /* Connects to all peers of this transport at once; every rank calls it with its own list.
     * conns has num entries; they are valid only when OK is returned. With cfg.lazy they may be
     * unjoined, and become joined or fail while they are used.
     * CONNECT_TIMEOUT, PEER_REFUSED, PEER_LOST, PROTOCOL, NO_MEMORY, each naming the rank. */
    rdt_status_t (*connect)(rdt_ctx_t *ctx, const rdt_peer_t *peers, uint32_t num,
                            uint64_t deadline_ns, rdt_conn_t **conns);
    /* Ends one connection: no source is read any more, and the peer sees PEER_LOST after what had
     * been flushed. Only close may follow. */
    void (*cut)(rdt_conn_t *conn);
    /* Optional (NULL), for transports with direct access or places: this rank leaves or has failed,
     * and takes its memory back from every operation whose number is from or higher. A peer that has
     * read it looks at its conn->revoked afterwards, which is 0 before and from since. What a peer
     * still puts reaches no memory of this rank once this has returned. */
    void (*revoke)(rdt_ctx_t *ctx, uint64_t from);
    /* Optional (NULL): memory of a device, which expose, put and store take from here on until disown or close,
     * and which is never copied by the CPU: send does not take it. UNSUPPORTED: a NIC, its driver or the
     * library cannot; NO_MEMORY, IO_ERROR. */
    rdt_status_t (*adopt)(rdt_ctx_t *ctx, const rdt_dmabuf_t *memory);
    /* Nothing of it is under way, and no peer puts anything there any more. */
    void (*disown)(rdt_ctx_t *ctx, const void *addr);
    /* Optional (NULL): the rails of a connection that has joined, at most RDT_MAX_RAILS, and how many; 0
     * before. They never change. Any thread. */
    uint32_t (*rails)(const rdt_conn_t *conn, rdt_rail_t *rails);
    /* Frees the context with its connections. Data already flushed still reaches a living peer. */
    void (*close)(rdt_ctx_t *ctx);

    /* -- HOT -- */

    /* hdr is copied at once. data must stay as it is until this message counts as flushed.
     * OK, AGAIN (no free slot), or the connection's latched status. len <= chunk_bytes. */
    rdt_status_t (*send)(rdt_conn_t *conn, rdt_lane_t lane, const void *hdr, const void *data,
                         uint32_t len);
    /* Optional (NULL), for conn->places: lets the peer put data to [addr, addr + len), which it is
     * told as at. UNSUPPORTED: this memory is none that the transport can reach, so its data goes
     * through slots. The first time for an extent of the arena registers it, which is slow. Holds
     * until the peer has put each byte once, or revoke; a peer puts nothing where it was not told to,
     * so no call ends it. */
    rdt_status_t (*expose)(rdt_conn_t *conn, void *addr, size_t len, uint64_t *at_p);
    /* As send, but the data goes to at, of what the peer exposed; it is there when the message is. */
    rdt_status_t (*put)(rdt_conn_t *conn, rdt_lane_t lane, const void *hdr, const void *data,
                        uint32_t len, uint64_t at);
    /* Optional (NULL), for conn->places: as put, without a message, so it takes no slot. The peer is told
     * nothing: it finds the bytes in its memory, in any order, and any number of times. Over one rail all
     * are there once a message that was sent behind them has come. Counts as posted and flushed on the lane.
     * UNSUPPORTED: data is none that the transport can read where it lies. */
    rdt_status_t (*store)(rdt_conn_t *conn, rdt_lane_t lane, const void *data, uint32_t len,
                          uint64_t at);
    /* The oldest message of the lane, without consuming it: the same one until release.
     * OK, AGAIN (none yet), or the latched status once all that had arrived is consumed. */
    rdt_status_t (*peek)(rdt_conn_t *conn, rdt_lane_t lane, rdt_msg_t *msg_p);
    /* Gives the slot of the message that peek returned back to the sender. */
    void (*release)(rdt_conn_t *conn, rdt_lane_t lane);
    /* Optional (NULL), for connections that may be unjoined: a message will be expected from the peer
     * on the point-to-point lane, so it is to be there, or its loss to be seen. On the other lane to
     * peek says so, and on both to send. */
    void (*expect)(rdt_conn_t *conn);
    /* Optional (NULL), likewise: lets in who calls, as far as that gets now; poll does it less often where
     * this rank needs nobody. True while somebody waits for the next step, so come back soon. */
    bool (*let_in)(rdt_ctx_t *ctx);
    /* Moves what the operating system or the NIC has: call between attempts. Makes connections that are
     * unjoined and needed, and only then allocates. */
    void (*poll)(rdt_ctx_t *ctx);
    /* Asks the operating system whether the peers live, and latches what it says: a few system
     * calls, so not on every turn. */
    void (*check)(rdt_ctx_t *ctx);

    /* -- sleeping: arm, poll and look once more, sleep, disarm -- */

    /* From arm on, anything that a peer does changes *futex and wakes it (when use_futex and the
     * transport sets it), or makes one of the descriptors that it adds readable or writable. */
    void (*arm)(rdt_ctx_t *ctx, rdt_sleep_t *sleep);
    void (*disarm)(rdt_ctx_t *ctx);
};

/* HOT. Only the driver counts, so that this need be no locked instruction. */
static inline void rdt_count_bytes(_Atomic uint64_t *counter, uint64_t bytes)
{
    uint64_t sum = atomic_load_explicit(counter, memory_order_relaxed) + bytes;

    atomic_store_explicit(counter, sum, memory_order_relaxed);
}

extern const rdt_transport_ops_t rdt_shm_ops, rdt_verbs_ops, rdt_tcp_ops, rdt_fake_ops;

#endif
