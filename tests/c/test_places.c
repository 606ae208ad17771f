/* SPDX-License-Identifier: Apache-2.0 */
/* Data that is put to what the peer exposed: where it lies, and where it never does. */
#include <stddef.h>
#include <stdlib.h>

#include "sides.h"

#define HUGE_CHUNK (16u << 20) /* more than a socket holds */

static void put_soon(side_t *sides, uint64_t number, const void *data, uint32_t len, uint64_t at)
{
    header_t hdr = {.number = number};
    uint64_t deadline = rdt_now_ns() + LIMIT_NS;
    rdt_status_t st;

    while ((st = sides[0].ops->put(sides[0].conn, RDT_LANE_COLL, &hdr, data, len, at)) ==
           RDT_AGAIN) {
        sides[0].ops->poll(sides[0].ctx);
        sides[1].ops->poll(sides[1].ctx);
        CHECK(rdt_now_ns() < deadline, "no slot became free");
    }
    CHECK(st == RDT_OK, "put: %s", rdt_status_text(st));
}

/* Memory that side 1 exposes, between bytes that nobody may touch. */
typedef struct exposed {
    uint8_t before[64], bytes[3 * CHUNK], behind[64];
    uint64_t at;
} exposed_t;

static void expose(side_t *sides, exposed_t *mem)
{
    memset(mem, 0xee, sizeof(*mem));
    CHECK(sides[1].ops->expose(sides[1].conn, mem->bytes, sizeof(mem->bytes), &mem->at) == RDT_OK,
          "expose");
    CHECK(mem->at != 0, "0 means that nothing is exposed");
}

static void check_untouched(const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        CHECK(bytes[i] == 0xee, "byte %zu is %u", i, bytes[i]);
}

static void what_is_put_lies_where_it_was_exposed(side_t *sides)
{
    static const uint32_t lens[] = {CHUNK, 1000, 2 * CHUNK - 1000};
    static exposed_t mem;
    static uint8_t data[3 * CHUNK];
    uint64_t sent = sides[0].conn->sent_bytes, got = sides[1].conn->received_bytes;
    uint32_t off = 0;

    for (uint32_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7 + i / 251);
    expose(sides, &mem);
    for (uint64_t n = 0; off < sizeof(data); n++) {
        uint32_t len = n < 3 ? lens[n] : (uint32_t)sizeof(data) - off;
        rdt_msg_t msg;

        len = len < CHUNK ? len : CHUNK;
        put_soon(sides, n, data + off, len, mem.at + off);
        await(sides, 1, RDT_LANE_COLL, &msg);
        CHECK_EQ(((const header_t *)msg.hdr)->number, n);
        CHECK(msg.data == NULL && msg.len == len, "%u bytes at %p", msg.len, msg.data);
        off += len;
        CHECK(memcmp(mem.bytes, data, off) == 0, "not what was put");
        check_untouched(mem.bytes + off, sizeof(data) - off);
        sides[1].ops->release(sides[1].conn, RDT_LANE_COLL);
    }
    check_untouched(mem.before, sizeof(mem.before));
    check_untouched(mem.behind, sizeof(mem.behind));
    CHECK_EQ(sides[0].conn->sent_bytes - sent, sizeof(data));
    CHECK_EQ(sides[1].conn->received_bytes - got, sizeof(data));
}

/* Then data goes through slots, until one of them has taken all it was for. */
static void windows_are_limited_and_come_back(side_t *sides)
{
    static uint8_t bytes[1000];
    uint64_t first = 0, at;
    rdt_msg_t msg;
    int num = 0;

    while (sides[1].ops->expose(sides[1].conn, &bytes[num], 1, &at) == RDT_OK) {
        if (num == 0) first = at;
        num++;
        CHECK(num < (int)sizeof(bytes), "windows without end");
    }
    CHECK(num > 0, "not one");
    put_soon(sides, 1, "x", 1, first);
    await(sides, 1, RDT_LANE_COLL, &msg);
    sides[1].ops->release(sides[1].conn, RDT_LANE_COLL);
    CHECK_EQ(bytes[0], 'x');
    CHECK_EQ(sides[1].ops->expose(sides[1].conn, bytes, 1, &at), RDT_OK);
    CHECK_EQ(sides[1].ops->expose(sides[1].conn, bytes, 1, &at), RDT_UNSUPPORTED);
    put_soon(sides, 2, "y", 1, at);
    await(sides, 1, RDT_LANE_COLL, &msg);
    sides[1].ops->release(sides[1].conn, RDT_LANE_COLL);
}

/* One byte too far, before the start, in no window, twice: the connection ends, and nothing is there. */
static void what_is_put_elsewhere_is_a_protocol_error(const rdt_transport_ops_t *ops,
                                                      const char *arg)
{
    static exposed_t mem;
    static uint8_t data[CHUNK];

    for (int how = 0; how < 5; how++) {
        const int64_t offsets[] = {2 * CHUNK + 1, -1, INT64_C(1) << 50, INT64_MIN, 0};
        side_t sides[2] = {0};
        uint64_t deadline = rdt_now_ns() + LIMIT_NS;
        rdt_status_t st;
        rdt_msg_t msg;

        connect_pair(sides, ops, arg);
        expose(sides, &mem);
        for (int i = 0; how == 4 && i < 3; i++) { /* the whole window, and once more */
            put_soon(sides, 1, data, CHUNK, mem.at + (uint64_t)i * CHUNK);
            await(sides, 1, RDT_LANE_COLL, &msg);
            sides[1].ops->release(sides[1].conn, RDT_LANE_COLL);
        }
        memset(&mem, 0xee, offsetof(exposed_t, at));
        put_soon(sides, 2, data, CHUNK, mem.at + (uint64_t)offsets[how]);
        do {
            sides[0].ops->poll(sides[0].ctx);
            sides[1].ops->poll(sides[1].ctx);
            st = sides[1].ops->peek(sides[1].conn, RDT_LANE_COLL, &msg);
        } while (st == RDT_AGAIN && rdt_now_ns() < deadline);
        CHECK(st == RDT_PROTOCOL, "case %d: %s", how, rdt_status_text(st));
        check_untouched(mem.before, offsetof(exposed_t, at));
        close_pair(sides);
    }
}

static void what_is_put_after_revocation_goes_nowhere(side_t *sides)
{
    static exposed_t mem;
    static uint8_t data[CHUNK];
    uint64_t unused;
    rdt_msg_t msg;

    expose(sides, &mem);
    put_soon(sides, 1, data, CHUNK, mem.at); /* it may be on its way */
    sides[1].ops->revoke(sides[1].ctx, 1);
    memset(&mem, 0xee, offsetof(exposed_t, at));
    for (uint64_t n = 1; n < 3; n++) {
        if (n > 1) put_soon(sides, n, data, CHUNK, mem.at + n * CHUNK);
        await(sides, 1, RDT_LANE_COLL, &msg);
        CHECK_EQ(((const header_t *)msg.hdr)->number, n);
        CHECK(msg.data == NULL && msg.len == CHUNK, "%u bytes at %p", msg.len, msg.data);
        sides[1].ops->release(sides[1].conn, RDT_LANE_COLL);
    }
    check_untouched(mem.before, offsetof(exposed_t, at));
    CHECK_EQ(sides[1].ops->expose(sides[1].conn, mem.bytes, 1, &unused), RDT_UNSUPPORTED);
}

/* A message that is half there when its place is taken back. */
static void revocation_stops_a_message_in_its_middle(const rdt_transport_ops_t *ops,
                                                     const char *arg)
{
    side_t sides[2] = {{.chunk = HUGE_CHUNK}, {.chunk = HUGE_CHUNK}};
    uint8_t *data = calloc(1, HUGE_CHUNK), *target = malloc(HUGE_CHUNK);
    uint64_t at, deadline = rdt_now_ns() + LIMIT_NS;
    rdt_msg_t msg;

    connect_pair(sides, ops, arg);
    CHECK(data != NULL && target != NULL, "no memory");
    memset(target, 0xee, HUGE_CHUNK);
    CHECK(ops->expose(sides[1].conn, target, HUGE_CHUNK, &at) == RDT_OK, "expose");
    put_soon(sides, 7, data, HUGE_CHUNK, at);
    while (target[0] == 0xee && rdt_now_ns() < deadline)
        ops->poll(sides[1].ctx); /* and not the sender, which still has the rest */
    CHECK(target[0] == 0 && target[HUGE_CHUNK - 1] == 0xee, "it is not half there");
    ops->revoke(sides[1].ctx, 1);
    memset(target, 0xee, HUGE_CHUNK);
    await(sides, 1, RDT_LANE_COLL, &msg);
    CHECK_EQ(msg.len, HUGE_CHUNK);
    check_untouched(target, HUGE_CHUNK);
    close_pair(sides);
    free(data);
    free(target);
}

static void run(const rdt_transport_ops_t *ops, const char *arg)
{
    side_t sides[2] = {0};

    connect_pair(sides, ops, arg);
    CHECK(sides[0].conn->places && sides[1].conn->places, "%s has no places", ops->name);
    what_is_put_lies_where_it_was_exposed(sides);
    windows_are_limited_and_come_back(sides);
    what_is_put_after_revocation_goes_nowhere(sides);
    close_pair(sides);
    what_is_put_elsewhere_is_a_protocol_error(ops, arg);
    printf("%s %s: ok\n", ops->name, arg);
}

int main(void)
{
    run(&rdt_tcp_ops, "127.0.0.1");
    run(&rdt_fake_ops, "seed=5,place=1");
    run(&rdt_fake_ops, "seed=6,delay=5,slots=2,place=1");
    revocation_stops_a_message_in_its_middle(&rdt_tcp_ops, "127.0.0.1");
    return 0;
}
