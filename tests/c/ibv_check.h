/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the RDMA fake share: two ends, each a context, a PD, a registration, a CQ with its
 * channel and a QP, which can be joined. */
#ifndef TESTS_C_IBV_CHECK_H
#define TESTS_C_IBV_CHECK_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "check.h"
#include "ibv/ibv_fake.h"

#define BYTES 65536
#define DEPTH 8
#define MY_GID 1

typedef struct end {
    rdt_ibv_api_t api;
    struct ibv_context *context;
    struct ibv_pd *pd;
    struct ibv_mr *mr;
    struct ibv_comp_channel *channel;
    struct ibv_cq *cq;
    struct ibv_qp *qp;
    uint8_t *memory; /* of BYTES, registered */
} end_t;

static inline struct ibv_context *open_fake(const char *script, rdt_ibv_api_t *api_p, int device)
{
    struct ibv_device **list;
    struct ibv_context *context;
    int num = 0;

    CHECK(rdt_ibv_fake(script, api_p) == RDT_OK, "%s", rdt_last_error());
    list = api_p->get_device_list(&num);
    CHECK(list != NULL && device < num, "%d devices", num);
    context = api_p->open_device(list[device]);
    CHECK(context != NULL, "open: %s", strerror(errno));
    api_p->free_device_list(list);
    return context;
}

static inline struct ibv_qp *new_qp(end_t *e, uint32_t max_inline)
{
    struct ibv_qp_init_attr attr = {.send_cq = e->cq,
                                    .recv_cq = e->cq,
                                    .qp_type = IBV_QPT_RC,
                                    .cap = {.max_send_wr = DEPTH,
                                            .max_recv_wr = DEPTH,
                                            .max_send_sge = 3,
                                            .max_recv_sge = 1,
                                            .max_inline_data = max_inline}};

    return e->api.create_qp(e->pd, &attr);
}

static inline uint8_t value_at(size_t i, uint8_t id)
{
    return (uint8_t)(i * 7 + i / 256 + id);
}

static inline void open_end(end_t *e, const char *script, int device)
{
    unsigned access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;

    *e = (end_t){0};
    e->context = open_fake(script, &e->api, device);
    e->pd = e->api.alloc_pd(e->context);
    e->memory = calloc(1, BYTES);
    e->mr = e->api.reg_mr(e->pd, e->memory, BYTES, (int)access);
    CHECK(e->mr != NULL, "reg_mr: %s", strerror(errno));
    e->channel = e->api.create_comp_channel(e->context);
    e->cq = e->api.create_cq(e->context, 4 * DEPTH, e, e->channel, 0);
    CHECK(e->cq != NULL, "create_cq: %s", strerror(errno));
    e->qp = new_qp(e, 32);
    CHECK(e->qp != NULL, "create_qp: %s", strerror(errno));
}

static inline void close_end(end_t *e)
{
    if (e->qp != NULL) CHECK_EQ(e->api.destroy_qp(e->qp), 0);
    CHECK_EQ(e->api.destroy_cq(e->cq), 0);
    CHECK_EQ(e->api.destroy_comp_channel(e->channel), 0);
    CHECK_EQ(e->api.dereg_mr(e->mr), 0);
    CHECK_EQ(e->api.dealloc_pd(e->pd), 0);
    CHECK_EQ(e->api.close_device(e->context), 0);
    free(e->memory);
}

static inline int to_init(end_t *e)
{
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_INIT, .port_num = 1, .qp_access_flags = IBV_ACCESS_REMOTE_WRITE};

    return e->api.modify_qp(e->qp, &attr,
                            IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
}

#define RTR_MASK                                                                    \
    (IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | \
     IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER)
#define RTS_MASK                                                                           \
    (IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | \
     IBV_QP_MAX_QP_RD_ATOMIC)

/* For RTR and RTS; tests change a field. Retries: 2 times 4 ms, RNR: 3 times 0.64 ms. */
static inline struct ibv_qp_attr attr_to(const end_t *e, const end_t *peer)
{
    struct ibv_qp_attr attr = {.path_mtu = IBV_MTU_4096,
                               .dest_qp_num = peer->qp->qp_num,
                               .rq_psn = peer->qp->qp_num & 0xff,
                               .sq_psn = e->qp->qp_num & 0xff,
                               .min_rnr_timer = 12,
                               .timeout = 10,
                               .retry_cnt = 1,
                               .rnr_retry = 3,
                               .ah_attr = {.is_global = 1, .port_num = 1}};

    attr.ah_attr.grh.sgid_index = MY_GID;
    attr.ah_attr.grh.hop_limit = 255;
    CHECK_EQ(peer->api.query_gid(peer->context, 1, MY_GID, &attr.ah_attr.grh.dgid), 0);
    return attr;
}

static inline int to_rtr(end_t *e, struct ibv_qp_attr attr)
{
    attr.qp_state = IBV_QPS_RTR;
    return e->api.modify_qp(e->qp, &attr, RTR_MASK);
}

static inline int to_rts(end_t *e, struct ibv_qp_attr attr)
{
    attr.qp_state = IBV_QPS_RTS;
    return e->api.modify_qp(e->qp, &attr, RTS_MASK);
}

static inline void join_ends(end_t *a, end_t *b)
{
    CHECK_EQ(to_init(a), 0);
    CHECK_EQ(to_init(b), 0);
    CHECK_EQ(to_rtr(a, attr_to(a, b)), 0);
    CHECK_EQ(to_rtr(b, attr_to(b, a)), 0);
    CHECK_EQ(to_rts(a, attr_to(a, b)), 0);
    CHECK_EQ(to_rts(b, attr_to(b, a)), 0);
}

static inline void open_pair(end_t *a, const char *script_a, end_t *b, const char *script_b)
{
    open_end(a, script_a, 0);
    open_end(b, script_b, 1);
    join_ends(a, b);
}

static inline void close_pair(end_t *a, end_t *b)
{
    close_end(a);
    close_end(b);
    CHECK_EQ(rdt_ibv_fake_live(), 0);
}

/* A WRITE of [offset, offset + bytes) of a's memory to the same place of b's. */
typedef struct request {
    struct ibv_sge sge;
    struct ibv_send_wr wr;
} request_t;

static inline void set_request(request_t *r, const end_t *a, const end_t *b, size_t offset,
                               uint32_t bytes)
{
    r->sge = (struct ibv_sge){(uintptr_t)a->memory + offset, bytes, a->mr->lkey};
    r->wr = (struct ibv_send_wr){.wr_id = 1000 + offset,
                                 .sg_list = &r->sge,
                                 .num_sge = 1,
                                 .opcode = IBV_WR_RDMA_WRITE,
                                 .send_flags = IBV_SEND_SIGNALED};
    r->wr.wr.rdma.remote_addr = (uintptr_t)b->memory + offset;
    r->wr.wr.rdma.rkey = b->mr->rkey;
}

static inline int post(end_t *a, request_t *r)
{
    struct ibv_send_wr *bad = NULL;
    int st = a->api.post_send(a->qp, &r->wr, &bad);

    CHECK((st == 0) == (bad == NULL), "bad_wr is %p at %d", (void *)bad, st);
    return st;
}

static inline int post_recv(end_t *e, uint64_t wr_id)
{
    struct ibv_recv_wr wr = {.wr_id = wr_id}, *bad = NULL;

    return e->api.post_recv(e->qp, &wr, &bad);
}

/* The next completion, within 5 s. */
static inline struct ibv_wc next_wc(end_t *e)
{
    uint64_t limit = rdt_now_ns() + 5 * RDT_NS_PER_S;
    struct ibv_wc wc = {0};
    int num;

    while ((num = e->api.poll_cq(e->cq, 1, &wc)) == 0)
        CHECK(rdt_now_ns() < limit, "no completion");
    CHECK_EQ(num, 1);
    return wc;
}

static inline void expect(end_t *e, uint64_t wr_id, enum ibv_wc_status status)
{
    struct ibv_wc wc = next_wc(e);

    CHECK(wc.status == status, "%s, expected %s", e->api.wc_status_str(wc.status),
          e->api.wc_status_str(status));
    CHECK_EQ(wc.wr_id, wr_id);
    CHECK_EQ(wc.qp_num, e->qp->qp_num);
}

static inline void expect_nothing(end_t *e)
{
    struct ibv_wc wc;

    CHECK_EQ(e->api.poll_cq(e->cq, 1, &wc), 0);
}

static inline bool is_readable(int fd)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};

    return poll(&pfd, 1, 0) == 1;
}

static inline void expect_event(end_t *e, enum ibv_event_type type)
{
    struct ibv_async_event event;

    CHECK(is_readable(e->context->async_fd), "no event, expected %s", e->api.event_type_str(type));
    CHECK_EQ(e->api.get_async_event(e->context, &event), 0);
    CHECK(event.event_type == type, "%s, expected %s", e->api.event_type_str(event.event_type),
          e->api.event_type_str(type));
    e->api.ack_async_event(&event);
}

static inline void fill_memory(end_t *e, uint8_t id)
{
    for (size_t i = 0; i < BYTES; i++)
        e->memory[i] = value_at(i, id);
}

/* [offset, offset + bytes) is as filled by id, and around it nothing is written. */
static inline void check_memory(const end_t *e, size_t offset, size_t bytes, uint8_t id)
{
    for (size_t i = 0; i < BYTES; i++) {
        uint8_t want = i - offset < bytes ? value_at(i, id) : 0;

        CHECK(e->memory[i] == want, "byte %zu is %u, expected %u", i, e->memory[i], want);
    }
}

#endif
