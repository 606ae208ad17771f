/* SPDX-License-Identifier: Apache-2.0 */
/* Where one way of running a collective takes over from another, as a table: sizes in bytes, and what
 * the cost model of groups on several hosts (coll/cost.h) reckons with. */
#ifndef RDMATRAIN_TUNING_H
#define RDMATRAIN_TUNING_H

#include <stdbool.h>
#include <stdint.h>

#include "rdmatrain/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* name, what it means. */
#define RDT_TUNING_TABLE(X)                                                                        \
    X(one_shot, "all_reduce up to here goes to all ranks in one exchange; beyond, by shards")      \
    X(direct, "from here on, tensors in an arena are read and written in place, not in messages")  \
    X(place,                                                                                       \
      "from here on, data for another host goes straight into the receiver's tensor, which "       \
      "says where first")                                                                          \
    X(scatter, "a broadcast in messages from here on goes in parts, which receivers pass on")      \
    X(stream_from, "messages to ranks of this host go past the caches from here on,")              \
    X(stream_to, "up to here; smaller ones are faster in a cache, larger ones are tried out")      \
    X(bypass, "an operation that writes this much to memory it has not read goes past the caches") \
    X(chunk, "the largest message, and the room of a slot; a multiple of 64")                      \
    X(block, "what is reduced from all tensors before it is stored to all, while in a core's "     \
             "cache")                                                                              \
    X(way, "collectives on several hosts, where it fits: 0 what costs least, 1 flat, 2 by_host, "  \
           "3 gather, 4 halving")                                                                  \
    X(host_latency, "ns: an exchange between ranks of a host,")                                    \
    X(host_message, "ns: and for each message that a rank sends in it")                            \
    X(host_bandwidth, "MB/s: of each rank, to and from the memory of its host")                    \
    X(net_latency, "ns: an exchange between hosts,")                                               \
    X(net_message, "ns: and for each message that a rank sends in it")                             \
    X(net_bandwidth, "MB/s: of each host")

#define RDT_TUNING_FIELD(name, text) uint64_t name;
typedef struct rdt_tuning {
    RDT_TUNING_TABLE(RDT_TUNING_FIELD)
} rdt_tuning_t;
#undef RDT_TUNING_FIELD

/* For a group of world ranks on one host; benchmarks/tune.py measures where they lie. What net_* says is
 * of tcp over 10 Gbit/s. Any thread. */
RDT_API rdt_tuning_t rdt_tuning_default(uint32_t world);
/* Where tcp joins some of the hosts. Any thread. */
RDT_API void rdt_tuning_tcp(rdt_tuning_t *tuning);
/* Where verbs joins every pair of hosts of a group of world ranks, and the ports of a host carry so much
 * together: net_* say what it costs, and one_shot is its own. Any thread. */
RDT_API void rdt_tuning_verbs(rdt_tuning_t *tuning, uint32_t world, uint64_t mbit_per_s);
/* BAD_ARG, naming the field. */
RDT_API rdt_status_t rdt_tuning_check(const rdt_tuning_t *tuning);

#define RDT_NUM_WAYS 4

#ifdef __cplusplus
}
#endif

#endif
