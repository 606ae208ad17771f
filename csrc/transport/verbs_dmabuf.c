/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of devices, a GPU's for instance, which a NIC reads and writes where it lies. Such an extent is of one
 * context, has offsets that no arena has, and is forgotten only with the context: peers keep its keys. */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "transport/verbs.h"

static rdt_status_t refused(const verbs_dev_t *dev, size_t len, int err)
{
    if (err == EOPNOTSUPP || err == EPROTONOSUPPORT)
        return rdt_fail(
            RDT_UNSUPPORTED,
            "the driver of %s registers no memory of other devices: it takes Linux 5.12 "
            "and a NIC whose driver has ibv_reg_dmabuf_mr, as mlx5 has",
            dev->name);
    if (err == ENOMEM) /* none of it counts as locked memory of this process */
        return rdt_fail(RDT_NO_MEMORY,
                        "registering %zu KiB of another device with %s: its tables, or the window "
                        "to that device's memory (a GPU's BAR1), are full",
                        len >> 10, dev->name);
    return rdt_fail(RDT_IO_ERROR, "registering %zu KiB of another device with %s: %s", len >> 10,
                    dev->name, strerror(err));
}

static rdt_status_t register_dmabuf(verbs_dev_t *dev, const rdt_dmabuf_t *memory,
                                    struct ibv_mr **mr_p)
{
    /* In any order: who reads it has seen the completion first. */
    const int access =
        IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | (int)IBV_ACCESS_RELAXED_ORDERING;

    if (dev->api.reg_dmabuf_mr == NULL)
        return rdt_fail(RDT_UNSUPPORTED, "this libibverbs has no ibv_reg_dmabuf_mr: install "
                                         "rdma-core 34 or later");
    errno = EIO; /* providers do not always set it */
    *mr_p = dev->api.reg_dmabuf_mr(dev->pd, memory->offset, memory->len, (uintptr_t)memory->addr,
                                   memory->fd, access);
    return *mr_p != NULL ? RDT_OK : refused(dev, memory->len, errno);
}

static void deregister(verbs_ctx_t *ctx, verbs_extent_t *extent)
{
    for (uint32_t r = 0; r < ctx->num_rails; r++) {
        if (extent->mrs[r] != NULL) ctx->rails[r].dev->api.dereg_mr(extent->mrs[r]);
        extent->mrs[r] = NULL;
    }
    extent->failed = true;
}

rdt_status_t rdt_verbs_adopt(rdt_ctx_t *base, const rdt_dmabuf_t *memory)
{
    verbs_ctx_t *ctx = (verbs_ctx_t *)base;
    verbs_extent_t *extent = rdt_verbs_new_extent(ctx);
    rdt_status_t st = RDT_OK;

    if (extent == NULL) return rdt_fail(RDT_NO_MEMORY, "registrations: out of memory");
    *extent = (verbs_extent_t){.at = VERBS_ADOPTED | ctx->adopted_bytes,
                               .len = memory->len,
                               .addr = (uintptr_t)memory->addr};
    for (uint32_t r = 0; r < ctx->num_rails; r++) {
        st = register_dmabuf(ctx->rails[r].dev, memory, &extent->mrs[r]);
        if (st != RDT_OK) break;
        extent->lkey[r] = extent->mrs[r]->lkey;
        extent->rkey[r] = extent->mrs[r]->rkey;
    }
    if (st != RDT_OK) {
        deregister(ctx, extent);
        return st;
    }
    ctx->adopted_bytes += memory->len;
    ctx->num_adopted++;
    ctx->num_extents++;
    return RDT_OK;
}

void rdt_verbs_disown(rdt_ctx_t *base, const void *addr)
{
    verbs_ctx_t *ctx = (verbs_ctx_t *)base;
    verbs_extent_t *extent = rdt_verbs_adopted(ctx, addr, 1);

    if (extent == NULL) return;
    deregister(ctx, extent);
    ctx->num_adopted--;
}

void rdt_verbs_disown_all(verbs_ctx_t *ctx)
{
    for (uint32_t i = 0; i < ctx->num_extents; i++)
        if (ctx->extents[i].at >= VERBS_ADOPTED) deregister(ctx, &ctx->extents[i]);
}

verbs_extent_t *rdt_verbs_adopted(verbs_ctx_t *ctx, const void *data, size_t len)
{
    for (uint32_t i = 0; i < ctx->num_extents; i++) {
        verbs_extent_t *extent = &ctx->extents[i];

        if (extent->at >= VERBS_ADOPTED && !extent->failed &&
            rdt_verbs_holds(extent->addr, extent->len, (uintptr_t)data, len))
            return extent;
    }
    return NULL;
}
