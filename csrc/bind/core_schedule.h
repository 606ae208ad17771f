/* SPDX-License-Identifier: Apache-2.0 */
/* What the plans send, as Python sees it. */
#ifndef RDT_BIND_CORE_SCHEDULE_H
#define RDT_BIND_CORE_SCHEDULE_H

#include <Python.h>

/* Adds all_reduce_sends to the module; as an int for PyInit: 0, or -1 with an exception set. */
int rdt_core_add_schedule(PyObject *module);

#endif
