/* SPDX-License-Identifier: Apache-2.0 */
/* From Python's arguments to an rdt_call_t. */
#ifndef RDT_BIND_CORE_CALL_H
#define RDT_BIND_CORE_CALL_H

#include <Python.h>

#include "rdmatrain/coll.h"

/* What a call borrows from Python, for as long as its work runs. */
typedef struct rdt_core_buffers {
    Py_buffer in, out; /* obj == NULL where not used */
    uint64_t *counts;  /* of the shards of in, then of out; or NULL */
} rdt_core_buffers_t;

/* Seconds to nanoseconds: None is no limit. False with an exception set. */
int rdt_core_to_ns(PyObject *seconds, uint64_t *ns_p);
/* An O& converter: "I" of PyArg_Parse would take numbers modulo 2^32. */
int rdt_core_to_u32(PyObject *obj, void *value_p);

/* Of the i-th value of the enum. */
const char *rdt_core_dtype_name(int i);
const char *rdt_core_redop_name(int i);
const char *rdt_core_coll_name(int i);
/* A collective, or send or recv; -1 with an exception set. */
int rdt_core_find_coll(const char *name);

typedef struct rdt_core_args {
    PyObject *args, *kwargs;
} rdt_core_args_t;

/* The arguments of Comm.post on that rank. False with an exception set; release in any case. */
int rdt_core_parse_call(rdt_core_args_t from, uint32_t rank, uint32_t world,
                        rdt_core_buffers_t *buffers, rdt_call_t *call);
void rdt_core_release(rdt_core_buffers_t *buffers);

#endif
