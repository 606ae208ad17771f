/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/error.h"
#include "check.h"
#include "rdmatrain/types.h"

static void names_texts_and_scopes_come_from_the_table(void)
{
#define ROW(name, value, scope, text)                                                          \
    CHECK_EQ(RDT_##name, value);                                                               \
    CHECK(strcmp(rdt_status_name(RDT_##name), #name) == 0, "%s", rdt_status_name(RDT_##name)); \
    CHECK(strcmp(rdt_status_text(RDT_##name), text) == 0, "%s", rdt_status_text(RDT_##name));  \
    CHECK(strcmp(rdt_status_scope(RDT_##name), #scope) == 0, "%s", rdt_status_scope(RDT_##name));
    RDT_STATUS_TABLE(ROW)
#undef ROW
    CHECK(strcmp(rdt_status_name((rdt_status_t)-999), "UNKNOWN") == 0, "unknown status has a name");
}

static void the_range_of_a_status_tells_its_scope(void)
{
#define ROW(name, value, scope, text)                    \
    CHECK(strcmp(#scope, (value) >= 0    ? "NONE"        \
                         : (value) > -20 ? "CALL"        \
                         : (value) > -40 ? "EP"          \
                                         : "COMM") == 0, \
          "%s", #name);
    RDT_STATUS_TABLE(ROW)
#undef ROW
}

static void dtypes_have_the_sizes_of_their_c_types(void)
{
    CHECK_EQ(rdt_dtype_bytes(RDT_F16), 2);
    CHECK_EQ(rdt_dtype_bytes(RDT_BF16), 2);
    CHECK_EQ(rdt_dtype_bytes(RDT_F32), sizeof(float));
    CHECK_EQ(rdt_dtype_bytes(RDT_F64), sizeof(double));
    CHECK_EQ(rdt_dtype_bytes(RDT_I8), 1);
    CHECK_EQ(rdt_dtype_bytes(RDT_U64), 8);
    CHECK_EQ(rdt_dtype_bytes(RDT_NUM_DTYPES), 0);
    CHECK(strcmp(rdt_dtype_name(RDT_NUM_DTYPES), "unknown") == 0, "name out of range");
    CHECK(strcmp(rdt_redop_name((rdt_redop_t)-1), "unknown") == 0, "name out of range");
}

static void the_last_error_is_what_the_last_failure_said(void)
{
    char longer[2 * RDT_ERROR_BYTES];

    CHECK_EQ(rdt_fail(RDT_IO_ERROR, "device %d", 7), RDT_IO_ERROR);
    CHECK(strcmp(rdt_last_error(), "device 7") == 0, "%s", rdt_last_error());
    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    rdt_fail(RDT_IO_ERROR, "%s", longer);
    CHECK_EQ(strlen(rdt_last_error()), RDT_ERROR_BYTES - 1);
}

int main(void)
{
    names_texts_and_scopes_come_from_the_table();
    the_range_of_a_status_tells_its_scope();
    dtypes_have_the_sizes_of_their_c_types();
    the_last_error_is_what_the_last_failure_said();
    return 0;
}
