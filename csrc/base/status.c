/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>

#include "base/error.h"
#include "rdmatrain/types.h"

static _Thread_local char last_error[RDT_ERROR_BYTES];

rdt_status_t rdt_fail(rdt_status_t status, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(last_error, sizeof(last_error), fmt, args);
    va_end(args);
    return status;
}

const char *rdt_last_error(void)
{
    return last_error;
}

const char *rdt_status_name(rdt_status_t status)
{
    switch (status) {
#define CASE(name, value, scope, text) \
    case RDT_##name:                   \
        return #name;
        RDT_STATUS_TABLE(CASE)
#undef CASE
    }
    return "UNKNOWN";
}

const char *rdt_status_text(rdt_status_t status)
{
    switch (status) {
#define CASE(name, value, scope, text) \
    case RDT_##name:                   \
        return text;
        RDT_STATUS_TABLE(CASE)
#undef CASE
    }
    return "unknown status";
}

const char *rdt_status_scope(rdt_status_t status)
{
    switch (status) {
#define CASE(name, value, scope, text) \
    case RDT_##name:                   \
        return #scope;
        RDT_STATUS_TABLE(CASE)
#undef CASE
    }
    return "COMM";
}

size_t rdt_dtype_bytes(rdt_dtype_t dtype)
{
#define BYTES(name, bytes, text) bytes,
    static const unsigned char table[] = {RDT_DTYPE_TABLE(BYTES)};
#undef BYTES
    return (unsigned)dtype < RDT_NUM_DTYPES ? table[dtype] : 0;
}

const char *rdt_dtype_name(rdt_dtype_t dtype)
{
#define TEXT(name, bytes, text) text,
    static const char *const table[] = {RDT_DTYPE_TABLE(TEXT)};
#undef TEXT
    return (unsigned)dtype < RDT_NUM_DTYPES ? table[dtype] : "unknown";
}

const char *rdt_redop_name(rdt_redop_t op)
{
#define TEXT(name, text) text,
    static const char *const table[] = {RDT_REDOP_TABLE(TEXT)};
#undef TEXT
    return (unsigned)op < RDT_NUM_REDOPS ? table[op] : "unknown";
}
