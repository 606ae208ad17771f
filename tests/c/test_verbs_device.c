/* SPDX-License-Identifier: Apache-2.0 */
/* What the verbs transport asks of a device, and what it makes of what the device reports. Between the
 * two stand functions of this file, which see and say what the fake of ibv/ibv_fake.h does not. */
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arena/arena.h"
#include "ibv/ibv_fake.h"
#include "verbs_check.h"

static verbs_dev_t *dev_of(const side_t *side, uint32_t rail)
{
    return ((const verbs_ctx_t *)side->ctx)->rails[rail].dev;
}

/* -- queue pairs -- */

#define MAX_QPS 4

/* What a queue pair was last given on its way to INIT, RTR and RTS. */
typedef struct moves {
    const struct ibv_qp *qp;
    struct ibv_qp_attr to[IBV_QPS_RTS + 1];
} moves_t;

static moves_t all_moves[MAX_QPS];
static pthread_mutex_t moves_lock = PTHREAD_MUTEX_INITIALIZER; /* two ranks connect at once */
static int (*real_modify_qp)(struct ibv_qp *, struct ibv_qp_attr *, int);

static moves_t *moves_of(const struct ibv_qp *qp)
{
    for (size_t i = 0; i < MAX_QPS; i++) {
        if (all_moves[i].qp == NULL) all_moves[i].qp = qp;
        if (all_moves[i].qp == qp) return &all_moves[i];
    }
    CHECK(false, "more than %d queue pairs", MAX_QPS);
    return NULL;
}

static int modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
    struct ibv_qp_attr passed = *attr;

    CHECK((mask & IBV_QP_STATE) != 0, "a move to no state");
    pthread_mutex_lock(&moves_lock);
    if (attr->qp_state <= IBV_QPS_RTS) moves_of(qp)->to[attr->qp_state] = *attr;
    pthread_mutex_unlock(&moves_lock);
    passed.pkey_index = 0; /* a port of the fake has no other */
    return real_modify_qp(qp, &passed, mask);
}

static void connect_seen(side_t *sides, const char *first, const char *second)
{
    memset(all_moves, 0, sizeof(all_moves));
    open_pair_with(sides, &rdt_verbs_ops, first, second);
    for (int r = 0; r < 2; r++)
        for (uint32_t i = 0; i < ((verbs_ctx_t *)sides[r].ctx)->num_rails; i++) {
            real_modify_qp = dev_of(&sides[r], i)->api.modify_qp;
            dev_of(&sides[r], i)->api.modify_qp = modify_qp;
        }
    connect_sides(sides);
}

typedef struct expected {
    uint32_t pkey, sl, tc;
    int gid; /* index, at both ends */
    enum ibv_mtu mtu;
    uint32_t peer_lid; /* of InfiniBand, else 0 */
} expected_t;

static void check_address(const side_t *peer, uint32_t rail, const struct ibv_ah_attr *ah,
                          const expected_t *want)
{
    const verbs_dev_t *dev = dev_of(peer, rail);
    union ibv_gid gid;

    CHECK_EQ(ah->port_num, 1);
    CHECK_EQ(ah->sl, want->sl);
    CHECK_EQ(ah->dlid, want->peer_lid);
    CHECK_EQ(ah->src_path_bits, 0);
    CHECK_EQ(ah->static_rate, 0);
    CHECK_EQ(ah->is_global, want->peer_lid == 0);
    if (!ah->is_global) return;
    CHECK_EQ(dev->api.query_gid(dev->context, 1, want->gid, &gid), 0);
    CHECK(memcmp(&ah->grh.dgid, &gid, sizeof(gid)) == 0, "not the GID of the peer's rail %u", rail);
    CHECK_EQ(ah->grh.sgid_index, want->gid);
    CHECK_EQ(ah->grh.hop_limit, 255); /* RoCE v2 is routed */
    CHECK_EQ(ah->grh.traffic_class, want->tc);
    CHECK_EQ(ah->grh.flow_label, 0);
}

/* Of how long and how often a NIC tries again it is only looked at that it ends. */
static void check_moves(const side_t *sides, int me, uint32_t rail, const expected_t *want)
{
    const struct ibv_qp *qp = ((const verbs_conn_t *)sides[me].conn)->qps[rail].qp;
    const struct ibv_qp *peer = ((const verbs_conn_t *)sides[1 - me].conn)->qps[rail].qp;
    const struct ibv_qp_attr *init = &moves_of(qp)->to[IBV_QPS_INIT];
    const struct ibv_qp_attr *rtr = &moves_of(qp)->to[IBV_QPS_RTR];
    const struct ibv_qp_attr *rts = &moves_of(qp)->to[IBV_QPS_RTS];

    CHECK_EQ(init->pkey_index, want->pkey);
    CHECK_EQ(init->port_num, 1);
    CHECK_EQ(init->qp_access_flags, IBV_ACCESS_REMOTE_WRITE);

    CHECK_EQ(rtr->path_mtu, want->mtu);
    CHECK_EQ(rtr->dest_qp_num, peer->qp_num);
    CHECK_EQ(rtr->rq_psn, moves_of(peer)->to[IBV_QPS_RTS].sq_psn);
    CHECK_EQ(rtr->max_dest_rd_atomic, 1);
    CHECK_EQ(rtr->min_rnr_timer, 12); /* 0.64 ms */
    check_address(&sides[1 - me], rail, &rtr->ah_attr, want);

    CHECK(rts->sq_psn <= 0xffffff, "%x is no PSN", rts->sq_psn);
    CHECK(rts->sq_psn != rtr->rq_psn, "PSN %x at both ends", rts->sq_psn); /* by chance: 2^-24 */
    CHECK(rts->timeout != 0, "it waits for ever");
    CHECK_EQ(rts->rnr_retry, 7); /* without end */
    CHECK_EQ(rts->max_rd_atomic, 1);
}

static void queue_pairs_get_what_the_argument_says(void)
{
    static const int gids[] = {3, 1};
    expected_t want[2] = {{.pkey = 3, .sl = 5, .tc = 106, .mtu = IBV_MTU_1024},
                          {.pkey = 40000, .sl = 15, .tc = 255, .mtu = IBV_MTU_1024}};
    side_t sides[2] = {0};

    connect_seen(sides, "rails=fake0/1/3,1+fake2/1/1" ADDR " tc=106 sl=5 pkey=3 mtu=2048 fake=",
                 "rails=fake1/1/3,1+fake3/1/1" ADDR " tc=255 sl=15 pkey=40000 mtu=1024 fake=");
    for (uint32_t rail = 0; rail < 2; rail++)
        for (int me = 0; me < 2; me++) {
            want[me].gid = gids[rail];
            check_moves(sides, me, rail, &want[me]);
        }
    exchange(sides, 10);
    close_pair(sides);
}

/* They go back to RESET, and get everything again. */
static void queue_pairs_with_the_next_gid_get_the_same(void)
{
    const expected_t want = {.pkey = 2, .sl = 1, .tc = 7, .gid = 1, .mtu = IBV_MTU_512};
    side_t sides[2] = {0};

    connect_seen(sides, "rails=fake0/1/3,1" ADDR " tc=7 sl=1 pkey=2 mtu=512 fake=rtr=19@3",
                 "rails=fake1/1/3,1" ADDR " tc=7 sl=1 pkey=2 fake=");
    for (int me = 0; me < 2; me++)
        check_moves(sides, me, 0, &want);
    exchange(sides, 10);
    close_pair(sides);
}

/* InfiniBand goes by LIDs, within a subnet. */
static void queue_pairs_of_infiniband_have_lids(void)
{
    expected_t want = {.sl = 4, .gid = 1, .mtu = IBV_MTU_2048};
    side_t sides[2] = {0};

    connect_seen(sides, "rails=fake0/1/1" ADDR " tc=9 sl=4 fake=lid=17",
                 "rails=fake1/1/1" ADDR " tc=9 sl=4 fake=lid=40000;mtu=2048");
    want.peer_lid = 40000;
    check_moves(sides, 0, 0, &want);
    want.peer_lid = 17;
    check_moves(sides, 1, 0, &want);
    exchange(sides, 10);
    close_pair(sides);
}

/* Of both ports and both arguments, whichever side it is on. The rest has its defaults. */
static void the_path_has_the_smallest_mtu(void)
{
    static const struct {
        unsigned port[2], option[2]; /* 0: none */
        enum ibv_mtu mtu;
    } cases[] = {
        {{4096, 4096}, {0, 0}, IBV_MTU_4096},
        {{4096, 1024}, {0, 0}, IBV_MTU_1024},
        {{256, 2048}, {0, 0}, IBV_MTU_256},
        {{4096, 4096}, {512, 0}, IBV_MTU_512},
        {{4096, 4096}, {0, 2048}, IBV_MTU_2048},
        {{4096, 4096}, {1500, 0}, IBV_MTU_1024}, /* what is no MTU is rounded down */
        {{1024, 4096}, {4096, 0}, IBV_MTU_1024},
        {{4096, 1024}, {512, 0}, IBV_MTU_512},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        side_t sides[2] = {0};
        char args[2][ARG_BYTES];

        for (int r = 0; r < 2; r++) {
            int n = snprintf(args[r], ARG_BYTES, "rails=fake%d/1/1" ADDR " fake=mtu=%u", r,
                             cases[i].port[r]);

            if (cases[i].option[r] > 0)
                snprintf(args[r] + n, ARG_BYTES - (size_t)n, " mtu=%u", cases[i].option[r]);
        }
        connect_seen(sides, args[0], args[1]);
        for (int me = 0; me < 2; me++)
            check_moves(sides, me, 0, &(expected_t){.gid = 1, .mtu = cases[i].mtu});
        close_pair(sides);
    }
}

/* -- asynchronous events -- */

static bool is_fatal(enum ibv_event_type type)
{
    return type == IBV_EVENT_CQ_ERR || type == IBV_EVENT_QP_FATAL || type == IBV_EVENT_QP_REQ_ERR ||
           type == IBV_EVENT_QP_ACCESS_ERR || type == IBV_EVENT_DEVICE_FATAL;
}

static void expect_no_harm(const char *script, const char *name)
{
    side_t sides[2] = {0};
    struct pollfd pfd;

    connect_with(sides, "fake0/1/1", script);
    exchange(sides, 100);
    turn(sides);
    for (int r = 0; r < 2; r++)
        CHECK(sides[r].conn->status == RDT_OK, "%s: %s", name, sides[r].conn->detail);
    pfd = (struct pollfd){.fd = dev_of(&sides[0], 0)->context->async_fd, .events = POLLIN};
    CHECK(poll(&pfd, 1, 0) == 0, "%s: nobody has taken it", name);
    CHECK(rdt_verbs_check_rails((verbs_ctx_t *)sides[0].ctx) == RDT_OK, "%s: %s", name,
          rdt_last_error());
    close_pair(sides);
}

/* In the midst of messages. A port that is down is another matter, below. */
static void every_event_is_fatal_or_changes_nothing(void)
{
    rdt_ibv_api_t api;

    CHECK(rdt_ibv_fake(NULL, &api) == RDT_OK, "%s", rdt_last_error());
    for (int type = 0; type <= IBV_EVENT_WQ_FATAL; type++) {
        const char *name = api.event_type_str((enum ibv_event_type)type);
        char script[32];

        snprintf(script, sizeof(script), "event=%d@4", type);
        if (is_fatal((enum ibv_event_type)type))
            expect_failure(script, RDT_IO_ERROR, name);
        else if (type != IBV_EVENT_PORT_ERR)
            expect_no_harm(script, name);
    }
}

/* -- a port that is down -- */

#define GRACE_NS (3 * RDT_NS_PER_S / 2) /* in which it may come back: while a NIC would retry */

/* What rank 0 hears of its port. Queue pairs do not suffer: only what it hears can end a connection. */
static bool port_is_down;
static struct ibv_async_event port_event; /* that waits, if has_port_event */
static bool has_port_event;
static int (*real_query_port)(struct ibv_context *, uint8_t, struct ibv_port_attr *);
static int (*real_get_async_event)(struct ibv_context *, struct ibv_async_event *);

static int query_port(struct ibv_context *context, uint8_t port, struct ibv_port_attr *attr)
{
    int err = real_query_port(context, port, attr);

    if (err == 0 && port_is_down) attr->state = IBV_PORT_DOWN;
    return err;
}

static int get_async_event(struct ibv_context *context, struct ibv_async_event *event)
{
    if (!has_port_event) return real_get_async_event(context, event);
    *event = port_event;
    has_port_event = false;
    return 0;
}

static void set_port(bool is_down, bool says_so)
{
    port_is_down = is_down;
    port_event = (struct ibv_async_event){
        .element.port_num = 1, .event_type = is_down ? IBV_EVENT_PORT_ERR : IBV_EVENT_PORT_ACTIVE};
    has_port_event = says_so;
}

static void connect_to_port(side_t *sides)
{
    rdt_ibv_api_t *api;

    connect_with(sides, "fake0/1/1",
                 "seed=2"); /* a script, so that rank 0 has a device of its own */
    api = &dev_of(&sides[0], 0)->api;
    real_query_port = api->query_port;
    real_get_async_event = api->get_async_event;
    api->query_port = query_port;
    api->get_async_event = get_async_event;
    turn(sides);
}

static void a_port_that_stays_down_ends_an_idle_connection(void)
{
    side_t sides[2] = {0};
    uint64_t since;

    connect_to_port(sides);
    since = rdt_now_ns();
    set_port(true, true);
    while (sides[0].conn->status == RDT_OK) {
        turn(sides);
        CHECK(rdt_now_ns() < since + 5 * GRACE_NS, "nobody says that the port is down");
    }
    CHECK(rdt_now_ns() >= since + GRACE_NS, "%llu ms of grace",
          (unsigned long long)((rdt_now_ns() - since) / RDT_NS_PER_MS));
    CHECK(sides[0].conn->status == RDT_IO_ERROR &&
              strcmp(sides[0].conn->detail, "fake0/1: the port is down") == 0,
          "%s: %s", rdt_status_name(sides[0].conn->status), sides[0].conn->detail);
    CHECK(sides[1].conn->status == RDT_OK, "%s", sides[1].conn->detail);
    set_port(false, false);
    close_pair(sides);
}

/* says_so: by an event; else its state, which is looked at when the grace is over. */
static void a_port_that_comes_back_saves_the_connection(bool says_so)
{
    side_t sides[2] = {0};
    uint64_t since;

    connect_to_port(sides);
    since = rdt_now_ns();
    set_port(true, true);
    while (rdt_now_ns() < since + GRACE_NS / 8)
        turn(sides);
    set_port(false, says_so);
    while (rdt_now_ns() < since + GRACE_NS + GRACE_NS / 4)
        turn(sides);
    exchange(sides, 10);
    for (int r = 0; r < 2; r++)
        CHECK(sides[r].conn->status == RDT_OK, "%s", sides[r].conn->detail);
    close_pair(sides);
}

/* -- registrations -- */

#define WRITABLE (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)
#define BLOCK_BYTES 65536

/* The last one of rank 0, and how many there were. */
static struct {
    const uint8_t *base;
    size_t len;
    unsigned access;
} last_reg;
static int num_regs;
static rdt_ibv_api_t real_regs;

static void see_reg(const void *base, size_t len, unsigned access)
{
    last_reg.base = base;
    last_reg.len = len;
    last_reg.access = access;
    num_regs++;
}

static struct ibv_mr *reg_mr(struct ibv_pd *pd, void *addr, size_t len, int access)
{
    see_reg(addr, len, (unsigned)access);
    return real_regs.reg_mr(pd, addr, len, access);
}

static struct ibv_mr *reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t len, uint64_t iova,
                                   unsigned access)
{
    CHECK(iova == (uintptr_t)addr, "another address for peers");
    see_reg(addr, len, access);
    return real_regs.reg_mr_iova2(pd, addr, len, iova, access);
}

static struct ibv_mr *reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, size_t len, uint64_t iova,
                                    int fd, int access)
{
    see_reg((const uint8_t *)(uintptr_t)iova, len, (unsigned)access);
    return real_regs.reg_dmabuf_mr(pd, offset, len, iova, fd, access);
}

/* The registration that was made since the one before, of memory that holds addr. */
static void expect_access(const void *addr, unsigned access)
{
    CHECK_EQ(num_regs, 1);
    CHECK((const uint8_t *)addr >= last_reg.base &&
              (const uint8_t *)addr < last_reg.base + last_reg.len,
          "other memory was registered");
    CHECK(last_reg.access == access, "access %x, expected %x", last_reg.access, access);
    num_regs = 0;
}

/* Rank 0 is watched, whose connection's own memory is the first that is registered. */
static void connect_registering(side_t *sides, const char *script)
{
    char arg[ARG_BYTES];
    rdt_ibv_api_t *api;

    snprintf(arg, sizeof(arg), "rails=fake0/1/1" ADDR " fake=%s", script);
    open_pair_with(sides, &rdt_verbs_ops, arg, "rails=fake1/1/1" ADDR " fake=");
    api = &dev_of(&sides[0], 0)->api;
    real_regs = *api;
    api->reg_mr = reg_mr;
    if (api->reg_mr_iova2 != NULL) api->reg_mr_iova2 = reg_mr_iova2;
    if (api->reg_dmabuf_mr != NULL) api->reg_dmabuf_mr = reg_dmabuf_mr;
    num_regs = 0;
    connect_sides(sides);
}

/* Slots come in the order in which the NIC gets them; what is put in place, in any order: who reads that has
 * seen the message behind it. No peer reads anything. */
static void memory_is_registered_for_what_is_done_with_it(const char *script, unsigned arena)
{
    uint8_t *block = rdt_arena_alloc(BLOCK_BYTES);
    side_t sides[2] = {0};
    uint64_t at;

    connect_registering(sides, script);
    expect_access(((const verbs_conn_t *)sides[0].conn)->memory, WRITABLE);
    CHECK_EQ(sides[0].ops->expose(sides[0].conn, block, BLOCK_BYTES, &at), RDT_OK);
    expect_access(block, arena);
    close_pair(sides);
    rdt_arena_free(block);
}

static void memory_of_another_device_is_registered_as_the_arena(void)
{
    rdt_dmabuf_t memory = {.len = BLOCK_BYTES, .fd = memfd_create("verbs_device", MFD_CLOEXEC)};
    side_t sides[2] = {0};

    CHECK(memory.fd >= 0 && ftruncate(memory.fd, BLOCK_BYTES) == 0, "no memory");
    memory.addr = mmap(NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory.fd, 0);
    CHECK(memory.addr != MAP_FAILED, "no memory");
    connect_registering(sides, "dmabuf=1");
    num_regs = 0;
    CHECK_EQ(sides[0].ops->adopt(sides[0].ctx, &memory), RDT_OK);
    expect_access(memory.addr, WRITABLE | IBV_ACCESS_RELAXED_ORDERING);
    close_pair(sides);
    munmap(memory.addr, BLOCK_BYTES);
    close(memory.fd);
}

/* -- completion channels -- */

static bool is_readable(const side_t *side, const rdt_sleep_t *sleep)
{
    const verbs_ctx_t *ctx = (const verbs_ctx_t *)side->ctx;

    for (uint32_t i = 0; i < sleep->num_fds; i++)
        for (uint32_t r = 0; r < ctx->num_rails; r++)
            if (sleep->fds[i].fd == ctx->rails[r].channel->fd &&
                (sleep->fds[i].revents & POLLIN) != 0)
                return true;
    return false;
}

/* Of whichever rail it comes on, and each time anew. */
static void a_message_wakes_a_sleeper(void)
{
    side_t sides[2] = {0};
    struct pollfd fds[1 + RDT_SLEEP_FDS];
    header_t hdr = {0};
    rdt_msg_t msg;

    connect_with(sides, "fake0/1/1+fake1/1/1", "seed=2");
    exchange(sides, 2); /* and whatever the device had to say of new queue pairs is read */
    for (int i = 0; i < 6; i++) {
        rdt_sleep_t sleep = {.fds = fds};

        turn(sides);
        sides[1].ops->arm(sides[1].ctx, &sleep);
        CHECK(poll(fds, sleep.num_fds, 0) == 0, "awake before anything comes");
        CHECK_EQ(sides[0].ops->send(sides[0].conn, RDT_LANE_COLL, &hdr, "come", 4), RDT_OK);
        CHECK(poll(fds, sleep.num_fds, 5000) > 0, "message %d wakes nobody within 5 s", i);
        CHECK(is_readable(&sides[1], &sleep), "message %d: not by a completion queue", i);
        sides[1].ops->disarm(sides[1].ctx);
        await(sides, 1, RDT_LANE_COLL, &msg);
        sides[1].ops->release(sides[1].conn, RDT_LANE_COLL);
    }
    close_pair(sides);
}

int main(void)
{
    CHECK(rdt_arena_open() == RDT_OK, "%s", rdt_last_error());
    queue_pairs_get_what_the_argument_says();
    queue_pairs_with_the_next_gid_get_the_same();
    queue_pairs_of_infiniband_have_lids();
    the_path_has_the_smallest_mtu();
    every_event_is_fatal_or_changes_nothing();
    a_port_that_stays_down_ends_an_idle_connection();
    a_port_that_comes_back_saves_the_connection(true);
    a_port_that_comes_back_saves_the_connection(false);
    memory_is_registered_for_what_is_done_with_it("", WRITABLE | IBV_ACCESS_RELAXED_ORDERING);
    memory_is_registered_for_what_is_done_with_it("iova2=0", WRITABLE); /* an old library */
    memory_of_another_device_is_registered_as_the_arena();
    a_message_wakes_a_sleeper();
    CHECK_EQ(rdt_ibv_fake_live(), 0);
    puts("verbs_device: ok");
    return 0;
}
