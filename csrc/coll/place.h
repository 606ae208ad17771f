/* SPDX-License-Identifier: Apache-2.0 */
/* Data that the sender's transport puts straight into the receiver's tensor.
 *
 * On a connection with places, a stream that is not reduced and carries at least tuning.place bytes
 * does not go through slots: the receiver exposes the piece of its output that the stream is for and
 * says where in its own first message, and the sender puts each chunk there. Both ends compute which
 * streams these are, so a message that is put and one that is not are never taken for each other.
 *   RESULT  all_reduce, scattered broadcast: goes out once the peer's first INPUT message has come.
 *   INPUT   broadcast, all_gather, gather, scatter, all_to_all: an empty message goes in front, which
 *           carries the call, and says where the sender wants what comes the other way.
 * At most one stream between two ranks, in each direction, is placed. Where the receiver's memory
 * cannot be exposed it says 0, and the same messages go through slots.
 *
 * In place (in == out) a result may arrive while the rank still sends its input. That overwrites
 * nothing that is still to be read: the owner of a shard puts a chunk of its result when it has that
 * chunk of the rank's input, so that has left; what is on its way to other owners are other shards, and
 * nobody puts anything to the rank's own.
 *
 * Direct access (direct.h) and places exclude each other on a connection, so the header's out_at says
 * either where an output lies in an arena or what expose() gave.
 */
#ifndef RDT_COLL_PLACE_H
#define RDT_COLL_PLACE_H

#include "coll/comm.h"

/* Decides for the stage that begins which streams from and to the member are placed, and exposes what
 * the peer will put. */
void rdt_place_begin_st(rdt_comm_t *comm, uint32_t m);

/* Messages in front of the first chunk of a stream of tx_placed or rx_placed. */
static inline uint32_t rdt_place_lead(const bool *placed, rdt_stream_t s)
{
    return s == RDT_STREAM_INPUT && placed[s];
}

/* HOT. Where message i of the stream to the rank is put; 0: it goes through a slot. */
uint64_t rdt_place_of(const rdt_comm_t *comm, uint32_t m, rdt_stream_t s, uint32_t i);

/* The peer has yet to say where it wants the chunks of the stream. */
static inline bool rdt_place_waits(const rdt_peer_state_t *peer, rdt_stream_t s)
{
    return peer->tx_placed[s] && peer->rx_next[RDT_STREAM_INPUT] == 0;
}

/* The chunks of the stream from the peer are put to where this rank said. */
static inline bool rdt_place_takes(const rdt_peer_state_t *peer, rdt_stream_t s)
{
    return peer->rx_placed[s] && peer->place_at != 0;
}

#endif
