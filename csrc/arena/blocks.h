/* SPDX-License-Identifier: Apache-2.0 */
/* Which pages of the arena are whose: arithmetic and book-keeping, no system call on the pages.
 *
 * Extents are cut into blocks, and blocks never cross an extent. A free block is joined with its free
 * neighbours at once and hangs in a bin for its size; a request takes a block of its own bin that
 * fits, else the head of the next bin that has one (good fit, last freed first). A bit a page says
 * whether the page may be resident ("dirty"): blocks with such pages are taken first, from the end
 * that has more of them, because a page fault costs more than everything here. Before them come those
 * of pinned extents, whose pages are all dirty and stay so.
 * Counts are pages. The caller's lock protects all of it.
 */
#ifndef RDT_ARENA_BLOCKS_H
#define RDT_ARENA_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

#define RDT_BLOCKS_EXTENT (1u << 14)     /* 64 MiB: the least that an extent has */
#define RDT_BLOCKS_EXTENT_UNIT (1u << 9) /* 2 MiB: extents are multiples of a huge page */
#define RDT_BLOCKS_EXACT 16u /* below this many pages, a bin a size; above, 8 an octave */
#define RDT_BLOCKS_NUM_BINS (RDT_BLOCKS_EXACT + 25 * 8)

typedef enum { RDT_BLOCK_USED, RDT_BLOCK_RETIRED, RDT_BLOCK_FREE } rdt_block_state_t;

typedef struct rdt_block {
    struct rdt_extent *extent;
    uint32_t page, num_pages;
    uint32_t num_dirty; /* of a free block */
    rdt_block_state_t state;
    struct rdt_block *lower, *upper; /* neighbours in the extent; NULL at its ends */
    struct rdt_block *prev, *next;   /* free: in its bin; else the owner's to use */
    /* The owner's: */
    uint64_t born, died; /* forks before it was taken, and before it was given back */
    bool detached;
    struct rdt_block *next_detached;
} rdt_block_t;

typedef struct rdt_extent {
    struct rdt_extent *next; /* by address */
    rdt_block_t *first;
    uint32_t page, num_pages;
    uint32_t num_pins; /* not 0: neither purged nor trimmed */
} rdt_extent_t;

typedef struct rdt_bins {
    rdt_block_t *head[RDT_BLOCKS_NUM_BINS];
    uint64_t filled[(RDT_BLOCKS_NUM_BINS + 63) / 64];
} rdt_bins_t;

typedef struct rdt_blocks {
    uint32_t num_pages;  /* of the arena */
    rdt_block_t **index; /* page -> the used block that begins there; sparse */
    uint64_t *dirty;     /* a bit a page; sparse */
    rdt_extent_t *extents;
    rdt_bins_t bins[3]; /* without dirty pages, with, and of pinned extents */
    /* Pages: of extents, of used blocks, free and dirty, free in pinned extents. */
    uint64_t num_extent, num_used, num_cached, num_pinned;
    uint64_t num_blocks;
} rdt_blocks_t;

/* False when there is no memory for the tables. */
bool rdt_blocks_init(rdt_blocks_t *blocks, uint32_t num_pages);
void rdt_blocks_fini(rdt_blocks_t *blocks);

/* A used block of at least num_pages (more when there is no memory to split one); its pages count as
 * dirty from here. *num_clean_p: how many were not. NULL when there is no room. */
rdt_block_t *rdt_blocks_take(rdt_blocks_t *blocks, uint32_t num_pages, uint32_t *num_clean_p);
/* The used block that begins at page, or NULL. */
rdt_block_t *rdt_blocks_at(const rdt_blocks_t *blocks, uint32_t page);
/* The first used block, by address, that has pages in [page, end), or NULL. */
rdt_block_t *rdt_blocks_within(const rdt_blocks_t *blocks, uint32_t page, uint32_t end);

/* A used block is first retired, which takes it out of the index, then freed, which lets it be taken
 * again. dirty: its pages may be resident. */
void rdt_blocks_retire(rdt_blocks_t *blocks, rdt_block_t *block);
void rdt_blocks_free(rdt_blocks_t *blocks, rdt_block_t *block, bool dirty);

/* The extent that page belongs to, or NULL. */
rdt_extent_t *rdt_blocks_extent(const rdt_blocks_t *blocks, uint32_t page);
/* One pin more or less. From the first one on all pages of the extent count as dirty. */
void rdt_blocks_pin(rdt_blocks_t *blocks, rdt_extent_t *extent);
void rdt_blocks_unpin(rdt_blocks_t *blocks, rdt_extent_t *extent);

/* Chooses free pages to give to the system, at most max dirty ones, from the largest free block that
 * has any: the caller punches [*page_p, *page_p + *num_p). Returns how many were dirty. */
uint32_t rdt_blocks_purge(rdt_blocks_t *blocks, uint32_t max, uint32_t *page_p, uint32_t *num_p);
/* Forgets the extents that are free and clean, all but one. */
void rdt_blocks_trim(rdt_blocks_t *blocks);

#endif
