/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arena/arena.h"
#include "base/clock.h"
#include "base/error.h"
#include "transport/fake.h"

pthread_mutex_t rdt_fake_lock = PTHREAD_MUTEX_INITIALIZER;
static fake_ctx_t *all_ctx;

static bool set_key(fake_script_t *script, const char *key, uint32_t value)
{
    const struct {
        const char *key;
        uint32_t *field, min, max;
    } keys[] = {{"seed", &script->seed, 0, UINT32_MAX},
                {"delay", &script->delay, 0, 1000},
                {"slots", &script->slots, 1, FAKE_MAX_SLOTS},
                {"fail", &script->fail, 0, UINT32_MAX},
                {"place", &script->place, 0, 1}};

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        if (strcmp(keys[i].key, key) != 0) continue;
        *keys[i].field = value;
        return value >= keys[i].min && value <= keys[i].max;
    }
    return false;
}

static rdt_status_t parse(const char *text, fake_script_t *script)
{
    char key[16];
    unsigned value;
    int used;

    *script = (fake_script_t){.seed = 1, .slots = 4};
    for (const char *at = text != NULL ? text : ""; *at != '\0'; at += used) {
        if (*at == ',') at++;
        if (sscanf(at, "%15[a-z]=%u%n", key, &value, &used) != 2 || !set_key(script, key, value))
            return rdt_fail(RDT_BAD_ARG, "fake script \"%s\": not understood from \"%s\" on", text,
                            at);
    }
    return RDT_OK;
}

static rdt_status_t fake_open(const rdt_ctx_cfg_t *cfg, rdt_ctx_t **ctx_p)
{
    fake_ctx_t *ctx = calloc(1, sizeof(*ctx));
    rdt_status_t st;

    if (ctx == NULL) return rdt_fail(RDT_NO_MEMORY, "fake context: out of memory");
    ctx->base = (rdt_ctx_t){.ops = &rdt_fake_ops, .cfg = *cfg};
    st = parse(cfg->addr, &ctx->script);
    if (st != RDT_OK) {
        free(ctx);
        return st;
    }
    ctx->random = ctx->script.seed + cfg->rank;
    pthread_mutex_lock(&rdt_fake_lock);
    ctx->next = all_ctx;
    all_ctx = ctx;
    pthread_mutex_unlock(&rdt_fake_lock);
    *ctx_p = &ctx->base;
    return RDT_OK;
}

static uint32_t fake_address(const rdt_ctx_t *ctx, uint8_t *wire)
{
    (void)ctx;
    wire[0] = 0; /* peers find each other by token and rank */
    return 1;
}

static rdt_status_t give_memory(fake_ctx_t *ctx, fake_conn_t *conn)
{
    size_t room = ctx->base.cfg.chunk_bytes;
    uint8_t *next = aligned_alloc(RDT_DATA_ALIGN, room * RDT_NUM_LANES * FAKE_MAX_SLOTS);

    if (next == NULL) return rdt_fail(RDT_NO_MEMORY, "fake slots: out of memory");
    conn->memory = next;
    for (int l = 0; l < RDT_NUM_LANES; l++)
        for (int s = 0; s < FAKE_MAX_SLOTS; s++, next += room)
            conn->in[l].slots[s].data = next;
    return RDT_OK;
}

/* All ranks live in this process, and so in one arena. It is not mapped once more, as a peer's would
 * be: at one address a thread sanitizer sees who reads what without having been told to. */
static void share_arena(fake_conn_t *conn)
{
    conn->base.revoked = &conn->revoked;
    conn->base.arena = rdt_arena_base(&conn->base.arena_bytes);
    conn->base.shares_arena = conn->base.arena != NULL;
}

/* With the lock, on a connection that has just been joined: how data goes, at both ends alike. */
static void agree(fake_conn_t *conn)
{
    const fake_ctx_t *mine = (const fake_ctx_t *)conn->base.ctx;
    const fake_ctx_t *theirs = (const fake_ctx_t *)conn->other->base.ctx;

    if (mine->script.place != 0 && theirs->script.place != 0) {
        conn->base.places = conn->other->base.places = true;
        return;
    }
    share_arena(conn);
    share_arena(conn->other);
}

/* With the lock: the end of the connection that peer holds, if it is there already. */
static fake_conn_t *find_other(const fake_ctx_t *mine, uint32_t peer)
{
    for (fake_ctx_t *ctx = all_ctx; ctx != NULL; ctx = ctx->next) {
        if (ctx->base.cfg.rank != peer ||
            memcmp(ctx->base.cfg.token, mine->base.cfg.token, RDT_TOKEN_BYTES) != 0)
            continue;
        for (uint32_t i = 0; i < ctx->num_conns; i++)
            if (ctx->conns[i].base.peer == mine->base.cfg.rank) return &ctx->conns[i];
    }
    return NULL;
}

/* Joins what can be joined. The first connection whose peer is not there, or NULL. */
static const fake_conn_t *join(fake_ctx_t *ctx)
{
    const fake_conn_t *missing = NULL;

    pthread_mutex_lock(&rdt_fake_lock);
    for (uint32_t i = 0; i < ctx->num_conns; i++) {
        fake_conn_t *conn = &ctx->conns[i];

        if (!conn->joined && (conn->other = find_other(ctx, conn->base.peer)) != NULL) {
            conn->other->other = conn;
            conn->joined = conn->other->joined = true;
            agree(conn);
        }
        if (!conn->joined && missing == NULL) missing = conn;
    }
    pthread_mutex_unlock(&rdt_fake_lock);
    return missing;
}

static rdt_status_t fake_connect(rdt_ctx_t *base, const rdt_peer_t *peers, uint32_t num,
                                 uint64_t deadline_ns, rdt_conn_t **conns)
{
    fake_ctx_t *ctx = (fake_ctx_t *)base;
    const fake_conn_t *missing;

    ctx->conns = calloc(num, sizeof(*ctx->conns));
    if (ctx->conns == NULL) return rdt_fail(RDT_NO_MEMORY, "fake connections: out of memory");
    for (uint32_t i = 0; i < num; i++) {
        rdt_status_t st = give_memory(ctx, &ctx->conns[i]);

        ctx->conns[i].base = (rdt_conn_t){.ops = &rdt_fake_ops, .ctx = base, .peer = peers[i].rank};
        if (st != RDT_OK) return st;
        conns[i] = &ctx->conns[i].base;
    }
    pthread_mutex_lock(&rdt_fake_lock);
    ctx->num_conns = num; /* from here on peers may find them */
    pthread_mutex_unlock(&rdt_fake_lock);
    while ((missing = join(ctx)) != NULL) {
        if (rdt_now_ns() >= deadline_ns)
            return rdt_fail(RDT_CONNECT_TIMEOUT, "waiting for rank %u: it did not come",
                            missing->base.peer);
        usleep(1000);
    }
    return RDT_OK;
}

static void fake_close(rdt_ctx_t *base)
{
    fake_ctx_t *ctx = (fake_ctx_t *)base;
    fake_ctx_t **link = &all_ctx;

    pthread_mutex_lock(&rdt_fake_lock);
    while (*link != ctx)
        link = &(*link)->next;
    *link = ctx->next;
    for (uint32_t i = 0; i < ctx->num_conns; i++)
        rdt_fake_cut(&ctx->conns[i]);
    pthread_mutex_unlock(&rdt_fake_lock);
    for (uint32_t i = 0; i < ctx->num_conns; i++)
        free(ctx->conns[i].memory);
    free(ctx->conns);
    free(ctx);
}

const rdt_transport_ops_t rdt_fake_ops = {
    .name = "fake",
    .has_futex = true,
    .open = fake_open,
    .address = fake_address,
    .connect = fake_connect,
    .cut = rdt_fake_cut_conn,
    .revoke = rdt_fake_revoke,
    .close = fake_close,
    .send = rdt_fake_send,
    .expose = rdt_fake_expose,
    .put = rdt_fake_put,
    .peek = rdt_fake_peek,
    .release = rdt_fake_release,
    .poll = rdt_fake_poll,
    .check = rdt_fake_check,
    .arm = rdt_fake_arm,
    .disarm = rdt_fake_disarm,
};
