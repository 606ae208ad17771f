/* SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "ibv/ibv_api.h"
#include "rdmatrain/verbs.h"

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

rdt_status_t rdt_ibv_load(rdt_ibv_api_t *api_p)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    rdt_ibv_api_t api;
    rdt_status_t st;

    if (library == NULL)
        return rdt_fail(RDT_NO_LIBRARY, "RDMA needs libibverbs (rdma-core): %s", dlerror());
    st = find(library, "ibv_get_device_list", &api.get_device_list);
    if (st == RDT_OK) st = find(library, "ibv_free_device_list", &api.free_device_list);
    if (st == RDT_OK) st = find(library, "ibv_get_device_name", &api.get_device_name);
    if (st == RDT_OK) *api_p = api;
    return st;
}

rdt_status_t rdt_verbs_devices(rdt_device_fn visit, void *arg)
{
    struct ibv_device **list;
    rdt_ibv_api_t api;
    int num = 0;
    rdt_status_t st = rdt_ibv_load(&api);

    if (st != RDT_OK) return st;
    list = api.get_device_list(&num);
    /* A kernel without RDMA has no devices, which is an answer and not a failure. */
    if (list == NULL && errno == ENOSYS) return RDT_OK;
    if (list == NULL) return rdt_fail(RDT_IO_ERROR, "ibv_get_device_list: %s", strerror(errno));
    for (int i = 0; i < num; i++)
        visit(arg, api.get_device_name(list[i]));
    api.free_device_list(list);
    return RDT_OK;
}
