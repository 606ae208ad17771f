/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "arena/private.h"
#include "base/clock.h"
#include "base/error.h"

#define MIN_RESERVE (1ull << 30)
#define MAX_RESERVE (1ull << 38) /* every local rank maps that of all the others */
#define HOUSEKEEPING_OPS 32

rdt_arena_state_t rdt_arena_state = {.lock = PTHREAD_MUTEX_INITIALIZER,
                                     .window_ns = 4 * RDT_NS_PER_S};
#define S rdt_arena_state

static uint8_t *addr_of(const rdt_arena_t *a, uint32_t page)
{
    return a->base + (size_t)page * RDT_ARENA_PAGE;
}

/* -- open -- */

/* Address space as large as the memory of the machine: the memory runs out before it does. */
static size_t reserve_wanted(void)
{
    uint64_t physical = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t bytes = MIN_RESERVE;
    struct rlimit limit;

    while (bytes < physical && bytes < MAX_RESERVE)
        bytes *= 2;
    /* ftruncate beyond this limit would raise a signal. */
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0)
        while (bytes > limit.rlim_cur)
            bytes /= 2;
    return bytes;
}

static bool try_map(rdt_arena_t *a, size_t bytes)
{
    if (ftruncate(a->fd, (off_t)bytes) < 0) return false;
    a->base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, a->fd, 0);
    if (a->base == MAP_FAILED) return false;
    a->bytes = bytes;
    if (rdt_blocks_init(&a->blocks, (uint32_t)(bytes / RDT_ARENA_PAGE))) return true;
    munmap(a->base, bytes);
    return false;
}

static rdt_status_t map_file(rdt_arena_t *a)
{
    long page = sysconf(_SC_PAGESIZE);
    int node = rdt_numa_node();

    if (page != RDT_ARENA_PAGE)
        return rdt_fail(RDT_UNSUPPORTED, "arena: pages of %ld bytes, not of %u", page,
                        RDT_ARENA_PAGE);
    a->fd = memfd_create("rdmatrain-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (a->fd < 0) return rdt_fail(RDT_NO_MEMORY, "arena: memfd_create: %s", strerror(errno));
    for (size_t bytes = reserve_wanted(); bytes >= MIN_RESERVE; bytes /= 2) {
        if (!try_map(a, bytes)) continue;
        /* Sealed: nobody can shrink it under a peer and turn a load into SIGBUS. */
        if (fcntl(a->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
            rdt_fail(RDT_NO_MEMORY, "arena: sealing the memfd: %s", strerror(errno));
            munmap(a->base, bytes);
            rdt_blocks_fini(&a->blocks);
            close(a->fd);
            return RDT_NO_MEMORY;
        }
        madvise(a->base, bytes, MADV_HUGEPAGE);
        if (node >= 0) rdt_numa_prefer(a->base, bytes, node);
        return RDT_OK;
    }
    rdt_fail(RDT_NO_MEMORY, "arena: not even a file and address space of %llu MiB (ulimit -f, -v)",
             MIN_RESERVE >> 20);
    close(a->fd);
    return RDT_NO_MEMORY;
}

static rdt_status_t open_locked(void)
{
    rdt_arena_t *a = calloc(1, sizeof(*a));
    rdt_status_t st;

    if (a == NULL) return rdt_fail(RDT_NO_MEMORY, "arena: out of memory");
    st = map_file(a);
    if (st != RDT_OK) {
        free(a);
        return st;
    }
    a->window_ns = rdt_now_ns();
    S.arena = a;
    atomic_store_explicit(&S.base, (uintptr_t)a->base, memory_order_relaxed);
    /* Pairs with the loads of holds(). */
    atomic_store_explicit(&S.bytes, a->bytes, memory_order_release);
    return RDT_OK;
}

rdt_status_t rdt_arena_open(void)
{
    rdt_status_t st = RDT_OK;

    rdt_fork_watch();
    pthread_mutex_lock(&S.lock);
    if (S.arena == NULL) st = open_locked();
    pthread_mutex_unlock(&S.lock);
    return st;
}

bool rdt_arena_is_open(void)
{
    return atomic_load_explicit(&S.bytes, memory_order_acquire) > 0;
}

int rdt_arena_fd(void)
{
    int fd;

    pthread_mutex_lock(&S.lock);
    fd = S.arena != NULL ? S.arena->fd : -1;
    pthread_mutex_unlock(&S.lock);
    return fd;
}

uint8_t *rdt_arena_base(size_t *bytes_p)
{
    *bytes_p = atomic_load_explicit(&S.bytes, memory_order_acquire);
    return *bytes_p > 0 ? (uint8_t *)atomic_load_explicit(&S.base, memory_order_relaxed) : NULL;
}

/* -- what stays resident -- */

/* The file keeps its size, and every mapping of it, peers' too, loses the pages. */
static void punch(const rdt_arena_t *a, uint32_t page, uint32_t num)
{
    fallocate(a->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)page * RDT_ARENA_PAGE,
              (off_t)num * RDT_ARENA_PAGE);
}

/* Free pages are kept as long as all of it is no more than what was lately in use at the same time:
 * a loop that allocates the same again each time finds its pages, and fragmentation cannot add more
 * than a sixteenth. */
void rdt_arena_purge(rdt_arena_t *a)
{
    rdt_blocks_t *b = &a->blocks;
    uint64_t peak = a->window_peak > a->last_peak ? a->window_peak : a->last_peak;
    uint64_t bound = peak + peak / 16 + RDT_BLOCKS_EXTENT_UNIT;
    uint64_t resident = b->num_used + b->num_cached;
    uint64_t excess = resident > bound ? resident - bound : 0;
    uint32_t page, num;

    if (excess == 0 || b->num_cached == 0) return;
    excess += bound / 64; /* so that the next one is not the next call's */
    while (excess > 0) {
        uint32_t max = excess < UINT32_MAX ? (uint32_t)excess : UINT32_MAX;
        uint32_t dirty = rdt_blocks_purge(b, max, &page, &num);

        if (dirty == 0) break;
        punch(a, page, num);
        excess -= dirty;
    }
    rdt_blocks_trim(b);
}

static void housekeep(rdt_arena_t *a)
{
    uint64_t now;

    if (++a->num_ops < HOUSEKEEPING_OPS) return;
    a->num_ops = 0;
    if (a->quarantine != NULL) rdt_fork_collect(a);
    now = rdt_now_ns();
    if (now - a->window_ns < S.window_ns) return;
    a->window_ns = now;
    a->last_peak = a->window_peak;
    a->window_peak = a->blocks.num_used;
    rdt_arena_purge(a);
}

/* -- blocks -- */

static rdt_block_t *take(rdt_arena_t *a, uint32_t num_pages)
{
    uint32_t num_clean = 0;
    rdt_block_t *block = rdt_blocks_take(&a->blocks, num_pages, &num_clean);

    if (block == NULL && a->quarantine != NULL) {
        rdt_fork_collect(a);
        block = rdt_blocks_take(&a->blocks, num_pages, &num_clean);
    }
    if (block == NULL) {
        a->num_refused++;
        return NULL;
    }
    block->born = a->num_forks;
    if (a->blocks.num_used > a->window_peak) a->window_peak = a->blocks.num_used;
    if (a->blocks.num_used > a->peak_pages) a->peak_pages = a->blocks.num_used;
    if (num_clean > 0) rdt_arena_purge(a);
    return block;
}

void *rdt_arena_alloc(size_t bytes)
{
    size_t num_pages = bytes / RDT_ARENA_PAGE + (bytes % RDT_ARENA_PAGE != 0);
    uint8_t *addr = NULL;
    rdt_arena_t *a;

    if (!rdt_arena_is_open()) return NULL;
    pthread_mutex_lock(&S.lock);
    a = S.arena;
    housekeep(a);
    if (num_pages <= a->blocks.num_pages) {
        rdt_block_t *block = take(a, (uint32_t)num_pages);

        if (block != NULL) addr = addr_of(a, block->page);
    } else {
        a->num_refused++;
    }
    pthread_mutex_unlock(&S.lock);
    return addr;
}

/* A freed block that was detached costs its addresses for good, and no memory: a peer that is very
 * late must not meet another owner there. */
static void abandon(const rdt_arena_t *a, const rdt_block_t *block)
{
    madvise(addr_of(a, block->page), (size_t)block->num_pages * RDT_ARENA_PAGE, MADV_DONTNEED);
    punch(a, block->page, block->num_pages);
}

void rdt_arena_reuse(rdt_arena_t *a, rdt_block_t *block)
{
    if (block->detached)
        abandon(a, block);
    else
        rdt_blocks_free(&a->blocks, block, true);
}

bool rdt_arena_remap(const rdt_arena_t *a, uint32_t page, uint32_t end, int flags)
{
    uint8_t *addr = addr_of(a, page);
    size_t bytes = (size_t)(end - page) * RDT_ARENA_PAGE;

    if (page == end) return true;
    if (mmap(addr, bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED | MAP_NORESERVE, a->fd,
             addr - a->base) == MAP_FAILED)
        return false;
    if (flags == MAP_SHARED) madvise(addr, bytes, MADV_HUGEPAGE);
    return true;
}

static void free_locked(rdt_arena_t *a, rdt_block_t *block)
{
    rdt_blocks_retire(&a->blocks, block);
    block->died = a->num_forks;
    if (!rdt_fork_quarantine(a, block)) rdt_arena_reuse(a, block);
    housekeep(a);
}

static bool was_inherited(uintptr_t addr)
{
    rdt_arena_t *a = atomic_load_explicit(&S.inherited, memory_order_relaxed);

    for (; a != NULL; a = a->older)
        if (addr - (uintptr_t)a->base < a->bytes) return true;
    return false;
}

static bool holds(uintptr_t addr, size_t bytes, uintptr_t *offset_p)
{
    size_t size = atomic_load_explicit(&S.bytes, memory_order_acquire);

    *offset_p = addr - atomic_load_explicit(&S.base, memory_order_relaxed);
    return *offset_p < size && bytes <= size - *offset_p;
}

bool rdt_arena_owns(const void *ptr)
{
    uintptr_t offset;

    return holds((uintptr_t)ptr, 1, &offset) || was_inherited((uintptr_t)ptr);
}

bool rdt_arena_free(void *ptr)
{
    uintptr_t offset;
    rdt_block_t *block;

    if (!holds((uintptr_t)ptr, 0, &offset)) return was_inherited((uintptr_t)ptr);
    pthread_mutex_lock(&S.lock);
    block = rdt_blocks_at(&S.arena->blocks, (uint32_t)(offset / RDT_ARENA_PAGE));
    assert(block != NULL && offset % RDT_ARENA_PAGE == 0); /* else freed twice, or never taken */
    if (block != NULL && offset % RDT_ARENA_PAGE == 0) free_locked(S.arena, block);
    pthread_mutex_unlock(&S.lock);
    return true;
}

/* -- offsets and detaching -- */

static bool is_detached(uint32_t page, uint32_t end)
{
    rdt_block_t *block;

    pthread_mutex_lock(&S.lock);
    for (block = S.arena->detached; block != NULL; block = block->next_detached)
        if (block->page < end && page < block->page + block->num_pages) break;
    pthread_mutex_unlock(&S.lock);
    return block != NULL;
}

static uint32_t end_page(uintptr_t offset, size_t bytes)
{
    return (uint32_t)((offset + bytes + RDT_ARENA_PAGE - 1) / RDT_ARENA_PAGE);
}

bool rdt_arena_offset(const void *addr, size_t bytes, uint64_t *offset_p)
{
    uintptr_t offset;

    if (!holds((uintptr_t)addr, bytes, &offset)) return false;
    if (__builtin_expect(atomic_load(&S.num_detached) != 0, 0) &&
        is_detached((uint32_t)(offset / RDT_ARENA_PAGE), end_page(offset, bytes)))
        return false;
    *offset_p = offset;
    return true;
}

/* Private memory in the place of the block, with its contents. */
static bool replace(uint8_t *addr, size_t bytes)
{
    int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *copy = mmap(NULL, bytes, prot, flags, -1, 0);

    if (copy == MAP_FAILED) return false;
    memcpy(copy, addr, bytes);
    if (mremap(copy, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, addr) != MAP_FAILED) return true;
    munmap(copy, bytes);
    return false;
}

rdt_status_t rdt_arena_detach(const void *addr, size_t bytes)
{
    rdt_status_t st = RDT_OK;
    uintptr_t offset;
    rdt_arena_t *a;
    uint32_t page, end;
    rdt_block_t *block;

    if (bytes == 0 || !holds((uintptr_t)addr, bytes, &offset)) return RDT_OK;
    page = (uint32_t)(offset / RDT_ARENA_PAGE);
    end = end_page(offset, bytes);
    pthread_mutex_lock(&S.lock);
    a = S.arena;
    while (page < end && (block = rdt_blocks_within(&a->blocks, page, end)) != NULL) {
        page = block->page + block->num_pages;
        if (block->detached) continue;
        /* Counted first: who finds no detached block after a peer's last store has not lost it. */
        atomic_fetch_add(&S.num_detached, 1);
        block->detached = true;
        block->next_detached = a->detached;
        a->detached = block;
        if (replace(addr_of(a, block->page), (size_t)block->num_pages * RDT_ARENA_PAGE)) continue;
        /* It stays shared, and is not used again all the same. */
        st = rdt_fail(RDT_NO_MEMORY, "arena: %u pages cannot be made private: %s", block->num_pages,
                      strerror(errno));
    }
    pthread_mutex_unlock(&S.lock);
    return st;
}

/* -- statistics -- */

void rdt_arena_get_stats(rdt_arena_stats_t *stats_p)
{
    const rdt_arena_t *a;

    *stats_p = (rdt_arena_stats_t){0};
    pthread_mutex_lock(&S.lock);
    a = S.arena;
    if (a != NULL)
        *stats_p = (rdt_arena_stats_t){
            .reserved_bytes = a->bytes,
            .extent_bytes = a->blocks.num_extent * RDT_ARENA_PAGE,
            .in_use_bytes = a->blocks.num_used * RDT_ARENA_PAGE,
            .peak_in_use_bytes = a->peak_pages * RDT_ARENA_PAGE,
            .cached_bytes =
                (a->blocks.num_cached + a->blocks.num_pinned + a->num_quarantined) * RDT_ARENA_PAGE,
            .num_blocks = a->blocks.num_blocks,
            .num_refused = a->num_refused,
        };
    pthread_mutex_unlock(&S.lock);
}
