/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the arena: one lock, and what lies behind it. */
#ifndef RDT_ARENA_PRIVATE_H
#define RDT_ARENA_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "arena/arena.h"
#include "arena/blocks.h"

/* Forks whose children are told apart from no other: one pipe, of which the parent reads the end
 * that says "all gone" and the children hold the other. */
typedef struct rdt_epoch {
    struct rdt_epoch *next; /* older */
    uint64_t first, last;   /* the forks, counted from 1 */
    int read_fd;
    int write_fd; /* the parent's own copy while more children may join; then -1 */
} rdt_epoch_t;

typedef struct rdt_arena {
    uint8_t *base;
    size_t bytes;
    int fd;
    rdt_blocks_t blocks;
    uint64_t num_refused, peak_pages;

    /* The most pages in use in this window of time and in the last one: what is kept resident. */
    uint64_t window_peak, last_peak, window_ns;
    uint32_t num_ops; /* since housekeeping */

    rdt_block_t
        *detached; /* blocks that are private memory, used or not, linked by next_detached */
    rdt_block_t *quarantine;  /* retired blocks that children still see, linked by next */
    uint64_t num_quarantined; /* pages */
    rdt_epoch_t *epochs;      /* the newest first */
    bool epoch_ended;         /* since the quarantine was looked through */
    uint64_t num_forks;
    uint64_t untracked; /* the last fork for which there was no pipe: its child lives for ever */

    struct rdt_arena *older; /* of those inherited */
} rdt_arena_t;

typedef struct rdt_arena_state {
    pthread_mutex_t lock; /* of everything that is not atomic, the peers too */
    /* [base, base + bytes) is the arena; bytes is 0 when it is not open. base is written first. */
    _Atomic uintptr_t base;
    _Atomic size_t bytes;
    _Atomic uint32_t num_detached;
    rdt_arena_t *arena;               /* NULL when it is not open */
    _Atomic(rdt_arena_t *) inherited; /* written in a forked child, before it has threads */
    uint64_t window_ns;               /* tests shorten it */
} rdt_arena_state_t;

extern rdt_arena_state_t rdt_arena_state;

/* All below: with the lock, except what runs once or at set-up. */

/* Gives the pages back that are more than what was lately in use, except of pinned extents. */
void rdt_arena_purge(rdt_arena_t *arena);
/* Gives the pages of a retired block to the next taker. */
void rdt_arena_reuse(rdt_arena_t *arena, rdt_block_t *block);
/* Maps [page, end) of the file over whatever is there; flags: MAP_SHARED or MAP_PRIVATE. */
bool rdt_arena_remap(const rdt_arena_t *arena, uint32_t page, uint32_t end, int flags);

/* Has effect once a process. */
void rdt_fork_watch(void);
/* True when a child may still see the block, which is then kept until it ends. */
bool rdt_fork_quarantine(rdt_arena_t *arena, rdt_block_t *block);
/* Forgets the children that ended, and frees what was kept for them. */
void rdt_fork_collect(rdt_arena_t *arena);

/* In a forked child: the kernel did not copy the mappings of peers. */
void rdt_peers_forget(void);

/* The node that all CPUs of this process belong to, or -1: they have several, or there is one. */
int rdt_numa_node(void);
/* Pages of the range, whoever touches them first, lie on node while it has room. */
void rdt_numa_prefer(void *addr, size_t bytes, int node);

#endif
