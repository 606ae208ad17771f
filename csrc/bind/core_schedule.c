/* SPDX-License-Identifier: Apache-2.0 */
#define PY_SSIZE_T_CLEAN
#include "bind/core_schedule.h"

#include "bind/core_call.h"
#include "bind/core_error.h"
#include "bind/core_tuning.h"
#include "rdmatrain/schedule.h"

/* arg: the list to append to; once an exception is set, nothing more is. */
static void append_sends(void *arg, const rdt_sends_t *sends)
{
    const Py_ssize_t num = sends->num;
    PyObject *item;

    if (PyErr_Occurred()) return;
    item = Py_BuildValue("IOOy#y#y#", sends->stage, sends->is_result ? Py_True : Py_False,
                         sends->is_reduced ? Py_True : Py_False, sends->to,
                         num * (Py_ssize_t)sizeof(*sends->to), sends->bytes,
                         num * (Py_ssize_t)sizeof(*sends->bytes), sends->messages,
                         num * (Py_ssize_t)sizeof(*sends->messages));
    if (item != NULL) PyList_Append(arg, item);
    Py_XDECREF(item);
}

static PyObject *all_reduce_sends(PyObject *Py_UNUSED(module), PyObject *args)
{
    rdt_tuning_t tuning;
    rdt_schedule_t schedule = {.tuning = &tuning, .dtype = RDT_F32};
    uint32_t rank;
    unsigned long long count;
    PyObject *changes, *list;
    rdt_status_t status;

    if (!PyArg_ParseTuple(args, "O&O&O&KO", rdt_core_to_u32, &schedule.world, rdt_core_to_u32,
                          &schedule.num_hosts, rdt_core_to_u32, &rank, &count, &changes))
        return NULL;
    schedule.count = count;
    tuning = rdt_tuning_default(schedule.world);
    if (!rdt_core_tune(&tuning, changes)) return NULL;
    list = PyList_New(0);
    if (list == NULL) return NULL;
    status = rdt_schedule_all_reduce(&schedule, rank, append_sends, list);
    if (status != RDT_OK) rdt_core_raise(status, rdt_last_error());
    if (PyErr_Occurred()) Py_CLEAR(list);
    return list;
}

static PyMethodDef functions[] = {
    {"all_reduce_sends", all_reduce_sends, METH_VARARGS,
     "all_reduce_sends(world, hosts, rank, count, changes, /)\n--\n\nWhat the plan of an "
     "all_reduce "
     "of count float32 makes the rank send: for each stage and stream (stage, is_result, "
     "is_reduced, to, bytes, messages); the last three are arrays of uint32, uint64 and uint32."},
    {NULL, NULL, 0, NULL}};

int rdt_core_add_schedule(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
