/* SPDX-License-Identifier: Apache-2.0 */
/* A run: both sides meet, and then it is nothing but the transport and a clock. */
#include <poll.h>
#include <sched.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "coll/pair.h"

#define POLLS_PER_LOOK 256
#define POLLS_PER_DOZE 32
#define CHECK_NS (10 * RDT_NS_PER_MS)
#define DOZE_MS 50

/* -- waiting -- */

rdt_status_t rdt_pair_lost(const rdt_pair_t *pair)
{
    const rdt_conn_t *conn = pair->conn;
    const char *why = conn->detail[0] != '\0' ? conn->detail
                      : conn->sys_errno != 0  ? strerror(conn->sys_errno)
                                              : rdt_status_text(conn->status);

    return rdt_fail(conn->status != RDT_OK ? conn->status : RDT_IO_ERROR,
                    "the other side of the pair is lost (%s: %s)", conn->ops->name, why);
}

/* Who is there, and what time is it: seldom, as both cost more than a poll. Sides that share a CPU wait
 * for each other here. */
static __attribute__((noinline)) rdt_status_t look(rdt_pair_t *pair)
{
    uint64_t now = rdt_now_ns();

    if (now >= pair->deadline_ns)
        return rdt_fail(RDT_TIMEOUT, "the other side of the pair did not go on in time");
    if (now >= pair->check_ns) {
        pair->ctx->ops->check(pair->ctx);
        pair->check_ns = now + CHECK_NS;
    }
    sched_yield();
    return RDT_OK;
}

static __attribute__((noinline)) rdt_status_t doze(rdt_pair_t *pair)
{
    const rdt_transport_ops_t *ops = pair->ctx->ops;
    struct pollfd fds[RDT_SLEEP_FDS + 1];
    rdt_sleep_t sleep = {.fds = fds};
    rdt_msg_t msg;

    ops->arm(pair->ctx, &sleep);
    ops->poll(pair->ctx);
    if (ops->peek(pair->conn, RDT_PAIR_LANE, &msg) == RDT_AGAIN)
        (void)poll(sleep.fds, sleep.num_fds, DOZE_MS);
    ops->disarm(pair->ctx);
    return look(pair);
}

/* HOT. Between attempts. */
rdt_status_t rdt_pair_turn(rdt_pair_t *pair)
{
    pair->ctx->ops->poll(pair->ctx);
    pair->num_idle++;
    if (__builtin_expect(pair->dozes && pair->num_idle >= POLLS_PER_DOZE, 0)) return doze(pair);
    if (__builtin_expect(pair->num_idle % POLLS_PER_LOOK != 0, 1)) return RDT_OK;
    return look(pair);
}

/* HOT. at: where the data goes; 0 for a slot. */
rdt_status_t rdt_pair_post(rdt_pair_t *pair, const rdt_pair_hdr_t *hdr, const uint8_t *data,
                           uint32_t len, uint64_t at)
{
    const rdt_transport_ops_t *ops = pair->ctx->ops;

    for (;;) {
        rdt_status_t st = at != 0 ? ops->put(pair->conn, RDT_PAIR_LANE, hdr, data, len, at)
                                  : ops->send(pair->conn, RDT_PAIR_LANE, hdr, data, len);

        if (st == RDT_OK) return RDT_OK;
        if (st != RDT_AGAIN) return rdt_pair_lost(pair);
        st = rdt_pair_turn(pair);
        if (st != RDT_OK) return st;
    }
}

/* HOT. The next message, to be released. */
rdt_status_t rdt_pair_next(rdt_pair_t *pair, rdt_msg_t *msg)
{
    for (;;) {
        rdt_status_t st = rdt_pair_turn(pair);

        if (st != RDT_OK) return st;
        st = pair->ctx->ops->peek(pair->conn, RDT_PAIR_LANE, msg);
        if (st == RDT_OK) {
            pair->num_idle = 0;
            return RDT_OK;
        }
        if (st != RDT_AGAIN) return rdt_pair_lost(pair);
    }
}

/* HOT. */
rdt_status_t rdt_pair_take(rdt_pair_t *pair, rdt_pair_hdr_t *hdr)
{
    rdt_msg_t msg;
    rdt_status_t st = rdt_pair_next(pair, &msg);

    if (st != RDT_OK) return st;
    memcpy(hdr, msg.hdr, sizeof(*hdr));
    pair->ctx->ops->release(pair->conn, RDT_PAIR_LANE);
    return RDT_OK;
}

/* Nothing of tx is read any more. */
rdt_status_t rdt_pair_flush(rdt_pair_t *pair)
{
    while (pair->conn->flushed[RDT_PAIR_LANE] < pair->conn->posted[RDT_PAIR_LANE]) {
        rdt_status_t st = pair->conn->status != RDT_OK ? rdt_pair_lost(pair) : rdt_pair_turn(pair);

        if (st != RDT_OK) return st;
    }
    return RDT_OK;
}

/* -- what is compared -- */

uint8_t rdt_pair_value(uint32_t side, uint32_t call, uint64_t i)
{
    return (uint8_t)(i * 167 + (i >> 8) * 13 + (i >> 16) * 7 + call * 31 + side * 101 + 5);
}

void rdt_pair_fill_tx(const rdt_pair_t *pair, uint32_t call)
{
    for (uint64_t i = 0; i < pair->nbytes; i++)
        pair->tx[i] = rdt_pair_value(pair->side, call, i);
}

/* No byte is right before it comes. */
void rdt_pair_spoil_rx(const rdt_pair_t *pair, uint32_t call)
{
    for (uint64_t i = 0; i < pair->nbytes; i++)
        pair->rx[i] = (uint8_t)~rdt_pair_value(1 - pair->side, call, i);
}

uint64_t rdt_pair_count_wrong(const rdt_pair_t *pair, uint32_t call)
{
    uint64_t num = 0;

    for (uint64_t i = 0; i < pair->nbytes; i++)
        num += pair->rx[i] != rdt_pair_value(1 - pair->side, call, i);
    return num;
}

/* -- a run -- */

/* Ticks of each call become nanoseconds, as all of them took so many. A CPU whose counter is behind
 * another one's gives 0. */
static void scale(uint64_t *calls, uint32_t num, uint64_t ticks, uint64_t ns)
{
    double ns_per_tick = ticks > 0 ? (double)ns / (double)ticks : 0;

    for (uint32_t i = 0; i < num; i++)
        calls[i] = (int64_t)calls[i] > 0 ? (uint64_t)((double)calls[i] * ns_per_tick / 2) : 0;
}

static rdt_status_t send_ping(rdt_pair_t *pair, rdt_pair_run_t *run, uint32_t i, uint64_t at)
{
    return rdt_pair_has_stores(pair) ? rdt_pair_store_ping(pair, run, i, at)
                                     : rdt_pair_send_ping(pair, run, i, at);
}

static rdt_status_t take_ping(rdt_pair_t *pair, rdt_pair_run_t *run, uint32_t i, uint64_t *at)
{
    return rdt_pair_has_stores(pair) ? rdt_pair_watch_ping(pair, run, i)
                                     : rdt_pair_take_ping(pair, run, i, at);
}

static rdt_status_t run_pingpong(rdt_pair_t *pair, rdt_pair_run_t *run, uint64_t at)
{
    const uint64_t first_ns = rdt_now_ns(), first = rdt_ticks();
    uint64_t last = first;

    for (uint32_t i = 0; i < run->calls; i++) {
        rdt_status_t st = RDT_OK;

        if (pair->side == 1) st = take_ping(pair, run, i, &at);
        if (st == RDT_OK) st = send_ping(pair, run, i, at);
        if (st == RDT_OK && pair->side == 0) st = take_ping(pair, run, i, &at);
        if (st != RDT_OK) return st;
        if (pair->side == 0) {
            uint64_t now = rdt_ticks();

            run->ns[i] = now - last;
            last = now;
        }
    }
    if (pair->side == 0) scale(run->ns, run->calls, last - first, rdt_now_ns() - first_ns);
    return RDT_OK;
}

static rdt_status_t run_write(rdt_pair_t *pair, rdt_pair_run_t *run, uint64_t at)
{
    const bool stores = rdt_pair_has_stores(pair);
    rdt_status_t st;

    if (pair->side == 0)
        return stores ? rdt_pair_store_all(pair, run, at) : rdt_pair_write_all(pair, run);
    /* Who is written to needs no CPU of its own: the kernel or the other side may. */
    pair->dozes = !pair->ctx->ops->has_futex;
    st = stores ? rdt_pair_answer_all(pair) : rdt_pair_receive_all(pair, run);
    pair->dozes = false;
    if (st == RDT_OK && run->check) run->nwrong = rdt_pair_count_wrong(pair, pair->num_calls);
    return st;
}

/* Neither side begins before the other has. Where it says with it where its memory is, but for writes that
 * are messages, whose places are granted later, and for the first ping that is one, which says that of the
 * answer. */
static rdt_status_t meet(rdt_pair_t *pair, rdt_pair_op_t op, uint64_t *at)
{
    rdt_pair_hdr_t mine = {0}, theirs;
    rdt_status_t st = RDT_OK;

    if (rdt_pair_has_stores(pair) || (pair->side == 1 && op == RDT_PAIR_PINGPONG))
        st = rdt_pair_offer(pair, &mine);
    if (st == RDT_OK) st = rdt_pair_post(pair, &mine, NULL, 0, 0);
    if (st == RDT_OK) st = rdt_pair_take(pair, &theirs);
    if (st == RDT_OK) *at = theirs.at[0];
    return st;
}

static void make_ready(rdt_pair_t *pair, const rdt_pair_run_t *run)
{
    const uint64_t now = rdt_now_ns();

    pair->deadline_ns = rdt_deadline_after(now, run->timeout_ns);
    pair->check_ns = now;
    if (run->check) {
        rdt_pair_fill_tx(pair, pair->num_calls);
        rdt_pair_spoil_rx(pair, pair->num_calls);
    }
    if (run->op == RDT_PAIR_PINGPONG && rdt_pair_has_stores(pair)) rdt_pair_await_store(pair);
}

static rdt_status_t can_run(const rdt_pair_t *pair, const rdt_pair_run_t *run)
{
    if (pair->status != RDT_OK)
        return rdt_fail(RDT_CLOSED, "the pair has failed before: %s",
                        rdt_status_text(pair->status));
    if (pair->conn == NULL || pair->nbytes == 0 || run->calls == 0)
        return rdt_fail(RDT_BAD_ARG, "a run of %u calls of %llu bytes%s", run->calls,
                        (unsigned long long)pair->nbytes,
                        pair->conn == NULL ? ", not connected" : "");
    if (pair->adopted && (run->check || run->op == RDT_PAIR_PINGPONG))
        return rdt_fail(RDT_BAD_ARG, "no CPU sees memory of a device: only write, without check");
    return RDT_OK;
}

rdt_status_t rdt_pair_run(rdt_pair_t *pair, rdt_pair_run_t *run)
{
    uint64_t at = 0;
    rdt_status_t st = can_run(pair, run);

    if (st != RDT_OK) return st;
    run->nwrong = 0;
    make_ready(pair, run);
    st = meet(pair, run->op, &at);
    if (st == RDT_OK)
        st = run->op == RDT_PAIR_PINGPONG ? run_pingpong(pair, run, at) : run_write(pair, run, at);
    if (st == RDT_OK) st = rdt_pair_flush(pair);
    pair->num_calls += run->calls;
    pair->status = st;
    return st;
}
