/* SPDX-License-Identifier: Apache-2.0 */
#include "ibv/ibv_probe.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/error.h"

#define PAGE_BYTES 4096u

/* -- devices -- */

/* *list_p is NULL where there is no RDMA in the kernel, which is an answer and not a failure. */
static rdt_status_t list_devices(const rdt_ibv_api_t *api, struct ibv_device ***list_p, int *num_p)
{
    *num_p = 0;
    *list_p = api->get_device_list(num_p);
    if (*list_p == NULL && errno != ENOSYS)
        return rdt_fail(RDT_IO_ERROR, "ibv_get_device_list: %s", strerror(errno));
    return RDT_OK;
}

rdt_status_t rdt_ibv_devices(const rdt_ibv_api_t *api, rdt_device_fn visit, void *arg)
{
    struct ibv_device **list;
    int num;
    rdt_status_t st = list_devices(api, &list, &num);

    if (st != RDT_OK || list == NULL) return st;
    for (int i = 0; i < num; i++)
        visit(arg, api->get_device_name(list[i]));
    api->free_device_list(list);
    return RDT_OK;
}

/* What to do about a device that cannot be opened. */
static const char *advice(int error)
{
    if (error == EACCES || error == EPERM)
        return " (may this user open /dev/infiniband/uverbs*? in a container, a device plugin "
               "grants it)";
    if (error == ENOENT || error == ENODEV || error == ENXIO)
        return " (in a container, mount /dev/infiniband or ask for the resource of a device "
               "plugin)";
    return "";
}

/* NULL with the error in errno. */
static struct ibv_context *open_device(const rdt_ibv_api_t *api, struct ibv_device *device)
{
    struct ibv_context *context;

    errno = 0;
    context = api->open_device(device);
    if (context == NULL && errno == 0) errno = EIO; /* providers do not always set it */
    return context;
}

/* -- ports -- */

static const char *state_name(enum ibv_port_state state)
{
    static const char *const names[] = {[IBV_PORT_DOWN] = "DOWN",
                                        [IBV_PORT_INIT] = "INIT",
                                        [IBV_PORT_ARMED] = "ARMED",
                                        [IBV_PORT_ACTIVE] = "ACTIVE",
                                        [IBV_PORT_ACTIVE_DEFER] = "ACTIVE_DEFER"};

    return state >= IBV_PORT_DOWN && state <= IBV_PORT_ACTIVE_DEFER ? names[state] : "UNKNOWN";
}

static const char *link_name(const struct ibv_port_attr *attr)
{
    if (attr->link_layer == IBV_LINK_LAYER_ETHERNET) return "Ethernet";
    return attr->link_layer == IBV_LINK_LAYER_INFINIBAND ? "InfiniBand" : "UNKNOWN";
}

/* The codes of the specification, for one lane SDR to NDR: rates of data, without the line code. */
static double speed_gbps(const struct ibv_port_attr *attr)
{
    static const struct {
        uint8_t code;
        double value;
    } speeds[] = {{1, 2.5}, {2, 5}, {4, 10}, {8, 10}, {16, 14}, {32, 25}, {64, 50}, {128, 100}},
      widths[] = {{1, 1}, {2, 4}, {4, 8}, {8, 12}, {16, 2}};
    double speed = 0, width = 0;

    for (size_t i = 0; i < sizeof(speeds) / sizeof(speeds[0]); i++)
        if (speeds[i].code == attr->active_speed) speed = speeds[i].value;
    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++)
        if (widths[i].code == attr->active_width) width = widths[i].value;
    return speed * width;
}

static uint32_t mtu_bytes(enum ibv_mtu mtu)
{
    return mtu >= IBV_MTU_256 && mtu <= IBV_MTU_4096 ? 128u << mtu : 0;
}

/* Older libraries write less of the attributes than our header has, so they are zeroed first. */
static int query_port(const rdt_ibv_api_t *api, struct ibv_context *context, uint32_t port,
                      struct ibv_port_attr *attr)
{
    memset(attr, 0, sizeof(*attr));
    return api->query_port(context, (uint8_t)port, attr);
}

typedef struct visitor {
    const rdt_ibv_api_t *api;
    rdt_port_fn visit;
    void *arg;
    const char *device;
} visitor_t;

static void visit_failed(const visitor_t *v, const char *what, int error)
{
    char text[256];
    rdt_port_t port = {.device = v->device,
                       .error = text,
                       .firmware = "",
                       .state = "UNKNOWN",
                       .link_layer = "UNKNOWN"};

    snprintf(text, sizeof(text), "%s %s: %s%s", what, v->device, strerror(error), advice(error));
    v->visit(v->arg, &port);
}

static void visit_ports(const visitor_t *v, struct ibv_context *context)
{
    struct ibv_device_attr device = {0};
    struct ibv_port_attr attr;
    int error = v->api->query_device(context, &device);

    if (error != 0) visit_failed(v, "ibv_query_device", error);
    for (uint32_t i = 1; error == 0 && i <= device.phys_port_cnt; i++) {
        rdt_port_t port = {.device = v->device, .error = "", .firmware = device.fw_ver, .port = i};

        error = query_port(v->api, context, i, &attr);
        if (error != 0) {
            visit_failed(v, "ibv_query_port", error);
            break;
        }
        port.state = state_name(attr.state);
        port.link_layer = link_name(&attr);
        port.lid = attr.lid;
        port.active_mtu_bytes = mtu_bytes(attr.active_mtu);
        port.num_gids = attr.gid_tbl_len > 0 ? (uint32_t)attr.gid_tbl_len : 0;
        port.num_pkeys = attr.pkey_tbl_len;
        port.max_msg_bytes = attr.max_msg_sz;
        port.speed_gbps = speed_gbps(&attr);
        v->visit(v->arg, &port);
    }
}

rdt_status_t rdt_ibv_ports(const rdt_ibv_api_t *api, rdt_port_fn visit, void *arg)
{
    visitor_t v = {.api = api, .visit = visit, .arg = arg};
    struct ibv_device **list;
    int num;
    rdt_status_t st = list_devices(api, &list, &num);

    if (st != RDT_OK || list == NULL) return st;
    for (int i = 0; i < num; i++) {
        struct ibv_context *context;

        v.device = api->get_device_name(list[i]);
        context = open_device(api, list[i]);
        if (context == NULL) {
            visit_failed(&v, "opening RDMA device", errno);
            continue;
        }
        visit_ports(&v, context);
        api->close_device(context);
    }
    api->free_device_list(list);
    return RDT_OK;
}

/* -- GIDs -- */

typedef struct place {
    const char *device;
    uint32_t port, index;
} place_t;

static rdt_status_t unusable(const place_t *at, const char *why, int error)
{
    return rdt_fail(RDT_UNSUPPORTED, "GID %u of %s port %u is not usable: %s%s%s", at->index,
                    at->device, at->port, why, error != 0 ? ": " : "",
                    error != 0 ? strerror(error) : "");
}

static rdt_status_t reach(const rdt_ibv_api_t *api, struct ibv_context *context, const place_t *at,
                          struct ibv_ah_attr *attr)
{
    struct ibv_pd *pd = api->alloc_pd(context);
    struct ibv_ah *ah;
    rdt_status_t st = RDT_OK;

    if (pd == NULL)
        return rdt_fail(RDT_IO_ERROR, "ibv_alloc_pd of %s: %s", at->device, strerror(errno));
    ah = api->create_ah(pd, attr);
    if (ah == NULL)
        st = unusable(at, "it cannot be reached from this network namespace", errno);
    else
        api->destroy_ah(ah);
    api->dealloc_pd(pd);
    return st;
}

static rdt_status_t test_gid(const rdt_ibv_api_t *api, struct ibv_context *context,
                             const place_t *at)
{
    struct ibv_ah_attr attr = {.is_global = 1, .port_num = (uint8_t)at->port};
    struct ibv_port_attr port;
    int error = query_port(api, context, at->port, &port);

    if (error != 0)
        return rdt_fail(RDT_BAD_ARG, "%s port %u: %s", at->device, at->port, strerror(error));
    if (at->index >= (uint32_t)port.gid_tbl_len || at->index > UINT8_MAX)
        return unusable(at, "the table is shorter", 0);
    /* Tables are sparse: some kernels read an empty entry as zero, some as EINVAL. */
    if (api->query_gid(context, (uint8_t)at->port, (int)at->index, &attr.grh.dgid) != 0)
        return unusable(at, "it cannot be read", errno);
    if (attr.grh.dgid.global.interface_id == 0) return unusable(at, "it is empty", 0);
    attr.dlid = port.lid; /* InfiniBand */
    attr.grh.sgid_index = (uint8_t)at->index;
    attr.grh.hop_limit = 255;
    return reach(api, context, at, &attr);
}

static rdt_status_t open_named(const rdt_ibv_api_t *api, const char *name,
                               struct ibv_context **context_p)
{
    struct ibv_device **list, *device = NULL;
    int num;
    rdt_status_t st = list_devices(api, &list, &num);

    if (st != RDT_OK) return st;
    for (int i = 0; i < num; i++)
        if (strcmp(api->get_device_name(list[i]), name) == 0) device = list[i];
    if (device == NULL)
        st = rdt_fail(RDT_BAD_ARG, "there is no RDMA device %s", name);
    else if ((*context_p = open_device(api, device)) == NULL)
        st = rdt_fail(RDT_IO_ERROR, "opening RDMA device %s: %s%s", name, strerror(errno),
                      advice(errno));
    if (list != NULL) api->free_device_list(list);
    return st;
}

rdt_status_t rdt_ibv_test_gid(const rdt_ibv_api_t *api, const char *device, uint32_t port,
                              uint32_t index)
{
    place_t at = {device, port, index};
    struct ibv_context *context;
    rdt_status_t st;

    if (port == 0 || port > UINT8_MAX)
        return rdt_fail(RDT_BAD_ARG, "%s has no port %u", device, port);
    st = open_named(api, device, &context);
    if (st != RDT_OK) return st;
    st = test_gid(api, context, &at);
    api->close_device(context);
    return st;
}

/* -- limits -- */

static uint32_t count(int num)
{
    return num > 0 ? (uint32_t)num : 0;
}

/* Why it registers no dmabuf, or "" where it does, or nothing was found out. It is asked for a descriptor that is
 * none: whoever can register one looks at that, too, and fails in another way. */
static const char *why_no_dmabuf(const rdt_ibv_api_t *api, struct ibv_context *context)
{
    struct ibv_pd *pd;
    struct ibv_mr *mr;
    int error = 0;

    if (api->reg_dmabuf_mr == NULL) return "this libibverbs has no ibv_reg_dmabuf_mr";
    pd = api->alloc_pd(context);
    if (pd == NULL) return "";
    errno = EIO;
    mr = api->reg_dmabuf_mr(pd, 0, PAGE_BYTES, 0, INT_MAX, IBV_ACCESS_LOCAL_WRITE);
    if (mr != NULL)
        api->dereg_mr(mr);
    else
        error = errno;
    api->dealloc_pd(pd);
    return error == EOPNOTSUPP || error == EPROTONOSUPPORT ? "its driver has no ibv_reg_dmabuf_mr"
                                                           : "";
}

static void visit_limits(const rdt_ibv_api_t *api, struct ibv_device *device, rdt_limits_fn visit,
                         void *arg)
{
    struct ibv_context *context = open_device(api, device);
    const char *what = context == NULL ? "opening RDMA device" : "ibv_query_device";
    int error = context == NULL ? errno : 0;
    struct ibv_device_attr attr = {0};
    rdt_limits_t limits = {.device = api->get_device_name(device), .error = "", .no_dmabuf = ""};
    char text[256];

    if (error == 0) error = api->query_device(context, &attr);
    if (error != 0) {
        snprintf(text, sizeof(text), "%s %s: %s%s", what, limits.device, strerror(error),
                 advice(error));
        limits.error = text;
    } else {
        limits.max_mr_bytes = attr.max_mr_size;
        limits.max_mr = count(attr.max_mr);
        limits.max_qp = count(attr.max_qp);
        limits.max_cq = count(attr.max_cq);
        limits.max_pd = count(attr.max_pd);
        limits.max_cqe = count(attr.max_cqe);
        limits.max_qp_wr = count(attr.max_qp_wr);
        limits.max_sge = count(attr.max_sge);
        limits.max_pkeys = attr.max_pkeys;
        limits.no_dmabuf = why_no_dmabuf(api, context);
    }
    visit(arg, &limits);
    if (context != NULL) api->close_device(context);
}

rdt_status_t rdt_ibv_limits(const rdt_ibv_api_t *api, rdt_limits_fn visit, void *arg)
{
    struct ibv_device **list;
    int num;
    rdt_status_t st = list_devices(api, &list, &num);

    if (st != RDT_OK || list == NULL) return st;
    for (int i = 0; i < num; i++)
        visit_limits(api, list[i], visit, arg);
    api->free_device_list(list);
    return RDT_OK;
}

/* -- registrations -- */

#define PIECE_BYTES (4u << 20)
#define MAX_PIECES 2048
#define REGISTER_NS (RDT_NS_PER_S / 2)

typedef struct pieces {
    const rdt_ibv_api_t *api;
    struct ibv_pd *pd;
    const char *device;
    void *memory; /* of PIECE_BYTES */
    struct ibv_mr *mrs[MAX_PIECES];
    uint32_t num;
} pieces_t;

/* Large pieces first, and where they fail for want of memory smaller ones: to the page, in few calls. */
static rdt_status_t register_pieces(pieces_t *p, uint64_t nbytes, uint64_t *registered_p)
{
    const int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
    uint64_t deadline_ns = rdt_now_ns() + REGISTER_NS, left = nbytes;
    size_t most = PIECE_BYTES;
    int error = 0;

    while (left > 0 && most >= PAGE_BYTES && (error == 0 || error == ENOMEM)) {
        size_t piece = left < most ? (size_t)left : most;

        if (p->num == MAX_PIECES || rdt_now_ns() > deadline_ns)
            return rdt_fail(RDT_WAIT_TIMEOUT, "no time to register more with %s", p->device);
        errno = EIO; /* providers do not always set it */
        p->mrs[p->num] = p->api->reg_mr(p->pd, p->memory, piece, access);
        if (p->mrs[p->num] != NULL) {
            p->num++;
            left -= piece;
            *registered_p += piece;
        } else {
            error = errno;
            most = piece / 2 / PAGE_BYTES * PAGE_BYTES;
        }
    }
    if (left == 0) return RDT_OK;
    return rdt_fail(RDT_NO_MEMORY, "ibv_reg_mr with %s: %s", p->device, strerror(error));
}

static rdt_status_t test_register(pieces_t *p, struct ibv_context *context, uint64_t nbytes,
                                  uint64_t *registered_p)
{
    rdt_status_t st;

    p->pd = p->api->alloc_pd(context);
    if (p->pd == NULL)
        return rdt_fail(RDT_IO_ERROR, "ibv_alloc_pd of %s: %s", p->device, strerror(errno));
    /* Shared, as all that is registered here: see README.md on forks. */
    p->memory = mmap(NULL, PIECE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p->memory == MAP_FAILED)
        st = rdt_fail(RDT_IO_ERROR, "%u KiB to register: %s", PIECE_BYTES >> 10, strerror(errno));
    else
        st = register_pieces(p, nbytes, registered_p);
    for (uint32_t i = 0; i < p->num; i++)
        p->api->dereg_mr(p->mrs[i]);
    if (p->memory != MAP_FAILED) munmap(p->memory, PIECE_BYTES);
    p->api->dealloc_pd(p->pd);
    return st;
}

rdt_status_t rdt_ibv_test_register(const rdt_ibv_api_t *api, const char *device, uint64_t nbytes,
                                   uint64_t *registered_p)
{
    pieces_t pieces = {.api = api, .device = device};
    struct ibv_context *context;
    rdt_status_t st = open_named(api, device, &context);

    *registered_p = 0;
    if (st != RDT_OK) return st;
    st = test_register(&pieces, context, nbytes, registered_p);
    api->close_device(context);
    return st;
}

/* -- of libibverbs -- */

rdt_status_t rdt_verbs_devices(rdt_device_fn visit, void *arg)
{
    rdt_ibv_api_t api;
    rdt_status_t st = rdt_ibv_load(&api);

    return st == RDT_OK ? rdt_ibv_devices(&api, visit, arg) : st;
}

rdt_status_t rdt_verbs_ports(rdt_port_fn visit, void *arg)
{
    rdt_ibv_api_t api;
    rdt_status_t st = rdt_ibv_load(&api);

    return st == RDT_OK ? rdt_ibv_ports(&api, visit, arg) : st;
}

rdt_status_t rdt_verbs_test_gid(const char *device, uint32_t port, uint32_t index)
{
    rdt_ibv_api_t api;
    rdt_status_t st = rdt_ibv_load(&api);

    return st == RDT_OK ? rdt_ibv_test_gid(&api, device, port, index) : st;
}

rdt_status_t rdt_verbs_limits(rdt_limits_fn visit, void *arg)
{
    rdt_ibv_api_t api;
    rdt_status_t st = rdt_ibv_load(&api);

    return st == RDT_OK ? rdt_ibv_limits(&api, visit, arg) : st;
}

rdt_status_t rdt_verbs_test_register(const char *device, uint64_t nbytes, uint64_t *registered_p)
{
    rdt_ibv_api_t api;
    rdt_status_t st = rdt_ibv_load(&api);

    *registered_p = 0;
    return st == RDT_OK ? rdt_ibv_test_register(&api, device, nbytes, registered_p) : st;
}
