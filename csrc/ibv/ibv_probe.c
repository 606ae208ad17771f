/* SPDX-License-Identifier: Apache-2.0 */
#include "ibv/ibv_probe.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

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
