/* SPDX-License-Identifier: Apache-2.0 */
/* Devices, ports and contexts of the fake, and its table. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ibv/ibv_fake.h"
#include "ibv/ibv_fake_private.h"

pthread_mutex_t rdt_ibv_fake_lock = PTHREAD_MUTEX_INITIALIZER;
fake_ctx_t *rdt_ibv_fake_ctxs;

static struct ibv_device devices[FAKE_NUM_DEVICES] = {
    {.name = "fake0", .node_type = IBV_NODE_CA, .transport_type = IBV_TRANSPORT_IB},
    {.name = "fake1", .node_type = IBV_NODE_CA, .transport_type = IBV_TRANSPORT_IB},
    {.name = "fake2", .node_type = IBV_NODE_CA, .transport_type = IBV_TRANSPORT_IB},
    {.name = "fake3", .node_type = IBV_NODE_CA, .transport_type = IBV_TRANSPORT_IB},
};
static unsigned num_live;
static _Thread_local fake_script_t script;

void rdt_ibv_fake_count(int by)
{
    num_live += (unsigned)by;
}

unsigned rdt_ibv_fake_live(void)
{
    unsigned num;

    pthread_mutex_lock(&rdt_ibv_fake_lock);
    num = num_live;
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    return num;
}

/* -- devices -- */

static struct ibv_device **get_device_list(int *num_devices)
{
    struct ibv_device **list;

    if (script.list != 0) {
        errno = (int)script.list;
        return NULL;
    }
    list = calloc(FAKE_NUM_DEVICES + 1, sizeof(struct ibv_device *));
    if (list == NULL) return NULL;
    for (uint32_t i = 0; i < script.devices; i++)
        list[i] = &devices[i];
    if (num_devices != NULL) *num_devices = (int)script.devices;
    pthread_mutex_lock(&rdt_ibv_fake_lock);
    rdt_ibv_fake_count(1);
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    return list;
}

static void free_device_list(struct ibv_device **list)
{
    pthread_mutex_lock(&rdt_ibv_fake_lock);
    rdt_ibv_fake_count(-1);
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    free(list);
}

static const char *get_device_name(struct ibv_device *device)
{
    return device->name;
}

static void raise_on_opening(fake_ctx_t *ctx)
{
    for (uint32_t i = 0; i < ctx->script.num_rules; i++) {
        const fake_rule_t *rule = &ctx->script.rules[i];

        if (rule->what == FAKE_EVENT && rule->at == 0)
            rdt_ibv_fake_raise(ctx, NULL, (enum ibv_event_type)rule->value);
    }
}

static struct ibv_context *open_device(struct ibv_device *device)
{
    fake_ctx_t *ctx;

    if (script.open != 0) {
        errno = (int)script.open;
        return NULL;
    }
    ctx = calloc(1, sizeof(*ctx));
    if (ctx == NULL) return NULL;
    if (!rdt_ibv_fake_events_open(&ctx->async)) {
        free(ctx);
        return NULL;
    }
    ctx->script = script;
    ctx->device = (uint32_t)(device - devices);
    ctx->random = script.seed;
    ctx->state = (enum ibv_port_state)script.state;
    ctx->ibv = (struct ibv_context){
        .device = device, .cmd_fd = -1, .async_fd = ctx->async.fd, .num_comp_vectors = 1};
    pthread_mutex_lock(&rdt_ibv_fake_lock);
    ctx->next = rdt_ibv_fake_ctxs;
    rdt_ibv_fake_ctxs = ctx;
    rdt_ibv_fake_count(1);
    raise_on_opening(ctx);
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    return &ctx->ibv;
}

static int close_device(struct ibv_context *context)
{
    fake_ctx_t *ctx = (fake_ctx_t *)context, **link = &rdt_ibv_fake_ctxs;

    pthread_mutex_lock(&rdt_ibv_fake_lock);
    if (ctx->num_users > 0) {
        pthread_mutex_unlock(&rdt_ibv_fake_lock);
        errno = EBUSY;
        return -1;
    }
    while (*link != ctx)
        link = &(*link)->next;
    *link = ctx->next;
    rdt_ibv_fake_count(-1);
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    rdt_ibv_fake_events_close(&ctx->async);
    free(ctx);
    return 0;
}

static int query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
    const fake_script_t *s = &((fake_ctx_t *)context)->script;

    if (s->query != 0) return (int)s->query;
    *attr = (struct ibv_device_attr){
        .fw_ver = "1.0",
        .max_mr_size = UINT64_MAX,
        .page_size_cap = 4096,
        .max_qp = 1 << 16,
        .max_qp_wr = (int)s->max_qp_wr,
        .max_sge = (int)s->max_sge,
        .max_sge_rd = (int)s->max_sge,
        .max_cq = 1 << 16,
        .max_cqe = (int)s->max_cqe,
        .max_mr = (int)(s->max_mr < INT32_MAX ? s->max_mr : INT32_MAX),
        .max_pd = 1 << 16,
        .max_qp_rd_atom = 16,
        .max_res_rd_atom = 1 << 20,
        .max_qp_init_rd_atom = 16,
        .max_ah = 1 << 16,
        .max_pkeys = 1,
        .phys_port_cnt = 1,
    };
    return 0;
}

/* -- the port -- */

static enum ibv_mtu mtu_of(uint32_t bytes)
{
    return (enum ibv_mtu)(__builtin_ctz(bytes) - 7); /* 256 is IBV_MTU_256, 1 */
}

static int query_port(struct ibv_context *context, uint8_t port, struct ibv_port_attr *attr)
{
    const fake_ctx_t *ctx = (fake_ctx_t *)context;
    const fake_script_t *s = &ctx->script;

    if (port != 1) return EINVAL;
    pthread_mutex_lock(&rdt_ibv_fake_lock);
    *attr = (struct ibv_port_attr){
        .state = ctx->state,
        .max_mtu = IBV_MTU_4096,
        .active_mtu = mtu_of(s->mtu),
        .gid_tbl_len = FAKE_NUM_GIDS,
        .max_msg_sz = s->max_msg_sz,
        .pkey_tbl_len = 1,
        .lid = (uint16_t)s->lid,
        .active_width = 2,  /* four lanes */
        .active_speed = 32, /* of 25 Gb/s */
        .phys_state = ctx->state >= IBV_PORT_ACTIVE ? 5 : 3,
        .link_layer = s->lid == 0 ? IBV_LINK_LAYER_ETHERNET : IBV_LINK_LAYER_INFINIBAND,
    };
    pthread_mutex_unlock(&rdt_ibv_fake_lock);
    return 0;
}

bool rdt_ibv_fake_gid(uint32_t device, int index, union ibv_gid *gid_p)
{
    uint8_t d = (uint8_t)device;
    const uint8_t gids[FAKE_NUM_GIDS][16] = {
        {0xfe, 0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0xff, 0xfe, 0, 0, d},
        {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, d, 1},
        {0},
        {0xfd, 0, 0, 0, 0, 0, 0, d, 0, 0, 0, 0, 0, 0, 0, 1},
    };

    if (index < 0 || index >= FAKE_NUM_GIDS) return false;
    memcpy(gid_p->raw, gids[index], sizeof(gid_p->raw));
    return true;
}

static int query_gid(struct ibv_context *context, uint8_t port, int index, union ibv_gid *gid)
{
    const fake_ctx_t *ctx = (fake_ctx_t *)context;
    uint32_t refused = rdt_ibv_fake_rule(&ctx->script, FAKE_GID, (uint32_t)index);

    if (port != 1 || !rdt_ibv_fake_gid(ctx->device, index, gid)) refused = EINVAL;
    if (refused == 0) return 0;
    errno = (int)refused;
    return -1;
}

static int query_pkey(struct ibv_context *context, uint8_t port, int index, __be16 *pkey)
{
    (void)context;
    if (port != 1 || index != 0) {
        errno = EINVAL;
        return -1;
    }
    *pkey = 0xffff;
    return 0;
}

/* -- words -- */

static const char *wc_status_str(enum ibv_wc_status status)
{
    static const char *const texts[] = {
        [IBV_WC_SUCCESS] = "success",
        [IBV_WC_LOC_LEN_ERR] = "local length error",
        [IBV_WC_LOC_QP_OP_ERR] = "local QP operation error",
        [IBV_WC_LOC_EEC_OP_ERR] = "local EE context operation error",
        [IBV_WC_LOC_PROT_ERR] = "local protection error",
        [IBV_WC_WR_FLUSH_ERR] = "Work Request Flushed Error",
        [IBV_WC_MW_BIND_ERR] = "memory management operation error",
        [IBV_WC_BAD_RESP_ERR] = "bad response error",
        [IBV_WC_LOC_ACCESS_ERR] = "local access error",
        [IBV_WC_REM_INV_REQ_ERR] = "remote invalid request error",
        [IBV_WC_REM_ACCESS_ERR] = "remote access error",
        [IBV_WC_REM_OP_ERR] = "remote operation error",
        [IBV_WC_RETRY_EXC_ERR] = "transport retry counter exceeded",
        [IBV_WC_RNR_RETRY_EXC_ERR] = "RNR retry counter exceeded",
        [IBV_WC_LOC_RDD_VIOL_ERR] = "local RDD violation error",
        [IBV_WC_REM_INV_RD_REQ_ERR] = "remote invalid RD request",
        [IBV_WC_REM_ABORT_ERR] = "aborted error",
        [IBV_WC_INV_EECN_ERR] = "invalid EE context number",
        [IBV_WC_INV_EEC_STATE_ERR] = "invalid EE context state",
        [IBV_WC_FATAL_ERR] = "fatal error",
        [IBV_WC_RESP_TIMEOUT_ERR] = "response timeout error",
        [IBV_WC_GENERAL_ERR] = "general error",
        [IBV_WC_TM_ERR] = "TM error",
        [IBV_WC_TM_RNDV_INCOMPLETE] = "TM software rendezvous",
    };

    return (unsigned)status < sizeof(texts) / sizeof(texts[0]) ? texts[status] : "unknown";
}

static const char *event_type_str(enum ibv_event_type event)
{
    static const char *const texts[] = {
        [IBV_EVENT_CQ_ERR] = "CQ error",
        [IBV_EVENT_QP_FATAL] = "local work queue catastrophic error",
        [IBV_EVENT_QP_REQ_ERR] = "invalid request local work queue error",
        [IBV_EVENT_QP_ACCESS_ERR] = "local access violation work queue error",
        [IBV_EVENT_COMM_EST] = "communication established",
        [IBV_EVENT_SQ_DRAINED] = "send queue drained",
        [IBV_EVENT_PATH_MIG] = "path migrated",
        [IBV_EVENT_PATH_MIG_ERR] = "path migration request error",
        [IBV_EVENT_DEVICE_FATAL] = "local catastrophic error",
        [IBV_EVENT_PORT_ACTIVE] = "port active",
        [IBV_EVENT_PORT_ERR] = "port error",
        [IBV_EVENT_LID_CHANGE] = "LID change",
        [IBV_EVENT_PKEY_CHANGE] = "P_Key change",
        [IBV_EVENT_SM_CHANGE] = "SM change",
        [IBV_EVENT_SRQ_ERR] = "SRQ catastrophic error",
        [IBV_EVENT_SRQ_LIMIT_REACHED] = "SRQ limit reached",
        [IBV_EVENT_QP_LAST_WQE_REACHED] = "last WQE reached",
        [IBV_EVENT_CLIENT_REREGISTER] = "client reregistration",
        [IBV_EVENT_GID_CHANGE] = "GID table change",
        [IBV_EVENT_WQ_FATAL] = "WQ fatal",
    };

    return (unsigned)event < sizeof(texts) / sizeof(texts[0]) ? texts[event] : "unknown";
}

/* -- forks -- */

static enum ibv_fork_status is_fork_initialized(void)
{
    if (script.fork == 0) return IBV_FORK_UNNEEDED;
    return script.fork_guarded ? IBV_FORK_ENABLED : IBV_FORK_DISABLED;
}

static int fork_init(void)
{
    if (script.fork == 2) return EINVAL;
    script.fork_guarded = 1;
    return 0;
}

/* -- the table -- */

rdt_status_t rdt_ibv_fake(const char *text, rdt_ibv_api_t *api_p)
{
    fake_script_t parsed;
    rdt_status_t st = rdt_ibv_fake_parse(text, &parsed);

    if (st != RDT_OK) return st;
    script = parsed;
    *api_p = (rdt_ibv_api_t){
        .get_device_list = get_device_list,
        .free_device_list = free_device_list,
        .get_device_name = get_device_name,
        .open_device = open_device,
        .close_device = close_device,
        .query_device = query_device,
        .query_port = query_port,
        .query_gid = query_gid,
        .query_pkey = query_pkey,
        .get_async_event = rdt_ibv_fake_get_async_event,
        .ack_async_event = rdt_ibv_fake_ack_async_event,
        .alloc_pd = rdt_ibv_fake_alloc_pd,
        .dealloc_pd = rdt_ibv_fake_dealloc_pd,
        .reg_mr = rdt_ibv_fake_reg_mr,
        .reg_mr_iova2 = parsed.iova2 ? rdt_ibv_fake_reg_mr_iova2 : NULL,
        .reg_dmabuf_mr = parsed.dmabuf ? rdt_ibv_fake_reg_dmabuf_mr : NULL,
        .dereg_mr = rdt_ibv_fake_dereg_mr,
        .create_comp_channel = rdt_ibv_fake_create_comp_channel,
        .destroy_comp_channel = rdt_ibv_fake_destroy_comp_channel,
        .create_cq = rdt_ibv_fake_create_cq,
        .destroy_cq = rdt_ibv_fake_destroy_cq,
        .get_cq_event = rdt_ibv_fake_get_cq_event,
        .ack_cq_events = rdt_ibv_fake_ack_cq_events,
        .poll_cq = rdt_ibv_fake_poll_cq,
        .req_notify_cq = rdt_ibv_fake_req_notify_cq,
        .create_qp = rdt_ibv_fake_create_qp,
        .modify_qp = rdt_ibv_fake_modify_qp,
        .query_qp = rdt_ibv_fake_query_qp,
        .destroy_qp = rdt_ibv_fake_destroy_qp,
        .post_send = rdt_ibv_fake_post_send,
        .post_recv = rdt_ibv_fake_post_recv,
        .create_ah = rdt_ibv_fake_create_ah,
        .destroy_ah = rdt_ibv_fake_destroy_ah,
        .is_fork_initialized = is_fork_initialized,
        .fork_init = fork_init,
        .wc_status_str = wc_status_str,
        .event_type_str = event_type_str,
    };
    return RDT_OK;
}
