/* SPDX-License-Identifier: Apache-2.0 */
/* The fake does what a device does: what it transfers, what it refuses, how it ends. */
#include <pthread.h>
#include <sys/mman.h>

#include "ibv_check.h"

/* -- transfers -- */

static void writes_arrive(void)
{
    end_t a, b;
    request_t r;

    open_pair(&a, "", &b, "");
    fill_memory(&a, 3);
    set_request(&r, &a, &b, 129, 5001);
    CHECK_EQ(post(&a, &r), 0);
    expect(&a, 1129, IBV_WC_SUCCESS);
    check_memory(&b, 129, 5001, 3);
    expect_nothing(&b);
    set_request(&r, &a, &b, 129, 0);
    r.sge.lkey = 0, r.wr.wr.rdma.rkey = 0; /* of nothing no key is looked at */
    CHECK_EQ(post(&a, &r), 0);
    expect(&a, 1129, IBV_WC_SUCCESS);
    close_pair(&a, &b);
}

static void pieces_are_joined(void)
{
    end_t a, b;
    request_t r;
    struct ibv_sge sges[3];

    open_pair(&a, "", &b, "");
    fill_memory(&a, 9);
    set_request(&r, &a, &b, 1000, 0);
    sges[0] = (struct ibv_sge){(uintptr_t)a.memory + 1000, 500, a.mr->lkey};
    sges[1] = (struct ibv_sge){(uintptr_t)a.memory + 1500, 0, a.mr->lkey};
    sges[2] = (struct ibv_sge){(uintptr_t)a.memory + 1500, 37, a.mr->lkey};
    r.wr.sg_list = sges;
    r.wr.num_sge = 3;
    CHECK_EQ(post(&a, &r), 0);
    expect(&a, 2000, IBV_WC_SUCCESS);
    check_memory(&b, 1000, 537, 9);
    r.wr.num_sge = 4;
    CHECK_EQ(post(&a, &r), EINVAL);
    close_pair(&a, &b);
}

static void inline_data_is_read_at_once(void)
{
    end_t a, b;
    request_t r;

    open_pair(&a, "delay=20", &b, "");
    fill_memory(&a, 5);
    set_request(&r, &a, &b, 64, 32);
    r.sge.lkey = 77; /* not looked at */
    r.wr.send_flags |= IBV_SEND_INLINE;
    CHECK_EQ(post(&a, &r), 0);
    memset(a.memory, 0, BYTES);
    expect(&a, 1064, IBV_WC_SUCCESS);
    check_memory(&b, 64, 32, 5);
    r.sge.length = 33;
    CHECK_EQ(post(&a, &r), EINVAL);
    close_pair(&a, &b);
}

static void immediate_data_uses_a_receive(void)
{
    end_t a, b;
    request_t r;
    struct ibv_wc wc;

    open_pair(&a, "", &b, "");
    fill_memory(&a, 1);
    CHECK_EQ(post_recv(&b, 70), 0);
    set_request(&r, &a, &b, 8, 100);
    r.wr.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
    r.wr.imm_data = 0x12345678;
    CHECK_EQ(post(&a, &r), 0);
    wc = next_wc(&b);
    CHECK_EQ(wc.status, IBV_WC_SUCCESS);
    CHECK_EQ(wc.wr_id, 70);
    CHECK_EQ(wc.opcode, IBV_WC_RECV_RDMA_WITH_IMM);
    CHECK_EQ(wc.wc_flags, IBV_WC_WITH_IMM);
    CHECK_EQ(wc.imm_data, 0x12345678);
    CHECK_EQ(wc.byte_len, 100);
    check_memory(&b, 8, 100, 1);
    expect(&a, 1008, IBV_WC_SUCCESS);
    close_pair(&a, &b);
}

static void what_is_not_signalled_holds_its_place(void)
{
    end_t a, b;
    request_t r;

    open_pair(&a, "", &b, "");
    set_request(&r, &a, &b, 0, 8);
    r.wr.send_flags = 0;
    for (int i = 0; i < DEPTH - 1; i++)
        CHECK_EQ(post(&a, &r), 0);
    expect_nothing(&a);
    r.wr.send_flags = IBV_SEND_SIGNALED;
    CHECK_EQ(post(&a, &r), 0);
    CHECK_EQ(post(&a, &r), ENOMEM); /* done, but not polled */
    expect(&a, 1000, IBV_WC_SUCCESS);
    for (int i = 0; i < DEPTH; i++)
        CHECK_EQ(post(&a, &r), 0);
    CHECK_EQ(post(&a, &r), ENOMEM);
    for (int i = 0; i < DEPTH; i++)
        CHECK_EQ(post_recv(&b, 1), 0);
    CHECK_EQ(post_recv(&b, 1), ENOMEM);
    close_pair(&a, &b);
}

static void a_chain_stops_at_the_bad_one(void)
{
    end_t a, b;
    request_t r[3];
    struct ibv_send_wr *bad;

    open_pair(&a, "", &b, "");
    fill_memory(&a, 2);
    for (int i = 0; i < 3; i++)
        set_request(&r[i], &a, &b, (size_t)i * 8, 8);
    r[0].wr.next = &r[1].wr;
    r[1].wr.next = &r[2].wr;
    r[1].wr.opcode = IBV_WR_SEND;
    CHECK_EQ(a.api.post_send(a.qp, &r[0].wr, &bad), EINVAL);
    CHECK(bad == &r[1].wr, "not the second");
    expect(&a, 1000, IBV_WC_SUCCESS);
    expect_nothing(&a);
    check_memory(&b, 0, 8, 2);
    close_pair(&a, &b);
}

static void delayed_requests_keep_their_order(void)
{
    end_t a, b;
    request_t r;

    open_pair(&a, "delay=7;seed=5", &b, "");
    for (uint32_t round = 0; round < 20; round++) {
        fill_memory(&a, (uint8_t)round);
        for (size_t i = 0; i < DEPTH; i++) {
            set_request(&r, &a, &b, i * 16, 16);
            CHECK_EQ(post(&a, &r), 0);
        }
        for (size_t i = 0; i < DEPTH; i++)
            expect(&a, 1000 + i * 16, IBV_WC_SUCCESS);
        check_memory(&b, 0, (size_t)DEPTH * 16, (uint8_t)round);
    }
    close_pair(&a, &b);
}

/* -- refusals -- */

static void expect_broken(end_t *a, end_t *b, request_t *r, enum ibv_wc_status status)
{
    request_t later = *r;

    later.wr.wr_id = 5;
    later.wr.send_flags = 0; /* flushed ones are told of all the same */
    r->wr.next = &later.wr;
    later.wr.sg_list = &later.sge;
    later.wr.next = NULL;
    CHECK_EQ(post_recv(a, 6), 0);
    CHECK_EQ(post(a, r), 0);
    expect(a, r->wr.wr_id, status);
    if (status == IBV_WC_REM_ACCESS_ERR) expect_event(b, IBV_EVENT_QP_ACCESS_ERR);
    for (int i = 0; i < 2; i++) { /* of both queues, in any order */
        struct ibv_wc wc = next_wc(a);

        CHECK_EQ(wc.status, IBV_WC_WR_FLUSH_ERR);
        CHECK(wc.wr_id == 5 || wc.wr_id == 6, "%llu", (unsigned long long)wc.wr_id);
    }
    CHECK_EQ(a->qp->state, IBV_QPS_ERR);
    check_memory(b, 0, 0, 0);
    close_pair(a, b);
}

static void keys_and_bounds_are_checked(void)
{
    end_t a, b;
    request_t r;

    for (int i = 0; i < 6; i++) {
        enum ibv_wc_status want = i < 3 ? IBV_WC_LOC_PROT_ERR : IBV_WC_REM_ACCESS_ERR;

        open_pair(&a, "", &b, "");
        fill_memory(&a, 1);
        set_request(&r, &a, &b, 100, 300);
        if (i == 0) r.sge.lkey = a.mr->rkey;
        if (i == 1) r.sge.addr = (uintptr_t)a.memory + BYTES - 299;
        if (i == 2) r.sge.addr = (uintptr_t)a.memory - 1;
        if (i == 3) r.wr.wr.rdma.rkey = b.mr->lkey;
        if (i == 4) r.wr.wr.rdma.remote_addr = (uintptr_t)b.memory + BYTES - 299;
        if (i == 5) r.wr.wr.rdma.rkey = a.mr->rkey; /* of another's PD */
        expect_broken(&a, &b, &r, want);
    }
}

static void keys_are_of_a_pd(void)
{
    end_t a, b;
    request_t r;
    struct ibv_pd *pd;
    struct ibv_mr *mr;
    int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;

    for (int i = 0; i < 2; i++) {
        end_t *owner = i == 0 ? &a : &b;

        open_pair(&a, "", &b, "");
        pd = owner->api.alloc_pd(owner->context);
        mr = owner->api.reg_mr(pd, owner->memory, BYTES, access);
        set_request(&r, &a, &b, 0, 8);
        if (i == 0) r.sge.lkey = mr->lkey;
        if (i == 1) r.wr.wr.rdma.rkey = mr->rkey;
        CHECK_EQ(post(&a, &r), 0);
        expect(&a, 1000, i == 0 ? IBV_WC_LOC_PROT_ERR : IBV_WC_REM_ACCESS_ERR);
        CHECK_EQ(owner->api.dereg_mr(mr), 0);
        CHECK_EQ(owner->api.dealloc_pd(pd), 0);
        close_pair(&a, &b);
    }
}

static void access_flags_are_checked(void)
{
    end_t a, b;
    request_t r;
    struct ibv_mr *local;
    struct ibv_qp_attr attr = {.qp_access_flags = 0};
    int write = IBV_ACCESS_REMOTE_WRITE;

    open_pair(&a, "", &b, "");
    CHECK(b.api.reg_mr(b.pd, b.memory, BYTES, write) == NULL && errno == EINVAL,
          "who lets others write must write itself");
    local = b.api.reg_mr(b.pd, b.memory, BYTES, IBV_ACCESS_LOCAL_WRITE);
    set_request(&r, &a, &b, 0, 8);
    r.wr.wr.rdma.rkey = local->rkey;
    CHECK_EQ(post(&a, &r), 0);
    expect(&a, 1000, IBV_WC_REM_ACCESS_ERR);
    expect_event(&b, IBV_EVENT_QP_ACCESS_ERR);
    CHECK_EQ(b.qp->state, IBV_QPS_ERR);
    CHECK_EQ(b.api.dereg_mr(local), 0);
    close_pair(&a, &b);

    open_pair(&a, "", &b, "");
    CHECK_EQ(b.api.modify_qp(b.qp, &attr, IBV_QP_ACCESS_FLAGS), 0);
    fill_memory(&a, 1);
    set_request(&r, &a, &b, 0, 8);
    expect_broken(&a, &b, &r, IBV_WC_REM_ACCESS_ERR);
}

static void a_registration_can_have_another_address(void)
{
    end_t a, b;
    request_t r;
    struct ibv_mr *mr;
    unsigned access =
        IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_RELAXED_ORDERING;

    open_pair(&a, "", &b, "");
    fill_memory(&a, 4);
    CHECK(b.api.reg_mr(b.pd, b.memory, BYTES, (int)access) == NULL && errno == EINVAL,
          "the old call does not know relaxed ordering");
    mr = b.api.reg_mr_iova2(b.pd, b.memory + 4096, 4096, 1ull << 40, access);
    CHECK(mr != NULL, "%s", strerror(errno));
    set_request(&r, &a, &b, 4196, 256);
    r.wr.wr.rdma.rkey = mr->rkey;
    r.wr.wr.rdma.remote_addr = (1ull << 40) + 100;
    CHECK_EQ(post(&a, &r), 0);
    expect(&a, 5196, IBV_WC_SUCCESS);
    check_memory(&b, 4196, 256, 4);
    CHECK_EQ(b.api.dereg_mr(mr), 0);
    close_pair(&a, &b);
}

static void a_dmabuf_is_written(void)
{
    end_t a, b;
    request_t r;
    struct ibv_mr *mr;
    uint8_t got[256];
    int fd = memfd_create("dmabuf", MFD_CLOEXEC);

    CHECK_EQ(ftruncate(fd, 8192), 0);
    open_pair(&a, "", &b, "dmabuf=1");
    CHECK(a.api.reg_dmabuf_mr == NULL, "there without having been asked for");
    fill_memory(&a, 4);
    mr = b.api.reg_dmabuf_mr(b.pd, 4096, 4096, 0, fd,
                             IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
    CHECK(mr != NULL, "%s", strerror(errno));
    set_request(&r, &a, &b, 0, 256);
    r.wr.wr.rdma.rkey = mr->rkey;
    r.wr.wr.rdma.remote_addr = 32;
    CHECK_EQ(post(&a, &r), 0);
    expect(&a, 1000, IBV_WC_SUCCESS);
    CHECK_EQ(pread(fd, got, 256, 4096 + 32), 256);
    CHECK(memcmp(got, a.memory, 256) == 0, "not what was sent");
    CHECK_EQ(b.api.dereg_mr(mr), 0);
    close(fd);
    close_pair(&a, &b);
}

/* -- states -- */

static void states_come_in_order(void)
{
    end_t a, b;
    struct ibv_qp_attr attr, got;
    struct ibv_qp_init_attr init;
    request_t r;

    open_end(&a, "", 0);
    open_end(&b, "", 0);
    set_request(&r, &a, &b, 0, 8);
    attr = attr_to(&a, &b);
    CHECK_EQ(to_rtr(&a, attr), EINVAL);
    CHECK_EQ(post_recv(&a, 1), EINVAL);
    CHECK_EQ(to_init(&a), 0);
    CHECK_EQ(post_recv(&a, 1), 0);
    CHECK_EQ(post(&a, &r), EINVAL);
    CHECK_EQ(to_rts(&a, attr), EINVAL);
    attr.qp_state = IBV_QPS_RTR;
    for (int bit = 1; bit < 27; bit++) {                /* each bit too few, or too many */
        if (bit == 1 || bit == 3 || bit == 4) continue; /* allowed */
        CHECK_EQ(a.api.modify_qp(a.qp, &attr, RTR_MASK ^ (1 << bit)), EINVAL);
    }
    CHECK_EQ(to_rtr(&a, attr), 0);
    CHECK_EQ(post(&a, &r), EINVAL);
    CHECK_EQ(to_rts(&a, attr), 0);
    CHECK_EQ(a.api.query_qp(a.qp, &got, IBV_QP_STATE, &init), 0);
    CHECK_EQ(got.qp_state, IBV_QPS_RTS);
    CHECK_EQ(got.dest_qp_num, b.qp->qp_num);
    CHECK_EQ(got.timeout, attr.timeout);
    CHECK_EQ(init.cap.max_send_wr, DEPTH);
    close_pair(&a, &b);
}

static int rtr_with(const char *script, void (*change)(struct ibv_qp_attr *))
{
    end_t a, b;
    struct ibv_qp_attr attr;
    int st;

    open_end(&a, script, 0);
    open_end(&b, "", 1);
    attr = attr_to(&a, &b);
    change(&attr);
    CHECK_EQ(to_init(&a), 0);
    st = to_rtr(&a, attr);
    CHECK_EQ(a.qp->state, st == 0 ? IBV_QPS_RTR : IBV_QPS_INIT);
    close_pair(&a, &b);
    return st;
}

static void no_change(struct ibv_qp_attr *attr)
{
    (void)attr;
}

static void no_grh(struct ibv_qp_attr *attr)
{
    attr->ah_attr.is_global = 0;
}

static void zero_gid(struct ibv_qp_attr *attr)
{
    attr->ah_attr.grh.sgid_index = 2;
}

static void other_family(struct ibv_qp_attr *attr)
{
    attr->ah_attr.grh.sgid_index = 3;
}

static void no_such_index(struct ibv_qp_attr *attr)
{
    attr->ah_attr.grh.sgid_index = 4;
}

static void nobody_there(struct ibv_qp_attr *attr)
{
    attr->ah_attr.grh.dgid.raw[15] = 99;
}

static void addresses_are_checked(void)
{
    CHECK_EQ(rtr_with("", no_change), 0);
    CHECK_EQ(rtr_with("mtu=1024", no_change), EINVAL); /* a path of 4096 */
    CHECK_EQ(rtr_with("", no_grh), EINVAL);
    CHECK_EQ(rtr_with("", zero_gid), EINVAL);
    CHECK_EQ(rtr_with("", other_family), EINVAL);
    CHECK_EQ(rtr_with("", no_such_index), EINVAL);
    CHECK_EQ(rtr_with("", nobody_there), ETIMEDOUT);
    CHECK_EQ(rtr_with("rtr=ENODEV@1", no_change), ENODEV);
    CHECK_EQ(rtr_with("rtr=ENODEV@0;rtr=110@1", no_change), ETIMEDOUT);
    CHECK_EQ(rtr_with("gid=EINVAL@1", no_change), EINVAL);
}

static uint64_t now_ms(void)
{
    return rdt_now_ns() / RDT_NS_PER_MS;
}

static void send_in_vain(end_t *a, end_t *b)
{
    request_t r;
    uint64_t begin = now_ms();

    fill_memory(a, 1);
    set_request(&r, a, b, 0, 8);
    CHECK_EQ(post(a, &r), 0);
    expect(a, 1000, IBV_WC_RETRY_EXC_ERR);
    CHECK(now_ms() - begin >= 8, "after %d ms", (int)(now_ms() - begin));
    check_memory(b, 0, 0, 0);
    close_pair(a, b);
}

static void nobody_answers(void)
{
    end_t a, b;
    struct ibv_qp_attr reset = {.qp_state = IBV_QPS_RESET}, attr;

    open_pair(&a, "", &b, "");
    CHECK_EQ(b.api.modify_qp(b.qp, &reset, IBV_QP_STATE), 0);
    send_in_vain(&a, &b);

    open_pair(&a, "", &b, "");
    CHECK_EQ(b.api.destroy_qp(b.qp), 0);
    b.qp = NULL;
    send_in_vain(&a, &b);

    open_pair(&a, "", &b, ""); /* joined again, with other sequence numbers */
    CHECK_EQ(a.api.modify_qp(a.qp, &reset, IBV_QP_STATE), 0);
    attr = attr_to(&a, &b);
    attr.sq_psn++;
    CHECK_EQ(to_init(&a) + to_rtr(&a, attr) + to_rts(&a, attr), 0);
    send_in_vain(&a, &b);

    open_pair(&a, "event=PORT_ERR@1", &b, ""); /* the cable is out */
    send_in_vain(&a, &b);
}

static void a_receiver_that_is_not_ready(void)
{
    end_t a, b;
    request_t r;
    struct ibv_qp_attr attr;
    uint64_t begin;

    open_pair(&a, "", &b, "");
    set_request(&r, &a, &b, 0, 8);
    r.wr.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
    begin = rdt_now_ns();
    CHECK_EQ(post(&a, &r), 0);
    expect(&a, 1000, IBV_WC_RNR_RETRY_EXC_ERR);
    CHECK(rdt_now_ns() - begin >= 3 * 640000, "too early");
    close_pair(&a, &b);

    open_end(&a, "", 0);
    open_end(&b, "", 1);
    CHECK_EQ(to_init(&a) + to_init(&b) + to_rtr(&a, attr_to(&a, &b)) + to_rtr(&b, attr_to(&b, &a)),
             0);
    attr = attr_to(&a, &b);
    attr.rnr_retry = 7;
    CHECK_EQ(to_rts(&a, attr), 0);
    set_request(&r, &a, &b, 0, 8);
    r.wr.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
    CHECK_EQ(post(&a, &r), 0);
    usleep(20000);
    expect_nothing(&a);
    CHECK_EQ(post_recv(&b, 2), 0);
    expect(&a, 1000, IBV_WC_SUCCESS);
    expect(&b, 2, IBV_WC_SUCCESS);
    expect_event(&b, IBV_EVENT_COMM_EST); /* b was never moved to RTS */
    close_pair(&a, &b);
}

static void paths_of_different_mtu(void)
{
    end_t a, b;
    request_t r;
    struct ibv_qp_attr attr;

    open_end(&a, "", 0);
    open_end(&b, "mtu=1024", 1);
    CHECK_EQ(to_init(&a) + to_init(&b), 0);
    CHECK_EQ(to_rtr(&a, attr_to(&a, &b)), 0);
    CHECK_EQ(to_rts(&a, attr_to(&a, &b)), 0);
    attr = attr_to(&b, &a);
    attr.path_mtu = IBV_MTU_1024;
    CHECK_EQ(to_rtr(&b, attr), 0);
    CHECK_EQ(to_rts(&b, attr), 0);
    set_request(&r, &a, &b, 0, 1024);
    CHECK_EQ(post(&a, &r), 0);
    expect(&a, 1000, IBV_WC_SUCCESS);
    set_request(&r, &a, &b, 0, 1025);
    CHECK_EQ(post(&a, &r), 0);
    expect(&a, 1000, IBV_WC_REM_INV_REQ_ERR);
    expect_event(&b, IBV_EVENT_QP_REQ_ERR);
    close_pair(&a, &b);
}

/* -- objects -- */

static void objects_in_use_stay(void)
{
    end_t a;
    unsigned live;

    open_end(&a, "", 0);
    live = rdt_ibv_fake_live();
    CHECK_EQ(live, 6);
    CHECK_EQ(a.api.dealloc_pd(a.pd), EBUSY);
    CHECK_EQ(a.api.destroy_cq(a.cq), EBUSY);
    CHECK_EQ(a.api.destroy_comp_channel(a.channel), EBUSY);
    CHECK(a.api.close_device(a.context) == -1 && errno == EBUSY, "closed");
    CHECK_EQ(a.api.destroy_qp(a.qp), 0);
    a.qp = NULL;
    CHECK_EQ(a.api.dealloc_pd(a.pd), EBUSY); /* there is a registration */
    CHECK_EQ(rdt_ibv_fake_live(), live - 1);
    close_end(&a);
    CHECK_EQ(rdt_ibv_fake_live(), 0);
}

/* -- waiting -- */

static void a_channel_tells_once(void)
{
    end_t a, b;
    request_t r;
    struct ibv_cq *cq;
    void *context;

    open_pair(&a, "", &b, "");
    set_request(&r, &a, &b, 0, 8);
    CHECK_EQ(fcntl(a.channel->fd, F_SETFL, O_NONBLOCK), 0);
    CHECK_EQ(post(&a, &r), 0);
    CHECK_EQ(a.api.req_notify_cq(a.cq, 0), 0);
    CHECK(!is_readable(a.channel->fd), "for what came before");
    CHECK(a.api.get_cq_event(a.channel, &cq, &context) == -1 && errno == EAGAIN, "no EAGAIN");
    CHECK_EQ(post(&a, &r), 0);
    CHECK_EQ(post(&a, &r), 0);
    CHECK(is_readable(a.channel->fd), "not told");
    CHECK_EQ(a.api.get_cq_event(a.channel, &cq, &context), 0);
    CHECK(cq == a.cq && context == &a, "of another CQ");
    CHECK(!is_readable(a.channel->fd), "told twice");
    CHECK_EQ(a.api.destroy_qp(a.qp), 0);
    a.qp = NULL;
    CHECK_EQ(a.api.destroy_cq(a.cq), EDEADLK); /* not acknowledged */
    a.api.ack_cq_events(cq, 1);
    close_pair(&a, &b);
}

static void solicited_ones_are_told_apart(void)
{
    end_t a, b;
    request_t r;

    open_pair(&a, "", &b, "");
    set_request(&r, &a, &b, 0, 8);
    r.wr.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
    for (int i = 0; i < 3; i++)
        CHECK_EQ(post_recv(&b, (uint64_t)i), 0);
    CHECK_EQ(b.api.req_notify_cq(b.cq, 1), 0);
    CHECK_EQ(post(&a, &r), 0);
    CHECK(!is_readable(b.channel->fd), "not solicited");
    r.wr.send_flags |= IBV_SEND_SOLICITED;
    CHECK_EQ(post(&a, &r), 0);
    CHECK(is_readable(b.channel->fd), "solicited");
    close_pair(&a, &b);
}

static void *send_later(void *arg)
{
    end_t *ends = arg;
    request_t r;

    usleep(5000);
    fill_memory(&ends[0], 8);
    set_request(&r, &ends[0], &ends[1], 0, 4096);
    r.wr.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
    CHECK_EQ(post(&ends[0], &r), 0);
    return NULL;
}

/* Nobody polls: the receiver sleeps, the sender has gone to do something else. */
static void a_sleeper_is_woken(void)
{
    end_t ends[2];
    struct ibv_cq *cq;
    pthread_t thread;
    void *context;

    open_pair(&ends[0], "delay=10", &ends[1], "");
    CHECK_EQ(post_recv(&ends[1], 4), 0);
    CHECK_EQ(ends[1].api.req_notify_cq(ends[1].cq, 0), 0);
    CHECK_EQ(pthread_create(&thread, NULL, send_later, ends), 0);
    CHECK_EQ(ends[1].api.get_cq_event(ends[1].channel, &cq, &context), 0);
    ends[1].api.ack_cq_events(cq, 1);
    expect(&ends[1], 4, IBV_WC_SUCCESS);
    check_memory(&ends[1], 0, 4096, 8);
    pthread_join(thread, NULL);
    expect(&ends[0], 1000, IBV_WC_SUCCESS);
    close_pair(&ends[0], &ends[1]);
}

/* -- a flag in the payload -- */

#define NUM_ROUNDS 300

static void *write_flags(void *arg)
{
    end_t *ends = arg;
    request_t r;
    struct ibv_sge sges[2];

    for (uint64_t round = 1; round <= NUM_ROUNDS; round++) {
        fill_memory(&ends[0], (uint8_t)round);
        memcpy(ends[0].memory + 4096 - 8, &round, 8);
        set_request(&r, &ends[0], &ends[1], 0, 4096);
        sges[0] = sges[1] = r.sge; /* the payload, and the flag */
        sges[0].length = 4096 - 8;
        sges[1].addr += 4096 - 8;
        sges[1].length = 8;
        r.wr.sg_list = sges;
        r.wr.num_sge = 2;
        CHECK_EQ(post(&ends[0], &r), 0);
        expect(&ends[0], 1000, IBV_WC_SUCCESS);
        while (__atomic_load_n((uint64_t *)(void *)(ends[0].memory + 8192), __ATOMIC_ACQUIRE) !=
               round)
            rdt_pause();
    }
    return NULL;
}

static void a_flag_can_be_polled(void)
{
    end_t ends[2];
    pthread_t thread;
    request_t r;

    open_pair(&ends[0], "delay=2", &ends[1], "");
    CHECK_EQ(pthread_create(&thread, NULL, write_flags, ends), 0);
    for (uint64_t round = 1; round <= NUM_ROUNDS; round++) {
        uint8_t *memory = ends[1].memory;

        while (__atomic_load_n((uint64_t *)(void *)(memory + 4096 - 8), __ATOMIC_ACQUIRE) != round)
            rdt_pause();
        for (size_t i = 0; i < 4096 - 8; i++)
            CHECK(memory[i] == value_at(i, (uint8_t)round), "the flag came before byte %zu", i);
        memcpy(memory + 8192, &round, 8);
        set_request(&r, &ends[1], &ends[0], 8192, 8);
        CHECK_EQ(post(&ends[1], &r), 0);
        expect(&ends[1], 1000 + 8192, IBV_WC_SUCCESS);
    }
    pthread_join(thread, NULL);
    close_pair(&ends[0], &ends[1]);
}

int main(void)
{
    alarm(120); /* a wait without end is a failure */
    writes_arrive();
    pieces_are_joined();
    inline_data_is_read_at_once();
    immediate_data_uses_a_receive();
    what_is_not_signalled_holds_its_place();
    a_chain_stops_at_the_bad_one();
    delayed_requests_keep_their_order();
    keys_and_bounds_are_checked();
    keys_are_of_a_pd();
    access_flags_are_checked();
    a_registration_can_have_another_address();
    a_dmabuf_is_written();
    states_come_in_order();
    addresses_are_checked();
    nobody_answers();
    a_receiver_that_is_not_ready();
    paths_of_different_mtu();
    objects_in_use_stay();
    a_channel_tells_once();
    solicited_ones_are_told_apart();
    a_sleeper_is_woken();
    a_flag_can_be_polled();
    return 0;
}
