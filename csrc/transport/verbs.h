/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the verbs transport: RDMA over RoCE v2 and InfiniBand.
 *
 * A connection has one RC queue pair for each rail (a port of a NIC); rail i of one rank is joined to
 * rail i of the other. Message n of a lane goes wholly over rail n modulo rails, as a WRITE_WITH_IMM
 * to slot n modulo VERBS_SLOTS of the peer's inbox. A slot is written by one message at a time,
 * since a message goes out only when the receiver has said that it consumed the one VERBS_SLOTS before
 * it. The immediate number says lane and slot, so rails may overtake each other, and carries how many
 * messages of each lane the sender has consumed. When nothing goes the other way, it goes alone.
 *
 * Data that the receiver exposed is put there by a WRITE in front of the message, on the same queue
 * pair and in the same post. What lies in the arena is read by the NIC where it lies; the rest is
 * copied to the slot's twin on this side, and counted as staged. A message that fits is inline.
 *
 * Extents of the arena are registered once for each device, whole, and pinned in the arena for as long.
 * Peers learn the keys of all extents registered so far before any message that could refer to one:
 * each lane sends its own messages of keys, which peek consumes.
 *
 * Who notices what: a broken path or a dead NIC is seen by whoever has a message under way, by the
 * NIC's retries; an idle connection probes with an empty WRITE. A dead process is seen by the socket
 * of the handshake, which stays open. What the device itself reports (port down, device gone) comes
 * as asynchronous events. Drivers that cannot take a device from its users report nothing and only hide
 * it: that shows in sysfs.
 *
 * An address is that of the socket, and a byte: whether the rank has an arena. Both ends know before they
 * meet whether data can go into places. In large groups they meet when they first need each other:
 * transport/lazy.h.
 *
 * The argument of open, words separated by spaces:
 *   rails=DEV/PORT/GID[,GID...][+DEV/PORT/GID...]   GIDs: indexes to try, the best first
 *   addr=ADDRESS     numeric; where the handshake listens
 *   tc=N sl=N        traffic class, service level
 *   pkey=N           index
 *   mtu=BYTES        at most
 *   retry=MS         how long a NIC retries before it gives a peer up, and a port may be down
 *   fake=SCRIPT      tests: ibv/ibv_fake.h instead of the library
 */
#ifndef RDT_TRANSPORT_VERBS_H
#define RDT_TRANSPORT_VERBS_H

#include <netinet/in.h>
#include <pthread.h>

#include "ibv/ibv_api.h"
#include "rdmatrain/transport.h"
#include "transport/lazy.h"

#define VERBS_SLOTS 8 /* of a lane's inbox; a power of two */
#define VERBS_MAX_RAILS RDT_MAX_RAILS
#define VERBS_MAX_GIDS 8      /* to try, of a rail */
#define VERBS_NAME_BYTES 64   /* of a device */
#define VERBS_DATA_OFFSET 128 /* of a slot: the head lies right before its data */
#define VERBS_SEND_DEPTH 64   /* work requests of a queue pair */
/* Receives for all slots (16), for credits that come alone (at most 4, one for each half of a lane's
 * slots, until this side polls and so gets to send again), and as many as wait to be posted (< 16). */
#define VERBS_RECV_DEPTH 40
#define VERBS_INLINE_BYTES 256 /* asked for; the device may give less */
/* Messages of BULK_BYTES or more that a queue pair has under way: enough to keep a NIC busy, and few, as
 * credits and small messages queue up behind them. A power of two. */
#define VERBS_BULK 4
#define VERBS_BULK_BYTES (16u << 10)

#define VERBS_ADOPTED (1ull << 62) /* offsets from here on are of no arena */

#define VERBS_POLLS_PER_LOOK 64 /* for peers that this rank does not need */

/* -- devices of the process, verbs_dev.c -- */

typedef struct verbs_mr {
    uint8_t *base; /* an extent of the arena */
    size_t len;
    struct ibv_mr *mr;
} verbs_mr_t;

enum { VERBS_REMOVED = -1 };

/* Shared by all contexts that use it: one protection domain, one registration of each extent. */
typedef struct verbs_dev {
    struct verbs_dev *next;
    uint32_t refs;
    rdt_ibv_api_t api;
    const char *fake; /* owned: the script it was opened with, or NULL */
    char name[VERBS_NAME_BYTES];
    struct ibv_context *context;
    struct ibv_pd *pd;
    struct ibv_device_attr attr;
    verbs_mr_t *mrs; /* with the lock of all devices */
    uint32_t num_mrs;
    char node[IBV_SYSFS_PATH_MAX]; /* in sysfs, as long as the device is there; "" if none was */
    _Atomic uint64_t look_ns;      /* when to look for it next */
    _Atomic int fatal;             /* enum ibv_event_type + 1, or VERBS_REMOVED; else 0 */
    _Atomic uint64_t port_down_ns[UINT8_MAX + 1]; /* since when that port is down, or 0 */
    _Atomic uint32_t gid_changes;                 /* how often the device said that a GID changed */
} verbs_dev_t;

/* fake: NULL for the library. NO_LIBRARY, BAD_ARG (no such device), IO_ERROR. */
rdt_status_t rdt_verbs_dev_open(const char *name, const char *fake, verbs_dev_t **dev_p);
void rdt_verbs_dev_close(verbs_dev_t *dev);
/* Registers the extent of the arena that data lies in, or finds it registered. Other blocks of it may be
 * detached: nobody names their addresses any more. NO_MEMORY says which limit, UNSUPPORTED. */
rdt_status_t rdt_verbs_dev_register(verbs_dev_t *dev, const void *data, struct ibv_mr **mr_p);
/* Why memory could not be registered, as an error. */
rdt_status_t rdt_verbs_reg_failed(const verbs_dev_t *dev, size_t len, int err);
/* Takes the events that the device has reported, and looks whether it is still there. */
void rdt_verbs_dev_events(verbs_dev_t *dev, uint64_t now_ns);

/* -- contexts -- */

typedef struct verbs_rail {
    verbs_dev_t *dev;
    char name[VERBS_NAME_BYTES]; /* of the device */
    uint8_t port;
    uint8_t gid_index[VERBS_MAX_GIDS];
    uint32_t num_gids;
    struct ibv_port_attr attr;
    struct ibv_comp_channel *channel;
    struct ibv_cq *cq;
    uint32_t unacked_events;
    uint32_t gid_changes; /* of the device, when the connections' GIDs were last looked at */
    _Atomic int event;    /* of cq: enum ibv_event_type + 1, written by whoever takes events */
} verbs_rail_t;

/* An extent of the arena, or memory of a device that was adopted: what all rails have registered; failed when
 * one could not, or when it was given back. */
typedef struct verbs_extent {
    uint64_t at; /* offset in the arena, or from VERBS_ADOPTED on */
    uint64_t len;
    uint64_t addr;
    uint32_t lkey[VERBS_MAX_RAILS], rkey[VERBS_MAX_RAILS];
    bool failed;
    /* Owned, of adopted memory; the arena's are the devices'. */
    struct ibv_mr *mrs[VERBS_MAX_RAILS];
} verbs_extent_t;

typedef struct verbs_options {
    uint32_t tc, sl, pkey, mtu, retry;
    char addr[INET6_ADDRSTRLEN];
    char fake[256];
    bool is_fake;
} verbs_options_t;

struct verbs_conn;

typedef struct verbs_ctx {
    rdt_ctx_t base;
    verbs_options_t options;
    int listen_fd;
    struct sockaddr_storage addr;
    socklen_t addr_len;
    verbs_rail_t rails[VERBS_MAX_RAILS];
    uint32_t num_rails;
    /* What a NIC retries for before it gives a peer up: long enough for a congested fabric, or as asked
     * for, and a quarter of the group's timeout where that is short. */
    uint64_t retry_ns;
    bool places; /* this rank has an arena, as its address says */
    struct verbs_conn *conns;
    uint32_t num_conns, num_owing; /* connections that owe credits */
    rdt_lazy_t lazy;               /* zero where all are connected at once */
    uint32_t *joining;             /* indexes of peers that were met and have not joined yet */
    uint32_t num_joining, num_met; /* those, while they meet one by one; all that were ever met */
    uint32_t max_met;              /* that the completion queues have room for */
    uint32_t num_polls;            /* since somebody was looked for whom this rank does not need */
    rdt_sleep_t *sleep;      /* between arm and disarm: who is met then is to be watched as well */
    verbs_extent_t *extents; /* in order of registration; grows */
    uint32_t num_extents, last_extent;
    uint32_t num_adopted;   /* of these, and not given back */
    uint64_t adopted_bytes; /* ever */
    bool told_unregistered; /* that an extent could not be registered */
} verbs_ctx_t;

/* -- connections -- */

/* At the end of the first VERBS_DATA_OFFSET bytes of a slot; the data follows. */
typedef struct verbs_head {
    uint8_t hdr[RDT_HDR_BYTES];
    uint32_t len;
    uint16_t kind; /* VERBS_KIND_... */
    uint16_t reserved;
} verbs_head_t;

_Static_assert(sizeof(verbs_head_t) == RDT_HDR_BYTES + 8, "a wire format has no padding");

enum { VERBS_KIND_DATA, VERBS_KIND_PLACED, VERBS_KIND_KEYS };

/* Of an extent, as the peer is told; keys by rail. */
typedef struct verbs_key {
    uint64_t at, len, addr;
    uint32_t rkey[VERBS_MAX_RAILS];
} verbs_key_t;

/* The connection and the count of a work request, in its id. */
#define VERBS_WR_RECV (1ull << 63)
#define VERBS_WR_CONN(id) ((uint32_t)((id) >> 32) & 0x7fffffffu)

/* The immediate number: what it is, the slot, and consumed messages of both lanes modulo 4096. */
enum { VERBS_IMM_COLL, VERBS_IMM_P2P, VERBS_IMM_CREDIT };
#define VERBS_IMM(what, slot, coll, p2p) \
    ((uint32_t)(what) << 30 | (uint32_t)(slot) << 24 | ((coll) & 0xfffu) << 12 | ((p2p) & 0xfffu))

/* A message that was posted: its source is read when its queue pair has completed up to seq. */
typedef struct verbs_sent {
    uint32_t rail, seq;
    bool is_free; /* its source was copied */
    bool counts;  /* the caller knows of it: it carries no keys */
} verbs_sent_t;

#define VERBS_MAX_SENT 32 /* posted and not flushed; a power of two */

/* Invariant: consumed <= arrived <= consumed + VERBS_SLOTS; acked <= sent <= acked + VERBS_SLOTS. */
typedef struct verbs_lane {
    uint64_t arrived, consumed; /* receive side */
    uint32_t early;             /* bit per slot: arrived, maybe before an older one */
    uint64_t reported;          /* consumed, as the peer was last told */
    uint64_t sent, acked;       /* send side: acked were consumed by the peer */
    uint32_t num_told;          /* extents whose keys the peer has been sent on this lane */
    verbs_sent_t ring[VERBS_MAX_SENT];
    uint64_t ring_posted, ring_flushed;
} verbs_lane_t;

typedef struct verbs_qp {
    struct ibv_qp *qp;
    struct ibv_mr *mr;   /* of the connection's memory */
    uint32_t rkey;       /* of the peer's inbox */
    uint32_t inline_max; /* bytes */
    uint32_t depth;
    uint32_t posted, done,
        signaled; /* work requests: all, completed, up to the last one signaled */
    /* What posted was after each of the last bulky messages; how many there were. */
    uint32_t bulk[VERBS_BULK], num_bulk;
    uint32_t recvs_due; /* receives to be posted again */
    _Atomic int event;  /* enum ibv_event_type + 1, written by whoever takes events */
    /* The way to the peer, once one was chosen: enum ibv_mtu, 0 before; this rank's GID, which the peer was
     * told of; and the peer's. */
    uint8_t mtu, gid_index;
    union ibv_gid gid, peer_gid;
} verbs_qp_t;

typedef struct verbs_joining verbs_joining_t;

typedef struct verbs_conn {
    rdt_conn_t base;
    uint32_t index;
    int sock;                 /* -1 before the peer was met */
    verbs_joining_t *joining; /* owned; while the two agree */
    verbs_qp_t qps[VERBS_MAX_RAILS];
    uint32_t num_rails;  /* the smaller number of both ends */
    _Atomic bool joined; /* set after all that rdt_verbs_rails tells */
    verbs_lane_t lanes[RDT_NUM_LANES];
    uint8_t *memory; /* inbox, then its twin for what goes out */
    size_t memory_bytes, slot_bytes;
    uint64_t peer_inbox; /* address */
    verbs_key_t *keys;   /* of the peer's extents; grows */
    uint32_t num_keys, last_key;
    bool is_active; /* something completed since active_ns was set */
    uint64_t active_ns;
    bool owes_credits; /* the queue pair was full when they were due */
    bool exposed;      /* the peer may put data here */
    bool ended;        /* its process has closed the socket, or the two have not joined */
    /* The first completion that failed, for which see verbs_watch.c; failed_ns is 0 before. */
    uint64_t failed_ns;
    uint32_t failed_rail;
    enum ibv_wc_status failed_status;
    struct ibv_recv_wr recv_wrs[VERBS_RECV_DEPTH]; /* all alike but for next: posted in chains */
} verbs_conn_t;

static inline uint8_t *rdt_verbs_slot(const verbs_conn_t *conn, bool out, int lane, uint64_t n)
{
    size_t i = ((size_t)out * RDT_NUM_LANES + (size_t)lane) * VERBS_SLOTS + n % VERBS_SLOTS;

    return conn->memory + i * conn->slot_bytes;
}

/* verbs_conn.c */
rdt_status_t rdt_verbs_connect(rdt_ctx_t *ctx, const rdt_peer_t *peers, uint32_t num,
                               uint64_t deadline_ns, rdt_conn_t **conns);
/* Of one that is not made yet: see rdt_lazy_need. */
void rdt_verbs_need(verbs_conn_t *conn, bool dials);
void rdt_verbs_expect(rdt_conn_t *conn);
uint32_t rdt_verbs_rails(const rdt_conn_t *conn, rdt_rail_t *rails);
bool rdt_verbs_let_in(rdt_ctx_t *ctx);
/* Meets and joins whom this rank or its peers need, as far as it gets. */
void rdt_verbs_join_some(verbs_ctx_t *ctx);
void rdt_verbs_cut(rdt_conn_t *conn);
void rdt_verbs_revoke(rdt_ctx_t *ctx, uint64_t from);
void rdt_verbs_disconnect(verbs_ctx_t *ctx);

/* verbs_join.c */
/* Makes conn->joining; the connection has its socket, memory and queue pairs. */
rdt_status_t rdt_verbs_join_begin(const verbs_ctx_t *ctx, verbs_conn_t *conn);
/* As far as it gets without waiting. OK: both ends are joined. AGAIN: the socket has to have one of
 * rdt_verbs_join_events first. With any other status the two have not agreed, and joining is freed. */
rdt_status_t rdt_verbs_join_step(verbs_ctx_t *ctx, verbs_conn_t *conn);
short rdt_verbs_join_events(const verbs_conn_t *conn);
void rdt_verbs_join_end(verbs_conn_t *conn);

/* verbs_qp.c */
/* In state INIT, with all its receives posted. */
rdt_status_t rdt_verbs_qp_create(verbs_ctx_t *ctx, verbs_conn_t *conn, uint32_t rail);
rdt_status_t rdt_verbs_qp_reset(verbs_ctx_t *ctx, verbs_conn_t *conn, uint32_t rail);

typedef struct verbs_offer_rail {
    uint8_t gids[VERBS_MAX_GIDS][16]; /* the best first; zero where one cannot be read */
    uint32_t num_gids, qpn, psn, rkey;
    uint16_t lid;
    uint8_t mtu; /* enum ibv_mtu */
    uint8_t link_layer;
} verbs_offer_rail_t;

/* To RTR and RTS, the way that was chosen, towards what the peer offers. */
rdt_status_t rdt_verbs_qp_join(verbs_ctx_t *ctx, verbs_conn_t *conn, uint32_t rail,
                               const verbs_offer_rail_t *mine, const verbs_offer_rail_t *theirs);
rdt_status_t rdt_verbs_post_recvs(verbs_ctx_t *ctx, verbs_conn_t *conn, uint32_t rail,
                                  uint32_t num);
void rdt_verbs_qp_error(verbs_ctx_t *ctx, verbs_conn_t *conn);

/* verbs_gids.c */
#define VERBS_MAX_PAIRS (VERBS_MAX_GIDS * VERBS_MAX_GIDS)

/* Places in the offers of the lower rank and of the higher one. */
typedef struct verbs_gid_pair {
    uint8_t lower, higher;
} verbs_gid_pair_t;

/* The pairs that may work, in the order in which they are tried: what both ranks prefer comes first, and
 * where they differ the lower one's comes first. How many; pairs has room for VERBS_MAX_PAIRS. */
uint32_t rdt_verbs_pair_gids(const verbs_offer_rail_t *lower, const verbs_offer_rail_t *higher,
                             verbs_gid_pair_t *pairs);
/* "IPv4 10.0.0.1, link-local fe80::1", and " ..." for those that do not fit. */
void rdt_verbs_gids_text(const verbs_offer_rail_t *offer, char *text, size_t bytes);

/* verbs_data.c */
rdt_status_t rdt_verbs_send(rdt_conn_t *conn, rdt_lane_t lane, const void *hdr, const void *data,
                            uint32_t len);
rdt_status_t rdt_verbs_put(rdt_conn_t *conn, rdt_lane_t lane, const void *hdr, const void *data,
                           uint32_t len, uint64_t at);
/* Over the first rail: stores arrive in order at the peer's NIC, which may write them to memory in another. */
rdt_status_t rdt_verbs_store(rdt_conn_t *conn, rdt_lane_t lane, const void *data, uint32_t len,
                             uint64_t at);
/* What was consumed, alone. False where there is no room for it now. */
bool rdt_verbs_send_credits(verbs_conn_t *conn);
/* Posts one empty signaled WRITE: completes after all before it, and proves that the peer's NIC lives. */
void rdt_verbs_probe(verbs_conn_t *conn, uint32_t rail);

/* verbs_recv.c */
rdt_status_t rdt_verbs_peek(rdt_conn_t *conn, rdt_lane_t lane, rdt_msg_t *msg_p);
void rdt_verbs_release(rdt_conn_t *conn, rdt_lane_t lane);
void rdt_verbs_flush(verbs_conn_t *conn, rdt_lane_t lane);
void rdt_verbs_poll(rdt_ctx_t *ctx);

/* verbs_keys.c */
rdt_status_t rdt_verbs_expose(rdt_conn_t *conn, void *addr, size_t len, uint64_t *at_p);
/* HOT. The registered extent that holds [data, data + len), or NULL; registers it the first time. */
const verbs_extent_t *rdt_verbs_extent(verbs_ctx_t *ctx, const void *data, size_t len);
verbs_key_t rdt_verbs_key_of(const verbs_extent_t *extent);
/* HOT. What the peer said of the memory that it names at; NULL where that is none of its. */
const verbs_key_t *rdt_verbs_key(verbs_conn_t *conn, uint64_t at, size_t len);
/* Takes a message of keys. False when it is malformed. */
bool rdt_verbs_take_keys(verbs_conn_t *conn, const uint8_t *data, uint32_t len);
/* Room for one more extent, which is not counted yet; NULL when out of memory. */
verbs_extent_t *rdt_verbs_new_extent(verbs_ctx_t *ctx);

static inline bool rdt_verbs_holds(uint64_t first, uint64_t len, uint64_t at, uint64_t size)
{
    return at >= first && size <= len && at - first <= len - size;
}

/* verbs_dmabuf.c */
/* A peer keeps the keys of at most 65536 extents, those that were disowned too. */
rdt_status_t rdt_verbs_adopt(rdt_ctx_t *ctx, const rdt_dmabuf_t *memory);
void rdt_verbs_disown(rdt_ctx_t *ctx, const void *addr);
void rdt_verbs_disown_all(verbs_ctx_t *ctx);
/* What holds all of [data, data + len), a device's memory; NULL where nothing does. */
verbs_extent_t *rdt_verbs_adopted(verbs_ctx_t *ctx, const void *data, size_t len);

/* verbs_watch.c */
/* Latches the first cause, and stops all queue pairs. */
void rdt_verbs_fail(verbs_conn_t *conn, uint32_t rail, rdt_status_t status, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* A completion failed: latched by a later check, unless that finds why. */
void rdt_verbs_failed_wc(verbs_conn_t *conn, uint32_t rail, enum ibv_wc_status status);
/* All connections that use the rail. */
void rdt_verbs_rail_failed(verbs_ctx_t *ctx, uint32_t rail, const char *why);
/* The rail's completion queue cannot be polled. */
void rdt_verbs_poll_failed(verbs_ctx_t *ctx, uint32_t rail);
void rdt_verbs_check(rdt_ctx_t *ctx);
/* IO_ERROR where a rail's device or completion queue has failed. */
rdt_status_t rdt_verbs_check_rails(const verbs_ctx_t *ctx);
/* Has the sleeper watch the connection's socket. */
void rdt_verbs_watch(const verbs_conn_t *conn, rdt_sleep_t *sleep);
void rdt_verbs_arm(rdt_ctx_t *ctx, rdt_sleep_t *sleep);
void rdt_verbs_disarm(rdt_ctx_t *ctx);

#endif
