/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "coll/comm.h"

const char *rdt_coll_name(rdt_coll_t coll)
{
    static const char *const names[RDT_NUM_COLLS] = {
        [RDT_ALL_REDUCE] = "all_reduce",
        [RDT_REDUCE] = "reduce",
        [RDT_BROADCAST] = "broadcast",
        [RDT_ALL_GATHER] = "all_gather",
        [RDT_GATHER] = "gather",
        [RDT_SCATTER] = "scatter",
        [RDT_REDUCE_SCATTER] = "reduce_scatter",
        [RDT_ALL_TO_ALL] = "all_to_all",
        [RDT_BARRIER] = "barrier",
        [RDT_SEND] = "send",
        [RDT_RECV] = "recv",
        [RDT_REFUSED] = "a refused call",
    };

    return (unsigned)coll < RDT_NUM_COLLS ? names[coll] : "unknown";
}

static void describe_op(const rdt_hdr_t *hdr, char *text, size_t room)
{
    const char *op = rdt_redop_name((rdt_redop_t)hdr->op);
    int len = snprintf(text, room, ", %s", op);

    if (hdr->op == RDT_PREMUL_SUM)
        len += snprintf(text + len, room - (size_t)len, " of %g", hdr->factor);
    if (hdr->coll == RDT_REDUCE) snprintf(text + len, room - (size_t)len, ", root %u", hdr->peer);
}

static void describe_partner(const rdt_hdr_t *hdr, char *text, size_t room)
{
    const char *side = hdr->coll == RDT_SEND ? "to" : "from";

    if (hdr->peer == RDT_ANY_PEER)
        snprintf(text, room, ", %s any rank, tag %d", side, hdr->tag);
    else
        snprintf(text, room, ", %s rank %u, tag %d", side, hdr->peer, hdr->tag);
}

static void describe_taken(const rdt_hdr_t *hdr, char *text, size_t room)
{
    bool as_usual = hdr->coll == RDT_ALL_GATHER && hdr->takes == hdr->count;

    if (hdr->takes != RDT_UNSAID && !as_usual)
        snprintf(text, room, " given, %llu taken", (unsigned long long)hdr->takes);
}

/* ", SUM", ", root 1", ... */
static void describe_rest(const rdt_hdr_t *hdr, char *text, size_t room)
{
    text[0] = '\0';
    switch (hdr->coll) {
    case RDT_ALL_REDUCE:
    case RDT_REDUCE:
    case RDT_REDUCE_SCATTER:
        describe_op(hdr, text, room);
        break;
    case RDT_ALL_TO_ALL:
    case RDT_ALL_GATHER:
        describe_taken(hdr, text, room);
        break;
    case RDT_SEND:
    case RDT_RECV:
        describe_partner(hdr, text, room);
        break;
    default:
        snprintf(text, room, ", root %u", hdr->peer);
    }
}

void rdt_describe_hdr(const rdt_hdr_t *hdr, char *text)
{
    const char *name = rdt_coll_name((rdt_coll_t)hdr->coll);
    char shape[RDT_SHAPE_TEXT_BYTES], rest[64], parts[24] = "";

    if (hdr->coll == RDT_BARRIER || hdr->coll >= RDT_REFUSED) {
        snprintf(text, RDT_CALL_TEXT_BYTES, "%s", name);
        return;
    }
    rdt_shape_text(&hdr->shape, shape);
    describe_rest(hdr, rest, sizeof(rest));
    if (hdr->coll < RDT_SEND && hdr->parts > 0)
        snprintf(parts, sizeof(parts), ", one of %u", hdr->parts);
    snprintf(text, RDT_CALL_TEXT_BYTES, "%s(%s%s, %llu element%s%s%s)", name,
             rdt_dtype_name((rdt_dtype_t)hdr->dtype), shape, (unsigned long long)hdr->count,
             hdr->count == 1 ? "" : "s", rest, parts);
}

rdt_hdr_t rdt_call_hdr(const rdt_work_t *work, rdt_kind_t kind)
{
    const rdt_call_t *call = &work->call;
    rdt_hdr_t hdr = {.kind = (uint8_t)kind,
                     .coll = (uint8_t)call->coll,
                     .dtype = (uint8_t)call->dtype,
                     .op = (uint8_t)call->op,
                     .peer = call->peer,
                     .tag = call->tag,
                     .seq = work->seq,
                     .count = call->count,
                     .factor = call->factor,
                     .shape = call->shape};

    if (call->parts > 0) hdr.parts = call->parts;
    return hdr;
}

void rdt_describe_work(const rdt_work_t *work, char *text)
{
    rdt_hdr_t hdr = rdt_call_hdr(work, RDT_KIND_INPUT);

    if (hdr.coll == RDT_ALL_TO_ALL || hdr.coll == RDT_ALL_GATHER) hdr.takes = RDT_UNSAID;
    rdt_describe_hdr(&hdr, text);
}
