/* SPDX-License-Identifier: Apache-2.0 */
/* Collectives that read and write the peers' tensors where they lie.
 *
 * A rank whose buffers are in its arena says so in its first message: from then until the peer's
 * "done", the peer may load from them and store to them. Each pair of ranks decides by itself:
 *   all_reduce      the owner of a shard reduces it from all ranks' tensors into all ranks' tensors;
 *   reduce_scatter  the owner reads its shard from all ranks' inputs;
 *   reduce          the root reads all ranks' inputs;
 *   all_gather, gather, scatter, all_to_all
 *                   every rank copies what is for it from the others' inputs;
 *   broadcast       every rank copies most of the root's tensor, and the root stores the rest.
 * What is not in an arena goes in messages, as to a peer without direct access. Between two ranks:
 *
 *   exposed by A to B                  messages INPUT, A to B       messages RESULT, B to A
 *   nothing                            A's input, in chunks         what B made for A, in chunks
 *   A's input (all_reduce: and output) 1, empty: where it lies      1, empty: B is done with it
 *   a receiver's output, to a root     1, empty: where it lies      1, empty: B has stored its part
 *     that exposes its input                                          (none: its part is 0 bytes)
 *
 * An operation ends when all peers are done with this rank's buffers, so nobody touches them later.
 * A rank that fails cannot wait for that. It revokes what it exposed: a peer that read too late finds
 * the revocation before it finishes, and what it still stores no longer reaches the tensors.
 */
#ifndef RDT_COLL_DIRECT_H
#define RDT_COLL_DIRECT_H

#include "coll/comm.h"

/* Copied or reduced between two looks at the peers. */
#define RDT_SLICE_BYTES (256u << 10)

/* Finds out what this rank can expose, and to whom, in the stage that begins. Peers are members of the current stage. */
void rdt_direct_begin_st(rdt_comm_t *comm);
/* True when the peer gets access to anything of this rank. */
bool rdt_direct_exposes(const rdt_comm_t *comm, uint32_t m);
/* False while the peer's next message may be of the next collective: how many results a receiver of a
 * scattered broadcast gets from the others, the root's first message tells; none when its tensor is
 * read in place. */
bool rdt_direct_may_take(const rdt_comm_t *comm, uint32_t m);
/* Takes what the peer's first message says. False after latching an error. */
bool rdt_direct_meet_st(rdt_comm_t *comm, uint32_t m, const rdt_hdr_t *hdr);
/* HOT. Copies one more piece; true when there was one. */
bool rdt_direct_copy_st(rdt_comm_t *comm);
/* This rank is done with the memory of all the peers whose inputs it reduced. */
void rdt_direct_reduced_st(rdt_comm_t *comm);
/* True after latching that a peer took its memory back while this rank may have read it. */
bool rdt_direct_revoked_st(rdt_comm_t *comm, const rdt_work_t *work);
/* False when the output is no longer where peers have stored: its block was detached for the failure
 * of another communicator of this process. */
bool rdt_direct_holds_st(const rdt_comm_t *comm);
/* This rank failed: takes back what it exposed in the active collective. */
void rdt_direct_revoke_st(rdt_comm_t *comm);

#endif
