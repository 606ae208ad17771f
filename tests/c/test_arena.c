/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of the arena against oracles of their own: who owns which page, what each must contain, what
 * stays resident. */
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "arena_check.h"

/* -- blocks -- */

#define NUM_LIVE 300
#define NUM_OPS 6000

typedef struct live {
    uint8_t *addr;
    size_t bytes;
    uint64_t id;
} live_t;

static size_t random_size(uint64_t *random)
{
    uint64_t r = next_random(random);

    if (r % 16 == 0) return 1 + (r >> 8) % (3 * MIB);
    if (r % 4 == 0) return ((r >> 8) % 16 + 1) * 65536; /* sizes that come again */
    return 1 + (r >> 8) % 200000;
}

static size_t pages_of(size_t bytes)
{
    return (bytes + PAGE - 1) / PAGE;
}

/* owner[page]: the live block that the page belongs to, 0 for none. */
static void claim(uint32_t *owner, const live_t *live, uint32_t from, uint32_t to)
{
    uint64_t offset = 0;

    CHECK(rdt_arena_offset(live->addr, live->bytes, &offset), "block %llu has no offset",
          (unsigned long long)live->id);
    for (size_t i = 0; i < pages_of(live->bytes); i++) {
        CHECK_EQ(owner[offset / PAGE + i], from);
        owner[offset / PAGE + i] = to;
    }
}

static uint32_t count_dirty(const rdt_blocks_t *b, const rdt_block_t *block)
{
    uint32_t num = 0;

    for (uint32_t page = block->page; page < block->page + block->num_pages; page++)
        num += b->dirty[page / 64] >> (page % 64) & 1;
    return num;
}

/* Blocks cover their extent, free neighbours are joined, and the sums are those of the parts. */
static void books_are_in_order(const rdt_blocks_t *b)
{
    uint64_t extent = 0, used = 0, cached = 0;
    uint32_t end = 0;

    for (const rdt_extent_t *e = b->extents; e != NULL; e = e->next) {
        uint32_t page = e->page;

        CHECK(page >= end && page + e->num_pages <= b->num_pages, "extent at page %u", page);
        end = page + e->num_pages;
        extent += e->num_pages;
        for (const rdt_block_t *block = e->first; block != NULL; block = block->upper) {
            CHECK_EQ(block->page, page);
            page += block->num_pages;
            CHECK(block->upper == NULL || block->upper->lower == block, "page %u", page);
            if (block->state == RDT_BLOCK_FREE) {
                CHECK_EQ(block->num_dirty, count_dirty(b, block));
                CHECK(block->upper == NULL || block->upper->state != RDT_BLOCK_FREE, "page %u",
                      page);
                cached += block->num_dirty;
            } else {
                CHECK(rdt_blocks_at(b, block->page) == block, "page %u", block->page);
                used += block->num_pages;
            }
        }
        CHECK_EQ(page, end);
    }
    CHECK_EQ(b->num_extent, extent);
    CHECK_EQ(b->num_used, used);
    CHECK_EQ(b->num_cached, cached);
}

static void random_blocks_neither_overlap_nor_change(void)
{
    static live_t lives[NUM_LIVE];
    uint32_t *owner =
        mmap(NULL, rdt_arena_is_open() ? stats().reserved_bytes / PAGE * 4 : 0,
             PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    rdt_arena_stats_t before = stats(), now;
    uint64_t random = 1, pages = 0;

    CHECK(owner != MAP_FAILED, "no memory for the oracle");
    for (uint64_t op = 1; op <= NUM_OPS; op++) {
        uint32_t slot = (uint32_t)(next_random(&random) % NUM_LIVE);
        live_t *live = &lives[slot];

        if (live->addr != NULL) {
            CHECK(is_filled(live->addr, live->bytes, live->id), "block %llu changed",
                  (unsigned long long)live->id);
            claim(owner, live, slot + 1, 0);
            pages -= pages_of(live->bytes);
            CHECK(rdt_arena_free(live->addr), "op %llu", (unsigned long long)op);
            live->addr = NULL;
        } else {
            live->bytes = random_size(&random);
            live->addr = alloc(live->bytes);
            live->id = op;
            claim(owner, live, 0, slot + 1);
            pages += pages_of(live->bytes);
            fill(live->addr, live->bytes, op);
        }
        now = stats();
        CHECK_EQ(now.in_use_bytes - before.in_use_bytes, pages * PAGE);
        if (op % 50 == 0) books_are_in_order(&rdt_arena_state.arena->blocks);
    }
    for (uint32_t slot = 0; slot < NUM_LIVE; slot++)
        if (lives[slot].addr != NULL) {
            CHECK(is_filled(lives[slot].addr, lives[slot].bytes, lives[slot].id), "slot %u", slot);
            rdt_arena_free(lives[slot].addr);
            lives[slot].addr = NULL;
        }
    CHECK_EQ(stats().num_blocks, before.num_blocks);
    munmap(owner, before.reserved_bytes / PAGE * 4);
}

/* Freed in every order, three neighbours are one block again: there is room for their sum. */
static void neighbours_are_joined(void)
{
    static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                     {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};

    for (int i = 0; i < 6; i++) {
        rdt_blocks_t blocks;
        rdt_block_t *b[3], *all;
        uint32_t num_clean;

        CHECK(rdt_blocks_init(&blocks, RDT_BLOCKS_EXTENT), "no memory");
        for (int k = 0; k < 3; k++) {
            b[k] = rdt_blocks_take(&blocks, RDT_BLOCKS_EXTENT / (k == 2 ? 2 : 4), &num_clean);
            CHECK(b[k] != NULL, "order %d block %d", i, k);
        }
        CHECK(rdt_blocks_take(&blocks, 1, &num_clean) == NULL, "three blocks are all of it");
        for (int k = 0; k < 3; k++) {
            rdt_blocks_retire(&blocks, b[orders[i][k]]);
            rdt_blocks_free(&blocks, b[orders[i][k]], orders[i][k] != 1);
        }
        CHECK_EQ(blocks.num_cached, RDT_BLOCKS_EXTENT / 4 * 3);
        all = rdt_blocks_take(&blocks, RDT_BLOCKS_EXTENT, &num_clean);
        CHECK(all != NULL && all->page == 0, "order %d: not one block", i);
        CHECK_EQ(num_clean, RDT_BLOCKS_EXTENT / 4);
        rdt_blocks_fini(&blocks);
    }
}

static void pages_that_are_resident_are_taken_first(void)
{
    rdt_blocks_t blocks;
    rdt_block_t *low, *wall, *high;
    uint32_t num_clean = 0, page = 0, num = 0;

    CHECK(rdt_blocks_init(&blocks, 4 * RDT_BLOCKS_EXTENT), "no memory");
    low = rdt_blocks_take(&blocks, 100, &num_clean);
    wall = rdt_blocks_take(&blocks, 1, &num_clean);
    high = rdt_blocks_take(&blocks, 300, &num_clean);
    CHECK(low != NULL && wall != NULL && high != NULL, "no room");
    rdt_blocks_retire(&blocks, high);
    rdt_blocks_free(&blocks, high, true);
    rdt_blocks_retire(&blocks, low);
    rdt_blocks_free(&blocks, low, false);
    low = rdt_blocks_take(&blocks, 100, &num_clean); /* fits below the wall, where it is clean */
    CHECK_EQ(num_clean, 0);
    CHECK_EQ(low->page, 101);
    CHECK_EQ(blocks.num_cached, 200);
    CHECK_EQ(rdt_blocks_purge(&blocks, 50, &page, &num), 50);
    CHECK_EQ(page, 351);
    CHECK_EQ(blocks.num_cached, 150);
    CHECK_EQ(rdt_blocks_purge(&blocks, 1000, &page, &num), 150);
    CHECK_EQ(page, 201);
    CHECK_EQ(rdt_blocks_purge(&blocks, 1000, &page, &num), 0);
    rdt_blocks_fini(&blocks);
}

static void it_grows_until_there_is_no_room(void)
{
    rdt_arena_stats_t before = stats(), now;
    void *big[3], *huge;

    for (int i = 0; i < 3; i++) /* never touched, so they cost nothing but addresses */
        big[i] = alloc(300 * MIB);
    huge = rdt_arena_alloc(before.reserved_bytes);
    CHECK(huge == NULL, "more than is left");
    CHECK(rdt_arena_alloc(SIZE_MAX) == NULL, "more than there can be");
    now = stats();
    CHECK_EQ(now.num_refused, before.num_refused + 2);
    CHECK(now.extent_bytes >= before.extent_bytes + 900 * MIB - 64 * MIB, "%llu bytes of extents",
          (unsigned long long)now.extent_bytes);
    for (int i = 0; i < 3; i++)
        rdt_arena_free(big[i]);
}

static void memory_that_is_not_used_again_goes_back(void)
{
    enum { NUM = 64 };
    void *blocks[NUM];
    size_t idle;

    let_windows_pass();
    let_windows_pass();
    idle = resident_bytes();
    for (int i = 0; i < NUM; i++) {
        blocks[i] = alloc(4 * MIB);
        fill(blocks[i], 4 * MIB, (uint64_t)i);
    }
    CHECK(resident_bytes() >= NUM * 4 * MIB, "%zu bytes resident", resident_bytes());
    for (int i = 0; i < NUM; i++)
        rdt_arena_free(blocks[i]);
    let_windows_pass();
    CHECK(resident_bytes() <= idle + 8 * MIB, "%zu bytes resident, %zu before", resident_bytes(),
          idle);
    CHECK(stats().extent_bytes <= 128 * MIB, "%llu bytes of extents",
          (unsigned long long)stats().extent_bytes);
    CHECK(stats().cached_bytes <= 8 * MIB, "%llu cached", (unsigned long long)stats().cached_bytes);
}

/* A loop that allocates the same again finds its pages: nothing is given back in between. */
static void a_loop_keeps_its_pages(void)
{
    void *blocks[8];

    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 8; i++) {
            blocks[i] = alloc((size_t)(i + 1) * MIB);
            if (round == 0) fill(blocks[i], (size_t)(i + 1) * MIB, 1);
        }
        CHECK(round == 0 || resident_bytes() >= 36 * MIB, "%zu in round %d", resident_bytes(),
              round);
        for (int i = 0; i < 8; i++)
            rdt_arena_free(blocks[i]);
    }
}

static void what_is_not_the_arenas_is_refused(void)
{
    uint64_t offset = 77;
    int here = 0;
    uint8_t *block = alloc(2 * PAGE), *end;

    CHECK(!rdt_arena_free(&here), "the stack");
    CHECK(!rdt_arena_free(NULL), "NULL");
    CHECK(!rdt_arena_offset(&here, sizeof(here), &offset), "the stack");
    CHECK(rdt_arena_offset(block, 2 * PAGE, &offset), "a block");
    end = block - offset + stats().reserved_bytes;
    offset = 77;
    CHECK(!rdt_arena_offset(end, 1, &offset), "behind the end");
    CHECK(!rdt_arena_offset(end - 1, 2, &offset), "across the end");
    CHECK(!rdt_arena_offset(block, SIZE_MAX, &offset), "more than there is");
    CHECK_EQ(offset, 77);
    CHECK(rdt_arena_offset(end - 1, 1, &offset), "the last byte");
    rdt_arena_free(block);
}

/* -- threads, NUMA -- */

static void threads_do_not_disturb_each_other(void)
{
    uint64_t before = stats().num_blocks;
    pthread_t threads[NUM_THREADS];

    start_threads(threads);
    join_threads(threads);
    CHECK_EQ(stats().num_blocks, before);
}

static void numa_policies_hold(void)
{
    uint8_t *block = alloc(PAGE);
    int mode = -1;

    CHECK(rdt_numa_node() >= -1, "no node");
    rdt_numa_prefer(block, PAGE, 0);
    if (syscall(SYS_get_mempolicy, &mode, NULL, 0ul, block, MPOL_F_ADDR) == 0)
        CHECK_EQ(mode, MPOL_PREFERRED);
    else
        printf("skipped: the policy of pages, this kernel has none: %s\n", strerror(errno));
    rdt_arena_free(block);
}

int main(void)
{
    alarm(240); /* a deadlock ends as a failure */
    rdt_arena_state.window_ns = RDT_NS_PER_MS;
    CHECK(rdt_arena_open() == RDT_OK && rdt_arena_open() == RDT_OK, "%s", rdt_last_error());
    neighbours_are_joined();
    pages_that_are_resident_are_taken_first();
    random_blocks_neither_overlap_nor_change();
    it_grows_until_there_is_no_room();
    memory_that_is_not_used_again_goes_back();
    rdt_arena_state.window_ns = 60 * RDT_NS_PER_S;
    a_loop_keeps_its_pages();
    rdt_arena_state.window_ns = RDT_NS_PER_MS;
    what_is_not_the_arenas_is_refused();
    threads_do_not_disturb_each_other();
    numa_policies_hold();
    return 0;
}
