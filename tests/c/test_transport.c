/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of transport.h, the same body for each transport: two ranks in two threads. */
#include <stdlib.h>

#include "sides.h"

#define MANY 500

/* Length and bytes of message n depend on n and the lane. */
static uint32_t length_of(uint64_t n)
{
    return (uint32_t)(n % 7 == 0 ? 0 : n * 97 % (CHUNK + 1));
}

static uint8_t byte_of(uint64_t n, int lane, uint32_t i)
{
    return (uint8_t)(n * 31 + i * 7 + (uint32_t)lane * 101);
}

static void fill(uint8_t *buf, uint64_t n, int lane)
{
    for (uint32_t i = 0; i < length_of(n); i++)
        buf[i] = byte_of(n, lane, i);
}

static void verify(const rdt_msg_t *msg, uint64_t n, int lane)
{
    header_t hdr;

    memcpy(&hdr, msg->hdr, sizeof(hdr));
    CHECK_EQ(hdr.number, n);
    CHECK_EQ(msg->len, length_of(n));
    CHECK(msg->len == 0 || (uintptr_t)msg->data % RDT_DATA_ALIGN == 0 || msg->len <= 64,
          "data at %p", msg->data);
    for (uint32_t i = 0; i < msg->len; i++)
        CHECK_EQ(((const uint8_t *)msg->data)[i], byte_of(n, lane, i));
}

/* Sends MANY messages on both lanes as slots allow, each from a buffer of its own until flushed. */
static void *stream_out(void *arg)
{
    side_t *side = arg;
    uint64_t sent[RDT_NUM_LANES] = {0};
    uint8_t *bufs = malloc((size_t)RDT_NUM_LANES * MANY * CHUNK);

    while (sent[0] < MANY || sent[1] < MANY) {
        for (int l = 0; l < RDT_NUM_LANES; l++) {
            uint8_t *buf = bufs + ((uint64_t)l * MANY + sent[l]) * CHUNK;
            header_t hdr = {.number = sent[l]};
            rdt_status_t st;

            if (sent[l] == MANY) continue;
            fill(buf, sent[l], l);
            st = side->ops->send(side->conn, l, &hdr, buf, length_of(sent[l]));
            CHECK(st == RDT_OK || st == RDT_AGAIN, "send: %s", rdt_status_text(st));
            if (st == RDT_OK) sent[l]++;
        }
        side->ops->poll(side->ctx);
        for (int l = 0; l < RDT_NUM_LANES; l++)
            CHECK(side->conn->flushed[l] <= side->conn->posted[l], "more flushed than posted");
    }
    for (int l = 0; l < RDT_NUM_LANES; l++)
        while (side->conn->flushed[l] < side->conn->posted[l])
            side->ops->poll(side->ctx);
    free(bufs);
    return NULL;
}

static void *stream_in(void *arg)
{
    side_t *side = arg;
    uint64_t got[RDT_NUM_LANES] = {0};

    while (got[0] < MANY || got[1] < MANY)
        for (int l = 0; l < RDT_NUM_LANES; l++) {
            rdt_msg_t msg;
            rdt_status_t st;

            side->ops->poll(side->ctx);
            st = got[l] < MANY ? side->ops->peek(side->conn, l, &msg) : RDT_AGAIN;
            CHECK(st == RDT_OK || st == RDT_AGAIN, "peek: %s", rdt_status_text(st));
            if (st != RDT_OK) continue;
            verify(&msg, got[l], l);
            side->ops->release(side->conn, l);
            got[l]++;
        }
    return NULL;
}

static void lanes_keep_order_and_lose_nothing(side_t *sides)
{
    pthread_t out, in;

    pthread_create(&out, NULL, stream_out, &sides[0]);
    pthread_create(&in, NULL, stream_in, &sides[1]);
    pthread_join(out, NULL);
    pthread_join(in, NULL);
}

static void a_full_lane_says_again_and_leaves_the_other_alone(side_t *sides)
{
    header_t hdr = {.number = 0};
    rdt_msg_t msg;
    uint64_t sent = 0;

    while (sides[0].ops->send(sides[0].conn, RDT_LANE_COLL, &hdr, NULL, 0) == RDT_OK) {
        hdr.number = ++sent;
        CHECK(sent < 1000, "a lane without end");
    }
    CHECK(sent > 0, "no slot at all");
    hdr.number = 77;
    send_soon(sides, 0, RDT_LANE_P2P, &hdr, NULL, 0);
    await(sides, 1, RDT_LANE_P2P, &msg);
    CHECK_EQ(((const header_t *)msg.hdr)->number, 77);
    sides[1].ops->release(sides[1].conn, RDT_LANE_P2P);
    for (uint64_t n = 0; n < sent; n++) {
        await(sides, 1, RDT_LANE_COLL, &msg);
        CHECK_EQ(((const header_t *)msg.hdr)->number, n);
        sides[1].ops->release(sides[1].conn, RDT_LANE_COLL);
    }
}

static void peek_shows_the_same_message_until_release(side_t *sides)
{
    header_t hdr = {.number = 5};
    rdt_msg_t first, second;

    send_soon(sides, 1, RDT_LANE_COLL, &hdr, "abc", 3);
    await(sides, 0, RDT_LANE_COLL, &first);
    await(sides, 0, RDT_LANE_COLL, &second);
    CHECK(first.data == second.data && memcmp(second.data, "abc", 3) == 0, "another message");
    sides[0].ops->release(sides[0].conn, RDT_LANE_COLL);
    CHECK_EQ(sides[0].ops->peek(sides[0].conn, RDT_LANE_COLL, &first), RDT_AGAIN);
}

static void what_a_peer_sent_before_it_left_still_arrives(side_t *sides)
{
    header_t hdr = {.number = 9};
    rdt_msg_t msg;
    rdt_status_t st;
    uint64_t deadline = rdt_now_ns() + LIMIT_NS;

    send_soon(sides, 0, RDT_LANE_P2P, &hdr, "last", 4);
    while (sides[0].conn->flushed[RDT_LANE_P2P] < sides[0].conn->posted[RDT_LANE_P2P])
        sides[0].ops->poll(sides[0].ctx);
    sides[0].ops->close(sides[0].ctx);
    do {
        sides[1].ops->poll(sides[1].ctx);
        sides[1].ops->check(sides[1].ctx);
        st = sides[1].ops->peek(sides[1].conn, RDT_LANE_P2P, &msg);
    } while (st == RDT_AGAIN && rdt_now_ns() < deadline);
    CHECK(st == RDT_OK && memcmp(msg.data, "last", 4) == 0, "%s", rdt_status_text(st));
    sides[1].ops->release(sides[1].conn, RDT_LANE_P2P);
    do {
        sides[1].ops->poll(sides[1].ctx);
        sides[1].ops->check(sides[1].ctx);
        st = sides[1].ops->peek(sides[1].conn, RDT_LANE_P2P, &msg);
    } while (st == RDT_AGAIN && rdt_now_ns() < deadline);
    CHECK_EQ(st, RDT_PEER_LOST);
    st = sides[1].ops->send(sides[1].conn, RDT_LANE_COLL, &hdr, NULL, 0);
    CHECK(st == RDT_PEER_LOST, "sending to the dead: %s", rdt_status_text(st));
    sides[1].ops->close(sides[1].ctx);
}

static void a_foreign_token_is_not_let_in(const rdt_transport_ops_t *ops, const char *arg)
{
    side_t sides[2] = {0};

    open_side(&sides[0], ops, arg, 0, 1);
    open_side(&sides[1], ops, arg, 1, 2);
    sides[1].peer.rank = 0;
    sides[1].peer.wire_len = ops->address(sides[0].ctx, sides[1].peer.wire);
    CHECK(ops->connect(sides[1].ctx, &sides[1].peer, 1, rdt_now_ns() + RDT_NS_PER_S / 4,
                       &sides[1].conn) < 0,
          "a stranger got in");
    CHECK(strstr(rdt_last_error(), "rank") != NULL, "nobody is named: %s", rdt_last_error());
    close_pair(sides);
}

static void run(const rdt_transport_ops_t *ops, const char *arg)
{
    side_t sides[2] = {0};

    connect_pair(sides, ops, arg);
    lanes_keep_order_and_lose_nothing(sides);
    a_full_lane_says_again_and_leaves_the_other_alone(sides);
    peek_shows_the_same_message_until_release(sides);
    what_a_peer_sent_before_it_left_still_arrives(sides);
    a_foreign_token_is_not_let_in(ops, arg);
    printf("%s %s: ok\n", ops->name, arg != NULL ? arg : "");
}

/* Neither is connected when connect returns: the first messages of both do that. */
static void run_lazy(const rdt_transport_ops_t *ops, const char *arg)
{
    side_t sides[2] = {{.lazy = true}, {.lazy = true}};

    connect_pair(sides, ops, arg);
    CHECK(sides[0].conn->unjoined && sides[1].conn->unjoined, "joined before it is needed");
    lanes_keep_order_and_lose_nothing(sides);
    CHECK(!sides[0].conn->unjoined && !sides[1].conn->unjoined, "not joined by what it needs");
    a_full_lane_says_again_and_leaves_the_other_alone(sides);
    what_a_peer_sent_before_it_left_still_arrives(sides);
    printf("%s %s, lazily: ok\n", ops->name, arg);
}

int main(void)
{
    run_lazy(&rdt_tcp_ops, "127.0.0.1");
    run_lazy(&rdt_verbs_ops, "rails=fake0/1/1+fake1/1/1 addr=127.0.0.1 fake=delay=5;seed=7");
    run_lazy(&rdt_verbs_ops,
             "rails=fake0/1/1,3 addr=127.0.0.1 fake=rtr=19@1"); /* with its next GID */
    run(&rdt_shm_ops, NULL);
    run(&rdt_tcp_ops, "127.0.0.1");
    run(&rdt_verbs_ops, "rails=fake0/1/1 addr=127.0.0.1 fake=");
    run(&rdt_verbs_ops, "rails=fake0/1/1 addr=127.0.0.1 fake=delay=5;seed=7;inline=0");
    run(&rdt_verbs_ops, "rails=fake0/1/1+fake1/1/3+fake2/1/1 addr=127.0.0.1 fake=delay=4;seed=2");
    run(&rdt_fake_ops, "seed=3");
    run(&rdt_fake_ops, "seed=4,delay=5,slots=2");
    return 0;
}
