/* SPDX-License-Identifier: Apache-2.0 */
/* From a failed status to an exception: one place for all of _core, core_module.c. */
#ifndef RDT_BIND_CORE_ERROR_H
#define RDT_BIND_CORE_ERROR_H

#include <Python.h>

#include "rdmatrain/status.h"

/* NULL, with the exception set. */
PyObject *rdt_core_raise(rdt_status_t status, const char *text);

#endif
