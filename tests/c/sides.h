/* SPDX-License-Identifier: Apache-2.0 */
/* Two ranks of any transport in one process, for tests of the contract itself. */
#ifndef RDT_TESTS_C_SIDES_H
#define RDT_TESTS_C_SIDES_H

#include <pthread.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "check.h"
#include "rdmatrain/transport.h"

#define CHUNK 4096u
#define LIMIT_NS (20 * RDT_NS_PER_S)

typedef struct side {
    const rdt_transport_ops_t *ops;
    uint32_t chunk;
    bool lazy;
    uint64_t timeout_ns;
    rdt_ctx_t *ctx;
    rdt_conn_t *conn;
    rdt_peer_t peer;
    pthread_t thread;
} side_t;

typedef struct header {
    uint64_t number;
    uint8_t rest[RDT_HDR_BYTES - sizeof(uint64_t)];
} header_t;

static inline void open_side(side_t *side, const rdt_transport_ops_t *ops, const char *arg,
                             uint32_t rank, uint8_t token)
{
    rdt_ctx_cfg_t cfg = {.rank = rank,
                         .world = 2,
                         .chunk_bytes = side->chunk > 0 ? side->chunk : CHUNK,
                         .lazy = side->lazy,
                         .timeout_ns = side->timeout_ns,
                         .addr = arg};

    memset(cfg.token, token, sizeof(cfg.token));
    side->ops = ops;
    CHECK(ops->open(&cfg, &side->ctx) == RDT_OK, "%s", rdt_last_error());
}

static inline void *connect_side(void *arg)
{
    side_t *side = arg;

    CHECK(side->ops->connect(side->ctx, &side->peer, 1, rdt_now_ns() + LIMIT_NS, &side->conn) ==
              RDT_OK,
          "%s: %s", side->ops->name, rdt_last_error());
    return NULL;
}

/* first and second: what rank 0 and rank 1 are opened with. */
static inline void open_pair_with(side_t *sides, const rdt_transport_ops_t *ops, const char *first,
                                  const char *second)
{
    open_side(&sides[0], ops, first, 0, 1);
    open_side(&sides[1], ops, second, 1, 1);
    for (uint32_t r = 0; r < 2; r++) {
        sides[r].peer.rank = 1 - r;
        sides[r].peer.wire_len = ops->address(sides[1 - r].ctx, sides[r].peer.wire);
        CHECK(sides[r].peer.wire_len <= RDT_WIRE_BYTES, "an address that is too long");
    }
}

static inline void connect_sides(side_t *sides)
{
    for (int r = 0; r < 2; r++)
        pthread_create(&sides[r].thread, NULL, connect_side, &sides[r]);
    for (int r = 0; r < 2; r++)
        pthread_join(sides[r].thread, NULL);
}

static inline void connect_pair_with(side_t *sides, const rdt_transport_ops_t *ops,
                                     const char *first, const char *second)
{
    open_pair_with(sides, ops, first, second);
    connect_sides(sides);
}

static inline void connect_pair(side_t *sides, const rdt_transport_ops_t *ops, const char *arg)
{
    connect_pair_with(sides, ops, arg, arg);
}

static inline void close_pair(side_t *sides)
{
    for (int r = 0; r < 2; r++)
        sides[r].ops->close(sides[r].ctx);
}

/* Polls both ends until the message is there. */
static inline void await(side_t *sides, int to, rdt_lane_t lane, rdt_msg_t *msg)
{
    uint64_t deadline = rdt_now_ns() + LIMIT_NS;

    for (;;) {
        rdt_status_t st;

        sides[0].ops->poll(sides[0].ctx);
        sides[1].ops->poll(sides[1].ctx);
        st = sides[to].ops->peek(sides[to].conn, lane, msg);
        if (st == RDT_OK) return;
        CHECK(st == RDT_AGAIN && rdt_now_ns() < deadline, "nothing came: %s", rdt_status_text(st));
    }
}

/* Slots that were released are not free for the sender until it has heard so. */
static inline void send_soon(side_t *sides, int from, rdt_lane_t lane, const header_t *hdr,
                             const void *data, uint32_t len)
{
    uint64_t deadline = rdt_now_ns() + LIMIT_NS;
    rdt_status_t st;

    while ((st = sides[from].ops->send(sides[from].conn, lane, hdr, data, len)) == RDT_AGAIN) {
        sides[0].ops->poll(sides[0].ctx);
        sides[1].ops->poll(sides[1].ctx);
        CHECK(rdt_now_ns() < deadline, "no slot became free");
    }
    CHECK(st == RDT_OK, "send: %s", rdt_status_text(st));
}

#endif
