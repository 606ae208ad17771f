/* SPDX-License-Identifier: Apache-2.0 */
#include "rdmatrain/tuning.h"

#include "base/error.h"
#include "coll/cost.h"
#include "rdmatrain/transport.h"
#include "reduce/copy.h"

#define MAX_CHUNK_BYTES (64u << 20)

rdt_tuning_t rdt_tuning_default(uint32_t world)
{
    const uint32_t peers = world > 1 ? world - 1 : 1;

    /* By benchmarks/tune.py, 2 and 4 ranks on AMD EPYC (Zen 4). */
    return (rdt_tuning_t){
        .one_shot = (24u << 10) / peers, /* each rank sends it to all the others */
        .direct = 8u << 10,
        .place = 64u << 10,
        .scatter = 4u << 20,
        .stream_from = 2u << 10,
        .stream_to = 64u << 10,
        .bypass = 2 * rdt_copy_stream_bytes() / (peers + 1), /* the ranks share the last cache */
        .chunk = 128u << 10,
        .block = 16u << 10,
        .host_latency = 1500,
        .host_message = 200,
        .host_bandwidth = 8000,
        .net_latency = 25000, /* of tcp; see rdt_tuning_verbs */
        .net_message = 4000,
        .net_bandwidth = 1200, /* of 10 Gbit/s */
    };
}

void rdt_tuning_tcp(rdt_tuning_t *tuning)
{
    /* What a message costs shows beside the system's copies: by benchmarks/two_hosts.py all_reduces of 16
     * and 64 MiB are 5 to 20 % faster, and smaller ones as fast. 8 MiB of slots a pair. */
    tuning->chunk = 512u << 10;
}

void rdt_tuning_verbs(rdt_tuning_t *tuning, uint32_t world, uint64_t mbit_per_s)
{
    /* Of two ranks, each sends as much either way, and saves an exchange; but reduces twice as much. Over
     * soft-RoCE 5 to 10 % faster from 32 to 128 KiB. */
    if (world == 2) tuning->one_shot = 64u << 10;
    /* What an exchange in memory takes, and a WRITE's way: 0.6 us between ports (what UCX reckons with,
     * EDR to NDR), 0.82 us with the work at its ends (RC, 32 bytes), and a switch. */
    tuning->net_latency = 2500;
    tuning->net_message = 400; /* as in memory, and, by estimate, as much to post and complete */
    tuning->net_bandwidth = mbit_per_s / 8 * 98 / 100; /* ib_write_bw: 392 of 400, 97.5 of 100 */
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
    if (tuning->way > RDT_NUM_WAYS)
        return rdt_fail(RDT_BAD_ARG, "tuning: way=%llu is not between 0 and %d",
                        (unsigned long long)tuning->way, RDT_NUM_WAYS);
    if (tuning->host_bandwidth == 0 || tuning->net_bandwidth == 0)
        return rdt_fail(RDT_BAD_ARG, "tuning: %s=0 is no bandwidth: give MB/s",
                        tuning->host_bandwidth == 0 ? "host_bandwidth" : "net_bandwidth");
    return RDT_OK;
}
