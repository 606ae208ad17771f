/* SPDX-License-Identifier: Apache-2.0 */
/* Extents that a device has registered. */
#include "arena/private.h"
#include "base/error.h"

#define S rdt_arena_state

/* The extent that holds all of the range in shared memory, or NULL. */
static rdt_extent_t *find(const rdt_arena_t *a, const void *addr, size_t bytes)
{
    uintptr_t offset = (uintptr_t)addr - (uintptr_t)a->base;
    uint32_t page = (uint32_t)(offset / RDT_ARENA_PAGE), end;
    rdt_extent_t *extent;

    if (bytes == 0 || offset >= a->bytes || bytes > a->bytes - offset) return NULL;
    end = (uint32_t)((offset + bytes - 1) / RDT_ARENA_PAGE) + 1;
    extent = rdt_blocks_extent(&a->blocks, page);
    if (extent == NULL || end > extent->page + extent->num_pages) return NULL;
    for (const rdt_block_t *block = a->detached; block != NULL; block = block->next_detached)
        if (block->page < end && page < block->page + block->num_pages) return NULL;
    return extent;
}

rdt_status_t rdt_arena_pin(const void *addr, size_t bytes, void **base_p, size_t *len_p)
{
    rdt_extent_t *extent = NULL;
    rdt_arena_t *a;

    pthread_mutex_lock(&S.lock);
    a = S.arena;
    if (a != NULL) extent = find(a, addr, bytes);
    if (extent != NULL) {
        rdt_blocks_pin(&a->blocks, extent);
        *base_p = a->base + (size_t)extent->page * RDT_ARENA_PAGE;
        *len_p = (size_t)extent->num_pages * RDT_ARENA_PAGE;
    }
    pthread_mutex_unlock(&S.lock);
    if (extent != NULL) return RDT_OK;
    return rdt_fail(RDT_UNSUPPORTED,
                    "arena: %zu bytes at %p are not shared memory of this process: a device "
                    "cannot keep them registered",
                    bytes, addr);
}

void rdt_arena_unpin(const void *base)
{
    rdt_arena_t *a;
    uintptr_t offset;

    pthread_mutex_lock(&S.lock);
    a = S.arena;
    offset = a != NULL ? (uintptr_t)base - (uintptr_t)a->base : 0;
    if (a != NULL && offset < a->bytes) {
        rdt_extent_t *extent = rdt_blocks_extent(&a->blocks, (uint32_t)(offset / RDT_ARENA_PAGE));

        rdt_blocks_unpin(&a->blocks, extent);
        if (extent->num_pins == 0) rdt_arena_purge(a);
    }
    pthread_mutex_unlock(&S.lock);
}
