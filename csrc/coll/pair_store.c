/* SPDX-License-Identifier: Apache-2.0 */
/* Pings and writes that are stores: each side said before where its memory is. A ping ends with its number,
 * which the other side looks for; a message behind the writes asks for an answer. */
#include "base/clock.h"
#include "coll/pair.h"

#define LOOKS_PER_POLL 1024

/* HOT. All of tx to at. */
static rdt_status_t store(rdt_pair_t *pair, uint64_t at)
{
    const rdt_transport_ops_t *ops = pair->ctx->ops;
    const uint32_t chunk = pair->ctx->cfg.chunk_bytes;

    for (uint64_t off = 0; off < pair->nbytes;) {
        uint64_t left = pair->nbytes - off;
        uint32_t len = left < chunk ? (uint32_t)left : chunk;
        rdt_status_t st = ops->store(pair->conn, RDT_PAIR_LANE, pair->tx + off, len, at + off);

        if (st == RDT_OK) {
            off += len;
            continue;
        }
        if (st != RDT_AGAIN) return rdt_pair_lost(pair);
        st = rdt_pair_turn(pair);
        if (st != RDT_OK) return st;
    }
    return RDT_OK;
}

/* HOT. The number of a call is the last byte of its ping, and differs from the one before. Pairs with the NIC's
 * write of that byte, and of no other: it may write to the arena in any order (relaxed ordering), and the rest
 * later. A ping's time ends with that byte; who reads the rest takes the message behind the ping first. */
static rdt_status_t watch(rdt_pair_t *pair, uint8_t number)
{
    const uint8_t *last = pair->rx + pair->nbytes - 1;

    for (;;) {
        rdt_status_t st;

        for (int i = 0; i < LOOKS_PER_POLL; i++)
            if (__atomic_load_n(last, __ATOMIC_ACQUIRE) == number) return RDT_OK;
        st = rdt_pair_turn(pair);
        if (st != RDT_OK) return st;
    }
}

void rdt_pair_await_store(const rdt_pair_t *pair)
{
    pair->rx[pair->nbytes - 1] = (uint8_t)(pair->num_calls - 1);
}

/* HOT. With check a message says that all of the ping is there. */
rdt_status_t rdt_pair_store_ping(rdt_pair_t *pair, const rdt_pair_run_t *run, uint32_t i,
                                 uint64_t at)
{
    const uint32_t call = pair->num_calls + i;
    rdt_status_t st = RDT_OK;

    if (run->check) {
        st = rdt_pair_flush(pair);
        rdt_pair_fill_tx(pair, call);
    }
    pair->tx[pair->nbytes - 1] = (uint8_t)call;
    if (st == RDT_OK) st = store(pair, at);
    if (st == RDT_OK && run->check) st = rdt_pair_post(pair, &(rdt_pair_hdr_t){0}, NULL, 0, 0);
    return st;
}

/* HOT. */
rdt_status_t rdt_pair_watch_ping(rdt_pair_t *pair, rdt_pair_run_t *run, uint32_t i)
{
    const uint32_t call = pair->num_calls + i;
    uint8_t *last = pair->rx + pair->nbytes - 1;
    rdt_status_t st = watch(pair, (uint8_t)call);
    rdt_pair_hdr_t hdr;

    if (st != RDT_OK || !run->check) return st;
    st = rdt_pair_take(pair, &hdr);
    *last = rdt_pair_value(1 - pair->side, call, pair->nbytes - 1); /* it held the number */
    run->nwrong += rdt_pair_count_wrong(pair, call);
    rdt_pair_spoil_rx(pair, call + 1);
    *last = (uint8_t)call;
    return st;
}

rdt_status_t rdt_pair_store_all(rdt_pair_t *pair, rdt_pair_run_t *run, uint64_t at)
{
    const uint64_t first = rdt_now_ns();
    rdt_status_t st = RDT_OK;
    rdt_pair_hdr_t hdr = {0};

    for (uint32_t i = 0; i < run->calls && st == RDT_OK; i++)
        st = store(pair, at);
    if (st == RDT_OK) st = rdt_pair_post(pair, &hdr, NULL, 0, 0);
    if (st == RDT_OK) st = rdt_pair_take(pair, &hdr);
    run->ns[0] = rdt_now_ns() - first;
    return st;
}

rdt_status_t rdt_pair_answer_all(rdt_pair_t *pair)
{
    rdt_pair_hdr_t hdr;
    rdt_status_t st = rdt_pair_take(pair, &hdr);

    return st == RDT_OK ? rdt_pair_post(pair, &(rdt_pair_hdr_t){0}, NULL, 0, 0) : st;
}
