/* SPDX-License-Identifier: Apache-2.0 */
#define PY_SSIZE_T_CLEAN
#include "bind/core_call.h"

#define MAX_DIMS 64

/* -- numbers -- */

int rdt_core_to_ns(PyObject *seconds, uint64_t *ns_p)
{
    double value;

    if (seconds == NULL || seconds == Py_None) {
        *ns_p = RDT_NO_TIMEOUT;
        return 1;
    }
    value = PyFloat_AsDouble(seconds);
    if (value == -1.0 && PyErr_Occurred()) return 0;
    if (!(value >= 0)) {
        PyErr_SetString(PyExc_ValueError, "timeout must be a number of seconds >= 0, or None");
        return 0;
    }
    *ns_p = value < 1e9 ? (uint64_t)(value * 1e9) : RDT_NO_TIMEOUT;
    return 1;
}

int rdt_core_to_u32(PyObject *obj, void *value_p)
{
    long long value = PyLong_AsLongLong(obj);

    if (value == -1 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) return 0;
        PyErr_Clear();
    }
    if (value < 0 || value > UINT32_MAX) {
        PyErr_Format(PyExc_ValueError, "%R is not between 0 and %u", obj, UINT32_MAX);
        return 0;
    }
    *(uint32_t *)value_p = (uint32_t)value;
    return 1;
}

/* num numbers of a sequence, which is None or missing for none of them. False with an exception set. */
static int to_numbers(PyObject *sequence, const char *what, int64_t *numbers, Py_ssize_t num)
{
    for (Py_ssize_t i = 0; i < num; i++) {
        PyObject *item = PySequence_GetItem(sequence, i);

        numbers[i] = item != NULL ? PyLong_AsLongLong(item) : -1;
        Py_XDECREF(item);
        if (numbers[i] >= 0) continue;
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "%s: %lld is less than 0", what, (long long)numbers[i]);
        return 0;
    }
    return 1;
}

static int is_given(PyObject *obj)
{
    return obj != NULL && obj != Py_None;
}

static int to_shape(PyObject *dims, rdt_shape_t *shape_p)
{
    int64_t numbers[MAX_DIMS];
    Py_ssize_t num;

    if (!is_given(dims)) return 1;
    num = PySequence_Size(dims);
    if (num > MAX_DIMS) PyErr_Format(PyExc_ValueError, "shape has more than %d numbers", MAX_DIMS);
    if (num < 0 || num > MAX_DIMS || !to_numbers(dims, "shape", numbers, num)) return 0;
    *shape_p = rdt_shape_pack(numbers, (size_t)num);
    return 1;
}

/* One count for each rank. */
static int to_counts(PyObject *counts, const char *what, uint64_t *numbers, uint32_t world)
{
    Py_ssize_t num = PySequence_Size(counts);

    if (num == (Py_ssize_t)world) return to_numbers(counts, what, (int64_t *)numbers, num);
    if (num >= 0)
        PyErr_Format(PyExc_ValueError, "%s must have one number for each of %u ranks", what, world);
    return 0;
}

/* -- names -- */

static int find_name(const char *what, const char *name, const char *(*name_of)(int), int num)
{
    for (int i = 0; i < num; i++)
        if (strcmp(name_of(i), name) == 0) return i;
    PyErr_Format(PyExc_ValueError, "unknown %s \"%s\"", what, name);
    return -1;
}

const char *rdt_core_dtype_name(int i)
{
    return rdt_dtype_name((rdt_dtype_t)i);
}

const char *rdt_core_redop_name(int i)
{
    return rdt_redop_name((rdt_redop_t)i);
}

const char *rdt_core_coll_name(int i)
{
    return rdt_coll_name((rdt_coll_t)i);
}

int rdt_core_find_coll(const char *name)
{
    return find_name("operation", name, rdt_core_coll_name, RDT_REFUSED);
}

static int to_kind(const char *coll, const char *dtype, const char *op, rdt_call_t *call)
{
    int c = rdt_core_find_coll(coll), d, o;

    d = c < 0 ? -1 : find_name("dtype", dtype, rdt_core_dtype_name, RDT_NUM_DTYPES);
    o = d < 0 ? -1 : find_name("reduction", op, rdt_core_redop_name, RDT_NUM_REDOPS);
    if (o < 0) return 0;
    call->coll = (rdt_coll_t)c;
    call->dtype = (rdt_dtype_t)d;
    call->op = (rdt_redop_t)o;
    return 1;
}

/* -- buffers -- */

/* What an operation has: nothing, a tensor, a shard for each rank; on all ranks or on the root. */
typedef enum part { NONE, ONE, SHARDS, ROOT_ONE, ROOT_SHARDS } part_t;

static const struct {
    uint8_t in, out;
} parts[] = {[RDT_ALL_REDUCE] = {ONE, ONE},
             [RDT_REDUCE] = {ONE, ROOT_ONE},
             [RDT_BROADCAST] = {NONE, ONE},
             [RDT_ALL_GATHER] = {ONE, SHARDS},
             [RDT_GATHER] = {ONE, ROOT_SHARDS},
             [RDT_SCATTER] = {ROOT_SHARDS, ONE},
             [RDT_REDUCE_SCATTER] = {SHARDS, ONE},
             [RDT_ALL_TO_ALL] = {SHARDS, SHARDS},
             [RDT_BARRIER] = {NONE, NONE},
             [RDT_SEND] = {ONE, NONE},
             [RDT_RECV] = {NONE, ONE}};

static part_t part_of(uint8_t part, bool is_root)
{
    if (part == ROOT_ONE) return is_root ? ONE : NONE;
    if (part == ROOT_SHARDS) return is_root ? SHARDS : NONE;
    return (part_t)part;
}

typedef struct side {
    part_t part;
    const Py_buffer *view;
    const uint64_t *counts; /* NULL where shards are equal */
    uint32_t rank, world;
} side_t;

static int fail_counts(const rdt_call_t *call, const side_t *side)
{
    PyErr_Format(PyExc_ValueError,
                 "%s: a buffer of %zd bytes does not have the counts' elements of %s",
                 rdt_coll_name(call->coll), side->view->len, rdt_dtype_name(call->dtype));
    return 0;
}

/* Elements of the call as this buffer has them. False with an exception set. */
static int count_elements(const rdt_call_t *call, const side_t *side, uint64_t *count_p)
{
    size_t unit = rdt_dtype_bytes(call->dtype), shards = side->part == SHARDS ? side->world : 1;

    if (side->part == SHARDS && side->counts != NULL) {
        uint64_t left = (size_t)side->view->len; /* counted down, since a sum might wrap */

        *count_p = side->counts[side->rank];
        for (uint32_t r = 0; r < side->world; r++) {
            if (side->counts[r] > left / unit) return fail_counts(call, side);
            left -= side->counts[r] * unit;
        }
        return left == 0 || fail_counts(call, side);
    }
    *count_p = (size_t)side->view->len / (unit * shards);
    if ((size_t)side->view->len % (unit * shards) == 0) return 1;
    PyErr_Format(PyExc_ValueError, "%s: a buffer of %zd bytes is not %zu shards of %s",
                 rdt_coll_name(call->coll), side->view->len, shards, rdt_dtype_name(call->dtype));
    return 0;
}

static int check_presence(const rdt_call_t *call, const side_t *in, const side_t *out)
{
    if ((in->part != NONE) == (in->view->obj != NULL) &&
        (out->part != NONE) == (out->view->obj != NULL))
        return 1;
    PyErr_Format(PyExc_ValueError, "%s takes %s and %s", rdt_coll_name(call->coll),
                 in->part != NONE ? "an input" : "no input",
                 out->part != NONE ? "an output" : "no output");
    return 0;
}

/* The count that both sides agree on. False with an exception set. */
static int check_sides(rdt_call_t *call, const side_t *in, const side_t *out)
{
    uint64_t num_in = 0, num_out = 0;

    if (!check_presence(call, in, out)) return 0;
    if (in->part != NONE && !count_elements(call, in, &num_in)) return 0;
    if (out->part != NONE && !count_elements(call, out, &num_out)) return 0;
    call->count = in->part != NONE ? num_in : num_out;
    if (in->part == NONE || out->part == NONE || num_in == num_out) return 1;
    PyErr_Format(PyExc_ValueError, "%s over %u ranks: %zd bytes in, %zd bytes out",
                 rdt_coll_name(call->coll), in->world, in->view->len, out->view->len);
    return 0;
}

/* Fills in the pointers and the count. False with an exception set. */
static int check_buffers(rdt_call_t *call, const rdt_core_buffers_t *buffers, uint32_t rank,
                         uint32_t world)
{
    side_t in = {part_of(parts[call->coll].in, call->peer == rank), &buffers->in, call->in_counts,
                 rank, world};
    side_t out = {part_of(parts[call->coll].out, call->peer == rank), &buffers->out,
                  call->out_counts, rank, world};
    bool in_place = (call->coll == RDT_ALL_REDUCE || call->coll == RDT_REDUCE) &&
                    buffers->in.obj == NULL && out.part != NONE;

    if (in_place) in.part = NONE;
    call->in = in_place ? buffers->out.buf : buffers->in.buf;
    call->out = buffers->out.buf;
    return check_sides(call, &in, &out);
}

static int get_buffer(PyObject *obj, Py_buffer *view, int flags)
{
    return !is_given(obj) || PyObject_GetBuffer(obj, view, flags) == 0;
}

static int get_counts(PyObject *in, PyObject *out, uint32_t world, rdt_core_buffers_t *buffers,
                      rdt_call_t *call)
{
    if (!is_given(in) && !is_given(out)) return 1;
    buffers->counts = PyMem_Calloc((size_t)world * 2, sizeof(uint64_t));
    if (buffers->counts == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    if (is_given(in)) call->in_counts = buffers->counts;
    if (is_given(out)) call->out_counts = buffers->counts + world;
    return (!is_given(in) || to_counts(in, "in_counts", buffers->counts, world)) &&
           (!is_given(out) || to_counts(out, "out_counts", buffers->counts + world, world));
}

int rdt_core_parse_call(rdt_core_args_t from, uint32_t rank, uint32_t world,
                        rdt_core_buffers_t *buffers, rdt_call_t *call)
{
    static char *keywords[] = {"coll",       "dtype",   "op",         "in_",   "out",
                               "peer",       "tag",     "factor",     "shape", "in_counts",
                               "out_counts", "timeout", "background", NULL};
    const char *coll, *dtype = "uint8", *op = "SUM";
    PyObject *in = NULL, *out = NULL, *shape = NULL, *in_counts = NULL, *out_counts = NULL;
    PyObject *timeout = NULL;
    int background = 0;

    if (!PyArg_ParseTupleAndKeywords(from.args, from.kwargs, "s|ss$OOO&idOOOOp", keywords, &coll,
                                     &dtype, &op, &in, &out, rdt_core_to_u32, &call->peer,
                                     &call->tag, &call->factor, &shape, &in_counts, &out_counts,
                                     &timeout, &background))
        return 0;
    if (!to_kind(coll, dtype, op, call) || !rdt_core_to_ns(timeout, &call->timeout_ns) ||
        !to_shape(shape, &call->shape) || !get_counts(in_counts, out_counts, world, buffers, call))
        return 0;
    call->background = background;
    return get_buffer(in, &buffers->in, PyBUF_C_CONTIGUOUS) &&
           get_buffer(out, &buffers->out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) &&
           check_buffers(call, buffers, rank, world);
}

void rdt_core_release(rdt_core_buffers_t *buffers)
{
    if (buffers->in.obj != NULL) PyBuffer_Release(&buffers->in);
    if (buffers->out.obj != NULL) PyBuffer_Release(&buffers->out);
    PyMem_Free(buffers->counts);
}
