/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "base/sock.h"
#include "transport/shm.h"

static size_t round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* The name is random, not derived from the group: a name that can be guessed can be taken. */
static rdt_status_t listen_abstract(shm_ctx_t *ctx)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    uint64_t salt[2];
    int len;

    if (getrandom(salt, sizeof(salt), 0) != sizeof(salt))
        return rdt_fail(RDT_IO_ERROR, "getrandom: %s", strerror(errno));
    len = snprintf(addr.sun_path + 1, sizeof(addr.sun_path) - 1, "rdmatrain-%016llx%016llx",
                   (unsigned long long)salt[0], (unsigned long long)salt[1]);
    ctx->name_len = (uint32_t)len + 1;
    memcpy(ctx->name, addr.sun_path, ctx->name_len);
    return rdt_sock_listen((struct sockaddr *)&addr,
                           (socklen_t)(offsetof(struct sockaddr_un, sun_path) + ctx->name_len),
                           &ctx->listen_fd);
}

static rdt_status_t map_own(shm_ctx_t *ctx)
{
    ctx->memfd = memfd_create("rdmatrain", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (ctx->memfd < 0) return rdt_fail(RDT_NO_MEMORY, "memfd_create: %s", strerror(errno));
    if (ftruncate(ctx->memfd, (off_t)ctx->map_bytes) < 0)
        return rdt_fail(RDT_NO_MEMORY, "memfd of %zu bytes: %s", ctx->map_bytes, strerror(errno));
    /* Sealed: no peer can shrink it under us and turn a load into SIGBUS. */
    fcntl(ctx->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    ctx->map = mmap(NULL, ctx->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ctx->memfd, 0);
    if (ctx->map == MAP_FAILED) {
        ctx->map = NULL;
        return rdt_fail(RDT_NO_MEMORY, "mmap of %zu bytes: %s", ctx->map_bytes, strerror(errno));
    }
    ctx->bell = (shm_bell_t *)ctx->map;
    return RDT_OK;
}

static void shm_close(rdt_ctx_t *base)
{
    shm_ctx_t *ctx = (shm_ctx_t *)base;

    rdt_shm_disconnect(ctx);
    if (ctx->map != NULL) munmap(ctx->map, ctx->map_bytes);
    if (ctx->memfd >= 0) close(ctx->memfd);
    if (ctx->listen_fd >= 0) close(ctx->listen_fd);
    free(ctx);
}

static rdt_status_t shm_open_ctx(const rdt_ctx_cfg_t *cfg, rdt_ctx_t **ctx_p)
{
    shm_ctx_t *ctx = calloc(1, sizeof(*ctx));
    rdt_status_t st;

    if (ctx == NULL) return rdt_fail(RDT_NO_MEMORY, "shm context: out of memory");
    ctx->base = (rdt_ctx_t){.ops = &rdt_shm_ops, .cfg = *cfg};
    ctx->listen_fd = ctx->memfd = -1;
    ctx->stream = rdt_copy_get(rdt_copy_best_isa());
    ctx->slot_bytes = sizeof(shm_slot_t) + round_up(cfg->chunk_bytes, SHM_LINE);
    ctx->inbox_bytes = round_up(
        sizeof(shm_inbox_t) + (SHM_COLL_SLOTS + SHM_P2P_SLOTS) * ctx->slot_bytes, SHM_PAGE);
    /* Room for every rank, indexed by rank: pages that no peer maps are never touched. */
    ctx->map_bytes = SHM_PAGE + ctx->inbox_bytes * cfg->world;
    st = map_own(ctx);
    if (st == RDT_OK) st = listen_abstract(ctx);
    if (st != RDT_OK) {
        shm_close(&ctx->base);
        return st;
    }
    *ctx_p = &ctx->base;
    return RDT_OK;
}

static uint32_t shm_address(const rdt_ctx_t *base, uint8_t *wire)
{
    const shm_ctx_t *ctx = (const shm_ctx_t *)base;

    memcpy(wire, ctx->name, ctx->name_len);
    return ctx->name_len;
}

const rdt_transport_ops_t rdt_shm_ops = {
    .name = "shm",
    .has_futex = true,
    .open = shm_open_ctx,
    .address = shm_address,
    .connect = rdt_shm_connect,
    .cut = rdt_shm_cut,
    .revoke = rdt_shm_revoke,
    .close = shm_close,
    .send = rdt_shm_send,
    .peek = rdt_shm_peek,
    .release = rdt_shm_release,
    .poll = rdt_shm_poll,
    .check = rdt_shm_check,
    .arm = rdt_shm_arm,
    .disarm = rdt_shm_disarm,
};
