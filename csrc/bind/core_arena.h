/* SPDX-License-Identifier: Apache-2.0 */
/* The arena in rdmatrain._core. */
#ifndef RDT_BIND_CORE_ARENA_H
#define RDT_BIND_CORE_ARENA_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Adds arena_open, arena_stats and arena_buffer. 0, or -1 with an exception set. */
int rdt_core_add_arena(PyObject *module);

#endif
