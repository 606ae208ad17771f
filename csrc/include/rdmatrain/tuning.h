/* SPDX-License-Identifier: Apache-2.0 */
/* Where one way of running a collective takes over from another: sizes in bytes, as a table. */
#ifndef RDMATRAIN_TUNING_H
#define RDMATRAIN_TUNING_H

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
             "cache")

#define RDT_TUNING_FIELD(name, text) uint64_t name;
typedef struct rdt_tuning {
    RDT_TUNING_TABLE(RDT_TUNING_FIELD)
} rdt_tuning_t;
#undef RDT_TUNING_FIELD

/* For a group of world ranks; benchmarks/tune.py measures where they lie. Any thread. */
RDT_API rdt_tuning_t rdt_tuning_default(uint32_t world);
/* BAD_ARG, naming the field. */
RDT_API rdt_status_t rdt_tuning_check(const rdt_tuning_t *tuning);

#ifdef __cplusplus
}
#endif

#endif
