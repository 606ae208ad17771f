/* SPDX-License-Identifier: Apache-2.0 */
/* The tuning table as Python sees it, dicts from name to value; and the hosts of ranks. */
#ifndef RDT_BIND_CORE_TUNING_H
#define RDT_BIND_CORE_TUNING_H

#include <Python.h>
#include <stdbool.h>

#include "rdmatrain/tuning.h"

/* Takes the changes, a dict or None or NULL, into the table; false with an exception set. */
bool rdt_core_tune(rdt_tuning_t *tuning, PyObject *changes);
/* What each name means. */
PyObject *rdt_core_tuning_texts(void);
/* None, or a ValueError that names what is wrong. */
PyObject *rdt_core_check_tuning(PyObject *module, PyObject *changes);
PyObject *rdt_core_default_tuning(PyObject *module, PyObject *args);
/* What each way of a collective on several hosts costs, and which one is taken. */
PyObject *rdt_core_collective_ways(PyObject *module, PyObject *args);
/* hosts_p gets the number of each rank's host, to be freed by PyMem_Free, or NULL for None. False with
 * an exception set. */
bool rdt_core_to_hosts(PyObject *hosts, uint32_t world, uint32_t **hosts_p);

#endif
