/* SPDX-License-Identifier: Apache-2.0 */
/* What only the verbs transport has: failures of the device, places, GIDs. Two ranks over the scripted
 * fake of ibv/ibv_fake.h; only rank 0 has the script. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arena/arena.h"
#include "ibv/ibv_fake.h"
#include "verbs_check.h"

#define PLAIN "rails=fake0/1/1" ADDR " fake="

/* -- failures -- */

static void every_completion_status_is_said_in_words(void)
{
    rdt_ibv_api_t api;

    CHECK(rdt_ibv_fake(NULL, &api) == RDT_OK, "%s", rdt_last_error());
    for (int status = IBV_WC_LOC_LEN_ERR; status <= IBV_WC_GENERAL_ERR; status++) {
        rdt_status_t meaning = RDT_IO_ERROR;
        char script[32];

        if (status == IBV_WC_RETRY_EXC_ERR || status == IBV_WC_RNR_RETRY_EXC_ERR ||
            status == IBV_WC_REM_ABORT_ERR || status == IBV_WC_RESP_TIMEOUT_ERR)
            meaning = RDT_PEER_LOST;
        if (status == IBV_WC_REM_ACCESS_ERR || status == IBV_WC_REM_INV_REQ_ERR ||
            status == IBV_WC_REM_OP_ERR)
            meaning = RDT_PROTOCOL;
        snprintf(script, sizeof(script), "wc=%d@3", status);
        expect_failure(script, meaning, api.wc_status_str((enum ibv_wc_status)status));
    }
}

static void what_the_device_refuses_or_reports_ends_the_connection(void)
{
    expect_failure("post=3", RDT_IO_ERROR, "ibv_post_send: Cannot allocate memory");
    expect_failure("rwc=LOC_LEN_ERR@1", RDT_IO_ERROR, "local length error");
    expect_failure("overrun=4", RDT_IO_ERROR, "");
    expect_failure("event=QP_FATAL@4", RDT_IO_ERROR, "");
    expect_failure("event=CQ_ERR@4", RDT_IO_ERROR, "");
    expect_failure("event=DEVICE_FATAL@4", RDT_IO_ERROR, "");
    expect_failure("event=PORT_ERR@4", RDT_IO_ERROR, "port is down");
}

/* As where a driver hides a device from new users and leaves it to those it has. */
static void a_device_that_is_hidden_is_lost(void)
{
    side_t sides[2] = {0};
    char node[] = "/tmp/rdt_nodeXXXXXX";
    int fd = mkstemp(node);
    verbs_dev_t *dev;

    connect_with(sides, "fake0/1/1", "");
    dev = ((verbs_ctx_t *)sides[0].ctx)->rails[0].dev;
    CHECK(fd >= 0 && strlen(node) < sizeof(dev->node), "no file to watch");
    strcpy(dev->node, node);
    turn(sides);
    CHECK(sides[0].conn->status == RDT_OK, "lost while it is there");
    unlink(node);
    await_end(&sides[0]);
    await_end(&sides[1]);
    CHECK(strstr(sides[0].conn->detail, "fake0/1: the device was removed") != NULL, "%s",
          sides[0].conn->detail);
    close_pair(sides);
    close(fd);
}

/* Its socket stays open, and nothing was under way: a probe finds out. */
static void an_idle_peer_without_a_queue_pair_is_lost(void)
{
    side_t sides[2] = {0};

    connect_with(sides, "fake0/1/1", "");
    rdt_verbs_qp_error((verbs_ctx_t *)sides[1].ctx, (verbs_conn_t *)sides[1].conn);
    await_end(&sides[0]);
    CHECK(sides[0].conn->status == RDT_PEER_LOST, "%s", sides[0].conn->detail);
    CHECK(strstr(sides[0].conn->detail, "transport retry counter exceeded") != NULL, "%s",
          sides[0].conn->detail);
    close_pair(sides);
}

static void works_with(const char *rails, const char *script)
{
    side_t sides[2] = {0};

    connect_with(sides, rails, script);
    exchange(sides, 100);
    close_pair(sides);
}

typedef struct progress {
    uint64_t sent, got;
} progress_t;

static void step(const side_t *side, progress_t *p, uint64_t num)
{
    header_t hdr = {.number = p->sent};
    rdt_msg_t msg;

    turn_one(side);
    if (p->sent < num && side->ops->send(side->conn, RDT_LANE_COLL, &hdr, "late", 4) == RDT_OK)
        p->sent++;
    if (side->ops->peek(side->conn, RDT_LANE_COLL, &msg) != RDT_OK) return;
    CHECK_EQ(((const header_t *)msg.hdr)->number, p->got);
    side->ops->release(side->conn, RDT_LANE_COLL);
    p->got++;
}

/* What a rail says of consumed messages may be older than what another one has said. */
static void rails_may_overtake_each_other(void)
{
    for (int seed = 1; seed <= 5; seed++) {
        uint64_t num = 200, deadline = rdt_now_ns() + LIMIT_NS;
        progress_t progress[2] = {{0, 0}, {0, 0}};
        side_t sides[2] = {0};
        char script[32];

        snprintf(script, sizeof(script), "delay=9;seed=%d", seed);
        connect_with(sides, "fake0/1/1+fake1/1/1+fake2/1/1", script);
        while (progress[0].got < num || progress[1].got < num) {
            for (int r = 0; r < 2; r++) {
                step(&sides[r], &progress[r], num);
                CHECK(sides[r].conn->status == RDT_OK, "%s: %s", script, sides[r].conn->detail);
            }
            CHECK(rdt_now_ns() < deadline, "%s: no more messages come", script);
        }
        close_pair(sides);
    }
}

/* The smaller number of rails is used, whichever side has it. */
static void ranks_may_have_other_numbers_of_rails(void)
{
    static const char one[] = PLAIN, two[] = "rails=fake0/1/1+fake1/1/1" ADDR " fake=";

    for (int i = 0; i < 2; i++) {
        side_t sides[2] = {0};

        connect_pair_with(sides, &rdt_verbs_ops, i == 0 ? one : two, i == 0 ? two : one);
        exchange(sides, 100);
        for (int r = 0; r < 2; r++) {
            const verbs_conn_t *conn = (const verbs_conn_t *)sides[r].conn;

            CHECK_EQ(conn->num_rails, 1);
            CHECK_EQ(conn->qps[1].posted, 0);
        }
        close_pair(sides);
    }
}

/* How many work requests a queue pair has had is a number of 32 bits: half way round, and around. */
static void counts_of_work_requests_wrap(void)
{
    uint32_t starts[] = {0x80000010u, 0xfffffff0u};
    side_t sides[2] = {{.chunk = 64u << 10}, {.chunk = 64u << 10}};
    header_t hdr = {0};
    rdt_msg_t msg;

    for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++) {
        static uint8_t bulk[VERBS_BULK_BYTES];
        verbs_qp_t *qp;

        connect_with(sides, "fake0/1/1", "");
        qp = &((verbs_conn_t *)sides[0].conn)->qps[0];
        qp->posted = qp->done = qp->signaled = starts[i]; /* as after as many small messages */
        for (uint32_t n = 0; n < 3 * VERBS_SLOTS; n++) {
            memset(bulk, (int)n + 1, sizeof(bulk));
            send_soon(sides, 0, RDT_LANE_COLL, &hdr, bulk, sizeof(bulk));
            await(sides, 1, RDT_LANE_COLL, &msg);
            CHECK(msg.len == sizeof(bulk) && memcmp(msg.data, bulk, msg.len) == 0, "other data");
            sides[1].ops->release(sides[1].conn, RDT_LANE_COLL);
        }
        close_pair(sides);
    }
}

/* A rail that nothing travels on may be cut as well as another. */
static void silence_is_probed_on_every_rail(void)
{
    uint64_t deadline = rdt_now_ns() + LIMIT_NS;
    side_t sides[2] = {0};
    const verbs_conn_t *conn;

    connect_with(sides, "fake0/1/1+fake1/1/1+fake2/1/1", "");
    conn = (const verbs_conn_t *)sides[0].conn;
    for (uint32_t r = 0; r < conn->num_rails;) {
        turn(sides);
        if (conn->qps[r].posted > 0) r++;
        CHECK(conn->qps[0].posted < 3 && rdt_now_ns() < deadline, "rail %u is not probed", r);
    }
    close_pair(sides);
}

static void limits_of_the_device_are_kept(void)
{
    works_with("fake0/1/1", "inline=101");
    works_with("fake0/1/1", "inline_grant=60");
    works_with("fake0/1/1", "inline=0;max_qp_wr=48");
    works_with("fake0/1/1", "max_msg_sz=8388608;mtu=1024");
    works_with("fake0/1/1", "iova2=0");
    works_with("fake0/1/1", "event=GID_CHANGE@5");
    works_with("fake0/1/1", "event=PORT_ERR@5;event=PORT_ACTIVE@6");
}

static void refuses(const char *arg, rdt_status_t status, const char *word)
{
    rdt_ctx_cfg_t cfg = {.rank = 0, .world = 2, .chunk_bytes = CHUNK, .addr = arg};
    rdt_ctx_t *ctx;
    rdt_status_t st = rdt_verbs_ops.open(&cfg, &ctx);

    CHECK(st == status, "%s: %s: %s", arg, rdt_status_name(st), rdt_last_error());
    CHECK(strstr(rdt_last_error(), word) != NULL, "%s: %s", arg, rdt_last_error());
}

static void what_cannot_be_opened_says_why(void)
{
    refuses("", RDT_BAD_ARG, "no rail");
    refuses("rails=fake0" ADDR, RDT_BAD_ARG, "fake0");
    refuses("rails=fake0/1/x" ADDR, RDT_BAD_ARG, "fake0/1/x");
    refuses("rails=fake0/0/1" ADDR, RDT_BAD_ARG, "fake0/0/1");
    refuses("speed=1", RDT_BAD_ARG, "speed");
    refuses("tc=256", RDT_BAD_ARG, "tc");
    refuses("rails=fake0/1/1 addr=nowhere fake=", RDT_BAD_ARG, "nowhere");
    refuses("rails=mlx5_0/1/1" ADDR " fake=", RDT_BAD_ARG, "no RDMA device mlx5_0");
    refuses("rails=fake0/7/1" ADDR " fake=", RDT_BAD_ARG, "no port 7");
    refuses(PLAIN "state=1", RDT_IO_ERROR, "not active");
    refuses(PLAIN "max_msg_sz=4096", RDT_BAD_ARG, "4096 bytes in a message");
    refuses(PLAIN "max_cqe=50", RDT_NO_MEMORY, "completion queue");
    refuses(PLAIN "open=13", RDT_IO_ERROR, "Permission denied");
    refuses(PLAIN "query=5", RDT_IO_ERROR, "Input/output error");
    refuses(PLAIN "nonsense=1", RDT_BAD_ARG, "nonsense");
}

/* -- connecting -- */

typedef struct attempt {
    side_t *side;
    rdt_status_t st;
    char text[RDT_ERROR_BYTES];
} attempt_t;

static void *try_to_connect(void *arg)
{
    attempt_t *a = arg;

    a->st = a->side->ops->connect(a->side->ctx, &a->side->peer, 1, rdt_now_ns() + LIMIT_NS,
                                  &a->side->conn);
    strncpy(a->text, a->st == RDT_OK ? "" : rdt_last_error(), sizeof(a->text) - 1);
    return NULL;
}

/* What each rank is opened with. */
typedef struct ends {
    const char *rails[2], *scripts[2];
} ends_t;

static void open_ends(side_t *sides, const ends_t *ends)
{
    char args[2][ARG_BYTES];

    for (int r = 0; r < 2; r++)
        snprintf(args[r], ARG_BYTES, "rails=%s" ADDR " fake=%s", ends->rails[r],
                 ends->scripts[r] != NULL ? ends->scripts[r] : "");
    open_pair_with(sides, &rdt_verbs_ops, args[0], args[1]);
}

/* Neither joins; what each says is left in attempts. */
static void fail_to_join(const ends_t *ends, attempt_t *attempts)
{
    side_t sides[2] = {0};

    open_ends(sides, ends);
    for (int r = 0; r < 2; r++) {
        attempts[r] = (attempt_t){.side = &sides[r]};
        pthread_create(&sides[r].thread, NULL, try_to_connect, &attempts[r]);
    }
    for (int r = 0; r < 2; r++) {
        pthread_join(sides[r].thread, NULL);
        sides[r].ops->close(sides[r].ctx); /* as who failed does */
        CHECK(attempts[r].st < 0, "rank %d has joined", r);
    }
}

/* Rank 0 cannot join for that reason, and rank 1 is told that its peer could not. */
static void fails_to_connect(const char *rails, const char *script, const char *word)
{
    ends_t ends = {{rails, rails}, {script}};
    attempt_t attempts[2];

    fail_to_join(&ends, attempts);
    CHECK(strstr(attempts[0].text, word) != NULL, "%s: %s", script, attempts[0].text);
    CHECK(strstr(attempts[1].text, "rank 0") != NULL, "%s", attempts[1].text);
}

static void a_gid_that_cannot_be_used_is_replaced(void)
{
    works_with("fake0/1/1,3", "rtr=19@1");
    works_with("fake0/1/1+fake1/1/1,3", "rtr=19@3");
    works_with("fake0/1/1,3,2", "rtr=19@1"); /* by the next one: the last is of nobody's use */
    works_with("fake0/1/1,3", "gid=22@1");   /* of another namespace since it was chosen */
    fails_to_connect("fake0/1/1,3", "rtr=19@1;rtr=110@3", "GID index 3 to RTR");
    fails_to_connect("fake0/1/1", "gid=22@1", "GID index 1");
    fails_to_connect("fake0/1/1,3", "gid=22@1;rtr=19@3", "GID index 3 to RTR");
}

/* The ranks join, exchange messages, and use these GIDs of their last rails. */
static void joins_over(const ends_t *ends, uint8_t first, uint8_t second)
{
    uint8_t want[2] = {first, second};
    side_t sides[2] = {0};

    open_ends(sides, ends);
    connect_sides(sides);
    exchange(sides, 100);
    for (int r = 0; r < 2; r++) {
        const verbs_conn_t *conn = (const verbs_conn_t *)sides[r].conn,
                           *peer = (const verbs_conn_t *)sides[1 - r].conn;
        const verbs_qp_t *qp = &conn->qps[conn->num_rails - 1],
                         *other = &peer->qps[conn->num_rails - 1];

        CHECK(qp->gid_index == want[r], "%s and %s: rank %d has GID index %u", ends->rails[0],
              ends->rails[1], r, qp->gid_index);
        CHECK(memcmp(&qp->peer_gid, &other->gid, sizeof(qp->peer_gid)) == 0, "another GID");
    }
    close_pair(sides);
}

/* The same, with the two ranks' parts exchanged as well. */
static void joins_either_way(const ends_t *ends, uint8_t first, uint8_t second)
{
    ends_t other = {{ends->rails[1], ends->rails[0]}, {ends->scripts[1], ends->scripts[0]}};

    joins_over(ends, first, second);
    joins_over(&other, second, first);
}

/* Of the GIDs of the fake 0 is link-local, 1 is IPv4, 3 is IPv6. */
static void gids_of_one_kind_are_found(void)
{
    const char *one = "fake0/1/1", *v4v6 = "fake1/1/1,3", *v6v4 = "fake0/1/3,1";

    joins_either_way(&(ends_t){{"fake0/1/3", v4v6}, {0}}, 3, 3);
    joins_either_way(&(ends_t){{one, "fake1/1/0,3,1"}, {0}}, 1, 1);
    joins_either_way(&(ends_t){{"fake0/1/1,3", "fake1/1/3,0"}, {0}}, 3, 3);
    joins_either_way(&(ends_t){{"fake0/1/1,3,0", "fake1/1/0"}, {0}}, 0, 0);
    joins_over(&(ends_t){{v6v4, v4v6}, {0}}, 3,
               3); /* each prefers another: as the lower rank does */
    joins_over(&(ends_t){{v4v6, v6v4}, {0}}, 1, 1);
    joins_over(&(ends_t){{"fake0/1/1,0,3", "fake1/1/3,0"}, {0}}, 0, 0);
}

static void gids_that_cannot_be_used_are_passed_over_by_both(void)
{
    joins_either_way(&(ends_t){{"fake0/1/1,3,0", "fake1/1/1,3,0"}, {"rtr=19@1", "rtr=110@3"}}, 0,
                     0);
    joins_either_way(&(ends_t){{"fake0/1/3,1", "fake1/1/1,3"}, {"rtr=19@1"}}, 3, 3);
    joins_either_way(&(ends_t){{"fake0/1/3,1", "fake1/1/1,3"}, {"rtr=19@3"}}, 1, 1);
    /* The first rail joins in the first round, and stays as it is while the second goes on. */
    joins_either_way(&(ends_t){{"fake0/1/0+fake1/1/1,3,0", "fake2/1/0+fake3/1/1,3,0"},
                               {"rtr=19@1", "rtr=110@3"}},
                     0, 0);
    joins_either_way(&(ends_t){{"fake0/1/0+fake1/1/1,3", "fake2/1/0+fake3/1/3"}, {0}}, 3, 3);
    joins_either_way(&(ends_t){{"fake0/1/0+fake1/1/1,3", "fake2/1/0+fake3/1/1,3"}, {"rtr=19@1"}}, 3,
                     3);
    joins_over(&(ends_t){{"fake0/1/1,3", "fake1/1/3"}, {"lid=5", "lid=6"}}, 1, 3); /* by LID */
}

/* Both say what both have, and what can be done. */
static void says_that_none_fits(const ends_t *ends, const char *first, const char *second,
                                const char *word)
{
    attempt_t attempts[2];

    fail_to_join(ends, attempts);
    for (int r = 0; r < 2; r++) {
        CHECK(strstr(attempts[r].text, first) != NULL, "no %s: %s", first, attempts[r].text);
        CHECK(strstr(attempts[r].text, second) != NULL, "no %s: %s", second, attempts[r].text);
    }
    CHECK(strstr(attempts[0].text, word) != NULL, "no %s: %s", word, attempts[0].text);
    CHECK(strstr(attempts[0].text, "RDMATRAIN_GID_INDEX") != NULL, "no remedy: %s",
          attempts[0].text);
}

static void where_no_gids_fit_both_ends_are_named(void)
{
    const char *v4 = "(IPv4 10.0.0.1)", *v6 = "(IPv6 fd00:0:0:1::1)";
    attempt_t attempts[2];

    says_that_none_fits(&(ends_t){{"fake0/1/1", "fake1/1/3"}, {0}}, v4, v6, "of one kind");
    says_that_none_fits(&(ends_t){{"fake1/1/3", "fake0/1/1"}, {0}}, v4, v6, "of one kind");
    says_that_none_fits(&(ends_t){{"fake0/1/0", "fake1/1/3,2"}, {0}},
                        "(link-local fe80::200:ff:fe00:0)", v6, "of one kind");
    says_that_none_fits(&(ends_t){{"fake0/1/1,0", "fake1/1/3,1"}, {"rtr=110@1"}},
                        "(IPv4 10.0.0.1, link-local fe80::200:ff:fe00:0)",
                        "(IPv6 fd00:0:0:1::1, IPv4 10.0.1.1)",
                        "GID index 1 to RTR: Connection timed out");
    fail_to_join(&(ends_t){{"fake0/1/1", "fake1/1/1"}, {"rtr=110@1"}}, attempts);
    CHECK(attempts[0].st == RDT_IO_ERROR && attempts[1].st == RDT_PEER_REFUSED, "%s; %s",
          attempts[0].text, attempts[1].text);
    CHECK(strstr(attempts[1].text, "its own error says why") != NULL, "%s", attempts[1].text);
    fail_to_join(&(ends_t){{"fake0/1/3,3,3,3,3,3,3,3", "fake1/1/1"}, {0}}, attempts);
    CHECK(strstr(attempts[0].text, " ...) can be used") != NULL, "%s", attempts[0].text);
    fail_to_join(&(ends_t){{"fake0/1/1,1,1,1,1,1,1,1", "fake1/1/1,1,1,1,1,1,1,1"}, {"rtr=19@1"}},
                 attempts); /* the longest list */
    CHECK(strstr(attempts[1].text, "its own error says why") != NULL, "%s", attempts[1].text);
}

/* An offer of GIDs of these kinds: 0 for one that cannot be read. */
static verbs_offer_rail_t offer_of(uint32_t num, uint32_t kinds)
{
    static const uint8_t starts[][12] = {
        {0}, {[10] = 0xff, [11] = 0xff}, {0xfe, 0xbf, [11] = 1}, {0xfe, 0xc0, [11] = 1}};
    verbs_offer_rail_t offer = {.num_gids = num, .link_layer = IBV_LINK_LAYER_ETHERNET};

    for (uint32_t i = 0; i < num; i++) {
        uint32_t kind = kinds >> 2 * i & 3;

        memcpy(offer.gids[i], starts[kind], sizeof(starts[kind]));
        offer.gids[i][15] = kind != 0;
    }
    return offer;
}

/* All that match, once each, what both prefer first. */
static void check_pairs(uint32_t num, uint32_t others, uint32_t kinds, uint32_t other_kinds)
{
    verbs_offer_rail_t lower = offer_of(num, kinds), higher = offer_of(others, other_kinds);
    verbs_gid_pair_t pairs[VERBS_MAX_PAIRS];
    uint32_t num_pairs = rdt_verbs_pair_gids(&lower, &higher, pairs), num_matching = 0;

    for (uint32_t i = 0; i < num * others; i++) {
        uint32_t kind = kinds >> 2 * (i / others) & 3;

        num_matching += kind != 0 && kind == (other_kinds >> 2 * (i % others) & 3);
    }
    CHECK_EQ(num_pairs, num_matching);
    for (uint32_t i = 0; i < num_pairs; i++) {
        verbs_gid_pair_t p = pairs[i];

        CHECK((kinds >> 2 * p.lower & 3) == (other_kinds >> 2 * p.higher & 3), "of other kinds");
        if (i == 0) continue;
        CHECK(pairs[i - 1].lower + pairs[i - 1].higher < p.lower + p.higher ||
                  (pairs[i - 1].lower + pairs[i - 1].higher == p.lower + p.higher &&
                   pairs[i - 1].lower < p.lower),
              "out of order, or twice");
    }
}

static void all_pairs_of_gids_are_in_the_list(void)
{
    uint32_t random = 5;

    for (uint32_t num = 1; num <= VERBS_MAX_GIDS; num++)
        for (uint32_t others = 1; others <= VERBS_MAX_GIDS; others++)
            for (int i = 0; i < 50; i++) {
                uint32_t kinds = random = random * 1664525u + 1013904223u;

                random = random * 1664525u + 1013904223u;
                check_pairs(num, others, kinds >> 8, random >> 8);
            }
    check_pairs(VERBS_MAX_GIDS, VERBS_MAX_GIDS, 0x5555, 0x5555);
}

static int (*real_query_gid)(struct ibv_context *, uint8_t, int, union ibv_gid *);
static bool gid_has_changed;

static int query_gid(struct ibv_context *context, uint8_t port, int index, union ibv_gid *gid)
{
    int err = real_query_gid(context, port, index, gid);

    if (err == 0 && gid_has_changed && index == 1) gid->raw[15] ^= 0x55;
    return err;
}

/* Ranks that meet when they first need each other: the offer of rank 0 is out when its GID 1 changes. */
static void change_a_gid_while_two_join(side_t *sides, const char *rails)
{
    const uint8_t hdr[RDT_HDR_BYTES] = {0};
    uint64_t deadline = rdt_now_ns() + LIMIT_NS;
    verbs_ctx_t *ctx;
    verbs_dev_t *dev;

    sides[0].lazy = sides[1].lazy = true;
    open_ends(sides, &(ends_t){{rails, "fake1/1/1,3"}, {0}});
    connect_sides(sides);
    ctx = (verbs_ctx_t *)sides[0].ctx;
    dev = ctx->rails[0].dev;
    real_query_gid = dev->api.query_gid;
    dev->api.query_gid = query_gid;
    while (ctx->num_joining == 0 && rdt_now_ns() < deadline) {
        (void)sides[1].ops->send(sides[1].conn, RDT_LANE_P2P, hdr, NULL, 0);
        sides[1].ops->poll(sides[1].ctx);
        sides[0].ops->poll(sides[0].ctx);
    }
    CHECK_EQ(ctx->num_joining, 1);
    gid_has_changed = true;
    atomic_fetch_add(&dev->gid_changes, 1);
    while (sides[0].conn->status == RDT_OK && sides[0].conn->unjoined && rdt_now_ns() < deadline)
        turn(sides);
    turn(sides);
    gid_has_changed = false;
}

static void a_gid_that_changes_while_two_join_is_seen(void)
{
    side_t sides[2] = {0};

    change_a_gid_while_two_join(sides, "fake0/1/1");
    CHECK(sides[0].conn->status == RDT_IO_ERROR && strstr(sides[0].conn->detail, "GID") != NULL,
          "%s", sides[0].conn->detail);
    close_pair(sides);
}

/* The one that is used is as it was. */
static void a_gid_that_changes_while_two_join_is_replaced(void)
{
    side_t sides[2] = {0};

    change_a_gid_while_two_join(sides, "fake0/1/1,3");
    exchange(sides, 100);
    CHECK_EQ(((const verbs_conn_t *)sides[0].conn)->qps[0].gid_index, 3);
    close_pair(sides);
}

/* What it has open is its parent's: it opens the device for itself. */
static void a_forked_child_opens_its_own_device(void)
{
    verbs_dev_t *dev, *again;
    int status;
    pid_t pid;

    CHECK(rdt_verbs_dev_open("fake0", "", &dev) == RDT_OK, "%s", rdt_last_error());
    CHECK(rdt_verbs_dev_open("fake0", "", &again) == RDT_OK && again == dev, "not shared");
    pid = fork();
    if (pid == 0) {
        CHECK(rdt_verbs_dev_open("fake0", "", &again) == RDT_OK, "%s", rdt_last_error());
        CHECK(again != dev && again->context != dev->context, "the child has its parent's");
        rdt_verbs_dev_close(again);
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0, "the child failed");
    rdt_verbs_dev_close(dev);
    rdt_verbs_dev_close(dev);
    CHECK_EQ(rdt_ibv_fake_live(), 0);
}

/* -- how long a NIC retries -- */

static int (*real_modify_qp)(struct ibv_qp *, struct ibv_qp_attr *, int);
static uint64_t retries_ns; /* as the last queue pair that went to RTS has them */

static int modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
    if ((mask & IBV_QP_TIMEOUT) !=
        0) /* 4.096 us times 2^timeout, InfiniBand's specification says */
        retries_ns = (4096ull << attr->timeout) * (attr->retry_cnt + 1ull);
    return real_modify_qp(qp, attr, mask);
}

/* As nearly as powers of two allow, and no longer. */
static void expect_retries(const char *option, uint64_t timeout_ns, uint64_t limit_ns)
{
    side_t sides[2] = {{.timeout_ns = timeout_ns}, {.timeout_ns = timeout_ns}};
    char arg[ARG_BYTES];
    verbs_dev_t *dev;

    CHECK(rdt_verbs_dev_open("fake0", "", &dev) == RDT_OK, "%s", rdt_last_error());
    real_modify_qp = dev->api.modify_qp;
    dev->api.modify_qp = modify_qp;
    snprintf(arg, sizeof(arg), "%s%s", PLAIN, option);
    connect_pair(sides, &rdt_verbs_ops, arg);
    CHECK(retries_ns <= limit_ns && 2 * retries_ns > limit_ns, "%s: %llu ns", option,
          (unsigned long long)retries_ns);
    close_pair(sides);
    rdt_verbs_dev_close(dev);
}

static void a_nic_retries_as_long_as_was_asked_for(void)
{
    expect_retries("", 0, 3 * RDT_NS_PER_S / 2);
    expect_retries("", 10 * RDT_NS_PER_S, 3 * RDT_NS_PER_S / 2);
    expect_retries("", RDT_NS_PER_S, RDT_NS_PER_S / 4);
    expect_retries(" retry=20000", 0, 20 * RDT_NS_PER_S);
    expect_retries(" retry=20000", 40 * RDT_NS_PER_S, 10 * RDT_NS_PER_S);
    expect_retries(" retry=300", 40 * RDT_NS_PER_S, 3 * RDT_NS_PER_S / 10);
}

/* Where the kernel needs it ibv_fork_init comes before the first registration, as the fake insists. */
static void a_kernel_that_needs_it_has_forks_guarded(void)
{
    verbs_dev_t *dev;

    works_with("fake0/1/1", "fork=1");
    CHECK(rdt_verbs_dev_open("fake0", "fork=2", &dev) == RDT_IO_ERROR, "opened");
    CHECK(strstr(rdt_last_error(), "RDMAV_FORK_SAFE=1") != NULL, "%s", rdt_last_error());
}

static void a_small_limit_of_locked_memory_is_named(void)
{
    struct rlimit before, small;

    CHECK(getrlimit(RLIMIT_MEMLOCK, &before) == 0, "no limit");
    small = (struct rlimit){64 << 10, before.rlim_max};
    CHECK(setrlimit(RLIMIT_MEMLOCK, &small) == 0, "the limit cannot be lowered");
    fails_to_connect("fake0/1/1", "reg=1", "64 KiB");
    CHECK(setrlimit(RLIMIT_MEMLOCK, &before) == 0, "the limit cannot be raised again");
}

/* -- places -- */

#define PLACE_BYTES (3 * CHUNK)

static void put_all(side_t *sides, const uint8_t *from, uint64_t at)
{
    uint64_t deadline = rdt_now_ns() + LIMIT_NS;
    uint32_t sent = 0, got = 0;

    while (got < PLACE_BYTES) {
        header_t hdr = {.number = got};
        rdt_msg_t msg;

        if (sent < PLACE_BYTES && sides[0].ops->put(sides[0].conn, RDT_LANE_COLL, &hdr, from + sent,
                                                    CHUNK, at + sent) == RDT_OK)
            sent += CHUNK;
        turn(sides);
        if (sides[1].ops->peek(sides[1].conn, RDT_LANE_COLL, &msg) == RDT_OK) {
            CHECK(msg.data == NULL && msg.len == CHUNK, "not in place");
            got += msg.len;
            sides[1].ops->release(sides[1].conn, RDT_LANE_COLL);
        }
        CHECK(rdt_now_ns() < deadline, "%u bytes came: %s", got, sides[0].conn->detail);
    }
}

/* Rank 1 says where, in a message, as coll does: so the keys are there before it. */
static uint64_t tell(side_t *sides, uint8_t *where)
{
    uint64_t deadline = rdt_now_ns() + LIMIT_NS;
    header_t hdr = {0};
    rdt_msg_t msg;

    CHECK(sides[1].ops->expose(sides[1].conn, where, PLACE_BYTES, &hdr.number) == RDT_OK, "%s",
          rdt_last_error());
    CHECK(sides[1].ops->send(sides[1].conn, RDT_LANE_COLL, &hdr, NULL, 0) == RDT_OK, "no slot");
    while (sides[0].ops->peek(sides[0].conn, RDT_LANE_COLL, &msg) != RDT_OK) {
        turn(sides);
        CHECK(rdt_now_ns() < deadline, "nothing came");
    }
    memcpy(&hdr, msg.hdr, sizeof(hdr));
    sides[0].ops->release(sides[0].conn, RDT_LANE_COLL);
    return hdr.number;
}

/* The works that failed with a connection give their buffers back, while its peer, which need not have
 * noticed, still takes what comes. */
static void a_failed_connection_reads_no_source(void)
{
    uint8_t *from = rdt_arena_alloc(CHUNK);
    header_t hdr = {0};
    rdt_msg_t msg;

    for (int seed = 1; seed <= 5; seed++) {
        side_t sides[2] = {0};
        char script[32];

        snprintf(script, sizeof(script), "delay=99;seed=%d", seed);
        connect_with(sides, "fake0/1/1", script);
        memset(from, 1, CHUNK);
        for (int n = 0; n < VERBS_SLOTS / 2; n++)
            CHECK(sides[0].ops->send(sides[0].conn, RDT_LANE_COLL, &hdr, from, CHUNK) == RDT_OK,
                  "no slot");
        shutdown(((verbs_conn_t *)sides[1].conn)->sock, SHUT_RDWR);
        await_end(&sides[0]);
        memset(from, 2, CHUNK); /* its owner's again */
        for (int i = 0; i < 1000; i++) {
            sides[0].ops->poll(sides[0].ctx);
            sides[1].ops->poll(sides[1].ctx);
            if (sides[1].ops->peek(sides[1].conn, RDT_LANE_COLL, &msg) != RDT_OK) continue;
            CHECK(((const uint8_t *)msg.data)[CHUNK - 1] == 1, "it sends what was not to be sent");
            sides[1].ops->release(sides[1].conn, RDT_LANE_COLL);
        }
        close_pair(sides);
    }
    rdt_arena_free(from);
}

/* Staged is what was copied of tensors: not what the transport has to say itself. */
static void keys_are_not_staged_data(void)
{
    side_t sides[2] = {0};
    uint8_t *to = rdt_arena_alloc(PLACE_BYTES);

    connect_pair(sides, &rdt_verbs_ops, PLAIN "inline=0");
    (void)tell(sides, to);
    CHECK_EQ(sides[1].conn->staged_bytes, 0);
    close_pair(sides);
    rdt_arena_free(to);
}

static void data_goes_where_the_receiver_said(const char *rails)
{
    side_t sides[2] = {0};
    uint8_t *from = rdt_arena_alloc(PLACE_BYTES), *to = rdt_arena_alloc(PLACE_BYTES + 64);
    uint8_t heap[PLACE_BYTES];
    uint64_t at;

    for (uint32_t i = 0; i < PLACE_BYTES; i++) {
        from[i] = (uint8_t)(i * 7 + 3);
        heap[i] = (uint8_t)(i * 5 + 1);
    }
    memset(to, 0xee, PLACE_BYTES + 64);
    connect_with(sides, rails, "delay=3");
    CHECK(sides[0].conn->places && sides[1].conn->places, "no places");
    CHECK(sides[1].ops->expose(sides[1].conn, heap, CHUNK, &at) == RDT_UNSUPPORTED,
          "the heap is registered");
    at = tell(sides, to);
    put_all(sides, from, at);
    CHECK(memcmp(to, from, PLACE_BYTES) == 0 && to[PLACE_BYTES] == 0xee, "other bytes");
    CHECK_EQ(sides[0].conn->staged_bytes + sides[1].conn->staged_bytes, 0);
    put_all(sides, heap, at); /* the heap's cannot be read by the NIC: one copy */
    CHECK(memcmp(to, heap, PLACE_BYTES) == 0, "other bytes");
    CHECK_EQ(sides[0].conn->staged_bytes, PLACE_BYTES);
    CHECK_EQ(sides[0].conn->sent_bytes, 2 * PLACE_BYTES);
    CHECK_EQ(sides[1].conn->received_bytes, 2 * PLACE_BYTES);
    close_pair(sides);
    rdt_arena_free(from);
    rdt_arena_free(to);
}

/* More than the transport keeps account of at a time; a store beyond what was exposed is the sender's mistake,
 * and reaches nothing. */
static void what_is_stored_comes_without_a_message(void)
{
    side_t sides[2] = {0};
    uint8_t *from = rdt_arena_alloc(PLACE_BYTES), *to = rdt_arena_alloc(PLACE_BYTES);
    static uint8_t heap[PLACE_BYTES];
    uint64_t at, deadline = rdt_now_ns() + LIMIT_NS;
    rdt_conn_t *conn;
    rdt_msg_t msg;

    memset(to, 0, PLACE_BYTES);
    connect_with(sides, "fake0/1/1", "delay=3");
    conn = sides[0].conn;
    at = tell(sides, to);
    for (uint8_t n = 1; n <= 100; n++) {
        rdt_status_t st;

        memset(from + n * 64, n, 64);
        while ((st = conn->ops->store(conn, RDT_LANE_COLL, from, n * 64u + 64u, at)) == RDT_AGAIN) {
            turn(sides);
            CHECK(rdt_now_ns() < deadline, "store %u finds no room", n);
        }
        CHECK_EQ(st, RDT_OK);
    }
    while (conn->flushed[RDT_LANE_COLL] < conn->posted[RDT_LANE_COLL]) {
        turn(sides);
        CHECK(rdt_now_ns() < deadline, "the stores do not end");
    }
    CHECK(memcmp(from + 64, to + 64, 6400) == 0, "other bytes");
    CHECK_EQ(sides[1].ops->peek(sides[1].conn, RDT_LANE_COLL, &msg), RDT_AGAIN);
    CHECK_EQ(conn->ops->store(conn, RDT_LANE_COLL, heap, PLACE_BYTES, at), RDT_UNSUPPORTED);
    CHECK_EQ(conn->staged_bytes, 0);
    CHECK_EQ(conn->ops->store(conn, RDT_LANE_COLL, from, 8, UINT64_MAX / 2), RDT_PROTOCOL);
    close_pair(sides);
    rdt_arena_free(from);
    rdt_arena_free(to);
}

/* After revoke the peer cannot change a byte, and it learns that this rank is gone. */
static void what_is_revoked_stays_as_it_is(void)
{
    side_t sides[2] = {0};
    uint8_t *to = rdt_arena_alloc(PLACE_BYTES);
    header_t hdr = {0};
    uint64_t at, deadline = rdt_now_ns() + LIMIT_NS;

    memset(to, 0xee, PLACE_BYTES);
    connect_with(sides, "fake0/1/1", "");
    at = tell(sides, to);
    sides[1].ops->revoke(sides[1].ctx, 1);
    while (sides[0].conn->status == RDT_OK) {
        (void)sides[0].ops->put(sides[0].conn, RDT_LANE_COLL, &hdr, "late", 4, at);
        turn_one(&sides[0]);
        CHECK(rdt_now_ns() < deadline, "rank 0 does not notice");
    }
    for (uint32_t i = 0; i < PLACE_BYTES; i++)
        CHECK_EQ(to[i], 0xee);
    close_pair(sides);
    rdt_arena_free(to);
}

/* What is written to standard error from catch_warnings to caught_warnings. */
static FILE *warnings;
static int real_stderr;

static void catch_warnings(void)
{
    warnings = tmpfile();
    real_stderr = dup(STDERR_FILENO);
    CHECK(warnings != NULL && dup2(fileno(warnings), STDERR_FILENO) >= 0, "no file");
}

static void caught_warnings(char *text, size_t bytes)
{
    size_t len;

    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    rewind(warnings);
    len = fread(text, 1, bytes - 1, warnings);
    text[len] = '\0';
    fclose(warnings);
}

static void an_extent_that_cannot_be_registered_is_staged(void)
{
    side_t sides[2] = {0};
    uint8_t *from = rdt_arena_alloc(PLACE_BYTES), *to = rdt_arena_alloc(PLACE_BYTES);
    uint8_t *other = rdt_arena_alloc(65u << 20); /* in an extent of its own */
    char text[1024];
    uint64_t at;

    memset(from, 0x5a, PLACE_BYTES);
    connect_with(sides, "fake0/1/1", "reg=2;reg=3"); /* the first one is the slots' */
    catch_warnings();
    at = tell(sides, to);
    put_all(sides, from, at);
    CHECK(sides[0].ops->expose(sides[0].conn, other, CHUNK, &at) == RDT_UNSUPPORTED, "registered");
    caught_warnings(text, sizeof(text));
    CHECK(strncmp(text, "rdmatrain: rank 0: tensors are copied for the NIC: registering ", 63) ==
                  0 &&
              strstr(text, "KiB with fake0: ") != NULL,
          "%s", text);
    CHECK(strchr(text, '\n') == strrchr(text, '\n'), "told more than once: %s", text);
    CHECK(memcmp(to, from, PLACE_BYTES) == 0, "other bytes");
    CHECK_EQ(sides[0].conn->staged_bytes, PLACE_BYTES);
    CHECK(sides[0].ops->expose(sides[0].conn, from, CHUNK, &at) == RDT_UNSUPPORTED, "registered");
    close_pair(sides);
    rdt_arena_free(from);
    rdt_arena_free(to);
    rdt_arena_free(other);
}

/* A group that failed has taken the first pages of an extent back; the others are as good as before. In
 * the second extent of the arena, as the first begins at 0. */
static void what_lies_beside_detached_pages_is_reached(void)
{
    side_t sides[2] = {0};
    void *first = rdt_arena_alloc(64u << 20), *detached = rdt_arena_alloc(CHUNK);
    uint8_t *from = rdt_arena_alloc(PLACE_BYTES), *to = rdt_arena_alloc(PLACE_BYTES);
    uint64_t at;

    CHECK(rdt_arena_offset(detached, 1, &at) && at >= 64u << 20, "not in the second extent");
    CHECK(rdt_arena_detach(detached, CHUNK) == RDT_OK, "%s", rdt_last_error());
    memset(from, 0x77, PLACE_BYTES);
    connect_with(sides, "fake0/1/1", "");
    CHECK(sides[0].ops->expose(sides[0].conn, detached, CHUNK, &at) == RDT_UNSUPPORTED, "exposed");
    at = tell(sides, to);
    put_all(sides, from, at);
    CHECK(memcmp(to, from, PLACE_BYTES) == 0, "other bytes");
    CHECK_EQ(sides[0].conn->staged_bytes, 0);
    CHECK_EQ(((const verbs_ctx_t *)sides[0].ctx)->num_extents, 1);
    close_pair(sides);
    rdt_arena_free(first);
    rdt_arena_free(detached);
    rdt_arena_free(from);
    rdt_arena_free(to);
}

int main(void)
{
    CHECK(rdt_arena_open() == RDT_OK, "%s", rdt_last_error());
    a_forked_child_opens_its_own_device(); /* before the fake has a thread */
    what_cannot_be_opened_says_why();
    rails_may_overtake_each_other();
    ranks_may_have_other_numbers_of_rails();
    counts_of_work_requests_wrap();
    silence_is_probed_on_every_rail();
    limits_of_the_device_are_kept();
    all_pairs_of_gids_are_in_the_list();
    a_gid_that_cannot_be_used_is_replaced();
    gids_of_one_kind_are_found();
    gids_that_cannot_be_used_are_passed_over_by_both();
    where_no_gids_fit_both_ends_are_named();
    a_gid_that_changes_while_two_join_is_seen();
    a_gid_that_changes_while_two_join_is_replaced();
    every_completion_status_is_said_in_words();
    what_the_device_refuses_or_reports_ends_the_connection();
    a_device_that_is_hidden_is_lost();
    a_nic_retries_as_long_as_was_asked_for();
    a_kernel_that_needs_it_has_forks_guarded();
    an_idle_peer_without_a_queue_pair_is_lost();
    a_failed_connection_reads_no_source();
    keys_are_not_staged_data();
    data_goes_where_the_receiver_said("fake0/1/1");
    data_goes_where_the_receiver_said("fake0/1/1+fake1/1/1+fake3/1/3");
    what_is_stored_comes_without_a_message();
    what_is_revoked_stays_as_it_is();
    an_extent_that_cannot_be_registered_is_staged();
    what_lies_beside_detached_pages_is_reached();
    CHECK_EQ(rdt_ibv_fake_live(), 0);
    a_small_limit_of_locked_memory_is_named();
    puts("verbs: ok");
    return 0;
}
