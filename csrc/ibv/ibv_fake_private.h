/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the fake behind ibv_api.h. Each object begins with the one that libibverbs shows. */
#ifndef RDT_IBV_IBV_FAKE_PRIVATE_H
#define RDT_IBV_IBV_FAKE_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ibv/ibv_api.h"

#define FAKE_NUM_DEVICES 4
#define FAKE_NUM_GIDS 4
#define FAKE_MAX_RULES 32

/* -- the script -- */

typedef enum fake_what {
    FAKE_POST,
    FAKE_RECV,
    FAKE_WC,
    FAKE_RWC,
    FAKE_REG,
    FAKE_OVERRUN,
    FAKE_EVENT,
    FAKE_RTR,
    FAKE_GID,
    FAKE_AH,
} fake_what_t;

typedef struct fake_rule {
    fake_what_t what;
    uint32_t value, at;
} fake_rule_t;

typedef struct fake_script {
    uint32_t list, open, query; /* errno values, 0 for success */
    uint32_t devices, mtu, lid, state, delay, seed, iova2, dmabuf, fork, fork_guarded;
    uint32_t inline_max, inline_grant;
    uint32_t max_msg_sz, max_qp_wr, max_sge, max_cqe, max_mr;
    fake_rule_t rules[FAKE_MAX_RULES];
    uint32_t num_rules;
} fake_script_t;

rdt_status_t rdt_ibv_fake_parse(const char *text, fake_script_t *script_p);
/* The value of the rule, 0 when there is none. */
uint32_t rdt_ibv_fake_rule(const fake_script_t *script, fake_what_t what, uint32_t at);

/* -- objects -- */

typedef struct fake_event {
    struct fake_event *next;
    struct ibv_async_event event; /* of a channel: element.cq only */
} fake_event_t;

/* Events that wait for their reader. fd, an eventfd, is readable while there is one. */
typedef struct fake_events {
    int fd;
    fake_event_t *first;
} fake_events_t;

typedef struct fake_mr {
    struct ibv_mr ibv;
    struct fake_mr *next;
    uint64_t iova;
    uint8_t *memory; /* that iova names */
    unsigned access;
    bool mapped; /* memory is a dmabuf, mapped by us */
} fake_mr_t;

typedef struct fake_pd {
    struct ibv_pd ibv;
    uint32_t num_users;
} fake_pd_t;

typedef struct fake_channel {
    struct ibv_comp_channel ibv;
    fake_events_t events;
} fake_channel_t;

struct fake_qp;

typedef struct fake_cqe {
    struct ibv_wc wc;
    struct fake_qp *qp;
    uint64_t index; /* in the queue of the QP that it came from */
    bool of_recv;
} fake_cqe_t;

typedef struct fake_cq {
    struct ibv_cq ibv;
    fake_cqe_t *ring;
    uint32_t head, num;
    uint32_t num_qps, unacked_comp, unacked_async;
    bool armed, solicited_only, overrun;
} fake_cq_t;

typedef struct fake_wqe {
    uint64_t wr_id, remote_addr;
    enum ibv_wr_opcode opcode;
    unsigned flags;
    __be32 imm;
    uint32_t rkey;
    struct ibv_sge *sges; /* in the memory of the QP */
    uint8_t *inlined;     /* the same */
    uint32_t num_sge, delay, ack_delay, num_rnr;
    enum ibv_wc_status status; /* once begun and no longer waiting */
    bool begun, done;
    uint64_t retry_ns, give_up_ns; /* 0: not waiting */
} fake_wqe_t;

/* Both queues: retired <= next <= posted <= retired + depth. A slot is retired when the completion of
 * its request, or of a later one, is polled: unsignalled requests hold theirs until then. */
typedef struct fake_order {
    uint64_t retired, next, posted;
} fake_order_t;

typedef struct fake_qp {
    struct ibv_qp ibv;
    struct fake_qp *next;
    struct ibv_qp_attr attr;
    struct ibv_qp_cap cap;
    struct ibv_sge *sges;
    uint8_t *inlined;
    fake_wqe_t *sq;
    uint64_t *rq; /* wr_ids: what a receive of immediate data uses */
    fake_order_t sends, recvs;
    uint32_t unacked;
    bool sq_sig_all, established;
} fake_qp_t;

typedef struct fake_ctx {
    struct ibv_context ibv;
    struct fake_ctx *next; /* of the process */
    fake_script_t script;
    fake_events_t async;
    fake_mr_t *mrs;
    fake_qp_t *qps;
    uint32_t device; /* its number */
    uint32_t num_users, num_mrs;
    uint32_t num_posts, num_recvs, num_sent, num_received, num_regs, num_completions;
    uint32_t random;
    enum ibv_port_state state;
    _Atomic bool dead; /* so that it can be read without the lock */
} fake_ctx_t;

/* Guards everything of all contexts; all functions below that do not say otherwise need it. */
extern pthread_mutex_t rdt_ibv_fake_lock;
extern fake_ctx_t *rdt_ibv_fake_ctxs;

/* Counts an object in or out. */
void rdt_ibv_fake_count(int by);

/* -- events -- */

bool rdt_ibv_fake_events_open(fake_events_t *events);
void rdt_ibv_fake_events_close(fake_events_t *events);
void rdt_ibv_fake_push(fake_events_t *events, struct ibv_async_event event);
/* Drops those that name the object. */
void rdt_ibv_fake_drop(fake_events_t *events, const void *object);
/* 0 with the lock held, or -1 and errno without. Waits as the flags of the descriptor say. */
int rdt_ibv_fake_wait(fake_events_t *events, struct ibv_async_event *event_p);
/* An event and its effect; qp is NULL where it is of no QP. */
void rdt_ibv_fake_raise(fake_ctx_t *ctx, fake_qp_t *qp, enum ibv_event_type type);
/* Waits for *num to be 0. Gives the lock away meanwhile. 0 or EDEADLK. */
int rdt_ibv_fake_wait_acked(const uint32_t *num);

int rdt_ibv_fake_get_async_event(struct ibv_context *context, struct ibv_async_event *event);
void rdt_ibv_fake_ack_async_event(struct ibv_async_event *event);

/* -- memory -- */

/* Where [addr, addr + bytes) of the key lies, or NULL: no such key in the PD, out of its bounds, or not
 * with this access. With IBV_ACCESS_REMOTE_WRITE it is an rkey, else an lkey. */
uint8_t *rdt_ibv_fake_memory(const struct ibv_pd *pd, uint32_t key, uint64_t addr, uint64_t bytes,
                             unsigned access);
/* 0, or why the address cannot be used. */
int rdt_ibv_fake_route(const fake_ctx_t *ctx, const struct ibv_ah_attr *attr);
/* False when there is none. */
bool rdt_ibv_fake_gid(uint32_t device, int index, union ibv_gid *gid_p);

struct ibv_pd *rdt_ibv_fake_alloc_pd(struct ibv_context *context);
int rdt_ibv_fake_dealloc_pd(struct ibv_pd *pd);
struct ibv_mr *rdt_ibv_fake_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access);
struct ibv_mr *rdt_ibv_fake_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length,
                                         uint64_t iova, unsigned access);
struct ibv_mr *rdt_ibv_fake_reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, size_t length,
                                          uint64_t iova, int fd, int access);
int rdt_ibv_fake_dereg_mr(struct ibv_mr *mr);
struct ibv_ah *rdt_ibv_fake_create_ah(struct ibv_pd *pd, struct ibv_ah_attr *attr);
int rdt_ibv_fake_destroy_ah(struct ibv_ah *ah);

/* -- completions -- */

void rdt_ibv_fake_complete(fake_cq_t *cq, const fake_cqe_t *cqe, bool solicited);
/* Forgets the completions of a QP, as destroying or resetting it does. */
void rdt_ibv_fake_forget(fake_cq_t *cq, const fake_qp_t *qp);

struct ibv_comp_channel *rdt_ibv_fake_create_comp_channel(struct ibv_context *context);
int rdt_ibv_fake_destroy_comp_channel(struct ibv_comp_channel *channel);
struct ibv_cq *rdt_ibv_fake_create_cq(struct ibv_context *context, int cqe, void *cq_context,
                                      struct ibv_comp_channel *channel, int comp_vector);
int rdt_ibv_fake_destroy_cq(struct ibv_cq *cq);
int rdt_ibv_fake_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq,
                              void **cq_context);
void rdt_ibv_fake_ack_cq_events(struct ibv_cq *cq, unsigned num_events);
int rdt_ibv_fake_poll_cq(struct ibv_cq *cq, int num_entries, struct ibv_wc *wc);
int rdt_ibv_fake_req_notify_cq(struct ibv_cq *cq, int solicited_only);

/* -- queue pairs -- */

/* To the error state: whatever is queued is flushed. */
void rdt_ibv_fake_error(fake_qp_t *qp);

struct ibv_qp *rdt_ibv_fake_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr);
int rdt_ibv_fake_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask);
int rdt_ibv_fake_query_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask,
                          struct ibv_qp_init_attr *init_attr);
int rdt_ibv_fake_destroy_qp(struct ibv_qp *qp);
int rdt_ibv_fake_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad_wr);
int rdt_ibv_fake_post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad_wr);

/* -- the wire -- */

/* Executes what can be executed. tick: what is delayed comes one poll nearer. True when some is left. */
bool rdt_ibv_fake_run(fake_ctx_t *ctx, bool tick);
/* Completes everything that is queued as flushed. */
void rdt_ibv_fake_flush(fake_qp_t *qp);
/* Has the thread of the fake see to it that it goes on. */
void rdt_ibv_fake_wake(void);

#endif
