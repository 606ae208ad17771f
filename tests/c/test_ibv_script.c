/* SPDX-License-Identifier: Apache-2.0 */
/* Each item of the fake's script makes the trouble that it says, there and nowhere else. Those of
 * devices, ports and GIDs are in test_ibv_probe.c. */
#include "ibv_check.h"

/* -- the text -- */

static void refuse(const char *script, const char *from)
{
    rdt_ibv_api_t api = {0};
    char want[64];

    CHECK_EQ(rdt_ibv_fake(script, &api), RDT_BAD_ARG);
    CHECK(api.open_device == NULL, "\"%s\" filled the table", script);
    snprintf(want, sizeof(want), "from \"%s\" on", from);
    CHECK(strstr(rdt_last_error(), want) != NULL, "\"%s\" has no %s", rdt_last_error(), want);
}

static void bad_scripts_are_refused(void)
{
    char long_script[64 * 8] = "";
    rdt_ibv_api_t api;

    refuse("posts=1", "posts=1");
    refuse("post=1;wc=12", "wc=12");
    refuse("post", "post");
    refuse("post=", "post=");
    refuse("post=x", "post=x");
    refuse("post=-1", "post=-1");
    refuse("post=1;;recv=1", ";recv=1");
    refuse("post=1, recv=1", "post=1, recv=1");
    refuse("wc=24@1", "wc=24@1");
    refuse("wc=NO_SUCH@1", "wc=NO_SUCH@1");
    refuse("wc=REM_OP@1", "wc=REM_OP@1"); /* not by a part of the name */
    refuse("event=20@1", "event=20@1");
    refuse("rtr=ENODEV@4", "rtr=ENODEV@4");
    refuse("devices=5", "devices=5");
    refuse("mtu=1500", "mtu=1500");
    refuse("mtu=128", "mtu=128");
    refuse("delay=1001", "delay=1001");
    refuse("seed=4294967296", "seed=4294967296");
    refuse("post=1@2", "post=1@2");
    for (int i = 0; i < 33; i++)
        strcat(long_script, "post=9;");
    refuse(long_script, "post=9;");
    CHECK_EQ(rdt_ibv_fake(NULL, &api), RDT_OK);
    CHECK_EQ(rdt_ibv_fake("post=1;", &api), RDT_OK);
    CHECK_EQ(rdt_ibv_fake("wc=REM_OP_ERR@4;event=PORT_ERR@0;event=8@9;seed=4294967295", &api),
             RDT_OK);
}

/* A script is that of what the thread opens next; what is open keeps its own. */
static void scripts_are_of_contexts(void)
{
    end_t a, b;
    request_t r;

    open_end(&a, "post=1", 0);
    open_end(&b, "post=2", 0);
    join_ends(&a, &b);
    set_request(&r, &a, &b, 0, 8);
    CHECK_EQ(post(&a, &r), ENOMEM);
    CHECK_EQ(post(&a, &r), 0);
    set_request(&r, &b, &a, 0, 8);
    CHECK_EQ(post(&b, &r), 0);
    CHECK_EQ(post(&b, &r), ENOMEM);
    close_pair(&a, &b);
}

/* -- posts and registrations -- */

static void the_third_post_fails(void)
{
    end_t a, b;
    request_t r[4];
    struct ibv_send_wr *bad;

    open_pair(&a, "post=3;recv=2", &b, "");
    fill_memory(&a, 6);
    for (int i = 0; i < 4; i++) {
        set_request(&r[i], &a, &b, (size_t)i * 8, 8);
        r[i].wr.next = i < 3 ? &r[i + 1].wr : NULL;
    }
    CHECK_EQ(a.api.post_send(a.qp, &r[0].wr, &bad), ENOMEM);
    CHECK(bad == &r[2].wr, "not the third");
    expect(&a, 1000, IBV_WC_SUCCESS);
    expect(&a, 1008, IBV_WC_SUCCESS);
    expect_nothing(&a);
    CHECK_EQ(a.api.post_send(a.qp, bad, &bad), 0); /* nothing is broken */
    expect(&a, 1016, IBV_WC_SUCCESS);
    expect(&a, 1024, IBV_WC_SUCCESS);
    check_memory(&b, 0, 32, 6);
    CHECK_EQ(post_recv(&a, 1), 0);
    CHECK_EQ(post_recv(&a, 1), ENOMEM);
    CHECK_EQ(post_recv(&a, 1), 0);
    close_pair(&a, &b);
}

static void the_second_registration_fails(void)
{
    end_t a;
    struct ibv_mr *mr;

    open_end(&a, "reg=2", 0); /* which makes the first */
    CHECK(a.api.reg_mr(a.pd, a.memory, 4096, 0) == NULL && errno == ENOMEM, "the second");
    mr = a.api.reg_mr(a.pd, a.memory, 4096, 0);
    CHECK(mr != NULL, "the third: %s", strerror(errno));
    CHECK_EQ(a.api.dereg_mr(mr), 0);
    close_end(&a);
    open_end(&a, "max_mr=1", 0);
    CHECK(a.api.reg_mr(a.pd, a.memory, 4096, 0) == NULL && errno == ENOMEM, "more than max_mr");
    close_end(&a);
    CHECK_EQ(rdt_ibv_fake_live(), 0);
}

/* -- completions -- */

static void every_status_can_come(void)
{
    end_t a, b;
    request_t r;
    char script[32];

    for (int status = 1; status <= IBV_WC_TM_RNDV_INCOMPLETE; status++) {
        snprintf(script, sizeof(script), "wc=%d@2", status);
        open_pair(&a, script, &b, "");
        CHECK(strlen(a.api.wc_status_str((enum ibv_wc_status)status)) > 5, "status %d", status);
        fill_memory(&a, 1);
        for (size_t i = 0; i < 3; i++) {
            set_request(&r, &a, &b, i * 8, 8);
            r.wr.send_flags = i == 0 ? IBV_SEND_SIGNALED : 0; /* a failure is always told */
            CHECK_EQ(post(&a, &r), 0);
        }
        expect(&a, 1000, IBV_WC_SUCCESS);
        expect(&a, 1008, (enum ibv_wc_status)status);
        expect(&a, 1016, IBV_WC_WR_FLUSH_ERR);
        check_memory(&b, 0, 8, 1);
        CHECK_EQ(a.qp->state, IBV_QPS_ERR);
        CHECK_EQ(b.qp->state, IBV_QPS_RTS);
        close_pair(&a, &b);
    }
    open_pair(&a, "wc=RETRY_EXC_ERR@1", &b, "");
    set_request(&r, &a, &b, 0, 8);
    CHECK_EQ(post(&a, &r), 0);
    expect(&a, 1000, IBV_WC_RETRY_EXC_ERR);
    close_pair(&a, &b);
}

static void a_receive_can_fail(void)
{
    end_t a, b;
    request_t r;

    open_pair(&a, "", &b, "rwc=LOC_ACCESS_ERR@2");
    for (uint64_t i = 0; i < 3; i++)
        CHECK_EQ(post_recv(&b, i), 0);
    set_request(&r, &a, &b, 0, 8);
    r.wr.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
    CHECK_EQ(post(&a, &r), 0);
    CHECK_EQ(post(&a, &r), 0);
    expect(&b, 0, IBV_WC_SUCCESS);
    expect(&b, 1, IBV_WC_LOC_ACCESS_ERR);
    expect(&b, 2, IBV_WC_WR_FLUSH_ERR);
    expect(&a, 1000, IBV_WC_SUCCESS);
    expect(&a, 1000, IBV_WC_REM_OP_ERR);
    close_pair(&a, &b);
}

static void expect_overrun(end_t *a)
{
    struct ibv_async_event event;
    struct ibv_wc wc;

    CHECK_EQ(a->api.get_async_event(a->context, &event), 0);
    CHECK_EQ(event.event_type, IBV_EVENT_CQ_ERR);
    CHECK(event.element.cq == a->cq, "of another CQ");
    a->api.ack_async_event(&event);
    CHECK(a->api.poll_cq(a->cq, 1, &wc) < 0, "polled after an overrun");
}

static void a_cq_overruns(void)
{
    end_t a, b;
    request_t r;

    open_pair(&a, "overrun=3", &b, "");
    set_request(&r, &a, &b, 0, 8);
    CHECK_EQ(post(&a, &r), 0);
    CHECK_EQ(post(&a, &r), 0);
    expect(&a, 1000, IBV_WC_SUCCESS);
    CHECK_EQ(post(&a, &r), 0);
    expect_overrun(&a);
    close_pair(&a, &b);

    open_end(&a, "", 0); /* without a script: four times DEPTH is full */
    open_end(&b, "", 1);
    join_ends(&a, &b);
    CHECK_EQ(a.api.destroy_qp(a.qp), 0);
    CHECK_EQ(a.api.destroy_cq(a.cq), 0);
    a.cq = a.api.create_cq(a.context, DEPTH - 1, NULL, a.channel, 0);
    a.qp = new_qp(&a, 0);
    CHECK_EQ(to_init(&a) + to_rtr(&a, attr_to(&a, &b)) + to_rts(&a, attr_to(&a, &b)), 0);
    for (int i = 0; i < DEPTH; i++)
        CHECK_EQ(post_recv(&a, 1), 0);
    CHECK(!is_readable(a.context->async_fd), "an event too early");
    CHECK_EQ(a.api.modify_qp(a.qp, &(struct ibv_qp_attr){.qp_state = IBV_QPS_ERR}, IBV_QP_STATE),
             0);
    expect_overrun(&a); /* the flushed receives are one too many */
    close_pair(&a, &b);
}

/* -- events -- */

static void every_event_can_come(void)
{
    end_t a, b;
    request_t r;
    char script[32];

    for (int type = 0; type <= IBV_EVENT_WQ_FATAL; type++) {
        snprintf(script, sizeof(script), "event=%d@2", type);
        open_pair(&a, script, &b, "");
        CHECK(strlen(a.api.event_type_str((enum ibv_event_type)type)) > 5, "event %d", type);
        set_request(&r, &a, &b, 0, 8);
        CHECK_EQ(post(&a, &r), 0);
        CHECK(!is_readable(a.context->async_fd), "event %d came early", type);
        CHECK_EQ(post(&a, &r), 0);
        expect_event(&a, (enum ibv_event_type)type);
        CHECK(!is_readable(a.context->async_fd), "event %d came twice", type);
        CHECK(!is_readable(b.context->async_fd), "event %d at the other end", type);
        close_pair(&a, &b);
    }
}

static void events_name_their_object(void)
{
    end_t a, b;
    request_t r;
    struct ibv_async_event event;

    open_pair(&a, "event=QP_FATAL@1", &b, "");
    CHECK_EQ(fcntl(a.context->async_fd, F_SETFL, O_NONBLOCK), 0);
    CHECK(a.api.get_async_event(a.context, &event) == -1 && errno == EAGAIN, "no EAGAIN");
    set_request(&r, &a, &b, 0, 8);
    CHECK_EQ(post(&a, &r), 0);
    CHECK_EQ(a.api.get_async_event(a.context, &event), 0);
    CHECK(event.element.qp == a.qp, "of another QP");
    CHECK_EQ(a.api.destroy_qp(a.qp), EDEADLK); /* not acknowledged */
    a.api.ack_async_event(&event);
    expect(&a, 1000, IBV_WC_WR_FLUSH_ERR);
    CHECK_EQ(a.qp->state, IBV_QPS_ERR);
    close_pair(&a, &b);

    open_pair(&a, "event=CQ_ERR@1", &b, "");
    set_request(&r, &a, &b, 0, 8);
    CHECK_EQ(post(&a, &r), 0);
    expect_overrun(&a);
    close_pair(&a, &b);
}

static enum ibv_port_state state_of(end_t *e)
{
    struct ibv_port_attr attr;

    CHECK_EQ(e->api.query_port(e->context, 1, &attr), 0);
    return attr.state;
}

static void a_port_goes_down_and_up(void)
{
    end_t a, b;
    request_t r;
    struct ibv_qp_attr attr;

    open_end(&a, "event=PORT_ERR@0;event=PORT_ACTIVE@2;state=5", 0);
    open_end(&b, "", 1);
    attr = attr_to(&a, &b);
    attr.timeout = 20; /* of 4 s */
    CHECK_EQ(to_init(&a) + to_init(&b) + to_rtr(&a, attr) + to_rtr(&b, attr_to(&b, &a)), 0);
    CHECK_EQ(to_rts(&a, attr), 0);
    expect_event(&a, IBV_EVENT_PORT_ERR);
    CHECK_EQ(state_of(&a), IBV_PORT_DOWN);
    CHECK_EQ(state_of(&b), IBV_PORT_ACTIVE);
    fill_memory(&a, 1);
    set_request(&r, &a, &b, 0, 8);
    CHECK_EQ(post(&a, &r), 0);
    expect_nothing(&a);
    CHECK_EQ(post(&a, &r), 0); /* after it the cable is back, within the retries */
    CHECK_EQ(state_of(&a), IBV_PORT_ACTIVE);
    expect(&a, 1000, IBV_WC_SUCCESS);
    expect(&a, 1000, IBV_WC_SUCCESS);
    close_pair(&a, &b);
}

static void a_device_dies(void)
{
    end_t a, b;
    request_t r;
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RESET};

    open_pair(&a, "event=DEVICE_FATAL@1", &b, "");
    set_request(&r, &a, &b, 0, 8);
    CHECK_EQ(post_recv(&a, 3), 0);
    CHECK_EQ(post(&a, &r), 0);
    expect_event(&a, IBV_EVENT_DEVICE_FATAL);
    expect(&a, 1000, IBV_WC_WR_FLUSH_ERR);
    expect(&a, 3, IBV_WC_WR_FLUSH_ERR);
    CHECK(new_qp(&a, 0) == NULL && errno == EIO, "a new QP");
    CHECK(a.api.reg_mr(a.pd, a.memory, 8, 0) == NULL && errno == EIO, "a new registration");
    CHECK(a.api.create_cq(a.context, 1, NULL, NULL, 0) == NULL && errno == EIO, "a new CQ");
    CHECK_EQ(a.api.modify_qp(a.qp, &attr, IBV_QP_STATE), EIO);
    set_request(&r, &b, &a, 0, 8);
    CHECK_EQ(post(&b, &r), 0);
    expect(&b, 1000, IBV_WC_RETRY_EXC_ERR);
    close_pair(&a, &b); /* what is dead can be taken apart */
}

/* -- limits -- */

static void inline_data_is_limited(void)
{
    end_t a;

    open_end(&a, "inline=32", 0);
    CHECK(new_qp(&a, 33) == NULL && errno == EINVAL, "more than there is");
    close_end(&a);

    open_end(&a, "inline_grant=16", 0); /* a QP that asks for 32 */
    CHECK_EQ(post_recv(&a, 1), EINVAL); /* in RESET */
    {
        struct ibv_qp_init_attr attr = {.send_cq = a.cq,
                                        .recv_cq = a.cq,
                                        .qp_type = IBV_QPT_RC,
                                        .cap = {.max_send_wr = 1, .max_inline_data = 100}};
        struct ibv_qp *qp = a.api.create_qp(a.pd, &attr);

        CHECK(qp != NULL, "%s", strerror(errno));
        CHECK_EQ(attr.cap.max_inline_data, 16);
        CHECK_EQ(a.api.destroy_qp(qp), 0);
    }
    close_end(&a);
    CHECK_EQ(rdt_ibv_fake_live(), 0);
}

static void no_inline_at_all(void)
{
    end_t a, b;
    request_t r;

    open_pair(&a, "inline_grant=0", &b, "");
    set_request(&r, &a, &b, 0, 1);
    r.wr.send_flags |= IBV_SEND_INLINE;
    CHECK_EQ(post(&a, &r), EINVAL);
    close_pair(&a, &b);
}

static void messages_are_limited(void)
{
    end_t a, b;
    request_t r;

    open_pair(&a, "max_msg_sz=1000", &b, "");
    set_request(&r, &a, &b, 0, 1000);
    CHECK_EQ(post(&a, &r), 0);
    expect(&a, 1000, IBV_WC_SUCCESS);
    set_request(&r, &a, &b, 0, 1001);
    CHECK_EQ(post(&a, &r), 0);
    expect(&a, 1000, IBV_WC_LOC_LEN_ERR);
    close_pair(&a, &b);
}

static void queues_are_limited(void)
{
    end_t a;
    struct ibv_device_attr attr;
    struct ibv_qp_init_attr init = {.qp_type = IBV_QPT_RC};
    struct ibv_cq *cq;

    open_end(&a, "max_qp_wr=8;max_sge=3;max_cqe=32;max_mr=9", 0);
    CHECK_EQ(a.api.query_device(a.context, &attr), 0);
    CHECK_EQ(attr.max_qp_wr, 8);
    CHECK_EQ(attr.max_sge, 3);
    CHECK_EQ(attr.max_cqe, 32);
    CHECK_EQ(attr.max_mr, 9);
    init.send_cq = init.recv_cq = a.cq;
    init.cap = (struct ibv_qp_cap){.max_send_wr = 9};
    CHECK(a.api.create_qp(a.pd, &init) == NULL && errno == EINVAL, "9 requests");
    init.cap = (struct ibv_qp_cap){.max_recv_wr = 9};
    CHECK(a.api.create_qp(a.pd, &init) == NULL && errno == EINVAL, "9 receives");
    init.cap = (struct ibv_qp_cap){.max_send_wr = 8, .max_send_sge = 4};
    CHECK(a.api.create_qp(a.pd, &init) == NULL && errno == EINVAL, "4 pieces");
    CHECK(a.api.create_cq(a.context, 33, NULL, NULL, 0) == NULL && errno == EINVAL, "33 entries");
    cq = a.api.create_cq(a.context, 32, NULL, NULL, 0);
    CHECK(cq != NULL, "%s", strerror(errno));
    CHECK_EQ(a.api.req_notify_cq(cq, 0), EINVAL); /* it has no channel */
    CHECK_EQ(a.api.destroy_cq(cq), 0);
    close_end(&a);
    CHECK_EQ(rdt_ibv_fake_live(), 0);
}

/* -- delays -- */

/* How many polls a write took, with that seed. */
static int polls_with(const char *script)
{
    end_t a, b;
    request_t r;
    struct ibv_wc wc;
    int polls = 0;

    open_pair(&a, script, &b, "");
    set_request(&r, &a, &b, 0, 8);
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(post(&a, &r), 0);
        while (a.api.poll_cq(a.cq, 1, &wc) == 0)
            CHECK(++polls < 100000, "never");
    }
    close_pair(&a, &b);
    return polls;
}

static void delays_are_of_polls(void)
{
    int most = 0;
    char script[32];

    CHECK_EQ(polls_with(""), 0);
    for (int seed = 1; seed <= 8; seed++) {
        int polls;

        snprintf(script, sizeof(script), "delay=30;seed=%d", seed);
        polls = polls_with(script);
        CHECK(polls <= 5 * 62, "%d polls", polls);
        if (polls > most) most = polls;
    }
    CHECK(most >= 60, "%d polls at most", most);
}

static void old_libraries_lack_calls(void)
{
    rdt_ibv_api_t api;

    CHECK_EQ(rdt_ibv_fake("iova2=0", &api), RDT_OK);
    CHECK(api.reg_mr_iova2 == NULL && api.reg_dmabuf_mr == NULL, "there all the same");
    CHECK_EQ(rdt_ibv_fake("dmabuf=1", &api), RDT_OK);
    CHECK(api.reg_mr_iova2 != NULL && api.reg_dmabuf_mr != NULL, "not there");
}

/* InfiniBand has LIDs, and needs no GIDs. */
static void lids_are_addresses(void)
{
    end_t a, b;
    request_t r;
    struct ibv_qp_attr to_b, to_a;

    open_end(&a, "lid=7", 0);
    open_end(&b, "lid=9", 1);
    to_b = attr_to(&a, &b);
    to_a = attr_to(&b, &a);
    to_b.ah_attr = (struct ibv_ah_attr){.dlid = 9, .port_num = 1};
    to_a.ah_attr = (struct ibv_ah_attr){.dlid = 7, .port_num = 1};
    CHECK_EQ(to_init(&a) + to_init(&b) + to_rtr(&a, to_b) + to_rtr(&b, to_a), 0);
    CHECK_EQ(to_rts(&a, to_b) + to_rts(&b, to_a), 0);
    fill_memory(&a, 1);
    set_request(&r, &a, &b, 0, 100);
    CHECK_EQ(post(&a, &r), 0);
    expect(&a, 1000, IBV_WC_SUCCESS);
    check_memory(&b, 0, 100, 1);
    close_pair(&a, &b);
}

int main(void)
{
    alarm(120); /* a wait without end is a failure */
    bad_scripts_are_refused();
    scripts_are_of_contexts();
    the_third_post_fails();
    the_second_registration_fails();
    every_status_can_come();
    a_receive_can_fail();
    a_cq_overruns();
    every_event_can_come();
    events_name_their_object();
    a_port_goes_down_and_up();
    a_device_dies();
    inline_data_is_limited();
    no_inline_at_all();
    messages_are_limited();
    queues_are_limited();
    delays_are_of_polls();
    old_libraries_lack_calls();
    lids_are_addresses();
    return 0;
}
