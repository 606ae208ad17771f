/* SPDX-License-Identifier: Apache-2.0 */
/* How two ranks prove to each other, first thing on a new connection, that they are of one group:
 *
 *     who dials                                   who is called
 *     HELLO: version, rank, nonce, ...      ->
 *                                           <-    HELLO, PROOF
 *     PROOF, descriptors                    ->
 *                                           <-    WELCOME, descriptors
 *
 * PROOF and WELCOME are codes of both hellos under the group's token, each with a role of its own, so
 * the token itself is never said, and what was said on one connection is worth nothing on another.
 * Nothing that a hello claims is acted upon, and no descriptor leaves, before its sender's proof. All
 * lengths are fixed. Ranks of another version of this protocol are told from strangers by the first
 * two fields, which never change. Whatever comes after WELCOME is the transport's.
 *
 * No call blocks: a handshake moves as far as its socket lets it.
 */
#ifndef RDT_TRANSPORT_HANDSHAKE_H
#define RDT_TRANSPORT_HANDSHAKE_H

#include "base/siphash.h"
#include "base/sock.h"
#include "rdmatrain/transport.h"

#define RDT_WIRE_MAGIC 0x4e49415254414d44ull /* "DMATRAIN" where the byte order is little */
#define RDT_WIRE_VERSION 7u
#define RDT_NONCE_BYTES 16

typedef struct rdt_hello {
    uint64_t magic;
    uint32_t version;
    uint32_t rank;
    uint32_t world;
    uint32_t chunk_bytes;
    uint32_t tuning; /* rdt_ctx_cfg_t */
    uint32_t reserved;
    uint8_t nonce[RDT_NONCE_BYTES];
} rdt_hello_t;

typedef struct rdt_answer {
    rdt_hello_t hello;
    uint8_t proof[RDT_MAC_BYTES];
} rdt_answer_t;

_Static_assert(sizeof(rdt_hello_t) == 48, "a wire format has no padding");
_Static_assert(sizeof(rdt_answer_t) == 64, "a wire format has no padding");

typedef enum rdt_hears {
    RDT_HEARS_HELLO,
    RDT_HEARS_ANSWER,
    RDT_HEARS_PROOF,
    RDT_HEARS_WELCOME,
    RDT_HEARS_NOTHING
} rdt_hears_t;

/* Of one connection. fd and peer_fds are its own until they are taken out of it; -1 where none. */
typedef struct rdt_handshake {
    const rdt_ctx_cfg_t *cfg;
    int fd;
    bool dialled;          /* by this rank */
    uint32_t expected;     /* the rank that was dialled */
    rdt_hears_t hears;     /* what is to come next */
    uint64_t limit_ns;     /* for whoever drives it: when to give it up */
    rdt_hello_t hellos[2]; /* of who dials, of who is called */
    rdt_fds_t pass_fds, peer_fds;
    uint8_t in[sizeof(rdt_answer_t)], out[sizeof(rdt_answer_t)];
    size_t in_done, out_len, out_done;
} rdt_handshake_t;

/* Both take over fd, whatever they return. pass_fds stay the caller's and go to a proven peer only.
 * IO_ERROR. */
rdt_status_t rdt_handshake_dial(rdt_handshake_t *hs, const rdt_ctx_cfg_t *cfg, int fd,
                                const rdt_fds_t *pass_fds, uint32_t rank);
rdt_status_t rdt_handshake_answer(rdt_handshake_t *hs, const rdt_ctx_cfg_t *cfg, int fd,
                                  const rdt_fds_t *pass_fds);

/* OK: the peer is proven; who called waits for its welcome. AGAIN. PEER_LOST: the connection ended.
 * PEER_REFUSED: what answers is no rank of the group. PROTOCOL: who calls is none. IO_ERROR. */
rdt_status_t rdt_handshake_step(rdt_handshake_t *hs);
/* Of a proven caller: lets it in. AGAIN or worse: it is to be given up. */
rdt_status_t rdt_handshake_welcome(rdt_handshake_t *hs);
/* Of a proven peer: PEER_REFUSED where it was set up otherwise than this rank. */
rdt_status_t rdt_handshake_judge(const rdt_handshake_t *hs);
/* Of one that was dialled: the peer's kernel has taken the call. */
bool rdt_handshake_is_through(const rdt_handshake_t *hs);
uint32_t rdt_handshake_rank(const rdt_handshake_t *hs);
/* Closes what it still owns. */
void rdt_handshake_drop(rdt_handshake_t *hs);

#endif
