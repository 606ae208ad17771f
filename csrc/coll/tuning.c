/* SPDX-License-Identifier: Apache-2.0 */
#include "rdmatrain/tuning.h"

#include "base/error.h"
#include "rdmatrain/transport.h"
#include "reduce/copy.h"

#define MAX_CHUNK_BYTES (64u << 20)

rdt_tuning_t rdt_tuning_default(uint32_t world)
{
    rdt_tuning_t tuning = {
        .one_shot = 32u << 10,
        .direct = 16u << 10,
        .scatter = 256u << 10,
        .stream_from = 2u << 10,
        .stream_to = 64u << 10,
        .bypass = rdt_copy_stream_bytes(),
        .chunk = 128u << 10,
        .block = 16u << 10,
    };

    if (world > 2) tuning.one_shot /= world - 1; /* each rank sends it to all the others */
    return tuning;
}

rdt_status_t rdt_tuning_check(const rdt_tuning_t *tuning)
{
    if (tuning->chunk == 0 || tuning->chunk > MAX_CHUNK_BYTES ||
        tuning->chunk % RDT_DATA_ALIGN != 0)
        return rdt_fail(
            RDT_BAD_ARG, "tuning: chunk=%llu is not a multiple of %d between %d and %u bytes",
            (unsigned long long)tuning->chunk, RDT_DATA_ALIGN, RDT_DATA_ALIGN, MAX_CHUNK_BYTES);
    if (tuning->block < RDT_DATA_ALIGN)
        return rdt_fail(RDT_BAD_ARG, "tuning: block=%llu is less than %d bytes",
                        (unsigned long long)tuning->block, RDT_DATA_ALIGN);
    return RDT_OK;
}
