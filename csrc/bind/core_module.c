/* SPDX-License-Identifier: Apache-2.0 */
/* rdmatrain._core: communicators for anything with a buffer (NumPy arrays, bytearrays), without
 * torch. The border is dull: convert with the GIL, release it around one C call that may wait, turn
 * every failed status into an exception in one place, hold the buffers until the work is over. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "bind/core_arena.h"
#include "bind/core_call.h"
#include "bind/core_error.h"
#include "bind/core_pair.h"
#include "bind/core_recorder.h"
#include "bind/core_schedule.h"
#include "bind/core_tuning.h"
#include "bind/core_verbs.h"
#include "bind/peer_user.h"
#include "rdmatrain/coll.h"

typedef struct {
    PyObject_HEAD
    rdt_comm_t *comm; /* NULL once closed or detached */
    uint32_t rank, world;
    uint32_t number;
    int users; /* calls that use comm without the GIL; changed with the GIL */
} CommObject;

typedef struct {
    PyObject_HEAD
    CommObject *owner;
    rdt_work_t *work;
    rdt_core_buffers_t buffers;
} WorkObject;

static PyTypeObject WorkType;

/* -- errors -- */

static PyObject *error_class(rdt_status_t status)
{
    const char *name = "CommError";
    PyObject *module, *cls;

    if (status == RDT_BAD_ARG || status == RDT_UNSUPPORTED) return Py_NewRef(PyExc_ValueError);
    if (status == RDT_NO_MEMORY) return Py_NewRef(PyExc_MemoryError);
    if (status == RDT_TIMEOUT || status == RDT_WAIT_TIMEOUT || status == RDT_CONNECT_TIMEOUT)
        name = "CommTimeoutError";
    module = PyImport_ImportModule("rdmatrain.errors");
    if (module == NULL) return NULL;
    cls = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    return cls;
}

static PyObject *raise_status(rdt_status_t status, const char *text)
{
    PyObject *cls = error_class(status), *error;

    if (cls == NULL) return NULL;
    if (cls == PyExc_ValueError || cls == PyExc_MemoryError)
        error = PyObject_CallFunction(cls, "s", text);
    else
        error = PyObject_CallFunction(cls, "ss", text, rdt_status_name(status));
    if (error != NULL) PyErr_SetObject(cls, error);
    Py_XDECREF(error);
    Py_DECREF(cls);
    return NULL;
}

PyObject *rdt_core_raise(rdt_status_t status, const char *text)
{
    return raise_status(status, text);
}

/* -- names -- */

static PyObject *names(const char *(*name_of)(int), int num)
{
    PyObject *tuple = PyTuple_New(num);

    for (int i = 0; tuple != NULL && i < num; i++) {
        PyObject *name = PyUnicode_FromString(name_of(i));

        if (name == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, i, name);
    }
    return tuple;
}

/* -- Comm -- */

static rdt_comm_t *comm_of(CommObject *self)
{
    if (self->comm == NULL) raise_status(RDT_CLOSED, "the communicator is closed or detached");
    return self->comm;
}

static PyObject *comm_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"rank",  "world", "token",   "spin_ns", "tuning",
                               "hosts", "lazy",  "timeout", NULL};
    rdt_comm_cfg_t cfg = {0};
    const char *token;
    Py_ssize_t token_len;
    unsigned long long spin_ns = 0;
    int lazy = 0;
    PyObject *changes = NULL, *hosts = NULL, *timeout = NULL;
    rdt_tuning_t tuning;
    uint32_t *host_numbers;
    CommObject *self;
    rdt_status_t st;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&O&y#|KOOpO", keywords, rdt_core_to_u32,
                                     &cfg.rank, rdt_core_to_u32, &cfg.world, &token, &token_len,
                                     &spin_ns, &changes, &hosts, &lazy, &timeout) ||
        !rdt_core_to_ns(timeout, &cfg.timeout_ns))
        return NULL;
    if (token_len != RDT_COMM_TOKEN_BYTES)
        return PyErr_Format(PyExc_ValueError, "token must have %d bytes", RDT_COMM_TOKEN_BYTES);
    memcpy(cfg.token, token, RDT_COMM_TOKEN_BYTES);
    cfg.spin_ns = spin_ns;
    cfg.lazy = lazy != 0;
    tuning = rdt_tuning_default(cfg.world);
    if (!rdt_core_tune(&tuning, changes)) return NULL;
    cfg.tuning = &tuning;
    if (!rdt_core_to_hosts(hosts, cfg.world, &host_numbers)) return NULL;
    cfg.hosts = host_numbers;
    self = (CommObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        PyMem_Free(host_numbers);
        return NULL;
    }
    self->rank = cfg.rank;
    self->world = cfg.world;
    st = rdt_comm_open(&cfg, &self->comm);
    PyMem_Free(host_numbers);
    if (st == RDT_OK) {
        self->number = rdt_comm_number(self->comm);
        return (PyObject *)self;
    }
    Py_DECREF(self);
    return raise_status(st, rdt_last_error());
}

/* Waits for the calls of other threads to return, which the abort makes them do. */
static void close_comm(CommObject *self)
{
    rdt_comm_t *comm = self->comm;

    self->comm = NULL; /* no new users */
    if (comm == NULL || rdt_comm_is_forked(comm)) return;
    Py_BEGIN_ALLOW_THREADS
    rdt_comm_abort(comm, "the communicator was closed");
    Py_END_ALLOW_THREADS
    while (self->users > 0) {
        Py_BEGIN_ALLOW_THREADS
        usleep(100);
        Py_END_ALLOW_THREADS
    }
    Py_BEGIN_ALLOW_THREADS
    rdt_comm_close(comm);
    Py_END_ALLOW_THREADS
}

static void comm_dealloc(CommObject *self)
{
    close_comm(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *comm_close(CommObject *self, PyObject *Py_UNUSED(unused))
{
    close_comm(self);
    Py_RETURN_NONE;
}

static PyObject *comm_listen(CommObject *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"transport", "arg", NULL};
    const char *transport, *arg = NULL;
    uint8_t wire[RDT_COMM_WIRE_BYTES];
    uint32_t len = 0;
    rdt_status_t st;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s|z", keywords, &transport, &arg)) return NULL;
    if (comm_of(self) == NULL) return NULL;
    st = rdt_comm_listen(self->comm, transport, arg, wire, &len);
    if (st != RDT_OK) return raise_status(st, rdt_last_error());
    return PyBytes_FromStringAndSize((const char *)wire, len);
}

static int is_tuple(PyObject *item)
{
    if (PyTuple_Check(item)) return 1;
    PyErr_Format(PyExc_TypeError, "each peer is a tuple (transport, wire, label), not %R", item);
    return 0;
}

/* peers: one (transport, wire, label) for each rank. False with an exception set. */
static int parse_peers(PyObject *peers, uint32_t world, rdt_peer_info_t *infos)
{
    if (PySequence_Size(peers) != (Py_ssize_t)world) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "peers must have one entry for each of %u ranks", world);
        return 0;
    }
    for (uint32_t r = 0; r < world; r++) {
        PyObject *item = PySequence_GetItem(peers, r);
        const char *wire, *label;
        Py_ssize_t wire_len;
        int ok = item != NULL && is_tuple(item) &&
                 PyArg_ParseTuple(item, "sy#s;each peer is (transport, wire, label)",
                                  &infos[r].transport, &wire, &wire_len, &label);

        Py_XDECREF(item); /* peers keeps its strings alive */
        if (!ok) return 0;
        if (wire_len > RDT_COMM_WIRE_BYTES) {
            PyErr_Format(PyExc_ValueError, "the address of rank %u is too long", r);
            return 0;
        }
        memcpy(infos[r].wire, wire, (size_t)wire_len);
        infos[r].wire_len = (uint32_t)wire_len;
        PyOS_snprintf(infos[r].label, sizeof(infos[r].label), "%.90s", label);
    }
    return 1;
}

/* With a tuple of peers, which nobody changes while the GIL is released. */
static PyObject *connect_to(CommObject *self, PyObject *peers, uint64_t ns)
{
    rdt_peer_info_t *infos = PyMem_Calloc(self->world, sizeof(*infos));
    rdt_comm_t *comm;
    rdt_status_t st;

    if (infos == NULL) return PyErr_NoMemory();
    comm = comm_of(self); /* converting an argument may run Python code, which may close */
    if (comm == NULL || !parse_peers(peers, self->world, infos)) {
        PyMem_Free(infos);
        return NULL;
    }
    self->users++;
    Py_BEGIN_ALLOW_THREADS
    st = rdt_comm_connect(comm, infos, ns < UINT64_MAX / 2 ? ns : UINT64_MAX / 2);
    Py_END_ALLOW_THREADS
    self->users--;
    PyMem_Free(infos);
    if (st != RDT_OK) return raise_status(st, rdt_last_error());
    Py_RETURN_NONE;
}

static PyObject *comm_connect(CommObject *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"peers", "timeout", NULL};
    PyObject *peers, *timeout, *result;
    uint64_t ns;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO", keywords, &peers, &timeout)) return NULL;
    if (comm_of(self) == NULL || !rdt_core_to_ns(timeout, &ns)) return NULL;
    peers = PySequence_Tuple(peers);
    if (peers == NULL) return NULL;
    result = connect_to(self, peers, ns);
    Py_DECREF(peers);
    return result;
}

static PyObject *comm_transport(CommObject *self, PyObject *arg)
{
    uint32_t rank;

    if (!rdt_core_to_u32(arg, &rank) || comm_of(self) == NULL) return NULL;
    return PyUnicode_FromString(rdt_comm_transport(self->comm, rank));
}

static PyObject *rails_of(const rdt_peer_stats_t *stats)
{
    PyObject *list = PyList_New(0);

    for (uint32_t i = 0; list != NULL && i < stats->num_rails; i++) {
        const rdt_rail_t *rail = &stats->rails[i];
        PyObject *item = Py_BuildValue("{s:I,s:I,s:y#,s:y#}", "gid_index", rail->gid_index, "mtu",
                                       rail->mtu, "gid", rail->gid, (Py_ssize_t)RDT_GID_BYTES,
                                       "peer_gid", rail->peer_gid, (Py_ssize_t)RDT_GID_BYTES);

        if (item == NULL || PyList_Append(list, item) < 0) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *stats_of(const rdt_comm_t *comm, uint32_t rank)
{
    rdt_peer_stats_t stats;
    PyObject *rails;

    if (rdt_comm_stats(comm, rank, &stats) != RDT_OK)
        return raise_status(RDT_BAD_ARG, rdt_last_error());
    rails = rails_of(&stats);
    if (rails == NULL) return NULL;
    return Py_BuildValue("{s:s,s:K,s:K,s:K,s:N}", "transport", rdt_comm_transport(comm, rank),
                         "sent_bytes", (unsigned long long)stats.sent_bytes, "received_bytes",
                         (unsigned long long)stats.received_bytes, "staged_bytes",
                         (unsigned long long)stats.staged_bytes, "rails", rails);
}

static PyObject *comm_stats(CommObject *self, PyObject *Py_UNUSED(unused))
{
    PyObject *list;

    if (comm_of(self) == NULL) return NULL;
    list = PyList_New(0);
    for (uint32_t r = 0; list != NULL && r < self->world; r++) {
        PyObject *stats = stats_of(self->comm, r);

        if (stats == NULL || PyList_Append(list, stats) < 0) Py_CLEAR(list);
        Py_XDECREF(stats);
    }
    return list;
}

static PyObject *comm_number(CommObject *self, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLong(self->number);
}

static PyObject *comm_records(CommObject *self, PyObject *Py_UNUSED(unused))
{
    return rdt_core_records(self->number);
}

static PyObject *comm_abort(CommObject *self, PyObject *arg)
{
    const char *reason = PyUnicode_AsUTF8(arg);
    rdt_comm_t *comm;

    if (reason == NULL || comm_of(self) == NULL) return NULL;
    comm = self->comm;
    self->users++;
    Py_BEGIN_ALLOW_THREADS
    rdt_comm_abort(comm, reason);
    Py_END_ALLOW_THREADS
    self->users--;
    Py_RETURN_NONE;
}

static PyObject *comm_detach(CommObject *self, PyObject *Py_UNUSED(unused))
{
    PyObject *capsule;

    if (comm_of(self) == NULL) return NULL;
    capsule = PyCapsule_New(self->comm, "rdmatrain.comm", NULL);
    if (capsule != NULL) self->comm = NULL;
    return capsule;
}

/* -- posting -- */

static PyObject *comm_post(CommObject *self, PyObject *args, PyObject *kwargs)
{
    WorkObject *work;
    rdt_comm_t *comm;
    rdt_call_t call = {0};
    rdt_status_t st;

    if (comm_of(self) == NULL) return NULL;
    work = (WorkObject *)WorkType.tp_alloc(&WorkType, 0);
    if (work == NULL) return NULL;
    work->owner = (CommObject *)Py_NewRef(self);
    if (!rdt_core_parse_call((rdt_core_args_t){args, kwargs}, self->rank, self->world,
                             &work->buffers, &call)) {
        Py_DECREF(work);
        return NULL;
    }
    comm = comm_of(self); /* taking a buffer may run Python code, which may close */
    if (comm == NULL) {
        Py_DECREF(work);
        return NULL;
    }
    self->users++;
    Py_BEGIN_ALLOW_THREADS
    st = rdt_post(comm, &call, &work->work);
    Py_END_ALLOW_THREADS
    self->users--;
    if (st == RDT_OK) return (PyObject *)work;
    raise_status(st, rdt_last_error());
    Py_DECREF(work);
    return NULL;
}

static PyMethodDef comm_methods[] = {
    {"listen", (PyCFunction)(void (*)(void))comm_listen, METH_VARARGS | METH_KEYWORDS,
     "listen($self, transport, arg=None)\n--\n\nOpen a transport and return the address that peers "
     "need, "
     "as bytes.\n\narg is the numeric address to listen on (tcp) or the script (fake)."},
    {"connect", (PyCFunction)(void (*)(void))comm_connect, METH_VARARGS | METH_KEYWORDS,
     "connect($self, peers, timeout)\n--\n\nConnect to all ranks within timeout seconds.\n\npeers "
     "has a "
     "(transport, address, label) for each rank, this one included."},
    {"transport", (PyCFunction)comm_transport, METH_O,
     "transport($self, rank, /)\n--\n\nName of the transport that joins this rank to another one."},
    {"stats", (PyCFunction)comm_stats, METH_NOARGS,
     "stats($self)\n--\n\nWhat went to and came from each rank so far: a dict a rank.\n\n"
     "transport; sent_bytes and received_bytes, of data in messages; staged_bytes, how much of "
     "this the CPU copied between a tensor and memory of the transport. A rank's own entry, and "
     "what ranks of a host read from each other's tensors, count as nothing. rails: of verbs, once "
     "the two have joined, for each port gid_index, gid, peer_gid, and mtu, the path's in bytes."},
    {"post", (PyCFunction)(void (*)(void))comm_post, METH_VARARGS | METH_KEYWORDS,
     "post($self, coll, dtype='uint8', op='SUM', *, in_=None, out=None, peer=0, tag=0, factor=0.0, "
     "shape=None, in_counts=None, out_counts=None, timeout=None, background=False)\n--\n\n"
     "Start an operation on contiguous buffers and return its Work.\n\n"
     "peer is the root, the receiver, the sender, or ANY_PEER. factor is PREMUL_SUM's. shape is "
     "compared between the ranks. in_counts and out_counts: elements of each rank's shard, where "
     "they differ. timeout is in seconds. All ranks must post the same collectives in the same "
     "order."},
    {"number", (PyCFunction)comm_number, METH_NOARGS,
     "number($self)\n--\n\nBy which the flight recorder knows the communicator."},
    {"records", (PyCFunction)comm_records, METH_NOARGS,
     "records($self)\n--\n\nWhat this communicator posted last, as recorder_read() tells it; also "
     "after it was closed."},
    {"abort", (PyCFunction)comm_abort, METH_O,
     "abort($self, reason, /)\n--\n\nFail everything that is pending or comes later, and tell the "
     "peers."},
    {"detach", (PyCFunction)comm_detach, METH_NOARGS,
     "detach($self)\n--\n\nGive the communicator away as a capsule; this object is closed then."},
    {"close", (PyCFunction)comm_close, METH_NOARGS,
     "close($self)\n--\n\nSay goodbye to the peers and free everything. May be called twice."},
    {NULL, NULL, 0, NULL}};

static PyTypeObject CommType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "rdmatrain._core.Comm",
    .tp_basicsize = sizeof(CommObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc =
        "Comm(rank, world, token, spin_ns=0, tuning=None, hosts=None, lazy=False, "
        "timeout=None)\n--\n\n"
        "A rank's end of a group. tuning: changes to the default table, see TUNING. hosts: a "
        "number for the host of each rank, None when all are on one. lazy: peers over tcp and "
        "verbs are connected when they are first needed. timeout: seconds of its operations, in "
        "general: "
        "of whoever is needed to join, and a bound of what a NIC retries for.",
    .tp_new = comm_new,
    .tp_dealloc = (destructor)comm_dealloc,
    .tp_methods = comm_methods,
};

/* -- Work -- */

static PyObject *work_wait(WorkObject *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"timeout", NULL};
    PyObject *timeout = NULL;
    uint64_t ns;
    rdt_status_t st;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O", keywords, &timeout)) return NULL;
    if (!rdt_core_to_ns(timeout, &ns)) return NULL;
    self->owner->users++;
    Py_BEGIN_ALLOW_THREADS /* the whole wait, and nothing else */
    st = rdt_work_wait(self->work, ns);
    Py_END_ALLOW_THREADS
    self->owner->users--;
    if (st == RDT_WAIT_TIMEOUT) return raise_status(st, rdt_last_error());
    if (st != RDT_OK) return raise_status(st, rdt_work_text(self->work));
    Py_RETURN_NONE;
}

static PyObject *work_done(WorkObject *self, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(rdt_work_test(self->work) != RDT_AGAIN);
}

/* The buffers are lent until the work is over, so a work that is dropped is waited for; its timeout
 * bounds that. */
static void work_dealloc(WorkObject *self)
{
    if (self->work != NULL) {
        self->owner->users++;
        Py_BEGIN_ALLOW_THREADS
        rdt_work_wait(self->work, RDT_NO_TIMEOUT);
        rdt_work_free(self->work);
        Py_END_ALLOW_THREADS
        self->owner->users--;
    }
    rdt_core_release(&self->buffers);
    Py_XDECREF(self->owner);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *work_peer(WorkObject *self, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLong(rdt_work_peer(self->work));
}

static PyMethodDef work_methods[] = {
    {"wait", (PyCFunction)(void (*)(void))work_wait, METH_VARARGS | METH_KEYWORDS,
     "wait($self, timeout=None)\n--\n\nDrive the communicator until the work is over, at most "
     "timeout "
     "seconds.\n\nRaises CommError, or CommTimeoutError when the wait itself ran out."},
    {"done", (PyCFunction)work_done, METH_NOARGS,
     "done($self)\n--\n\nWhether the work is over, well or not."},
    {"peer", (PyCFunction)work_peer, METH_NOARGS,
     "peer($self)\n--\n\nThe root, or the other rank; of a recv from any rank that is done, the "
     "sender."},
    {NULL, NULL, 0, NULL}};

static PyTypeObject WorkType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "rdmatrain._core.Work",
    .tp_basicsize = sizeof(WorkObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "A posted operation. It holds its buffers until it is over.",
    .tp_dealloc = (destructor)work_dealloc,
    .tp_methods = work_methods,
};

/* -- module -- */

static PyObject *peer_user(PyObject *Py_UNUSED(module), PyObject *arg)
{
    int sock = PyObject_AsFileDescriptor(arg);
    uid_t user;

    if (sock < 0) return NULL;
    errno = rdt_peer_user(sock, &user);
    if (errno != 0) return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromUnsignedLong(user);
}

static PyMethodDef core_functions[] = {
    {"check_tuning", rdt_core_check_tuning, METH_O,
     "check_tuning(changes, /)\n--\n\nRaise ValueError where the table would not be usable."},
    {"default_tuning", rdt_core_default_tuning, METH_VARARGS,
     "default_tuning(world, hosts=1, verbs_mbit=0, /)\n--\n\nThe tuning table for a group of world "
     "ranks on so many hosts, by name; where verbs joins them all, with what each carries in "
     "Mbit/s."},
    {"collective_ways", rdt_core_collective_ways, METH_VARARGS,
     "collective_ways(coll, world, hosts, nbytes, changes, /)\n--\n\nEach way of a collective of "
     "ranks that are spread evenly over hosts: its name, its cost in ns (None where it does not "
     "fit), and whether it is the one that is taken. nbytes: of each rank; of an all_gather those "
     "that it has, of a reduce_scatter those that it gets."},
    {"peer_user", peer_user, METH_O,
     "peer_user(sock, /)\n--\n\nThe user id behind the other end of a TCP connection on loopback. "
     "Raises OSError where that end is closed, or the kernel does not tell."},
    {NULL, NULL, 0, NULL}};

static PyObject *status_table(void)
{
    PyObject *table = PyDict_New();

#define ADD(name, value, scope, text)                                                    \
    if (table != NULL) {                                                                 \
        PyObject *row = Py_BuildValue("(iss)", (value), #scope, text);                   \
                                                                                         \
        if (row == NULL || PyDict_SetItemString(table, #name, row) < 0) Py_CLEAR(table); \
        Py_XDECREF(row);                                                                 \
    }
    RDT_STATUS_TABLE(ADD)
#undef ADD
    return table;
}

/* Steals value. */
static int add(PyObject *module, const char *name, PyObject *value)
{
    int failed = value == NULL || PyModule_AddObjectRef(module, name, value) < 0;

    Py_XDECREF(value);
    return failed;
}

static int add_types(PyObject *module)
{
    return PyType_Ready(&CommType) < 0 || PyType_Ready(&WorkType) < 0 ||
           add(module, "Comm", Py_NewRef(&CommType)) || add(module, "Work", Py_NewRef(&WorkType));
}

static int add_values(PyObject *module)
{
    return add(module, "TORCH_MINOR", PyUnicode_FromString(RDT_TORCH_MINOR)) ||
           add(module, "TUNING", rdt_core_tuning_texts()) ||
           add(module, "STATUSES", status_table()) ||
           add(module, "DTYPES", names(rdt_core_dtype_name, RDT_NUM_DTYPES)) ||
           add(module, "REDOPS", names(rdt_core_redop_name, RDT_NUM_REDOPS)) ||
           add(module, "COLLS", names(rdt_core_coll_name, RDT_REFUSED)) ||
           add(module, "ANY_PEER", PyLong_FromUnsignedLong(RDT_ANY_PEER));
}

static PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "rdmatrain._core",
    .m_doc = "The C core: communicators over shm and tcp, without torch.",
    .m_size = -1,
    .m_methods = core_functions,
};

PyMODINIT_FUNC PyInit__core(void); /* found by its name, so no header declares it */

PyMODINIT_FUNC PyInit__core(void)
{
    PyObject *module = PyModule_Create(&core_module);

    if (module != NULL && (add_types(module) || add_values(module) || rdt_core_add_arena(module) ||
                           rdt_core_add_recorder(module) || rdt_core_add_schedule(module) ||
                           rdt_core_add_verbs(module) || rdt_core_add_pair(module)))
        Py_CLEAR(module);
    return module;
}
