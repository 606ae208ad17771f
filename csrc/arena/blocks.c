/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "arena/blocks.h"

#define SCAN 8 /* blocks of the request's own bin that are looked at */

/* -- bits -- */

static uint64_t bits_of_word(uint32_t page, uint32_t end, uint32_t *next_p)
{
    uint32_t next = (page / 64 + 1) * 64;

    if (next > end) next = end;
    *next_p = next;
    return (~0ull >> (64 - (next - page))) << (page % 64);
}

static uint32_t count_dirty(const rdt_blocks_t *b, uint32_t page, uint32_t end)
{
    uint32_t num = 0, next;

    for (; page < end; page = next) {
        uint64_t mask = bits_of_word(page, end, &next);

        num += (uint32_t)__builtin_popcountll(b->dirty[page / 64] & mask);
    }
    return num;
}

static void set_dirty(rdt_blocks_t *b, uint32_t page, uint32_t end, bool dirty)
{
    uint32_t next;

    for (; page < end; page = next) {
        uint64_t mask = bits_of_word(page, end, &next);

        if (dirty)
            b->dirty[page / 64] |= mask;
        else
            b->dirty[page / 64] &= ~mask;
    }
}

/* -- bins -- */

static uint32_t bin_of(uint32_t num_pages)
{
    uint32_t octave;

    if (num_pages < RDT_BLOCKS_EXACT) return num_pages;
    octave = 31 - (uint32_t)__builtin_clz(num_pages);
    return RDT_BLOCKS_EXACT + (octave - 4) * 8 + ((num_pages >> (octave - 3)) & 7);
}

static rdt_bins_t *bins_of(rdt_blocks_t *b, const rdt_block_t *block)
{
    return &b->bins[block->extent->num_pins > 0 ? 2 : block->num_dirty > 0];
}

static uint64_t *count_of(rdt_blocks_t *b, const rdt_block_t *block)
{
    return block->extent->num_pins > 0 ? &b->num_pinned : &b->num_cached;
}

static void link_free(rdt_blocks_t *b, rdt_block_t *block)
{
    rdt_bins_t *bins = bins_of(b, block);
    uint32_t bin = bin_of(block->num_pages);

    block->prev = NULL;
    block->next = bins->head[bin];
    if (block->next != NULL) block->next->prev = block;
    bins->head[bin] = block;
    bins->filled[bin / 64] |= 1ull << (bin % 64);
    *count_of(b, block) += block->num_dirty;
}

static void unlink_free(rdt_blocks_t *b, rdt_block_t *block)
{
    rdt_bins_t *bins = bins_of(b, block);
    uint32_t bin = bin_of(block->num_pages);

    if (block->next != NULL) block->next->prev = block->prev;
    if (block->prev != NULL)
        block->prev->next = block->next;
    else
        bins->head[bin] = block->next;
    if (bins->head[bin] == NULL) bins->filled[bin / 64] &= ~(1ull << (bin % 64));
    *count_of(b, block) -= block->num_dirty;
}

static rdt_block_t *find(const rdt_bins_t *bins, uint32_t num_pages)
{
    uint32_t bin = bin_of(num_pages);
    rdt_block_t *best = NULL, *block = bins->head[bin];

    for (int i = 0; i < SCAN && block != NULL; i++, block = block->next)
        if (block->num_pages >= num_pages && (best == NULL || block->num_pages < best->num_pages))
            best = block;
    if (best != NULL) return best;
    bin++; /* every block of the higher bins fits */
    for (uint32_t word = bin / 64; word < sizeof(bins->filled) / sizeof(uint64_t); word++) {
        uint64_t filled = bins->filled[word];

        if (word == bin / 64) filled &= ~0ull << (bin % 64);
        if (filled != 0) return bins->head[word * 64 + (uint32_t)__builtin_ctzll(filled)];
    }
    return NULL;
}

/* -- extents -- */

/* The first gap of at least num_pages. Returns where the extents after it hang, NULL when there is
 * none. */
static rdt_extent_t **find_gap(rdt_blocks_t *b, uint32_t num_pages, uint32_t *page_p)
{
    rdt_extent_t **link = &b->extents;
    uint32_t page = 0;

    for (; *link != NULL && (*link)->page - page < num_pages; link = &(*link)->next)
        page = (*link)->page + (*link)->num_pages;
    if (*link == NULL && b->num_pages - page < num_pages) return NULL;
    *page_p = page;
    return link;
}

static rdt_block_t *grow(rdt_blocks_t *b, uint32_t num_pages)
{
    uint32_t unit = RDT_BLOCKS_EXTENT_UNIT, page = 0;
    uint32_t need = (num_pages + unit - 1) / unit * unit;
    uint32_t want = need > RDT_BLOCKS_EXTENT ? need : RDT_BLOCKS_EXTENT;
    rdt_extent_t **link = find_gap(b, want, &page);
    rdt_extent_t *extent;

    if (link == NULL) link = find_gap(b, want = need, &page);
    if (link == NULL) return NULL;
    extent = malloc(sizeof(*extent));
    if (extent == NULL) return NULL;
    extent->first = calloc(1, sizeof(*extent->first));
    if (extent->first == NULL) {
        free(extent);
        return NULL;
    }
    extent->page = page;
    extent->num_pages = want;
    extent->num_pins = 0;
    extent->next = *link;
    *link = extent;
    extent->first->extent = extent;
    extent->first->page = page;
    extent->first->num_pages = want;
    extent->first->state = RDT_BLOCK_FREE;
    b->num_extent += want;
    link_free(b, extent->first);
    return extent->first;
}

void rdt_blocks_trim(rdt_blocks_t *b)
{
    rdt_extent_t **link = &b->extents;
    bool spare = false; /* one stays, so that a block that comes and goes does not take it along */

    while (*link != NULL) {
        rdt_extent_t *extent = *link;
        rdt_block_t *block = extent->first;

        if (block->state != RDT_BLOCK_FREE || block->upper != NULL || block->num_dirty > 0 ||
            !spare) {
            spare |= block->state == RDT_BLOCK_FREE && block->upper == NULL;
            link = &extent->next;
            continue;
        }
        unlink_free(b, block);
        b->num_extent -= extent->num_pages;
        *link = extent->next;
        free(block);
        free(extent);
    }
}

rdt_extent_t *rdt_blocks_extent(const rdt_blocks_t *b, uint32_t page)
{
    rdt_extent_t *e = b->extents;

    while (e != NULL && page - e->page >= e->num_pages)
        e = e->next;
    return e;
}

static void for_each_free(rdt_blocks_t *b, rdt_extent_t *extent,
                          void (*change)(rdt_blocks_t *, rdt_block_t *))
{
    for (rdt_block_t *block = extent->first; block != NULL; block = block->upper)
        if (block->state == RDT_BLOCK_FREE) change(b, block);
}

static void link_dirty(rdt_blocks_t *b, rdt_block_t *block)
{
    block->num_dirty = block->num_pages;
    link_free(b, block);
}

/* Where free blocks are linked depends on the pins. */
void rdt_blocks_pin(rdt_blocks_t *b, rdt_extent_t *extent)
{
    if (extent->num_pins == 0) for_each_free(b, extent, unlink_free);
    if (extent->num_pins++ > 0) return;
    set_dirty(b, extent->page, extent->page + extent->num_pages, true);
    for_each_free(b, extent, link_dirty);
}

void rdt_blocks_unpin(rdt_blocks_t *b, rdt_extent_t *extent)
{
    assert(extent->num_pins > 0);
    if (extent->num_pins == 1) for_each_free(b, extent, unlink_free);
    if (--extent->num_pins == 0) for_each_free(b, extent, link_free);
}

/* -- blocks -- */

/* Cuts an unlinked free block in two at page and links neither; NULL when there is no memory. */
static rdt_block_t *split(rdt_blocks_t *b, rdt_block_t *block, uint32_t page)
{
    rdt_block_t *rest = calloc(1, sizeof(*rest));

    if (rest == NULL) return NULL;
    rest->extent = block->extent;
    rest->page = page;
    rest->num_pages = block->page + block->num_pages - page;
    rest->state = RDT_BLOCK_FREE;
    rest->lower = block;
    rest->upper = block->upper;
    if (rest->upper != NULL) rest->upper->lower = rest;
    block->upper = rest;
    block->num_pages -= rest->num_pages;
    if (block->num_dirty > 0) {
        rest->num_dirty = count_dirty(b, page, page + rest->num_pages);
        block->num_dirty -= rest->num_dirty;
    }
    return rest;
}

/* The part of an unlinked free block that has more dirty pages: its lower or its upper end. */
static rdt_block_t *carve(rdt_blocks_t *b, rdt_block_t *block, uint32_t num_pages)
{
    uint32_t page = block->page, end = page + block->num_pages;
    bool upper = false;
    rdt_block_t *rest;

    if (block->num_pages == num_pages) return block;
    if (block->num_dirty > 0 && block->num_dirty < block->num_pages)
        upper = count_dirty(b, end - num_pages, end) > count_dirty(b, page, page + num_pages);
    rest = split(b, block, upper ? end - num_pages : page + num_pages);
    if (rest == NULL) return block;
    link_free(b, upper ? block : rest);
    return upper ? rest : block;
}

rdt_block_t *rdt_blocks_take(rdt_blocks_t *b, uint32_t num_pages, uint32_t *num_clean_p)
{
    rdt_block_t *block;

    if (num_pages > b->num_pages) return NULL;
    block = b->num_pinned > 0 ? find(&b->bins[2], num_pages) : NULL;
    if (block == NULL) block = find(&b->bins[1], num_pages);
    if (block == NULL) block = find(&b->bins[0], num_pages);
    if (block == NULL) block = grow(b, num_pages);
    if (block == NULL) return NULL;
    unlink_free(b, block);
    block = carve(b, block, num_pages);
    *num_clean_p = block->num_pages - block->num_dirty;
    if (*num_clean_p > 0) set_dirty(b, block->page, block->page + block->num_pages, true);
    block->num_dirty = 0;
    block->state = RDT_BLOCK_USED;
    block->prev = block->next = NULL;
    b->index[block->page] = block;
    b->num_used += block->num_pages;
    b->num_blocks++;
    return block;
}

rdt_block_t *rdt_blocks_at(const rdt_blocks_t *b, uint32_t page)
{
    return b->index[page];
}

rdt_block_t *rdt_blocks_within(const rdt_blocks_t *b, uint32_t page, uint32_t end)
{
    for (const rdt_extent_t *e = b->extents; e != NULL && e->page < end; e = e->next) {
        if (e->page + e->num_pages <= page) continue;
        for (rdt_block_t *block = e->first; block != NULL && block->page < end;
             block = block->upper)
            if (block->state == RDT_BLOCK_USED && block->page + block->num_pages > page)
                return block;
    }
    return NULL;
}

void rdt_blocks_retire(rdt_blocks_t *b, rdt_block_t *block)
{
    assert(block->state == RDT_BLOCK_USED);
    block->state = RDT_BLOCK_RETIRED;
    b->index[block->page] = NULL;
    b->num_used -= block->num_pages;
    b->num_blocks--;
}

/* Joins block, which is linked nowhere, with the free one above it. */
static void join_upper(rdt_block_t *block)
{
    rdt_block_t *upper = block->upper;

    block->num_pages += upper->num_pages;
    block->num_dirty += upper->num_dirty;
    block->upper = upper->upper;
    if (block->upper != NULL) block->upper->lower = block;
    free(upper);
}

void rdt_blocks_free(rdt_blocks_t *b, rdt_block_t *block, bool dirty)
{
    assert(block->state == RDT_BLOCK_RETIRED);
    dirty |= block->extent->num_pins > 0;
    if (!dirty) set_dirty(b, block->page, block->page + block->num_pages, false);
    block->num_dirty = dirty ? block->num_pages : 0;
    block->state = RDT_BLOCK_FREE;
    if (block->upper != NULL && block->upper->state == RDT_BLOCK_FREE) {
        unlink_free(b, block->upper);
        join_upper(block);
    }
    if (block->lower != NULL && block->lower->state == RDT_BLOCK_FREE) {
        block = block->lower;
        unlink_free(b, block);
        join_upper(block);
    }
    link_free(b, block);
}

static rdt_block_t *largest_dirty(const rdt_bins_t *bins)
{
    for (uint32_t word = sizeof(bins->filled) / sizeof(uint64_t); word-- > 0;)
        if (bins->filled[word] != 0)
            return bins->head[word * 64 + 63 - (uint32_t)__builtin_clzll(bins->filled[word])];
    return NULL;
}

/* From the upper end: the lower one is where extents are filled first. */
uint32_t rdt_blocks_purge(rdt_blocks_t *b, uint32_t max, uint32_t *page_p, uint32_t *num_p)
{
    rdt_block_t *block = largest_dirty(&b->bins[1]);
    uint32_t end, page, num = 0;

    if (block == NULL) return 0;
    unlink_free(b, block);
    page = end = block->page + block->num_pages;
    if (block->num_dirty <= max) {
        num = block->num_dirty;
        page = block->page;
    }
    while (num < max && page > block->page) {
        page--;
        num += b->dirty[page / 64] >> (page % 64) & 1;
    }
    set_dirty(b, page, end, false);
    block->num_dirty -= num;
    link_free(b, block);
    *page_p = page;
    *num_p = end - page;
    return num;
}

/* -- the tables -- */

static void *map_table(size_t bytes)
{
    void *table = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return table == MAP_FAILED ? NULL : table;
}

static size_t index_bytes(const rdt_blocks_t *b)
{
    return (size_t)b->num_pages * sizeof(*b->index);
}

static size_t dirty_bytes(const rdt_blocks_t *b)
{
    return ((size_t)b->num_pages + 63) / 64 * sizeof(*b->dirty);
}

bool rdt_blocks_init(rdt_blocks_t *b, uint32_t num_pages)
{
    memset(b, 0, sizeof(*b));
    b->num_pages = num_pages;
    b->index = map_table(index_bytes(b));
    b->dirty = map_table(dirty_bytes(b));
    if (b->index != NULL && b->dirty != NULL) return true;
    rdt_blocks_fini(b);
    return false;
}

void rdt_blocks_fini(rdt_blocks_t *b)
{
    while (b->extents != NULL) {
        rdt_extent_t *extent = b->extents;

        b->extents = extent->next;
        while (extent->first != NULL) {
            rdt_block_t *block = extent->first;

            extent->first = block->upper;
            free(block);
        }
        free(extent);
    }
    if (b->index != NULL) munmap(b->index, index_bytes(b));
    if (b->dirty != NULL) munmap(b->dirty, dirty_bytes(b));
}
