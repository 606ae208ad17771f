/* SPDX-License-Identifier: Apache-2.0 */
/* The flight recorder in rdmatrain._core. */
#ifndef RDT_BIND_CORE_RECORDER_H
#define RDT_BIND_CORE_RECORDER_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

/* Records as tuples, oldest first: those of one communicator, or all for 0. NULL with an exception. */
PyObject *rdt_core_records(uint32_t comm);
/* Adds recorder_open, recorder_read and so on. 0, or -1 with an exception set. */
int rdt_core_add_recorder(PyObject *module);

#endif
