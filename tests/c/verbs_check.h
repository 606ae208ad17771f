/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the verbs transport share: two ranks over the scripted fake of ibv/ibv_fake.h, of which
 * only rank 0 has the script. */
#ifndef TESTS_C_VERBS_CHECK_H
#define TESTS_C_VERBS_CHECK_H

#include <stdio.h>

#include "sides.h"
#include "transport/verbs.h"

#define ARG_BYTES 256
#define ADDR " addr=127.0.0.1"

/* rails and script of rank 0; rank 1 has the same rails and no script. */
static inline void connect_with(side_t *sides, const char *rails, const char *script)
{
    char args[2][ARG_BYTES];

    snprintf(args[0], ARG_BYTES, "rails=%s" ADDR " fake=%s", rails, script);
    snprintf(args[1], ARG_BYTES, "rails=%s" ADDR " fake=", rails);
    connect_pair_with(sides, &rdt_verbs_ops, args[0], args[1]);
}

static inline void turn_one(const side_t *side)
{
    side->ops->poll(side->ctx);
    side->ops->check(side->ctx);
}

static inline void turn(const side_t *sides)
{
    turn_one(&sides[0]);
    turn_one(&sides[1]);
}

/* Rank 0 sends, rank 1 takes, until rank 0 knows that it cannot. */
static inline void exchange_until_failed(side_t *sides)
{
    uint64_t deadline = rdt_now_ns() + LIMIT_NS;
    header_t hdr = {0};
    rdt_msg_t msg;

    while (sides[0].conn->status == RDT_OK) {
        (void)sides[0].ops->send(sides[0].conn, RDT_LANE_COLL, &hdr, "0123456789", 10);
        turn(sides);
        if (sides[1].ops->peek(sides[1].conn, RDT_LANE_COLL, &msg) == RDT_OK)
            sides[1].ops->release(sides[1].conn, RDT_LANE_COLL);
        CHECK(rdt_now_ns() < deadline, "the failure was not seen");
    }
}

static inline void await_end(const side_t *side)
{
    uint64_t deadline = rdt_now_ns() + LIMIT_NS;

    while (side->conn->status == RDT_OK) {
        turn_one(side);
        CHECK(rdt_now_ns() < deadline, "the peer does not notice");
    }
}

static inline void expect_failure(const char *script, rdt_status_t status, const char *word)
{
    side_t sides[2] = {0};

    connect_with(sides, "fake0/1/1", script);
    exchange_until_failed(sides);
    CHECK(sides[0].conn->status == status, "%s: %s: %s", script,
          rdt_status_name(sides[0].conn->status), sides[0].conn->detail);
    CHECK(strstr(sides[0].conn->detail, "fake0/1") != NULL, "no device: %s", sides[0].conn->detail);
    CHECK(strstr(sides[0].conn->detail, word) != NULL, "%s: no \"%s\": %s", script, word,
          sides[0].conn->detail);
    sides[0].ops->close(sides[0].ctx);
    await_end(&sides[1]); /* and the peer is not left waiting */
    sides[1].ops->close(sides[1].ctx);
}

static inline void exchange(side_t *sides, int num)
{
    uint64_t deadline = rdt_now_ns() + LIMIT_NS;
    int sent = 0, got = 0;

    while (got < num) {
        header_t hdr = {.number = (uint64_t)sent};
        rdt_msg_t msg;

        if (sent < num &&
            sides[0].ops->send(sides[0].conn, RDT_LANE_COLL, &hdr, "0123456789", 10) == RDT_OK)
            sent++;
        turn(sides);
        if (sides[1].ops->peek(sides[1].conn, RDT_LANE_COLL, &msg) == RDT_OK) {
            CHECK_EQ(((const header_t *)msg.hdr)->number, (uint64_t)got);
            CHECK(msg.len == 10 && memcmp(msg.data, "0123456789", 10) == 0, "other data");
            sides[1].ops->release(sides[1].conn, RDT_LANE_COLL);
            got++;
        }
        CHECK(rdt_now_ns() < deadline, "%d of %d messages: %s, %s", got, num, sides[0].conn->detail,
              sides[1].conn->detail);
    }
}

#endif
