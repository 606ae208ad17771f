/* SPDX-License-Identifier: Apache-2.0 */
/* Pairs in rdmatrain._core. */
#ifndef RDT_BIND_CORE_PAIR_H
#define RDT_BIND_CORE_PAIR_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Adds Pair. 0, or -1 with an exception set. */
int rdt_core_add_pair(PyObject *module);

#endif
