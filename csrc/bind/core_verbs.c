/* SPDX-License-Identifier: Apache-2.0 */
#include "bind/core_verbs.h"

#include "bind/core_call.h"
#include "bind/core_error.h"
#include "rdmatrain/verbs.h"

/* Of a list that failed before, NULL with an exception set, nothing more is made. Steals item. */
static void append(PyObject **list, PyObject *item)
{
    if (*list != NULL && (item == NULL || PyList_Append(*list, item) < 0)) Py_CLEAR(*list);
    Py_XDECREF(item);
}

static void append_name(void *list_p, const char *name)
{
    PyObject **list = list_p;

    if (*list != NULL) append(list, PyUnicode_FromString(name));
}

static void append_port(void *list_p, const rdt_port_t *port)
{
    PyObject **list = list_p;

    if (*list == NULL) return;
    append(list,
           Py_BuildValue("{sssIsssssIsIsIsIsdsIssss}", "device", port->device, "port",
                         (unsigned)port->port, "state", port->state, "link_layer", port->link_layer,
                         "lid", (unsigned)port->lid, "active_mtu", (unsigned)port->active_mtu_bytes,
                         "gids", (unsigned)port->num_gids, "pkeys", (unsigned)port->num_pkeys,
                         "speed_gbps", port->speed_gbps, "max_msg", (unsigned)port->max_msg_bytes,
                         "firmware", port->firmware, "error", port->error));
}

static void append_limits(void *list_p, const rdt_limits_t *limits)
{
    PyObject **list = list_p;

    if (*list == NULL) return;
    append(list,
           Py_BuildValue("{sssssKsIsIsIsIsIsIsIsIss}", "device", limits->device, "error",
                         limits->error, "max_mr_size", (unsigned long long)limits->max_mr_bytes,
                         "max_mr", (unsigned)limits->max_mr, "max_qp", (unsigned)limits->max_qp,
                         "max_cq", (unsigned)limits->max_cq, "max_pd", (unsigned)limits->max_pd,
                         "max_cqe", (unsigned)limits->max_cqe, "max_qp_wr",
                         (unsigned)limits->max_qp_wr, "max_sge", (unsigned)limits->max_sge,
                         "max_pkeys", (unsigned)limits->max_pkeys, "no_dmabuf", limits->no_dmabuf));
}

static PyObject *finish(rdt_status_t st, PyObject *list)
{
    if (st == RDT_OK) return list;
    Py_XDECREF(list);
    return rdt_core_raise(st, rdt_last_error());
}

static PyObject *rdma_devices(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    PyObject *list = PyList_New(0);
    rdt_status_t st = rdt_verbs_devices(append_name, &list);

    return finish(st, list);
}

static PyObject *rdma_ports(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    PyObject *list = PyList_New(0);
    rdt_status_t st = rdt_verbs_ports(append_port, &list);

    return finish(st, list);
}

static PyObject *rdma_test_gid(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *device;
    uint32_t port, index;
    rdt_status_t st;

    if (!PyArg_ParseTuple(args, "sO&O&", &device, rdt_core_to_u32, &port, rdt_core_to_u32, &index))
        return NULL;
    Py_BEGIN_ALLOW_THREADS /* the kernel may ask the network who has the address */
    st = rdt_verbs_test_gid(device, port, index);
    Py_END_ALLOW_THREADS
    if (st == RDT_NO_LIBRARY) return rdt_core_raise(st, rdt_last_error());
    return PyUnicode_FromString(st == RDT_OK ? "" : rdt_last_error());
}

static PyObject *rdma_limits(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    PyObject *list = PyList_New(0);
    rdt_status_t st = rdt_verbs_limits(append_limits, &list);

    return finish(st, list);
}

static PyObject *rdma_test_register(PyObject *Py_UNUSED(module), PyObject *args)
{
    long long nbytes;
    uint64_t registered;
    const char *device;
    rdt_status_t st;

    if (!PyArg_ParseTuple(args, "sL", &device, &nbytes)) return NULL;
    if (nbytes < 0) return PyErr_Format(PyExc_ValueError, "%lld bytes", nbytes);
    Py_BEGIN_ALLOW_THREADS /* half a second */
    st = rdt_verbs_test_register(device, (uint64_t)nbytes, &registered);
    Py_END_ALLOW_THREADS
    if (st != RDT_OK && st != RDT_NO_MEMORY && st != RDT_WAIT_TIMEOUT)
        return rdt_core_raise(st, rdt_last_error());
    return Py_BuildValue("Ks", (unsigned long long)registered,
                         st == RDT_NO_MEMORY ? rdt_last_error() : "");
}

static PyMethodDef functions[] = {
    {"rdma_devices", rdma_devices, METH_NOARGS,
     "rdma_devices($module)\n--\n\nNames of the RDMA devices that libibverbs shows this "
     "process.\n\n"
     "Raises CommError with status NO_LIBRARY where libibverbs is not installed."},
    {"rdma_ports", rdma_ports, METH_NOARGS,
     "rdma_ports($module)\n--\n\nThe ports of the RDMA devices, a dict each: device, port, state, "
     "link_layer, lid, active_mtu and max_msg in bytes, gids and pkeys (how many), speed_gbps, "
     "firmware, error.\n\n"
     "A device that cannot be opened has one entry, with port 0 and the reason as error. "
     "Raises CommError with status NO_LIBRARY where libibverbs is not installed."},
    {"rdma_test_gid", rdma_test_gid, METH_VARARGS,
     "rdma_test_gid($module, device, port, index, /)\n--\n\nWhy the GID with that index cannot be "
     "used from this network namespace; an empty string when it can.\n\n"
     "Raises CommError with status NO_LIBRARY where libibverbs is not installed."},
    {"rdma_limits", rdma_limits, METH_NOARGS,
     "rdma_limits($module)\n--\n\nWhat each RDMA device can have at most, a dict each: device, "
     "error, max_mr_size in bytes, max_mr, max_qp, max_cq, max_pd, max_cqe, max_qp_wr, max_sge, "
     "max_pkeys; all 0 where error says why it does not tell; no_dmabuf: why it registers no "
     "dmabuf, "
     "an empty string where it does or that is not known.\n\n"
     "Raises CommError with status NO_LIBRARY where libibverbs is not installed."},
    {"rdma_test_register", rdma_test_register, METH_VARARGS,
     "rdma_test_register($module, device, nbytes, /)\n--\n\nHow many bytes, up to nbytes, this "
     "process can have registered with a device at once, and why no more: an empty string when "
     "it is all, or when half a second did not suffice. A few MiB are registered again and "
     "again, as limits count them each time.\n\n"
     "Raises ValueError for a device that is not there, and CommError for one that cannot be "
     "opened, with status IO_ERROR, or where libibverbs is not installed, NO_LIBRARY."},
    {NULL, NULL, 0, NULL}};

int rdt_core_add_verbs(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
