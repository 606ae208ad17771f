/* SPDX-License-Identifier: Apache-2.0 */
/* Shapes as they travel in headers: the number of dimensions + 1, then each one in base 128, the low
 * digits first, with the high bit set on all digits but the last (LEB128). Nearly every tensor's fits;
 * of the others the number of dimensions and a hash travel, so that they can be compared. */
#include <stdio.h>
#include <string.h>

#include "coll/comm.h"

#define HASHED 0xff

static rdt_shape_t hashed(const int64_t *dims, size_t num_dims)
{
    rdt_shape_t shape = {{HASHED, (uint8_t)(num_dims < 255 ? num_dims : 255)}};
    uint64_t hash = 14695981039346656037u; /* FNV-1a, by numbers */

    for (size_t i = 0; i < num_dims; i++)
        hash = (hash ^ (uint64_t)dims[i]) * 1099511628211u;
    memcpy(shape.code + 2, &hash, sizeof(hash));
    return shape;
}

rdt_shape_t rdt_shape_pack(const int64_t *dims, size_t num_dims)
{
    rdt_shape_t shape = {{(uint8_t)(num_dims + 1)}};
    size_t at = 1;

    if (num_dims >= sizeof(shape.code)) return hashed(dims, num_dims);
    for (size_t i = 0; i < num_dims; i++) {
        uint64_t left = (uint64_t)dims[i];

        for (; at < sizeof(shape.code) && left >= 128; left >>= 7)
            shape.code[at++] = (uint8_t)(left | 128);
        if (at == sizeof(shape.code)) return hashed(dims, num_dims);
        shape.code[at++] = (uint8_t)left;
    }
    return shape;
}

static uint64_t unpack(const rdt_shape_t *shape, size_t *at)
{
    uint64_t dim = 0;

    for (int shift = 0; *at < sizeof(shape->code) && shift < 63; shift += 7) {
        uint8_t digit = shape->code[(*at)++];

        dim |= (uint64_t)(digit & 127) << shift;
        if (digit < 128) break;
    }
    return dim;
}

void rdt_shape_text(const rdt_shape_t *shape, char *text)
{
    size_t num = shape->code[0], at = 1;
    int len = 0;

    text[0] = '\0';
    if (num == 0) return;
    if (num > sizeof(shape->code)) {
        uint64_t hash;

        memcpy(&hash, shape->code + 2, sizeof(hash));
        snprintf(text, RDT_SHAPE_TEXT_BYTES, "[%u dimensions, hash %016llx]", shape->code[1],
                 (unsigned long long)hash);
        return;
    }
    len = snprintf(text, RDT_SHAPE_TEXT_BYTES, "[");
    for (size_t i = 0; i + 1 < num && len < RDT_SHAPE_TEXT_BYTES; i++)
        len += snprintf(text + len, (size_t)(RDT_SHAPE_TEXT_BYTES - len), "%s%llu",
                        i > 0 ? ", " : "", (unsigned long long)unpack(shape, &at));
    if (len < RDT_SHAPE_TEXT_BYTES) snprintf(text + len, (size_t)(RDT_SHAPE_TEXT_BYTES - len), "]");
}

bool rdt_shape_unpack(const rdt_shape_t *shape, int64_t *dims, size_t *num_dims_p)
{
    size_t num = shape->code[0], at = 1;

    if (num == 0 || num > sizeof(shape->code)) return false;
    for (size_t i = 0; i + 1 < num; i++)
        dims[i] = (int64_t)unpack(shape, &at);
    *num_dims_p = num - 1;
    return true;
}
