/* SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <string.h>

#include "base/error.h"
#include "ibv/ibv_api.h"

#define LIBRARY "libibverbs.so.1"

/* dlsym gives an object pointer, and C forbids the cast to a function pointer: hence the copy. */
static rdt_status_t find(void *library, const char *name, void *function_p)
{
    void *symbol = dlsym(library, name);

    if (symbol == NULL)
        return rdt_fail(RDT_NO_LIBRARY, "%s has no %s: it is too old", LIBRARY, name);
    memcpy(function_p, &symbol, sizeof(symbol));
    return RDT_OK;
}

/* The fast path is not exported: it is a table of the provider, in the context. */
static int post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad_wr)
{
    return qp->context->ops.post_send(qp, wr, bad_wr);
}

static int post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad_wr)
{
    return qp->context->ops.post_recv(qp, wr, bad_wr);
}

static int poll_cq(struct ibv_cq *cq, int num_entries, struct ibv_wc *wc)
{
    return cq->context->ops.poll_cq(cq, num_entries, wc);
}

static int req_notify_cq(struct ibv_cq *cq, int solicited_only)
{
    return cq->context->ops.req_notify_cq(cq, solicited_only);
}

/* clang-format off */
#define NEEDED(X)                                                                              \
    X(get_device_list) X(free_device_list) X(get_device_name) X(open_device) X(close_device)   \
    X(query_device) X(query_port) X(query_gid) X(query_pkey) X(get_async_event)                \
    X(ack_async_event) X(alloc_pd) X(dealloc_pd) X(reg_mr) X(dereg_mr) X(create_comp_channel)  \
    X(destroy_comp_channel) X(create_cq) X(destroy_cq) X(get_cq_event) X(ack_cq_events)        \
    X(create_qp) X(modify_qp) X(query_qp) X(destroy_qp) X(create_ah) X(destroy_ah)             \
    X(wc_status_str) X(event_type_str)
/* clang-format on */

static rdt_status_t find_all(void *library, rdt_ibv_api_t *api)
{
    rdt_status_t st = RDT_OK;

#define FIND(name) \
    if (st == RDT_OK) st = find(library, "ibv_" #name, &api->name);
    NEEDED(FIND)
#undef FIND
    if (st != RDT_OK) return st;
    if (find(library, "ibv_reg_mr_iova2", &api->reg_mr_iova2) != RDT_OK) api->reg_mr_iova2 = NULL;
    if (find(library, "ibv_reg_dmabuf_mr", &api->reg_dmabuf_mr) != RDT_OK)
        api->reg_dmabuf_mr = NULL;
    if (find(library, "ibv_is_fork_initialized", &api->is_fork_initialized) != RDT_OK ||
        find(library, "ibv_fork_init", &api->fork_init) != RDT_OK)
        api->is_fork_initialized = NULL;
    return RDT_OK;
}

rdt_status_t rdt_ibv_load(rdt_ibv_api_t *api_p)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    rdt_ibv_api_t api = {.post_send = post_send,
                         .post_recv = post_recv,
                         .poll_cq = poll_cq,
                         .req_notify_cq = req_notify_cq};
    rdt_status_t st;

    if (library == NULL)
        return rdt_fail(RDT_NO_LIBRARY, "RDMA needs libibverbs (rdma-core): %s", dlerror());
    st = find_all(library, &api);
    if (st == RDT_OK) *api_p = api;
    return st;
}
