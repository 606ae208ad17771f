/* SPDX-License-Identifier: Apache-2.0 */
#include "bind/core_arena.h"

#include "arena/arena.h"

typedef struct {
    PyObject_HEAD
    void *addr;
    Py_ssize_t bytes;
} BufferObject;

static int buffer_get(BufferObject *self, Py_buffer *view, int flags)
{
    return PyBuffer_FillInfo(view, (PyObject *)self, self->addr, self->bytes, 0, flags);
}

static void buffer_dealloc(BufferObject *self)
{
    rdt_arena_free(self->addr);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyBufferProcs buffer_procs = {.bf_getbuffer = (getbufferproc)buffer_get};

static PyTypeObject BufferType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "rdmatrain._core.ArenaBuffer",
    .tp_basicsize = sizeof(BufferObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "A block of the arena, freed with this object.",
    .tp_dealloc = (destructor)buffer_dealloc,
    .tp_as_buffer = &buffer_procs,
};

static PyObject *arena_open(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    if (rdt_arena_open() == RDT_OK) Py_RETURN_NONE;
    PyErr_SetString(PyExc_MemoryError, rdt_last_error());
    return NULL;
}

static PyObject *arena_buffer(PyObject *Py_UNUSED(module), PyObject *size)
{
    Py_ssize_t bytes = PyLong_AsSsize_t(size);
    BufferObject *self;
    PyObject *view;
    void *addr;

    if (bytes == -1 && PyErr_Occurred()) return NULL;
    if (bytes <= 0) return PyErr_Format(PyExc_ValueError, "a buffer of %zd bytes", bytes);
    addr = rdt_arena_alloc((size_t)bytes);
    if (addr == NULL)
        return PyErr_Format(PyExc_MemoryError, "the arena %s %zd bytes",
                            rdt_arena_is_open() ? "has no room for" : "is not open: it cannot give",
                            bytes);
    self = PyObject_New(BufferObject, &BufferType);
    if (self == NULL) {
        rdt_arena_free(addr);
        return NULL;
    }
    self->addr = addr;
    self->bytes = bytes;
    view = PyMemoryView_FromObject((PyObject *)self); /* holds self, when it is one */
    Py_DECREF(self);
    return view;
}

static PyObject *arena_stats(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    rdt_arena_stats_t stats;

    rdt_arena_get_stats(&stats);
    return Py_BuildValue("{sKsKsKsKsKsKsK}", "reserved_bytes", stats.reserved_bytes, "extent_bytes",
                         stats.extent_bytes, "in_use_bytes", stats.in_use_bytes,
                         "peak_in_use_bytes", stats.peak_in_use_bytes, "cached_bytes",
                         stats.cached_bytes, "num_blocks", stats.num_blocks, "num_refused",
                         stats.num_refused);
}

static PyObject *arena_offset(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long addr, bytes;
    uint64_t offset;

    if (!PyArg_ParseTuple(args, "KK", &addr, &bytes)) return NULL;
    if (!rdt_arena_offset((const void *)(uintptr_t)addr, (size_t)bytes, &offset)) Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(offset);
}

static PyMethodDef functions[] = {
    {"arena_open", arena_open, METH_NOARGS,
     "arena_open($module)\n--\n\nMake the arena of this process, if there is none.\n\n"
     "Raises MemoryError when there is not enough address space."},
    {"arena_buffer", arena_buffer, METH_O,
     "arena_buffer($module, nbytes, /)\n--\n\nA block of the arena, which is freed with its last "
     "view.\n\n"
     "Raises MemoryError when the arena is not open or has no room."},
    {"arena_offset", arena_offset, METH_VARARGS,
     "arena_offset($module, addr, nbytes, /)\n--\n\nWhere peers find the memory at addr, in bytes; "
     "None when some of it is out of their reach."},
    {"arena_stats", arena_stats, METH_NOARGS,
     "arena_stats($module)\n--\n\nSizes in bytes and counts; all 0 when the arena is not open."},
    {NULL, NULL, 0, NULL}};

int rdt_core_add_arena(PyObject *module)
{
    if (PyType_Ready(&BufferType) < 0) return -1;
    return PyModule_AddFunctions(module, functions);
}
