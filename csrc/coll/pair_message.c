/* SPDX-License-Identifier: Apache-2.0 */
/* Pings and writes that are messages.
 *
 * A ping of `place` bytes and more goes where the other side said, with the message before, that it wants
 * it; smaller ones go through slots, and are copied out. For writes side 1 grants places, PLACES at most
 * before any is written, and says when all have come. */
#include <string.h>

#include "arena/arena.h"
#include "base/clock.h"
#include "base/error.h"
#include "coll/pair.h"
#include "reduce/copy.h"

#define PLACES (2 * RDT_PAIR_GRANT)

/* -- pingpong -- */

static bool is_placed(const rdt_pair_t *pair)
{
    return pair->conn->places && pair->nbytes >= pair->place;
}

/* Where the other side is to put the next ping. */
rdt_status_t rdt_pair_offer(rdt_pair_t *pair, rdt_pair_hdr_t *hdr)
{
    *hdr = (rdt_pair_hdr_t){0};
    if (!is_placed(pair) && !rdt_pair_has_stores(pair)) return RDT_OK;
    hdr->num = 1;
    if (pair->ctx->ops->expose(pair->conn, pair->rx, pair->nbytes, &hdr->at[0]) == RDT_OK)
        return RDT_OK;
    return rdt_fail(RDT_UNSUPPORTED, "%s cannot reach this memory", pair->ctx->ops->name);
}

/* HOT. */
static rdt_status_t ping(rdt_pair_t *pair, const rdt_pair_hdr_t *hdr, uint64_t at)
{
    const uint32_t chunk = pair->ctx->cfg.chunk_bytes;

    for (uint64_t off = 0; off < pair->nbytes; off += chunk) {
        uint64_t left = pair->nbytes - off;
        rdt_status_t st =
            rdt_pair_post(pair, hdr, pair->tx + off, left < chunk ? (uint32_t)left : chunk,
                          at != 0 ? at + off : 0);

        if (st != RDT_OK) return st;
    }
    return RDT_OK;
}

/* HOT. */
static rdt_status_t pong(rdt_pair_t *pair, rdt_pair_hdr_t *hdr)
{
    for (uint64_t off = 0; off < pair->nbytes;) {
        rdt_msg_t msg;
        rdt_status_t st = rdt_pair_next(pair, &msg);

        if (st != RDT_OK) return st;
        if (msg.len == 0 || msg.len > pair->nbytes - off)
            return rdt_fail(RDT_PROTOCOL, "the other side's pings have another size");
        memcpy(hdr, msg.hdr, sizeof(*hdr));
        if (msg.data != NULL) memcpy(pair->rx + off, msg.data, msg.len);
        off += msg.len;
        pair->ctx->ops->release(pair->conn, RDT_PAIR_LANE);
    }
    return RDT_OK;
}

/* HOT. Says with the ping where the next one is to go, unless it is the last. */
rdt_status_t rdt_pair_send_ping(rdt_pair_t *pair, const rdt_pair_run_t *run, uint32_t i,
                                uint64_t at)
{
    rdt_pair_hdr_t hdr = {0};
    rdt_status_t st = RDT_OK;

    if (run->check) {
        st = rdt_pair_flush(pair);
        rdt_pair_fill_tx(pair, pair->num_calls + i);
    }
    if (st == RDT_OK && (pair->side == 0 || i + 1 < run->calls)) st = rdt_pair_offer(pair, &hdr);
    if (st == RDT_OK) st = ping(pair, &hdr, at);
    return st;
}

/* HOT. Before anything is sent that lets the next one come, rx is ready for it. */
rdt_status_t rdt_pair_take_ping(rdt_pair_t *pair, rdt_pair_run_t *run, uint32_t i, uint64_t *at)
{
    rdt_pair_hdr_t hdr;
    rdt_status_t st = pong(pair, &hdr);

    if (st != RDT_OK) return st;
    *at = hdr.at[0];
    if (run->check) {
        run->nwrong += rdt_pair_count_wrong(pair, pair->num_calls + i);
        rdt_pair_spoil_rx(pair, pair->num_calls + i + 1);
    }
    return RDT_OK;
}

/* -- write -- */

/* Of this rank's rx, num times: the transport takes back what was exposed when it has been written. */
static rdt_status_t grant(rdt_pair_t *pair, uint64_t num)
{
    rdt_pair_hdr_t hdr = {.num = num};

    for (uint64_t i = 0; i < num; i++) {
        bool fits;

        if (pair->conn->places) {
            fits = pair->ctx->ops->expose(pair->conn, pair->rx, pair->nbytes, &hdr.at[i]) == RDT_OK;
        } else {
            fits = pair->conn->shares_arena && rdt_arena_offset(pair->rx, pair->nbytes, &hdr.at[i]);
            hdr.at[i]++;
        }
        if (!fits)
            return rdt_fail(RDT_UNSUPPORTED, "%s cannot write into this memory",
                            pair->ctx->ops->name);
    }
    return rdt_pair_post(pair, &hdr, NULL, 0, 0);
}

/* HOT. The message behind it says that it is there. */
static rdt_status_t copy_to(rdt_pair_t *pair, const rdt_pair_hdr_t *hdr, uint64_t at)
{
    if (at - 1 > pair->conn->arena_bytes || pair->nbytes > pair->conn->arena_bytes - (at - 1))
        return rdt_fail(RDT_PROTOCOL, "what the other side exposes is not in its arena");
    rdt_copy(pair->conn->arena + (at - 1), pair->tx, pair->nbytes, pair->streams);
    return rdt_pair_post(pair, hdr, NULL, 0, 0);
}

rdt_status_t rdt_pair_write_all(rdt_pair_t *pair, rdt_pair_run_t *run)
{
    static const rdt_pair_hdr_t none;
    rdt_pair_hdr_t granted = {0};
    uint64_t used = 0, first = 0;
    rdt_status_t st;

    for (uint32_t i = 0; i < run->calls; i++) {
        if (used == granted.num) {
            st = rdt_pair_take(pair, &granted);
            if (st != RDT_OK) return st;
            if (granted.num == 0 || granted.num > RDT_PAIR_GRANT)
                return rdt_fail(RDT_PROTOCOL, "the other side grants no places");
            used = 0;
        }
        if (i == 0) first = rdt_now_ns();
        st = pair->conn->places ? ping(pair, &none, granted.at[used])
                                : copy_to(pair, &none, granted.at[used]);
        if (st != RDT_OK) return st;
        used++;
    }
    st = rdt_pair_take(pair, &granted); /* all have come */
    run->ns[0] = rdt_now_ns() - first;
    return st;
}

/* When half of the places may have been used, after the first i writes. */
static rdt_status_t grant_more(rdt_pair_t *pair, uint32_t calls, uint32_t i, uint64_t *granted)
{
    rdt_status_t st = RDT_OK;

    if (i % RDT_PAIR_GRANT != 0) return RDT_OK;
    while (st == RDT_OK && *granted < calls && *granted < (uint64_t)i + PLACES) {
        uint64_t left = calls - *granted;
        uint64_t num = left < RDT_PAIR_GRANT ? left : RDT_PAIR_GRANT;

        st = grant(pair, num);
        *granted += num;
    }
    return st;
}

rdt_status_t rdt_pair_receive_all(rdt_pair_t *pair, const rdt_pair_run_t *run)
{
    const uint64_t chunk = pair->ctx->cfg.chunk_bytes;
    const uint64_t pieces = pair->conn->places ? (pair->nbytes + chunk - 1) / chunk : 1;
    uint64_t granted = 0;
    rdt_pair_hdr_t hdr;

    for (uint32_t i = 0; i < run->calls; i++) {
        rdt_status_t st = grant_more(pair, run->calls, i, &granted);

        for (uint64_t piece = 0; piece < pieces && st == RDT_OK; piece++)
            st = rdt_pair_take(pair, &hdr);
        if (st != RDT_OK) return st;
    }
    return rdt_pair_post(pair, &(rdt_pair_hdr_t){0}, NULL, 0, 0);
}
