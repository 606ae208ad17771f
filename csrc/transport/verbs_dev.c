/* SPDX-License-Identifier: Apache-2.0 */
/* The RDMA devices that this process has open: however many groups use one, it is opened once, and
 * the memory of the arena is registered once. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "arena/arena.h"
#include "base/clock.h"
#include "base/error.h"
#include "ibv/ibv_fake.h"
#include "transport/verbs.h"

#define LOOK_NS (RDT_NS_PER_S / 4)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the list, and of all registrations */
static verbs_dev_t *all_devs;

/* A child cannot use the devices of its parent: their queues and doorbells stay the parent's. Nor need
 * the thread that had the lock exist in it. */
static void forget_devs(void)
{
    pthread_mutex_init(&lock, NULL);
    all_devs = NULL;
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, forget_devs);
}

static struct ibv_device *find_device(struct ibv_device **list, int num, const rdt_ibv_api_t *api,
                                      const char *name)
{
    for (int i = 0; i < num; i++)
        if (strcmp(api->get_device_name(list[i]), name) == 0) return list[i];
    return NULL;
}

static rdt_status_t open_context(verbs_dev_t *dev)
{
    int num = 0;
    struct ibv_device **list = dev->api.get_device_list(&num), *device;

    if (list == NULL)
        return rdt_fail(RDT_IO_ERROR, "no RDMA device: ibv_get_device_list: %s", strerror(errno));
    device = find_device(list, num, &dev->api, dev->name);
    if (device != NULL) dev->context = dev->api.open_device(device);
    if (device == NULL)
        rdt_fail(RDT_BAD_ARG, "there is no RDMA device %s in this container (%d others)", dev->name,
                 num);
    else if (dev->context == NULL)
        rdt_fail(RDT_IO_ERROR, "opening RDMA device %s: %s (is its /dev/infiniband/uverbs* here?)",
                 dev->name, strerror(errno));
    dev->api.free_device_list(list);
    if (device == NULL) return RDT_BAD_ARG;
    return dev->context != NULL ? RDT_OK : RDT_IO_ERROR;
}

/* Where the kernel leaves a page that a NIC knows to one process of two after a fork (before Linux 5.12), the
 * library keeps those pages from children: what it and its providers have registered, the queues too. */
static rdt_status_t guard_forks(const rdt_ibv_api_t *api)
{
    int err;

    if (api->is_fork_initialized == NULL || api->is_fork_initialized() != IBV_FORK_DISABLED)
        return RDT_OK;
    err = api->fork_init();
    if (err == 0) return RDT_OK;
    return rdt_fail(RDT_IO_ERROR,
                    "ibv_fork_init: %s: this kernel needs it, and another library has registered "
                    "memory before: set RDMAV_FORK_SAFE=1",
                    strerror(err));
}

static rdt_status_t set_up(verbs_dev_t *dev)
{
    int err, flags;
    rdt_status_t st = guard_forks(&dev->api);

    if (st == RDT_OK) st = open_context(dev);
    if (st != RDT_OK) return st;
    err = dev->api.query_device(dev->context, &dev->attr);
    if (err != 0)
        return rdt_fail(RDT_IO_ERROR, "asking RDMA device %s: %s", dev->name, strerror(err));
    dev->pd = dev->api.alloc_pd(dev->context);
    if (dev->pd == NULL)
        return rdt_fail(RDT_NO_MEMORY, "a protection domain of %s: %s", dev->name, strerror(errno));
    flags = fcntl(dev->context->async_fd, F_GETFL);
    if (flags < 0 || fcntl(dev->context->async_fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return rdt_fail(RDT_IO_ERROR, "the events of %s: %s", dev->name, strerror(errno));
    if (access(dev->context->device->dev_path, F_OK) == 0)
        memcpy(dev->node, dev->context->device->dev_path, sizeof(dev->node));
    return RDT_OK;
}

static void tear_down(verbs_dev_t *dev)
{
    for (uint32_t i = 0; i < dev->num_mrs; i++) {
        dev->api.dereg_mr(dev->mrs[i].mr);
        rdt_arena_unpin(dev->mrs[i].base);
    }
    if (dev->pd != NULL) dev->api.dealloc_pd(dev->pd);
    if (dev->context != NULL) dev->api.close_device(dev->context);
    free(dev->mrs);
    free((char *)(uintptr_t)dev->fake);
    free(dev);
}

static bool is_same(const verbs_dev_t *dev, const char *name, const char *fake)
{
    if (strcmp(dev->name, name) != 0 || (dev->fake == NULL) != (fake == NULL)) return false;
    return (fake == NULL || strcmp(dev->fake, fake) == 0) && atomic_load(&dev->fatal) == 0;
}

static rdt_status_t open_new(const char *name, const char *fake, verbs_dev_t **dev_p)
{
    verbs_dev_t *dev = calloc(1, sizeof(*dev));
    rdt_status_t st;

    if (dev == NULL) return rdt_fail(RDT_NO_MEMORY, "RDMA device %s: out of memory", name);
    strncpy(dev->name, name, sizeof(dev->name) - 1);
    if (fake != NULL) dev->fake = strdup(fake);
    st = fake != NULL ? rdt_ibv_fake(fake, &dev->api) : rdt_ibv_load(&dev->api);
    if (st == RDT_OK) st = set_up(dev);
    if (st != RDT_OK) {
        tear_down(dev);
        return st;
    }
    dev->next = all_devs;
    all_devs = dev;
    *dev_p = dev;
    return RDT_OK;
}

rdt_status_t rdt_verbs_dev_open(const char *name, const char *fake, verbs_dev_t **dev_p)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    rdt_status_t st = RDT_OK;
    verbs_dev_t *dev;

    pthread_once(&once, watch_forks);
    pthread_mutex_lock(&lock);
    for (dev = all_devs; dev != NULL && !is_same(dev, name, fake);)
        dev = dev->next;
    if (dev == NULL) st = open_new(name, fake, &dev);
    if (st == RDT_OK) dev->refs++;
    pthread_mutex_unlock(&lock);
    if (st == RDT_OK) *dev_p = dev;
    return st;
}

void rdt_verbs_dev_close(verbs_dev_t *dev)
{
    verbs_dev_t **link = &all_devs;

    pthread_mutex_lock(&lock);
    if (--dev->refs == 0) {
        while (*link != dev)
            link = &(*link)->next;
        *link = dev->next;
        tear_down(dev);
    }
    pthread_mutex_unlock(&lock);
}

rdt_status_t rdt_verbs_reg_failed(const verbs_dev_t *dev, size_t len, int err)
{
    struct rlimit limit = {0, 0};

    (void)getrlimit(RLIMIT_MEMLOCK, &limit);
    if (limit.rlim_cur != RLIM_INFINITY && err == ENOMEM)
        return rdt_fail(
            RDT_NO_MEMORY,
            "registering %zu KiB with %s: the limit of locked memory is %llu KiB: raise "
            "it (ulimit -l unlimited), or give the container IPC_LOCK",
            len >> 10, dev->name, (unsigned long long)limit.rlim_cur >> 10);
    return rdt_fail(RDT_NO_MEMORY, "registering %zu KiB with %s: %s", len >> 10, dev->name,
                    strerror(err));
}

static rdt_status_t add(verbs_dev_t *dev, const void *data, struct ibv_mr **mr_p)
{
    const int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
    verbs_mr_t *mrs = realloc(dev->mrs, (dev->num_mrs + 1) * sizeof(*mrs));
    struct ibv_mr *mr;
    void *base;
    size_t len;
    rdt_status_t st;

    if (mrs == NULL) return rdt_fail(RDT_NO_MEMORY, "registrations: out of memory");
    dev->mrs = mrs;
    st = rdt_arena_pin(data, 1, &base, &len);
    if (st != RDT_OK) return st;
    /* Payload may be written in any order: who reads it has seen the completion first. */
    mr = dev->api.reg_mr_iova2 != NULL
             ? dev->api.reg_mr_iova2(dev->pd, base, len, (uintptr_t)base,
                                     (unsigned)access | IBV_ACCESS_RELAXED_ORDERING)
             : dev->api.reg_mr(dev->pd, base, len, access);
    if (mr == NULL) {
        st = rdt_verbs_reg_failed(dev, len, errno);
        rdt_arena_unpin(base);
        return st;
    }
    dev->mrs[dev->num_mrs++] = (verbs_mr_t){base, len, mr};
    *mr_p = mr;
    return RDT_OK;
}

rdt_status_t rdt_verbs_dev_register(verbs_dev_t *dev, const void *data, struct ibv_mr **mr_p)
{
    const uint8_t *at = data;
    rdt_status_t st = RDT_AGAIN;

    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < dev->num_mrs && st == RDT_AGAIN; i++)
        if (at >= dev->mrs[i].base && at < dev->mrs[i].base + dev->mrs[i].len) {
            *mr_p = dev->mrs[i].mr;
            st = RDT_OK;
        }
    if (st == RDT_AGAIN) st = add(dev, data, mr_p);
    pthread_mutex_unlock(&lock);
    return st;
}

/* Of a queue pair or a completion queue: who made it looks at the word. Of the rest, what ends or
 * interrupts service. */
static void take_event(verbs_dev_t *dev, const struct ibv_async_event *event)
{
    switch (event->event_type) {
    case IBV_EVENT_QP_FATAL:
    case IBV_EVENT_QP_REQ_ERR:
    case IBV_EVENT_QP_ACCESS_ERR:
        atomic_store((_Atomic int *)event->element.qp->qp_context, (int)event->event_type + 1);
        break;
    case IBV_EVENT_CQ_ERR:
        atomic_store((_Atomic int *)event->element.cq->cq_context, (int)event->event_type + 1);
        break;
    case IBV_EVENT_DEVICE_FATAL:
        atomic_store(&dev->fatal, (int)event->event_type + 1);
        break;
    case IBV_EVENT_PORT_ERR:
        atomic_store(&dev->port_down_ns[(uint8_t)event->element.port_num], rdt_now_ns());
        break;
    case IBV_EVENT_PORT_ACTIVE:
        atomic_store(&dev->port_down_ns[(uint8_t)event->element.port_num], 0);
        break;
    case IBV_EVENT_GID_CHANGE:
        atomic_fetch_add(&dev->gid_changes, 1);
        break;
    default: /* of clients and partitions: a queue pair that they break says so itself */
        break;
    }
}

/* A driver like rxe's makes "rdma link delete" wait until nobody has the device open, and tells those
 * who have nothing. */
static void look_for_node(verbs_dev_t *dev, uint64_t now_ns)
{
    int none = 0;

    if (dev->node[0] == '\0' || now_ns < atomic_load(&dev->look_ns)) return;
    atomic_store(&dev->look_ns, now_ns + LOOK_NS);
    if (access(dev->node, F_OK) != 0 && errno == ENOENT)
        atomic_compare_exchange_strong(&dev->fatal, &none, VERBS_REMOVED);
}

void rdt_verbs_dev_events(verbs_dev_t *dev, uint64_t now_ns)
{
    struct ibv_async_event event;

    /* One at a time: the library acknowledges under a lock that destroying a queue pair waits for. */
    while (dev->api.get_async_event(dev->context, &event) == 0) {
        take_event(dev, &event);
        dev->api.ack_async_event(&event);
    }
    look_for_node(dev, now_ns);
}
