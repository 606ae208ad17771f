/* SPDX-License-Identifier: Apache-2.0 */
/* Private to coll/: the communicator and its works.
 *
 * One thread at a time drives a communicator: it holds the role (a try-lock that nobody blocks on).
 * Functions and fields marked _st belong to the driver. Everything else that threads share is
 * atomic, or under error_lock. Works reach the driver through a lock-free stack; a work is over when
 * its callback has returned and its state says DONE, in this order.
 */
#ifndef RDT_COLL_COMM_H
#define RDT_COLL_COMM_H

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/error.h"
#include "coll/plan.h"
#include "coll/stages.h"
#include "rdmatrain/coll.h"
#include "rdmatrain/transport.h"
#include "reduce/copy.h"
#include "reduce/partial.h"

enum { RDT_WORK_PENDING, RDT_WORK_DONE };

struct rdt_work {
    rdt_work_t *next;
    rdt_comm_t *comm; /* not to be touched once DONE: the communicator may be gone */
    rdt_call_t call;
    void *arrays;  /* owned: the shards and counts of call, or NULL */
    char *refusal; /* owned copy behind call.refusal, or NULL */
    uint64_t seq;  /* 1, 2, 3...: of collectives, and of a peer's point-to-point works */
    uint64_t deadline_ns;
    uint64_t record; /* in the flight recorder, or 0 */
    _Atomic uint32_t state;
    _Atomic uint32_t refs; /* the caller's handle, and the driver's until DONE */
    rdt_status_t status;
    char *text; /* owned: why it failed; NULL when it did not, or when there was no memory */
    /* point-to-point, see p2p.c */
    uint64_t p2p_order; /* of posting, over all peers */
    uint32_t p2p_state;
    uint64_t p2p_done; /* bytes sent or received */
    uint64_t p2p_id;   /* seq of the other side's work, once matched */
    uint64_t p2p_at;   /* where the data is put, as the receiver said; 0: through slots */
    uint64_t posted;   /* what the lane had posted after the last byte of a send, or the CTS */
};

typedef enum rdt_kind {
    RDT_KIND_INPUT,  /* collective, stream INPUT */
    RDT_KIND_RESULT, /* collective, stream RESULT */
    RDT_KIND_RTS,    /* a send waits for its recv */
    RDT_KIND_EAGER,  /* the same, small enough to come along */
    RDT_KIND_TAKEN,  /* recvs have taken so much of what came along; count: its cost */
    RDT_KIND_CTS,    /* the recv is there */
    RDT_KIND_DATA,
    RDT_KIND_BYE,   /* the sender leaves in good order */
    RDT_KIND_ERROR, /* the sender's communicator failed; data: why */
} rdt_kind_t;

#define RDT_UNSAID \
    UINT64_MAX /* of what is taken: another number for each peer, or the call has stages */

/* The header of every message. */
typedef struct rdt_hdr {
    uint8_t kind, coll, dtype, op;
    union {
        uint32_t peer;
        uint32_t stage; /* of what has no root: 1, 2... of several; 0 of the only one */
    };
    union {
        int32_t tag;
        uint32_t parts; /* of a collective: the call's */
    };
    uint32_t index; /* of the chunk in its stream */
    uint64_t seq;
    uint64_t count;
    union {
        uint64_t id;    /* point-to-point: the receiver's work */
        uint64_t in_at; /* collective: offset + 1 of the sender's input in its arena, or 0; */
    };
    uint64_t
        out_at; /* of its output: see direct.h; or, also in a CTS, where to put data: place.h */
    union {
        double factor;
        uint64_t
            takes; /* all_to_all, all_gather: elements that the sender takes from the receiver */
    };
    rdt_shape_t shape;
} rdt_hdr_t;

_Static_assert(sizeof(rdt_hdr_t) == RDT_HDR_BYTES, "a wire format has no padding");

/* A send that the peer announced and that no recv has matched yet. */
typedef struct rdt_rts {
    struct rdt_rts *next;
    uint64_t order; /* of arrival, over all peers */
    rdt_hdr_t hdr;
    uint8_t data[]; /* of an EAGER one */
} rdt_rts_t;

typedef struct rdt_peer_state {
    rdt_conn_t *conn; /* NULL for the rank itself */
    char label[RDT_COMM_LABEL_BYTES];
    bool told;        /* the last words are on their way to the peer */
    bool bye;         /* the peer left in good order, */
    uint64_t bye_seq; /* after this many collectives */
    /* active collective; _st */
    uint32_t tx_next[RDT_NUM_STREAMS], tx_total[RDT_NUM_STREAMS];
    uint32_t rx_next[RDT_NUM_STREAMS], rx_total[RDT_NUM_STREAMS];
    uint64_t posted; /* what the lane had posted after the last chunk of the collective */
    bool held;       /* the chunk to be reduced next lies at the head of the lane */
    const void *held_data;
    /* direct access in the active collective, see direct.h; _st */
    uint64_t exposed_at;  /* offset + 1 of what the peer may read here, or 0 */
    const uint8_t *in_at; /* the peer's input and output as this rank sees them, or NULL */
    uint8_t *out_at;
    uint8_t *copy_dst; /* what this rank has yet to copy, from or to the peer's memory */
    const uint8_t *copy_src;
    uint64_t copy_left;
    bool direct_done; /* this rank is done with the peer's memory */
    /* placing in the active collective, see place.h; _st */
    bool tx_placed[RDT_NUM_STREAMS], rx_placed[RDT_NUM_STREAMS];
    uint64_t place_at; /* where the peer was told to put what it sends; 0: through slots */
    uint64_t put_at;   /* where it told this rank to */
    /* point-to-point; _st */
    uint64_t p2p_seq;
    rdt_work_t *sends, *recvs;
    rdt_rts_t *rts;
    uint64_t eager_cost; /* of what came along and the peer has not said to be taken */
    uint64_t taken_cost; /* of what was taken here and the peer has not been told */
} rdt_peer_state_t;

#define RDT_NUM_TRANSPORTS 4

struct rdt_comm {
    rdt_comm_cfg_t cfg; /* whose tuning is: */
    rdt_tuning_t tuning;
    uint32_t number; /* in the flight recorder */
    uint32_t
        num_forks; /* before it was opened: a fork of the process must not speak for the rank */
    rdt_ctx_t *ctx[RDT_NUM_TRANSPORTS]; /* NULL where not open */
    rdt_peer_state_t *peers;            /* world entries */
    bool shares_arena;                  /* some peer maps this rank's */
    rdt_layout_t layout;
    rdt_kernels_t kernels;
    const void **srcs; /* world entries: arguments of a reduction */

    /* shared between threads */
    _Atomic bool role;
    _Atomic(rdt_work_t *) submitted; /* stack, newest first */
    _Atomic uint32_t pending;        /* works not DONE */
    _Atomic uint32_t waiting;        /* threads in rdt_work_wait */
    _Atomic uint32_t turn;           /* futex of waiters that do not drive, */
    _Atomic uint32_t resting;        /* and how many of them there are */
    _Atomic uint32_t kick;           /* futex of the progress thread */
    _Atomic bool asleep;             /* the driver sleeps: see engine.c, sleep_st */
    _Atomic(_Atomic uint32_t *) sleep_futex;
    _Atomic bool stop, connecting, connected;
    _Atomic int status; /* rdt_status_t, latched; text behind error_lock */
    pthread_mutex_t error_lock;
    char error[RDT_ERROR_BYTES];

    /* _st */
    rdt_work_t *queue, **queue_tail; /* collectives, oldest first; the first one is active */
    rdt_work_t *over;                /* their callbacks are to be run, without the role */
    rdt_work_t **over_tail;
    bool active;         /* the first of queue has begun, */
    bool placed;         /* and its own input lies where it belongs in its output */
    rdt_stages_t stages; /* of the active collective; of its current stage are: */
    rdt_plan_t plan;
    size_t in_bytes, out_bytes;    /* of an element that goes in, and of one that comes out */
    uint32_t reduced, num_reduced; /* chunks */
    uint32_t ready;                /* chunks of RESULT that may be sent */
    bool bypasses;                 /* it is so large that what it writes goes past the caches */
    uint32_t num_held;
    uint32_t num_direct;          /* peers whose input this rank reads where it lies */
    uint64_t out_at;              /* offset + 1 of the output that this rank exposes, or 0 */
    uint64_t coll_seq, coll_done; /* collectives begun, and finished */
    rdt_work_t *any_recvs;        /* from whoever sends: not yet matched */
    uint64_t p2p_posted, rts_arrived;
    bool told; /* the peers know of the error or goodbye, or are cut off */
    uint64_t next_check_ns;
    struct pollfd *fds;
    int event_fd; /* wakes a driver that sleeps in poll() */

    pthread_t thread;
    bool has_thread;
};

/* comm.c */
/* NULL where there is none of that name. */
const rdt_transport_ops_t *rdt_transport_named(const char *name);
/* Latches the first error; later ones change nothing. Any thread. */
void rdt_comm_latch(rdt_comm_t *comm, rdt_status_t status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Latches the loss of the peer's connection, with what its transport knows of it. */
void rdt_comm_lost_st(rdt_comm_t *comm, uint32_t peer, const char *doing);
/* Last words: the error if there is one, else goodbye. Once. */
void rdt_comm_tell_st(rdt_comm_t *comm);
/* Lets in who calls, over any transport; true while one waits for the next step. */
bool rdt_comm_let_in_st(rdt_comm_t *comm);

/* describe.c */
#define RDT_CALL_TEXT_BYTES 224
/* "all_reduce(float32, 1000 elements, SUM)" */
void rdt_describe_hdr(const rdt_hdr_t *hdr, char *text);
void rdt_describe_work(const rdt_work_t *work, char *text);

/* call.c */
rdt_status_t rdt_call_check(const rdt_comm_t *comm, const rdt_call_t *call);
/* With two references; NULL where there is no memory. */
rdt_work_t *rdt_work_new(rdt_comm_t *comm, const rdt_call_t *call);

/* shape.c */
#define RDT_SHAPE_TEXT_BYTES 96
/* "[2, 3]"; "" where no shape is said. */
void rdt_shape_text(const rdt_shape_t *shape, char *text);

/* engine.c */
/* The work is over with the status: its callback runs soon, without the role. */
void rdt_work_over_st(rdt_work_t *work, rdt_status_t status, const char *text);
void *rdt_progress_thread(void *comm);
void rdt_kick_thread(rdt_comm_t *comm);
/* Waits for the role, runs the callbacks of everything that is pending with the latched status. */
void rdt_fail_all(rdt_comm_t *comm);

/* collective.c */
bool rdt_collectives_step_st(rdt_comm_t *comm);
/* Fails where somebody makes another call, though no stage of this rank's would show it. */
void rdt_collective_compare_st(rdt_comm_t *comm);
void rdt_collective_timeout_st(rdt_comm_t *comm, rdt_work_t *work);
rdt_hdr_t rdt_call_hdr(const rdt_work_t *work, rdt_kind_t kind);

/* reduction.c */
/* HOT. Reduces chunks that are there from all ranks; true when there was one. */
bool rdt_reduce_step_st(rdt_comm_t *comm, const rdt_work_t *work);

/* p2p.c */
void rdt_p2p_begin_st(rdt_comm_t *comm, rdt_work_t *work);
bool rdt_p2p_step_st(rdt_comm_t *comm);
void rdt_p2p_last_words_st(rdt_comm_t *comm, uint32_t rank);
void rdt_p2p_deadlines_st(rdt_comm_t *comm, uint64_t now_ns);
void rdt_p2p_fail_st(rdt_comm_t *comm, rdt_status_t status, const char *text);

#endif
