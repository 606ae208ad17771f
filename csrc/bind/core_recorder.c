/* SPDX-License-Identifier: Apache-2.0 */
#include "bind/core_recorder.h"

#include <string.h>

#include "rdmatrain/recorder.h"

static PyObject *shape_of(const rdt_record_t *record)
{
    int64_t dims[RDT_SHAPE_MAX_DIMS];
    size_t num_dims;
    PyObject *shape;

    if (!rdt_shape_unpack(&record->shape, dims, &num_dims)) Py_RETURN_NONE;
    shape = PyTuple_New((Py_ssize_t)num_dims);
    for (size_t i = 0; shape != NULL && i < num_dims; i++) {
        PyObject *dim = PyLong_FromLongLong(dims[i]);

        if (dim == NULL)
            Py_CLEAR(shape);
        else
            PyTuple_SET_ITEM(shape, (Py_ssize_t)i, dim);
    }
    return shape;
}

/* The fields of rdmatrain.comm.recorder.Record. */
static PyObject *tuple_of(const rdt_record_t *record)
{
    PyObject *shape = shape_of(record);
    unsigned long long timeout_ns = record->timeout_ns == RDT_NO_TIMEOUT ? 0 : record->timeout_ns;
    const char *status = record->over_ns != 0 ? rdt_status_name(record->status) : NULL;

    if (shape == NULL) return NULL;
    return Py_BuildValue("KIsssIiNKKNKKKKKz", (unsigned long long)record->id, record->comm,
                         rdt_coll_name(record->coll), rdt_dtype_name(record->dtype),
                         rdt_redop_name(record->op), record->peer, record->tag, shape,
                         (unsigned long long)record->in_count,
                         (unsigned long long)record->out_count, PyBool_FromLong(record->uneven),
                         (unsigned long long)record->seq, (unsigned long long)record->created_ns,
                         (unsigned long long)record->started_ns,
                         (unsigned long long)record->over_ns, timeout_ns, status);
}

PyObject *rdt_core_records(uint32_t comm)
{
    rdt_record_t *records = PyMem_Calloc(rdt_recorder_size() + 1, sizeof(*records));
    PyObject *list = PyList_New(0);
    size_t num = records != NULL ? rdt_recorder_read(records) : 0;

    if (records == NULL) PyErr_NoMemory();
    if (records == NULL) Py_CLEAR(list);
    for (size_t i = 0; list != NULL && i < num; i++) {
        PyObject *tuple;

        if (comm != 0 && records[i].comm != comm) continue;
        tuple = tuple_of(&records[i]);
        if (tuple == NULL || PyList_Append(list, tuple) < 0) Py_CLEAR(list);
        Py_XDECREF(tuple);
    }
    PyMem_Free(records);
    return list;
}

static PyObject *raise_value_error(void)
{
    PyErr_SetString(PyExc_ValueError, rdt_last_error());
    return NULL;
}

static PyObject *recorder_open(PyObject *Py_UNUSED(module), PyObject *arg)
{
    unsigned long num = PyLong_AsUnsignedLong(arg);
    rdt_status_t st;

    if (num == (unsigned long)-1 && PyErr_Occurred()) return NULL;
    st = rdt_recorder_open(num < UINT32_MAX ? (uint32_t)num : UINT32_MAX);
    if (st == RDT_NO_MEMORY) return PyErr_NoMemory();
    if (st != RDT_OK) return raise_value_error();
    Py_RETURN_NONE;
}

static PyObject *recorder_read(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    return rdt_core_records(0);
}

static PyObject *recorder_waiting(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    rdt_record_t record;

    if (!rdt_recorder_waiting(&record)) Py_RETURN_NONE;
    return tuple_of(&record);
}

static PyObject *recorder_events(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    char text[512];
    rdt_recorder_events_t events = rdt_recorder_events(text, sizeof(text));
    PyObject *error = PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");

    if (error == NULL) return NULL;
    return Py_BuildValue("IIN", events.errors, events.signals, error);
}

static PyObject *recorder_notify(PyObject *Py_UNUSED(module), PyObject *arg)
{
    long fd = PyLong_AsLong(arg);

    if (fd == -1 && PyErr_Occurred()) return NULL;
    rdt_recorder_notify((int)fd);
    Py_RETURN_NONE;
}

static PyObject *recorder_on_signal(PyObject *Py_UNUSED(module), PyObject *arg)
{
    long signum = PyLong_AsLong(arg);

    if (signum == -1 && PyErr_Occurred()) return NULL;
    if (rdt_recorder_on_signal((int)signum) != RDT_OK) return raise_value_error();
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"recorder_open", recorder_open, METH_O,
     "recorder_open($module, num_records, /)\n--\n\nMake the flight recorder's ring; the first "
     "call "
     "or communicator of a process decides. 0 records nothing.\n\nRaises ValueError above "
     "1048576."},
    {"recorder_read", recorder_read, METH_NOARGS,
     "recorder_read($module)\n--\n\nWhat all communicators of this process posted last, oldest "
     "first; see rdmatrain.comm.recorder.Record for the fields."},
    {"recorder_waiting", recorder_waiting, METH_NOARGS,
     "recorder_waiting($module)\n--\n\nThe oldest of the last 2048 operations that is not over, as "
     "recorder_read tells it; None when all are over."},
    {"recorder_events", recorder_events, METH_NOARGS,
     "recorder_events($module)\n--\n\nHow many communicators have failed and how many signals "
     "came, "
     "and the text of the last failure."},
    {"recorder_notify", recorder_notify, METH_O,
     "recorder_notify($module, fd, /)\n--\n\nLet each event be written to an eventfd; -1 for "
     "none."},
    {"recorder_on_signal", recorder_on_signal, METH_O,
     "recorder_on_signal($module, signum, /)\n--\n\nLet the signal be an event.\n\nRaises "
     "ValueError when something else handles or ignores it."},
    {NULL, NULL, 0, NULL}};

int rdt_core_add_recorder(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
