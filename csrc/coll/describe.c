/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "coll/comm.h"

const char *rdt_coll_name(rdt_coll_t coll)
{
    static const char *const names[RDT_NUM_COLLS] = {
        [RDT_ALL_REDUCE] = "all_reduce",
        [RDT_BROADCAST] = "broadcast",
        [RDT_ALL_GATHER] = "all_gather",
        [RDT_REDUCE_SCATTER] = "reduce_scatter",
        [RDT_BARRIER] = "barrier",
        [RDT_SEND] = "send",
        [RDT_RECV] = "recv",
        [RDT_REFUSED] = "a refused call",
    };

    return (unsigned)coll < RDT_NUM_COLLS ? names[coll] : "unknown";
}

void rdt_describe_hdr(const rdt_hdr_t *hdr, char *text)
{
    const char *name = rdt_coll_name((rdt_coll_t)hdr->coll);
    const char *dtype = rdt_dtype_name((rdt_dtype_t)hdr->dtype);
    unsigned long long count = hdr->count;
    size_t room = RDT_CALL_TEXT_BYTES;

    switch (hdr->coll) {
    case RDT_ALL_REDUCE:
    case RDT_REDUCE_SCATTER:
        snprintf(text, room, "%s(%s, %llu elements, %s)", name, dtype, count,
                 rdt_redop_name((rdt_redop_t)hdr->op));
        break;
    case RDT_BROADCAST:
        snprintf(text, room, "%s(%s, %llu elements, root %u)", name, dtype, count, hdr->peer);
        break;
    case RDT_ALL_GATHER:
        snprintf(text, room, "%s(%s, %llu elements)", name, dtype, count);
        break;
    case RDT_SEND:
    case RDT_RECV:
        snprintf(text, room, "%s(%s, %llu elements, %s rank %u, tag %d)", name, dtype, count,
                 hdr->coll == RDT_SEND ? "to" : "from", hdr->peer, hdr->tag);
        break;
    default:
        snprintf(text, room, "%s", name);
    }
}

rdt_hdr_t rdt_call_hdr(const rdt_work_t *work, rdt_kind_t kind)
{
    const rdt_call_t *call = &work->call;

    return (rdt_hdr_t){.kind = (uint8_t)kind,
                       .coll = (uint8_t)call->coll,
                       .dtype = (uint8_t)call->dtype,
                       .op = (uint8_t)call->op,
                       .peer = call->peer,
                       .tag = call->tag,
                       .seq = work->seq,
                       .count = call->count};
}

void rdt_describe_work(const rdt_work_t *work, char *text)
{
    rdt_hdr_t hdr = rdt_call_hdr(work, RDT_KIND_INPUT);

    rdt_describe_hdr(&hdr, text);
}
