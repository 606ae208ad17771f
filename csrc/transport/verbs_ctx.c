/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arena/arena.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/sock.h"
#include "transport/verbs.h"

/* Peers that a rank of a large group has room for: its plans need few, an exchange of all with all more. */
#define LAZY_PEERS 1024u

#define RETRY_NS (3 * RDT_NS_PER_S / 2)
#define MAX_RETRY_MS 600000u

/* -- the argument -- */

static rdt_status_t bad_arg(const char *word)
{
    return rdt_fail(RDT_BAD_ARG,
                    "verbs: \"%s\" is not understood: rails=DEV/PORT/GID[,GID]... addr=...", word);
}

/* "3,1" */
static bool parse_gids(const char *text, verbs_rail_t *rail)
{
    for (;;) {
        char *end;
        unsigned long index = strtoul(text, &end, 10);

        if (end == text || index > UINT8_MAX || rail->num_gids == VERBS_MAX_GIDS) return false;
        rail->gid_index[rail->num_gids++] = (uint8_t)index;
        if (*end == '\0') return true;
        if (*end != ',') return false;
        text = end + 1;
    }
}

/* "rxe0/1/3,1" */
static bool parse_rail(const char *text, verbs_rail_t *rail)
{
    char gids[64];
    unsigned port;

    if (sscanf(text, "%63[^/]/%u/%63s", rail->name, &port, gids) != 3) return false;
    if (port == 0 || port > UINT8_MAX) return false;
    rail->port = (uint8_t)port;
    return parse_gids(gids, rail);
}

static rdt_status_t parse_rails(verbs_ctx_t *ctx, char *list)
{
    char *rest;

    for (char *item = strtok_r(list, "+", &rest); item != NULL; item = strtok_r(NULL, "+", &rest)) {
        if (ctx->num_rails == VERBS_MAX_RAILS)
            return rdt_fail(RDT_BAD_ARG, "verbs: more than %d rails", VERBS_MAX_RAILS);
        if (!parse_rail(item, &ctx->rails[ctx->num_rails])) return bad_arg(item);
        ctx->num_rails++;
    }
    return RDT_OK;
}

static bool parse_number(const char *text, uint32_t limit, uint32_t *value_p)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    if (end == text || *end != '\0' || value > limit) return false;
    *value_p = (uint32_t)value;
    return true;
}

static rdt_status_t parse_word(verbs_ctx_t *ctx, char *word)
{
    verbs_options_t *o = &ctx->options;
    const struct {
        const char *key;
        uint32_t *field, limit;
    } numbers[] = {{"tc", &o->tc, 255},
                   {"sl", &o->sl, 15},
                   {"pkey", &o->pkey, 65535},
                   {"mtu", &o->mtu, 4096},
                   {"retry", &o->retry, MAX_RETRY_MS}};
    char *value = strchr(word, '=');

    if (value == NULL) return bad_arg(word);
    *value++ = '\0';
    if (strcmp(word, "rails") == 0) return parse_rails(ctx, value);
    if (strcmp(word, "addr") == 0 && strlen(value) < sizeof(o->addr)) {
        strcpy(o->addr, value);
        return RDT_OK;
    }
    if (strcmp(word, "fake") == 0 && strlen(value) < sizeof(o->fake)) {
        strcpy(o->fake, value);
        o->is_fake = true;
        return RDT_OK;
    }
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        if (strcmp(word, numbers[i].key) == 0 &&
            parse_number(value, numbers[i].limit, numbers[i].field))
            return RDT_OK;
    return bad_arg(word);
}

static rdt_status_t parse(verbs_ctx_t *ctx, const char *arg)
{
    char *copy = strdup(arg != NULL ? arg : ""), *rest;
    rdt_status_t st = copy != NULL ? RDT_OK : rdt_fail(RDT_NO_MEMORY, "verbs: out of memory");

    for (char *word = copy != NULL ? strtok_r(copy, " ", &rest) : NULL;
         word != NULL && st == RDT_OK; word = strtok_r(NULL, " ", &rest))
        st = parse_word(ctx, word);
    free(copy);
    if (st == RDT_OK && ctx->num_rails == 0)
        st = rdt_fail(RDT_BAD_ARG, "verbs: no rail: rails=DEV/PORT/GID is missing");
    return st;
}

/* -- opening -- */

static rdt_status_t open_port(verbs_ctx_t *ctx, verbs_rail_t *rail)
{
    const verbs_dev_t *dev = rail->dev;
    size_t message = ctx->base.cfg.chunk_bytes + VERBS_DATA_OFFSET;
    int err = dev->api.query_port(dev->context, rail->port, &rail->attr);

    if (err != 0)
        return rdt_fail(RDT_BAD_ARG, "RDMA device %s has no port %u: %s", rail->name, rail->port,
                        strerror(err));
    if (rail->attr.state != IBV_PORT_ACTIVE)
        return rdt_fail(RDT_IO_ERROR, "port %u of RDMA device %s is not active: is its link up?",
                        rail->port, rail->name);
    if (rail->attr.max_msg_sz < message)
        return rdt_fail(RDT_BAD_ARG,
                        "RDMA device %s sends at most %u bytes in a message, a chunk needs %zu: "
                        "lower chunk in RDMATRAIN_TUNING",
                        rail->name, rail->attr.max_msg_sz, message);
    return RDT_OK;
}

/* The queue is large enough for all that can complete before anybody polls: of all peers, or of as many
 * as may be needed where few are. */
static rdt_status_t open_queue(verbs_ctx_t *ctx, verbs_rail_t *rail)
{
    const verbs_dev_t *dev = rail->dev;
    uint32_t each = VERBS_SEND_DEPTH + VERBS_RECV_DEPTH;
    uint32_t room = ((uint32_t)dev->attr.max_cqe - 1) / each, need;
    int flags;

    if (ctx->base.cfg.lazy && ctx->max_met > LAZY_PEERS) ctx->max_met = LAZY_PEERS;
    if (ctx->base.cfg.lazy && ctx->max_met > room) ctx->max_met = room;
    need = ctx->max_met * each + 1;
    if (ctx->max_met > room)
        return rdt_fail(RDT_NO_MEMORY,
                        "%u ranks need a completion queue of %u entries, RDMA device %s has %d",
                        ctx->base.cfg.world, need, rail->name, dev->attr.max_cqe);
    rail->channel = dev->api.create_comp_channel(dev->context);
    if (rail->channel == NULL)
        return rdt_fail(RDT_NO_MEMORY, "a completion channel of %s: %s", rail->name,
                        strerror(errno));
    flags = fcntl(rail->channel->fd, F_GETFL);
    if (flags < 0 || fcntl(rail->channel->fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return rdt_fail(RDT_IO_ERROR, "the completion channel of %s: %s", rail->name,
                        strerror(errno));
    rail->cq = dev->api.create_cq(dev->context, (int)need, &rail->event, rail->channel, 0);
    if (rail->cq == NULL)
        return rdt_fail(RDT_NO_MEMORY, "a completion queue of %u entries of %s: %s", need,
                        rail->name, strerror(errno));
    return RDT_OK;
}

static rdt_status_t open_rail(verbs_ctx_t *ctx, verbs_rail_t *rail)
{
    rdt_status_t st =
        rdt_verbs_dev_open(rail->name, ctx->options.is_fake ? ctx->options.fake : NULL, &rail->dev);

    if (st == RDT_OK) st = open_port(ctx, rail);
    if (st == RDT_OK) st = open_queue(ctx, rail);
    return st;
}

static void close_rail(verbs_rail_t *rail)
{
    verbs_dev_t *dev = rail->dev;

    if (dev == NULL) return;
    if (rail->unacked_events > 0) dev->api.ack_cq_events(rail->cq, rail->unacked_events);
    if (rail->cq != NULL) dev->api.destroy_cq(rail->cq);
    if (rail->channel != NULL) dev->api.destroy_comp_channel(rail->channel);
    rdt_verbs_dev_close(dev);
}

static void verbs_close(rdt_ctx_t *base)
{
    verbs_ctx_t *ctx = (verbs_ctx_t *)base;

    rdt_verbs_disconnect(ctx); /* queue pairs go before their completion queues */
    rdt_verbs_disown_all(ctx);
    for (uint32_t i = 0; i < ctx->num_rails; i++)
        close_rail(&ctx->rails[i]);
    if (ctx->listen_fd >= 0) close(ctx->listen_fd);
    free(ctx->extents);
    free(ctx);
}

static uint64_t choose_retry(uint32_t asked_ms, uint64_t group_ns)
{
    uint64_t limit = asked_ms > 0 ? asked_ms * (RDT_NS_PER_S / 1000) : RETRY_NS;

    return group_ns > 0 && group_ns / 4 < limit ? group_ns / 4 : limit;
}

static rdt_status_t verbs_open(const rdt_ctx_cfg_t *cfg, rdt_ctx_t **ctx_p)
{
    verbs_ctx_t *ctx = calloc(1, sizeof(*ctx));
    rdt_status_t st;

    if (ctx == NULL) return rdt_fail(RDT_NO_MEMORY, "verbs context: out of memory");
    ctx->base = (rdt_ctx_t){.ops = &rdt_verbs_ops, .cfg = *cfg};
    ctx->listen_fd = -1;
    ctx->places = rdt_arena_is_open();
    ctx->max_met = cfg->world - 1;
    st = parse(ctx, cfg->addr);
    ctx->retry_ns = choose_retry(ctx->options.retry, cfg->timeout_ns);
    if (st == RDT_OK)
        st = rdt_sock_listen_at(ctx->options.addr, &ctx->addr, &ctx->addr_len, &ctx->listen_fd);
    for (uint32_t i = 0; i < ctx->num_rails && st == RDT_OK; i++)
        st = open_rail(ctx, &ctx->rails[i]);
    if (st != RDT_OK) {
        verbs_close(&ctx->base);
        return st;
    }
    *ctx_p = &ctx->base;
    return RDT_OK;
}

static uint32_t verbs_address(const rdt_ctx_t *base, uint8_t *wire)
{
    const verbs_ctx_t *ctx = (const verbs_ctx_t *)base;

    _Static_assert(sizeof(struct sockaddr_in6) < RDT_WIRE_BYTES, "an address and a byte fit");
    memcpy(wire, &ctx->addr, ctx->addr_len);
    wire[ctx->addr_len] = ctx->places;
    return ctx->addr_len + 1;
}

const rdt_transport_ops_t rdt_verbs_ops = {
    .name = "verbs",
    .open = verbs_open,
    .address = verbs_address,
    .connect = rdt_verbs_connect,
    .cut = rdt_verbs_cut,
    .revoke = rdt_verbs_revoke,
    .rails = rdt_verbs_rails,
    .close = verbs_close,
    .send = rdt_verbs_send,
    .expose = rdt_verbs_expose,
    .put = rdt_verbs_put,
    .store = rdt_verbs_store,
    .adopt = rdt_verbs_adopt,
    .disown = rdt_verbs_disown,
    .peek = rdt_verbs_peek,
    .release = rdt_verbs_release,
    .expect = rdt_verbs_expect,
    .let_in = rdt_verbs_let_in,
    .poll = rdt_verbs_poll,
    .check = rdt_verbs_check,
    .arm = rdt_verbs_arm,
    .disarm = rdt_verbs_disarm,
};
