/* SPDX-License-Identifier: Apache-2.0 */
/* Protection domains, registrations and addresses of the fake. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "ibv/ibv_fake_private.h"

#define PAGE_BYTES 4096u

static uint32_t num_keys; /* of the process: a key of another rank is never one's own by chance */

struct ibv_pd *rdt_ibv_fake_alloc_pd(struct ibv_context *context)
{
    fake_pd_t *pd = calloc(1, sizeof(*pd));

    if (pd == NULL) return NULL;
    pd->ibv.context = context;
    pthread_mutex_lock(&rdt_ibv_fake_lock);
    ((fake_ctx_t *)context)->num_users++;
    rdt_ibv_fake_count(1);
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    return &pd->ibv;
}

int rdt_ibv_fake_dealloc_pd(struct ibv_pd *ibv)
{
    fake_pd_t *pd = (fake_pd_t *)ibv;
    bool busy;

    pthread_mutex_lock(&rdt_ibv_fake_lock);
    busy = pd->num_users > 0;
    if (!busy) {
        ((fake_ctx_t *)ibv->context)->num_users--;
        rdt_ibv_fake_count(-1);
        free(pd);
    }
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    return busy ? EBUSY : 0;
}

/* -- registrations -- */

/* 0, or why not: remote writers write what the owner may write. */
static int refuse(fake_ctx_t *ctx, const fake_mr_t *mr)
{
    unsigned writes = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC;
    unsigned known = writes | IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ;

    if (ctx->dead) return EIO;
    if (ctx->script.fork != 0 && !ctx->script.fork_guarded) return EINVAL;
    if ((mr->access & ~known) != 0 || mr->ibv.length == 0) return EINVAL;
    if ((mr->access & writes) != 0 && (mr->access & IBV_ACCESS_LOCAL_WRITE) == 0) return EINVAL;
    if (ctx->num_mrs >= ctx->script.max_mr) return ENOMEM;
    return (int)rdt_ibv_fake_rule(&ctx->script, FAKE_REG, ++ctx->num_regs);
}

static struct ibv_mr *reg(fake_pd_t *pd, const fake_mr_t *wanted)
{
    fake_ctx_t *ctx = (fake_ctx_t *)pd->ibv.context;
    fake_mr_t *mr = malloc(sizeof(*mr));
    int refused;

    if (mr == NULL) return NULL;
    *mr = *wanted;
    pthread_mutex_lock(&rdt_ibv_fake_lock);
    refused = refuse(ctx, mr);
    if (refused == 0) {
        mr->ibv.context = pd->ibv.context;
        mr->ibv.pd = &pd->ibv;
        mr->ibv.lkey = ++num_keys << 8;
        mr->ibv.rkey = mr->ibv.lkey | 1; /* so that one is not taken for the other */
        mr->next = ctx->mrs;
        ctx->mrs = mr;
        ctx->num_mrs++;
        pd->num_users++;
        rdt_ibv_fake_count(1);
    }
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    if (refused == 0) return &mr->ibv;
    free(mr);
    errno = refused;
    return NULL;
}

struct ibv_mr *rdt_ibv_fake_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access)
{
    fake_mr_t mr = {.ibv = {.addr = addr, .length = length},
                    .iova = (uintptr_t)addr,
                    .memory = addr,
                    .access = (unsigned)access};

    return reg((fake_pd_t *)pd, &mr);
}

struct ibv_mr *rdt_ibv_fake_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length,
                                         uint64_t iova, unsigned access)
{
    fake_mr_t mr = {.ibv = {.addr = addr, .length = length},
                    .iova = iova,
                    .memory = addr,
                    .access = access & ~(unsigned)IBV_ACCESS_OPTIONAL_RANGE};

    return reg((fake_pd_t *)pd, &mr);
}

/* What the kernel asks before it looks at the descriptor. */
static int refuse_dmabuf(const fake_ctx_t *ctx, uint64_t offset, uint64_t iova)
{
    if (ctx->script.dmabuf == 2) return EOPNOTSUPP;
    return offset % PAGE_BYTES == iova % PAGE_BYTES ? 0 : EINVAL;
}

struct ibv_mr *rdt_ibv_fake_reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, size_t length,
                                          uint64_t iova, int fd, int access)
{
    int refused = refuse_dmabuf((fake_ctx_t *)pd->context, offset, iova);
    void *memory = refused == 0
                       ? mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset)
                       : NULL;
    fake_mr_t mr = {.ibv = {.addr = NULL, .length = length},
                    .iova = iova,
                    .memory = memory,
                    .access = (unsigned)access & ~(unsigned)IBV_ACCESS_OPTIONAL_RANGE,
                    .mapped = true};
    struct ibv_mr *ibv;

    if (refused != 0) errno = refused;
    if (refused != 0 || memory == MAP_FAILED) return NULL;
    ibv = reg((fake_pd_t *)pd, &mr);
    if (ibv != NULL) return ibv;
    refused = errno;
    munmap(memory, length);
    errno = refused;
    return NULL;
}

int rdt_ibv_fake_dereg_mr(struct ibv_mr *ibv)
{
    fake_mr_t *mr = (fake_mr_t *)ibv, **link;
    fake_ctx_t *ctx = (fake_ctx_t *)ibv->context;

    pthread_mutex_lock(&rdt_ibv_fake_lock);
    for (link = &ctx->mrs; *link != mr; link = &(*link)->next)
        continue;
    *link = mr->next;
    ctx->num_mrs--;
    ((fake_pd_t *)ibv->pd)->num_users--;
    rdt_ibv_fake_count(-1);
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    if (mr->mapped) munmap(mr->memory, ibv->length);
    free(mr);
    return 0;
}

uint8_t *rdt_ibv_fake_memory(const struct ibv_pd *pd, uint32_t key, uint64_t addr, uint64_t bytes,
                             unsigned access)
{
    const fake_mr_t *mr = ((fake_ctx_t *)pd->context)->mrs;
    bool remote = (access & IBV_ACCESS_REMOTE_WRITE) != 0;

    while (mr != NULL && (remote ? mr->ibv.rkey : mr->ibv.lkey) != key)
        mr = mr->next;
    if (mr == NULL || mr->ibv.pd != pd || (mr->access & access) != access) return NULL;
    if (bytes > mr->ibv.length || addr - mr->iova > mr->ibv.length - bytes) return NULL;
    return mr->memory + (addr - mr->iova);
}

/* -- addresses -- */

static bool is_zero(const union ibv_gid *gid)
{
    return gid->global.subnet_prefix == 0 && gid->global.interface_id == 0;
}

static bool is_ipv4(const union ibv_gid *gid)
{
    static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};

    return memcmp(gid->raw, prefix, sizeof(prefix)) == 0;
}

/* 0, or why there is no way from one to the other. */
static int route_gids(const union ibv_gid *sgid, const union ibv_gid *dgid)
{
    union ibv_gid gid;

    if (is_zero(sgid) || is_zero(dgid) || is_ipv4(sgid) != is_ipv4(dgid)) return EINVAL;
    for (uint32_t d = 0; d < FAKE_NUM_DEVICES; d++)
        for (int i = 0; i < FAKE_NUM_GIDS; i++)
            if (rdt_ibv_fake_gid(d, i, &gid) && memcmp(&gid, dgid, sizeof(gid)) == 0) return 0;
    return ETIMEDOUT; /* nobody answers for that address */
}

int rdt_ibv_fake_route(const fake_ctx_t *ctx, const struct ibv_ah_attr *attr)
{
    const struct ibv_global_route *grh = &attr->grh;
    union ibv_gid sgid;

    if (ctx->dead) return EIO;
    if (attr->port_num != 1) return EINVAL;
    if ((ctx->script.lid != 0) != (attr->dlid != 0)) return EINVAL;
    if (!attr->is_global) return ctx->script.lid != 0 ? 0 : EINVAL;
    if (rdt_ibv_fake_rule(&ctx->script, FAKE_GID, grh->sgid_index) != 0) return EINVAL;
    if (!rdt_ibv_fake_gid(ctx->device, grh->sgid_index, &sgid)) return EINVAL;
    return route_gids(&sgid, &grh->dgid);
}

struct ibv_ah *rdt_ibv_fake_create_ah(struct ibv_pd *pd, struct ibv_ah_attr *attr)
{
    fake_ctx_t *ctx = (fake_ctx_t *)pd->context;
    struct ibv_ah *ah = calloc(1, sizeof(*ah));
    int refused;

    if (ah == NULL) return NULL;
    *ah = (struct ibv_ah){.context = pd->context, .pd = pd};
    pthread_mutex_lock(&rdt_ibv_fake_lock);
    refused = rdt_ibv_fake_route(ctx, attr);
    if (refused == 0) refused = (int)rdt_ibv_fake_rule(&ctx->script, FAKE_AH, attr->grh.sgid_index);
    if (refused == 0) {
        ((fake_pd_t *)pd)->num_users++;
        rdt_ibv_fake_count(1);
    }
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    if (refused == 0) return ah;
    free(ah);
    errno = refused;
    return NULL;
}

int rdt_ibv_fake_destroy_ah(struct ibv_ah *ah)
{
    pthread_mutex_lock(&rdt_ibv_fake_lock);
    ((fake_pd_t *)ah->pd)->num_users--;
    rdt_ibv_fake_count(-1);
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    free(ah);
    return 0;
}
