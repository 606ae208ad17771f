/* SPDX-License-Identifier: Apache-2.0 */
/* RDMA devices in rdmatrain._core. */
#ifndef RDT_BIND_CORE_VERBS_H
#define RDT_BIND_CORE_VERBS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Adds rdma_devices, rdma_ports, rdma_limits, rdma_test_gid and rdma_test_register. 0, or -1 with an
 * exception set. */
int rdt_core_add_verbs(PyObject *module);

#endif
