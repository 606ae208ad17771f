/* SPDX-License-Identifier: Apache-2.0 */
#include "bind/core_tuning.h"

#include <stddef.h>
#include <string.h>

#include "bind/core_call.h"
#include "rdmatrain/coll.h"

#define FIELD(name, text) {#name, text, offsetof(rdt_tuning_t, name)},
static const struct {
    const char *name, *text;
    size_t offset;
} fields[] = {RDT_TUNING_TABLE(FIELD)};
#undef FIELD

#define NUM_FIELDS (sizeof(fields) / sizeof(fields[0]))

static uint64_t *field_of(rdt_tuning_t *tuning, size_t i)
{
    return (uint64_t *)((char *)tuning + fields[i].offset);
}

static bool set_field(rdt_tuning_t *tuning, const char *name, PyObject *value)
{
    unsigned long long bytes;

    for (size_t i = 0; i < NUM_FIELDS; i++) {
        if (strcmp(fields[i].name, name) != 0) continue;
        bytes = PyLong_AsUnsignedLongLong(value);
        if (bytes == (unsigned long long)-1 && PyErr_Occurred()) return false;
        *field_of(tuning, i) = bytes;
        return true;
    }
    PyErr_Format(PyExc_ValueError, "the tuning table has no \"%s\"", name);
    return false;
}

bool rdt_core_tune(rdt_tuning_t *tuning, PyObject *changes)
{
    PyObject *key, *value;
    Py_ssize_t at = 0;

    if (changes == NULL || changes == Py_None) return true;
    if (!PyDict_Check(changes)) {
        PyErr_SetString(PyExc_TypeError, "tuning must be a dict from name to value");
        return false;
    }
    while (PyDict_Next(changes, &at, &key, &value)) {
        const char *name = PyUnicode_AsUTF8(key);

        if (name == NULL || !set_field(tuning, name, value)) return false;
    }
    return true;
}

/* Steals value. */
static bool put(PyObject *dict, const char *name, PyObject *value)
{
    bool done = value != NULL && PyDict_SetItemString(dict, name, value) == 0;

    Py_XDECREF(value);
    return done;
}

PyObject *rdt_core_check_tuning(PyObject *Py_UNUSED(module), PyObject *changes)
{
    rdt_tuning_t tuning = rdt_tuning_default(1);

    if (!rdt_core_tune(&tuning, changes)) return NULL;
    if (rdt_tuning_check(&tuning) == RDT_OK) Py_RETURN_NONE;
    PyErr_SetString(PyExc_ValueError, rdt_last_error());
    return NULL;
}

PyObject *rdt_core_tuning_texts(void)
{
    PyObject *dict = PyDict_New();

    for (size_t i = 0; dict != NULL && i < NUM_FIELDS; i++)
        if (!put(dict, fields[i].name, PyUnicode_FromString(fields[i].text))) Py_CLEAR(dict);
    return dict;
}

PyObject *rdt_core_default_tuning(PyObject *Py_UNUSED(module), PyObject *args)
{
    uint32_t world, num_hosts = 1, verbs_mbit = 0;
    rdt_tuning_t tuning;
    PyObject *dict;

    if (!PyArg_ParseTuple(args, "O&|O&O&", rdt_core_to_u32, &world, rdt_core_to_u32, &num_hosts,
                          rdt_core_to_u32, &verbs_mbit))
        return NULL;
    if (world == 0 || world > RDT_MAX_WORLD)
        return PyErr_Format(PyExc_ValueError, "world size %u is not between 1 and %u", world,
                            RDT_MAX_WORLD);
    tuning = rdt_tuning_default(world);
    if (verbs_mbit > 0)
        rdt_tuning_verbs(&tuning, world, verbs_mbit);
    else if (num_hosts > 1)
        rdt_tuning_tcp(&tuning);
    dict = PyDict_New();
    for (size_t i = 0; dict != NULL && i < NUM_FIELDS; i++)
        if (!put(dict, fields[i].name, PyLong_FromUnsignedLongLong(*field_of(&tuning, i))))
            Py_CLEAR(dict);
    return dict;
}

static PyObject *way_tuple(const rdt_way_info_t *way)
{
    if (!way->fits) return Py_BuildValue("sOO", way->name, Py_None, Py_False);
    return Py_BuildValue("sKO", way->name, (unsigned long long)way->cost_ns,
                         way->chosen ? Py_True : Py_False);
}

static PyObject *ways_tuple(const rdt_way_info_t *ways)
{
    PyObject *tuple = PyTuple_New(RDT_NUM_WAYS);

    for (Py_ssize_t i = 0; tuple != NULL && i < RDT_NUM_WAYS; i++) {
        PyObject *item = way_tuple(&ways[i]);

        if (item == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, i, item);
    }
    return tuple;
}

PyObject *rdt_core_collective_ways(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *name;
    unsigned int world, num_hosts;
    unsigned long long bytes;
    PyObject *changes;
    int coll;
    rdt_way_info_t ways[RDT_NUM_WAYS];
    rdt_tuning_t tuning;

    if (!PyArg_ParseTuple(args, "sIIKO", &name, &world, &num_hosts, &bytes, &changes)) return NULL;
    coll = rdt_core_find_coll(name);
    if (coll < 0) return NULL;
    if (num_hosts == 0 || num_hosts > world || world > RDT_MAX_WORLD)
        return PyErr_Format(PyExc_ValueError, "%u ranks on %u hosts are no group", world,
                            num_hosts);
    tuning = rdt_tuning_default(world);
    if (!rdt_core_tune(&tuning, changes)) return NULL;
    if (rdt_tuning_check(&tuning) != RDT_OK)
        return PyErr_Format(PyExc_ValueError, "%s", rdt_last_error());
    rdt_coll_ways((rdt_coll_t)coll, &tuning, world, num_hosts, bytes, ways);
    return ways_tuple(ways);
}

static bool take_hosts(PyObject *hosts, uint32_t world, uint32_t *to)
{
    for (uint32_t r = 0; r < world; r++) {
        PyObject *item = PySequence_GetItem(hosts, r);
        bool is_number = item != NULL && rdt_core_to_u32(item, &to[r]);

        Py_XDECREF(item);
        if (!is_number) return false;
    }
    return true;
}

bool rdt_core_to_hosts(PyObject *hosts, uint32_t world, uint32_t **hosts_p)
{
    uint32_t *numbers;

    *hosts_p = NULL;
    if (hosts == NULL || hosts == Py_None) return true;
    if (PySequence_Size(hosts) != (Py_ssize_t)world) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "hosts must have one entry for each of %u ranks", world);
        return false;
    }
    numbers = PyMem_Calloc(world > 0 ? world : 1, sizeof(*numbers));
    if (numbers == NULL) {
        PyErr_NoMemory();
        return false;
    }
    if (!take_hosts(hosts, world, numbers)) {
        PyMem_Free(numbers);
        return false;
    }
    *hosts_p = numbers;
    return true;
}
