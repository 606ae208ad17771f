/* SPDX-License-Identifier: Apache-2.0 */
/* The memory of this process that its peers can reach: one arena a process.
 *
 * An arena is one sparse memfd whose whole range is mapped here, and once by every local peer. It
 * grows and shrinks by extents, and a peer needs nothing but an offset to find any block in it, now
 * or later. Book-keeping lies outside: peers can write the blocks, and nothing else.
 * Any thread may call everything here. Statuses of failed calls are explained by rdt_last_error().
 */
#ifndef RDT_ARENA_ARENA_H
#define RDT_ARENA_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rdmatrain/status.h"

/* Blocks begin on a page and are whole pages, so that none shares one with another. */
#define RDT_ARENA_PAGE 4096u

typedef struct rdt_arena_stats {
    uint64_t reserved_bytes; /* of address space: what peers map */
    uint64_t extent_bytes;   /* of the extents that exist */
    uint64_t in_use_bytes;   /* of blocks that are allocated, in whole pages */
    uint64_t peak_in_use_bytes;
    uint64_t cached_bytes; /* free, and not given back to the system */
    uint64_t num_blocks;   /* allocated */
    uint64_t num_refused;  /* allocations that found no room, and went elsewhere */
} rdt_arena_stats_t;

#ifdef __cplusplus
extern "C" {
#endif

/* Makes the arena of this process, if there is none. In a forked child that is a new one; what it
 * inherited stays as its private copy. NO_MEMORY; UNSUPPORTED where pages are not of 4 KiB. */
RDT_API rdt_status_t rdt_arena_open(void);
RDT_API bool rdt_arena_is_open(void);

/* bytes > 0. NULL when the arena is not open or has no room: the caller uses other memory. The
 * content is undefined. */
RDT_API void *rdt_arena_alloc(size_t bytes);
/* False when ptr is not of the arena (nor was, before a fork): it is then the caller's to free. owns
 * tells without freeing. */
RDT_API bool rdt_arena_free(void *ptr);

RDT_API bool rdt_arena_owns(const void *ptr);

/* HOT. True when all of [addr, addr + bytes) is memory that peers can reach at *offset_p. */
RDT_API bool rdt_arena_offset(const void *addr, size_t bytes, uint64_t *offset_p);

/* After a failure: peers may still write the blocks that hold [addr, addr + bytes). From here on
 * their writes go nowhere: the blocks keep their addresses and contents, in private memory, until
 * they are freed, and are not used again. What another thread writes there during the call may be
 * lost. Other operations whose buffers are in these blocks find that rdt_arena_offset no longer
 * holds. Ranges outside the arena are ignored. NO_MEMORY: some of it is still shared. */
rdt_status_t rdt_arena_detach(const void *addr, size_t bytes);

/* For a device that registers memory: pins the extent that holds all of [addr, addr + bytes), and says
 * which range that is. Until it was unpinned as often, each of its addresses, whoever has the block, is
 * the same page of the file: free pages stay resident, and the extent is not given back. Only detached
 * blocks differ, whose addresses are not used again: a registration that is older still has the page
 * of the file, one that is younger the private page. UNSUPPORTED when the range is not all memory that
 * peers can reach, in one extent. */
rdt_status_t rdt_arena_pin(const void *addr, size_t bytes, void **base_p, size_t *len_p);
/* Nothing happens in a forked child, which inherited no pins. */
void rdt_arena_unpin(const void *base);

RDT_API void rdt_arena_get_stats(rdt_arena_stats_t *stats_p);

/* What a peer needs: the descriptor stays the arena's. -1 when it is not open. */
int rdt_arena_fd(void);
/* The own range, for ranks that are threads of this process; NULL when it is not open. */
uint8_t *rdt_arena_base(size_t *bytes_p);

/* Maps a peer's arena, or finds it mapped: one mapping a process, however many groups use it. The
 * descriptor stays the caller's. A peer that dies leaves its pages mapped. PROTOCOL when fd is no
 * arena, NO_MEMORY. */
rdt_status_t rdt_arena_map_peer(int fd, uint8_t **base_p, size_t *bytes_p);
void rdt_arena_unmap_peer(uint8_t *base);

#ifdef __cplusplus
}
#endif

#endif
