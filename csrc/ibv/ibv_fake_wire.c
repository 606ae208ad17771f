/* SPDX-License-Identifier: Apache-2.0 */
/* How requests of the fake are executed: in order within a QP, by whoever holds the lock. */
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "ibv/ibv_fake_private.h"

#define TICK_US 200
#define LATER (-1) /* no status yet: it is tried again */
#define RELEASED_BYTES 64
#define WORD sizeof(uint64_t)

static fake_ctx_t *ctx_of(const fake_qp_t *qp)
{
    return (fake_ctx_t *)qp->ibv.context;
}

/* -- completions -- */

/* What libibverbs leaves undefined on failure is not to be used: it is rubbish here. */
static struct ibv_wc new_wc(const fake_qp_t *qp, uint64_t wr_id, enum ibv_wc_status status)
{
    return (struct ibv_wc){.wr_id = wr_id,
                           .status = status,
                           .opcode = IBV_WC_DRIVER3,
                           .vendor_err = status == IBV_WC_SUCCESS ? 0 : 0x100u + (uint32_t)status,
                           .byte_len = 0xdeadbeef,
                           .qp_num = qp->ibv.qp_num};
}

static void end_send(fake_qp_t *qp, enum ibv_wc_status status)
{
    fake_wqe_t *wqe = &qp->sq[qp->sends.next % qp->cap.max_send_wr];
    fake_cqe_t cqe = {new_wc(qp, wqe->wr_id, status), qp, qp->sends.next++, false};

    if (status == IBV_WC_SUCCESS) cqe.wc.opcode = IBV_WC_RDMA_WRITE;
    if (status != IBV_WC_SUCCESS || qp->sq_sig_all || (wqe->flags & IBV_SEND_SIGNALED) != 0)
        rdt_ibv_fake_complete((fake_cq_t *)qp->ibv.send_cq, &cqe, false);
    if (status != IBV_WC_SUCCESS && qp->ibv.state != IBV_QPS_ERR) rdt_ibv_fake_error(qp);
}

static void end_recv(fake_qp_t *qp, struct ibv_wc wc, bool solicited)
{
    uint64_t index = qp->recvs.next++;
    fake_cqe_t cqe = {wc, qp, index, true};

    rdt_ibv_fake_complete((fake_cq_t *)qp->ibv.recv_cq, &cqe, solicited);
}

static uint64_t next_recv(const fake_qp_t *qp)
{
    return qp->rq[qp->recvs.next % qp->cap.max_recv_wr];
}

void rdt_ibv_fake_flush(fake_qp_t *qp)
{
    while (qp->sends.next < qp->sends.posted)
        end_send(qp, IBV_WC_WR_FLUSH_ERR);
    while (qp->recvs.next < qp->recvs.posted)
        end_recv(qp, new_wc(qp, next_recv(qp), IBV_WC_WR_FLUSH_ERR), false);
}

/* -- waiting -- */

/* Nobody answers: the end comes after all retries. A timeout of 0 is for ever, and, with rxe, so are 7
 * retries. */
static int no_answer(const fake_qp_t *qp, fake_wqe_t *wqe)
{
    uint64_t now = rdt_now_ns();

    if (qp->attr.timeout == 0 || qp->attr.retry_cnt == 7) return LATER;
    if (wqe->give_up_ns == 0)
        wqe->give_up_ns = now + (4096ull << qp->attr.timeout) * (qp->attr.retry_cnt + 1u);
    return now >= wqe->give_up_ns ? IBV_WC_RETRY_EXC_ERR : LATER;
}

/* The code of the receiver's timer, in units of 10 us. */
static uint64_t rnr_ns(uint8_t code)
{
    static const uint16_t units[32] = {65535, 1,    2,    3,     4,     6,     8,     12,
                                       16,    24,   32,   48,    64,    96,    128,   192,
                                       256,   384,  512,  768,   1024,  1536,  2048,  3072,
                                       4096,  6144, 8192, 12288, 16384, 24576, 32768, 49152};

    return units[code & 31] * 10000ull;
}

/* The receiver has nothing posted. */
static int not_ready(const fake_qp_t *qp, const fake_qp_t *peer, fake_wqe_t *wqe)
{
    if (qp->attr.rnr_retry != 7 && wqe->num_rnr++ == qp->attr.rnr_retry)
        return IBV_WC_RNR_RETRY_EXC_ERR;
    wqe->retry_ns = rdt_now_ns() + rnr_ns(peer->attr.min_rnr_timer);
    return LATER;
}

/* -- the peer -- */

static bool is_at(const fake_ctx_t *ctx, const struct ibv_ah_attr *address)
{
    union ibv_gid gid;

    if (address->dlid != 0) return ctx->script.lid == address->dlid;
    for (int i = 0; i < FAKE_NUM_GIDS; i++)
        if (rdt_ibv_fake_gid(ctx->device, i, &gid) &&
            memcmp(&gid, &address->grh.dgid, sizeof(gid)) == 0)
            return true;
    return false;
}

static bool hears(const fake_qp_t *peer, const fake_qp_t *qp)
{
    return (peer->ibv.state == IBV_QPS_RTR || peer->ibv.state == IBV_QPS_RTS) &&
           peer->attr.dest_qp_num == qp->ibv.qp_num && peer->attr.rq_psn == qp->attr.sq_psn;
}

/* NULL when it does not answer: no such QP there, not for us, not in the state, cable out. */
static fake_qp_t *find_peer(const fake_qp_t *qp)
{
    if (ctx_of(qp)->state < IBV_PORT_ACTIVE) return NULL;
    for (fake_ctx_t *ctx = rdt_ibv_fake_ctxs; ctx != NULL; ctx = ctx->next) {
        if (ctx->state < IBV_PORT_ACTIVE || !is_at(ctx, &qp->attr.ah_attr)) continue;
        for (fake_qp_t *peer = ctx->qps; peer != NULL; peer = peer->next)
            if (peer->ibv.qp_num == qp->attr.dest_qp_num && hears(peer, qp)) return peer;
    }
    return NULL;
}

/* -- data -- */

static uint64_t length_of(const fake_wqe_t *wqe)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < wqe->num_sge; i++)
        bytes += wqe->sges[i].length;
    return bytes;
}

static const uint8_t *source_of(const fake_qp_t *qp, const fake_wqe_t *wqe, uint32_t sge)
{
    const struct ibv_sge *s = &wqe->sges[sge];
    const uint8_t *at = wqe->inlined;

    if ((wqe->flags & IBV_SEND_INLINE) == 0)
        return rdt_ibv_fake_memory(qp->ibv.pd, s->lkey, s->addr, s->length, 0);
    while (sge-- > 0)
        at += wqe->sges[sge].length;
    return at;
}

static bool may_read(const fake_qp_t *qp, const fake_wqe_t *wqe)
{
    for (uint32_t i = 0; i < wqe->num_sge; i++)
        if (wqe->sges[i].length > 0 && source_of(qp, wqe, i) == NULL) return false;
    return true;
}

/* Stores that an acquiring load of the same word sees whole, and everything before them. */
static void store_in_order(uint8_t *to, const uint8_t *from, size_t bytes)
{
    while (bytes > 0) {
        if ((uintptr_t)to % WORD == 0 && bytes >= WORD) {
            uint64_t word;

            memcpy(&word, from, WORD);
            __atomic_store_n((uint64_t *)(void *)to, word, __ATOMIC_RELEASE);
            to += WORD, from += WORD, bytes -= WORD;
        } else {
            __atomic_store_n(to++, *from++, __ATOMIC_RELEASE);
            bytes--;
        }
    }
}

static void copy(const fake_qp_t *qp, const fake_wqe_t *wqe, uint8_t *to)
{
    uint64_t left = length_of(wqe);

    for (uint32_t i = 0; i < wqe->num_sge; i++) {
        const uint8_t *from = source_of(qp, wqe, i);
        uint64_t bytes = wqe->sges[i].length, plain;

        if (bytes == 0) continue;
        plain = left > RELEASED_BYTES ? left - RELEASED_BYTES : 0;
        if (plain > bytes) plain = bytes;
        if (wqe->opcode == IBV_WR_RDMA_WRITE_WITH_IMM) plain = bytes;
        memcpy(to, from, plain);
        store_in_order(to + plain, from + plain, bytes - plain);
        to += bytes;
        left -= bytes;
    }
}

/* -- requests -- */

/* The peer found the request bad: it breaks too, and says so to its owner. */
static int refuse(fake_qp_t *peer, enum ibv_event_type type, enum ibv_wc_status status)
{
    rdt_ibv_fake_raise(ctx_of(peer), peer, type);
    rdt_ibv_fake_error(peer);
    return (int)status;
}

static bool mtus_agree(const fake_qp_t *qp, const fake_qp_t *peer, uint64_t bytes)
{
    enum ibv_mtu mine = qp->attr.path_mtu, theirs = peer->attr.path_mtu;

    return mine == theirs || bytes <= 128u << (mine < theirs ? mine : theirs);
}

static int receive_imm(fake_qp_t *peer, const fake_qp_t *qp, const fake_wqe_t *wqe)
{
    fake_ctx_t *ctx = ctx_of(peer);
    uint32_t forced = rdt_ibv_fake_rule(&ctx->script, FAKE_RWC, ++ctx->num_received);
    struct ibv_wc wc = new_wc(peer, next_recv(peer), (enum ibv_wc_status)forced);

    if (forced == IBV_WC_SUCCESS) {
        wc.opcode = IBV_WC_RECV_RDMA_WITH_IMM;
        wc.byte_len = (uint32_t)length_of(wqe);
        wc.wc_flags = IBV_WC_WITH_IMM;
        wc.imm_data = wqe->imm;
        wc.src_qp = qp->ibv.qp_num;
    }
    end_recv(peer, wc, (wqe->flags & IBV_SEND_SOLICITED) != 0);
    if (forced == IBV_WC_SUCCESS) return IBV_WC_SUCCESS;
    rdt_ibv_fake_error(peer);
    return IBV_WC_REM_OP_ERR;
}

static void establish(fake_qp_t *peer)
{
    if (peer->established || peer->ibv.state != IBV_QPS_RTR) return;
    peer->established = true;
    rdt_ibv_fake_raise(ctx_of(peer), peer, IBV_EVENT_COMM_EST);
}

static int write_to(fake_qp_t *peer, fake_qp_t *qp, fake_wqe_t *wqe)
{
    bool with_imm = wqe->opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
    unsigned access = IBV_ACCESS_REMOTE_WRITE;
    uint64_t bytes = length_of(wqe);
    uint8_t *to = NULL;

    establish(peer);
    if (!mtus_agree(qp, peer, bytes))
        return refuse(peer, IBV_EVENT_QP_REQ_ERR, IBV_WC_REM_INV_REQ_ERR);
    if (bytes > 0) {
        if ((peer->attr.qp_access_flags & access) != 0)
            to = rdt_ibv_fake_memory(peer->ibv.pd, wqe->rkey, wqe->remote_addr, bytes, access);
        if (to == NULL) return refuse(peer, IBV_EVENT_QP_ACCESS_ERR, IBV_WC_REM_ACCESS_ERR);
    }
    if (with_imm && peer->recvs.next == peer->recvs.posted) return not_ready(qp, peer, wqe);
    copy(qp, wqe, to);
    return with_imm ? receive_imm(peer, qp, wqe) : IBV_WC_SUCCESS;
}

/* A status, or LATER. */
static int execute(fake_qp_t *qp, fake_wqe_t *wqe)
{
    fake_ctx_t *ctx = ctx_of(qp);
    fake_qp_t *peer;

    if (!wqe->begun) {
        uint32_t forced = rdt_ibv_fake_rule(&ctx->script, FAKE_WC, ++ctx->num_sent);

        wqe->begun = true;
        if (forced != 0) return (int)forced;
    }
    if (length_of(wqe) > ctx->script.max_msg_sz) return IBV_WC_LOC_LEN_ERR;
    if (!may_read(qp, wqe)) return IBV_WC_LOC_PROT_ERR;
    if (wqe->retry_ns > rdt_now_ns()) return LATER;
    peer = find_peer(qp);
    return peer != NULL ? write_to(peer, qp, wqe) : no_answer(qp, wqe);
}

/* True when the oldest request is over. */
static bool step(fake_qp_t *qp, bool tick)
{
    fake_wqe_t *wqe = &qp->sq[qp->sends.next % qp->cap.max_send_wr];
    int status;

    if (wqe->delay > 0 && (!tick || --wqe->delay > 0)) return false;
    if (!wqe->done) {
        status = execute(qp, wqe);
        if (status == LATER) return false;
        wqe->done = true;
        wqe->status = (enum ibv_wc_status)status;
    } else if (wqe->ack_delay > 0 && tick) {
        wqe->ack_delay--;
    }
    if (wqe->ack_delay > 0 && wqe->status == IBV_WC_SUCCESS) return false;
    end_send(qp, wqe->status);
    return true;
}

bool rdt_ibv_fake_run(fake_ctx_t *ctx, bool tick)
{
    bool left = false;

    for (fake_qp_t *qp = ctx->qps; qp != NULL; qp = qp->next) {
        if (qp->ibv.state == IBV_QPS_ERR) rdt_ibv_fake_flush(qp);
        while (qp->sends.next < qp->sends.posted && step(qp, tick))
            continue;
        left |= qp->sends.next < qp->sends.posted;
    }
    return left;
}

/* -- the thread -- */

static pthread_cond_t work = PTHREAD_COND_INITIALIZER;
static bool has_work;

/* Lives as long as the process: what waits for a time, or for a poll that nobody makes because all
 * sleep on their channels, goes on here. */
static void *keep_running(void *arg)
{
    (void)arg;
    for (;;) {
        pthread_mutex_lock(&rdt_ibv_fake_lock);
        while (!has_work)
            pthread_cond_wait(&work, &rdt_ibv_fake_lock);
        has_work = false;
        for (fake_ctx_t *ctx = rdt_ibv_fake_ctxs; ctx != NULL; ctx = ctx->next)
            has_work |= rdt_ibv_fake_run(ctx, true);
        pthread_mutex_unlock(&rdt_ibv_fake_lock);
        usleep(TICK_US);
    }
    return NULL;
}

void rdt_ibv_fake_wake(void)
{
    static bool started;
    pthread_t thread;

    if (!started) {
        started = pthread_create(&thread, NULL, keep_running, NULL) == 0;
        if (started) pthread_detach(thread);
    }
    has_work = true;
    pthread_cond_signal(&work);
}
