/* SPDX-License-Identifier: Apache-2.0 */
#include "bind/core_pair.h"

#include <string.h>

#include "bind/core_call.h"
#include "bind/core_error.h"
#include "rdmatrain/pair.h"

typedef struct {
    PyObject_HEAD
    rdt_pair_t *pair; /* NULL once closed */
    int in_use;       /* by a call without the GIL; changed with the GIL */
} PairObject;

/* NULL with an exception set. */
static rdt_pair_t *pair_of(PairObject *self)
{
    if (self->pair == NULL)
        rdt_core_raise(RDT_CLOSED, "the pair is closed");
    else if (self->in_use)
        rdt_core_raise(RDT_BAD_ARG, "another thread uses the pair");
    else
        return self->pair;
    return NULL;
}

static PyObject *pair_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"transport", "arg", "side", "token", NULL};
    rdt_pair_cfg_t cfg = {0};
    const char *token;
    Py_ssize_t token_len;
    PairObject *self;
    rdt_status_t st;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "szO&y#", keywords, &cfg.transport, &cfg.arg,
                                     rdt_core_to_u32, &cfg.side, &token, &token_len))
        return NULL;
    if (token_len != RDT_COMM_TOKEN_BYTES)
        return PyErr_Format(PyExc_ValueError, "token must have %d bytes", RDT_COMM_TOKEN_BYTES);
    memcpy(cfg.token, token, RDT_COMM_TOKEN_BYTES);
    self = (PairObject *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    st = rdt_pair_open(&cfg, &self->pair);
    if (st == RDT_OK) return (PyObject *)self;
    Py_DECREF(self);
    return rdt_core_raise(st, rdt_last_error());
}

static PyObject *pair_address(PairObject *self, PyObject *Py_UNUSED(unused))
{
    uint8_t wire[RDT_COMM_WIRE_BYTES];
    rdt_pair_t *pair = pair_of(self);

    if (pair == NULL) return NULL;
    return PyBytes_FromStringAndSize((const char *)wire, rdt_pair_address(pair, wire));
}

static PyObject *pair_connect(PairObject *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"address", "timeout", NULL};
    const char *address;
    Py_ssize_t len;
    PyObject *timeout;
    rdt_pair_t *pair;
    uint64_t ns;
    rdt_status_t st;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y#O", keywords, &address, &len, &timeout) ||
        !rdt_core_to_ns(timeout, &ns))
        return NULL;
    pair = pair_of(self);
    if (pair == NULL) return NULL;
    self->in_use = 1;
    Py_BEGIN_ALLOW_THREADS
    st = rdt_pair_connect(pair, (const uint8_t *)address, (uint32_t)len, ns);
    Py_END_ALLOW_THREADS
    self->in_use = 0;
    if (st != RDT_OK) return rdt_core_raise(st, rdt_last_error());
    Py_RETURN_NONE;
}

static PyObject *pair_reserve(PairObject *self, PyObject *arg)
{
    unsigned long long nbytes = PyLong_AsUnsignedLongLong(arg);
    rdt_pair_t *pair;
    rdt_status_t st;

    if (nbytes == (unsigned long long)-1 && PyErr_Occurred()) return NULL;
    pair = pair_of(self);
    if (pair == NULL) return NULL;
    st = rdt_pair_reserve(pair, nbytes);
    if (st != RDT_OK) return rdt_core_raise(st, rdt_last_error());
    Py_RETURN_NONE;
}

static int to_u64(PyObject *obj, void *value_p)
{
    unsigned long long value = PyLong_AsUnsignedLongLong(obj);

    if (value == (unsigned long long)-1 && PyErr_Occurred()) return 0;
    *(uint64_t *)value_p = value;
    return 1;
}

static PyObject *pair_reserve_dmabuf(PairObject *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"fd", "offset", "address", "nbytes", NULL};
    uint64_t address, nbytes;
    rdt_dmabuf_t memory;
    rdt_pair_t *pair;
    rdt_status_t st;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO&O&O&", keywords, &memory.fd, to_u64,
                                     &memory.offset, to_u64, &address, to_u64, &nbytes))
        return NULL;
    memory.addr = (void *)(uintptr_t)address; /* a device's: not read here */
    memory.len = (size_t)nbytes;
    pair = pair_of(self);
    if (pair == NULL) return NULL;
    st = rdt_pair_reserve_dmabuf(pair, &memory);
    if (st != RDT_OK) return rdt_core_raise(st, rdt_last_error());
    Py_RETURN_NONE;
}

static PyObject *seconds_of(const uint64_t *ns, uint32_t num)
{
    PyObject *list = PyList_New(num);

    for (uint32_t i = 0; list != NULL && i < num; i++) {
        PyObject *seconds = PyFloat_FromDouble((double)ns[i] * 1e-9);

        if (seconds == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, seconds);
    }
    return list;
}

static PyObject *run(PairObject *self, rdt_pair_run_t *what)
{
    uint32_t num = what->op == RDT_PAIR_PINGPONG ? what->calls : 1;
    rdt_pair_t *pair = pair_of(self);
    PyObject *seconds;
    rdt_status_t st;

    if (pair == NULL) return NULL;
    what->ns = PyMem_Calloc(num, sizeof(*what->ns));
    if (what->ns == NULL) return PyErr_NoMemory();
    self->in_use = 1;
    Py_BEGIN_ALLOW_THREADS
    st = rdt_pair_run(pair, what);
    Py_END_ALLOW_THREADS
    self->in_use = 0;
    seconds = st == RDT_OK ? seconds_of(what->ns, num) : rdt_core_raise(st, rdt_last_error());
    PyMem_Free(what->ns);
    if (seconds == NULL) return NULL;
    return Py_BuildValue("NK", seconds, (unsigned long long)what->nwrong);
}

static int parse_run(PyObject *args, PyObject *kwargs, rdt_pair_run_t *what)
{
    static char *keywords[] = {"calls", "timeout", "check", NULL};
    PyObject *timeout;
    int check = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&O|p", keywords, rdt_core_to_u32, &what->calls,
                                     &timeout, &check) ||
        !rdt_core_to_ns(timeout, &what->timeout_ns))
        return 0;
    what->check = check != 0;
    return 1;
}

static PyObject *pair_pingpong(PairObject *self, PyObject *args, PyObject *kwargs)
{
    rdt_pair_run_t what = {.op = RDT_PAIR_PINGPONG};

    return parse_run(args, kwargs, &what) ? run(self, &what) : NULL;
}

static PyObject *pair_write(PairObject *self, PyObject *args, PyObject *kwargs)
{
    rdt_pair_run_t what = {.op = RDT_PAIR_WRITE};

    return parse_run(args, kwargs, &what) ? run(self, &what) : NULL;
}

/* While another thread uses it, it stays: that call has a time limit, and the object a reference. */
static PyObject *pair_close(PairObject *self, PyObject *Py_UNUSED(unused))
{
    rdt_pair_t *pair = self->pair;

    if (pair != NULL && pair_of(self) == NULL) return NULL;
    self->pair = NULL;
    Py_BEGIN_ALLOW_THREADS
    rdt_pair_close(pair);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static void pair_dealloc(PairObject *self)
{
    rdt_pair_close(self->pair);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef methods[] = {
    {"address", (PyCFunction)pair_address, METH_NOARGS,
     "address($self)\n--\n\nWhat the other side needs to connect, as bytes."},
    {"connect", (PyCFunction)(void (*)(void))pair_connect, METH_VARARGS | METH_KEYWORDS,
     "connect($self, address, timeout)\n--\n\nJoin the other side within timeout seconds. Once."},
    {"reserve", (PyCFunction)pair_reserve, METH_O,
     "reserve($self, nbytes, /)\n--\n\nMake the memory for calls of that size; 0 frees it.\n\n"
     "Raises MemoryError when the arena has no room."},
    {"reserve_dmabuf", (PyCFunction)(void (*)(void))pair_reserve_dmabuf,
     METH_VARARGS | METH_KEYWORDS,
     "reserve_dmabuf($self, fd, offset, address, nbytes)\n--\n\nUse memory of a device for calls "
     "of half as many bytes: its first half is sent, and what comes goes to the second. fd is its "
     "dmabuf, and may be closed afterwards; address is what the device calls it, and has the place "
     "in its page that offset has. It must outlive its use, which the next reserve or close ends. "
     "Only write, without check, works there.\n\n"
     "Raises ValueError where the transport, a NIC or its driver cannot, MemoryError, and "
     "CommError "
     "with status IO_ERROR for what else a NIC refuses."},
    {"pingpong", (PyCFunction)(void (*)(void))pair_pingpong, METH_VARARGS | METH_KEYWORDS,
     "pingpong($self, calls, timeout, check=False)\n--\n\nSend from side 0 to side 1 and "
     "back.\n\nReturns the seconds of half the way, of each call (0 on side 1), and how many bytes "
     "were wrong that came here: 0 without check."},
    {"write", (PyCFunction)(void (*)(void))pair_write, METH_VARARGS | METH_KEYWORDS,
     "write($self, calls, timeout, check=False)\n--\n\nWrite from side 0 into memory of side 1, "
     "many at a time.\n\nReturns the seconds of all calls together, alone in a list (0 on side "
     "1), and how many bytes of the last one are wrong on side 1: 0 without check."},
    {"close", (PyCFunction)pair_close, METH_NOARGS,
     "close($self)\n--\n\nEnd the connection and free the memory. Idempotent."},
    {NULL, NULL, 0, NULL}};

static PyTypeObject PairType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "rdmatrain._core.Pair",
    .tp_basicsize = sizeof(PairObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Pair(transport, arg, side, token)\n--\n\nTwo ranks on one connection of one "
              "transport, to measure that.\n\nside is 0 or 1; arg as for Comm.listen; token, 16 "
              "bytes, is equal on both sides. Both make the same calls in the same order.",
    .tp_new = pair_new,
    .tp_dealloc = (destructor)pair_dealloc,
    .tp_methods = methods,
};

int rdt_core_add_pair(PyObject *module)
{
    if (PyType_Ready(&PairType) < 0) return -1;
    return PyModule_AddObjectRef(module, "Pair", (PyObject *)&PairType);
}
