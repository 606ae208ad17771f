/* SPDX-License-Identifier: Apache-2.0 */
/* A pinned extent keeps its pages: the test stands for the device, whose view is the file. */
#include <sys/mman.h>

#include "arena_check.h"

#define EXTENT (64 * MIB)

typedef struct pin {
    uint8_t *base;
    size_t len;
} pin_t;

static pin_t pin(const void *addr, size_t bytes)
{
    pin_t p = {0};

    CHECK(rdt_arena_pin(addr, bytes, (void **)&p.base, &p.len) == RDT_OK, "%s", rdt_last_error());
    CHECK((const uint8_t *)addr >= p.base && (const uint8_t *)addr + bytes <= p.base + p.len,
          "%p is not in %p", addr, (void *)p.base);
    CHECK(p.len >= EXTENT && (uintptr_t)p.base % PAGE == 0, "%zu bytes", p.len);
    return p;
}

static void refuse_pin(const char *what, const void *addr, size_t bytes)
{
    void *base = NULL;
    size_t len = 0;

    CHECK(rdt_arena_pin(addr, bytes, &base, &len) == RDT_UNSUPPORTED, "%s", what);
    CHECK(base == NULL && len == 0, "%s: outputs", what);
    CHECK(strstr(rdt_last_error(), "arena") != NULL, "%s: %s", what, rdt_last_error());
}

static off_t offset_of(const void *addr)
{
    size_t bytes;

    return (const uint8_t *)addr - rdt_arena_base(&bytes);
}

/* Bytes of the range that the file has pages for. */
static size_t resident_in(const uint8_t *addr, size_t bytes)
{
    off_t at = offset_of(addr), end = at + (off_t)bytes;
    size_t num = 0;

    while (at < end) {
        off_t data = lseek(rdt_arena_fd(), at, SEEK_DATA), hole;

        if (data < 0 || data >= end) break; /* ENXIO: none behind it */
        hole = lseek(rdt_arena_fd(), data, SEEK_HOLE);
        num += (size_t)((hole < end ? hole : end) - data);
        at = hole;
    }
    return num;
}

/* What registering does: every page is there, and the device keeps which one it is. */
static void touch(pin_t p, uint64_t id)
{
    uint8_t *device =
        mmap(NULL, p.len, PROT_READ | PROT_WRITE, MAP_SHARED, rdt_arena_fd(), offset_of(p.base));

    CHECK(device != MAP_FAILED, "mmap: %s", strerror(errno));
    fill(device, p.len, id);
    munmap(device, p.len);
}

static void free_all_and_wait(void **blocks, int num)
{
    for (int i = 0; i < num; i++)
        CHECK(rdt_arena_free(blocks[i]), "not freed");
    let_windows_pass();
}

/* -- */

static void without_a_pin_pages_go(void)
{
    void *block = alloc(8 * MIB);
    pin_t range;

    fill(block, 8 * MIB, 1);
    range = pin(block, 8 * MIB);
    rdt_arena_unpin(range.base);
    free_all_and_wait(&block, 1);
    CHECK(resident_in(range.base, range.len) <= 3 * MIB, "%zu", resident_in(range.base, range.len));
}

static void pinned_pages_stay(void)
{
    void *blocks[4];
    pin_t p, again;

    for (int i = 0; i < 4; i++)
        blocks[i] = alloc(12 * MIB);
    p = pin((uint8_t *)blocks[2] + 5, 100);
    again = pin(blocks[1], 12 * MIB);
    CHECK(again.base == p.base && again.len == p.len, "one extent, two ranges");
    touch(p, 7);
    CHECK_EQ(stats().cached_bytes, p.len - stats().in_use_bytes);
    free_all_and_wait(blocks, 4);
    CHECK_EQ(resident_in(p.base, p.len), p.len);
    rdt_arena_unpin(p.base);
    let_windows_pass();
    CHECK_EQ(resident_in(p.base, p.len), p.len);
    CHECK_EQ(stats().cached_bytes + stats().in_use_bytes, p.len);
    CHECK(is_filled(p.base, PAGE, 7), "let_windows_pass changed something");
    rdt_arena_unpin(p.base); /* and they go at once: the peak is long over */
    CHECK(resident_in(p.base, p.len) <= 3 * MIB, "%zu", resident_in(p.base, p.len));
    CHECK(stats().cached_bytes <= 3 * MIB, "%llu", (unsigned long long)stats().cached_bytes);
}

/* The pinned one is the second extent: without the pin it would be forgotten. */
static void a_pinned_extent_is_not_given_back(void)
{
    void *blocks[2] = {alloc(EXTENT), alloc(EXTENT)}, *high;
    pin_t p;

    high = blocks[blocks[1] > blocks[0]];
    p = pin(high, EXTENT);
    CHECK(p.base == high, "not its own extent");
    touch(p, 9);
    free_all_and_wait(blocks, 2);
    CHECK(stats().extent_bytes >= EXTENT, "%llu", (unsigned long long)stats().extent_bytes);
    CHECK_EQ(resident_in(p.base, p.len), p.len);
    blocks[0] = alloc(EXTENT); /* what is pinned is used first */
    CHECK(blocks[0] == high, "%p, pinned is %p", blocks[0], high);
    CHECK(is_filled(blocks[0], EXTENT, 9), "other pages than the device's");
    rdt_arena_free(blocks[0]);
    rdt_arena_unpin(p.base);
    let_windows_pass();
    CHECK_EQ(resident_in(p.base, p.len), 0);
}

static void pins_do_not_push_others_out(void)
{
    void *pinned = alloc(EXTENT), *others[2];
    pin_t p = pin(pinned, EXTENT);

    touch(p, 3);
    rdt_arena_free(pinned);
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 2; i++) {
            others[i] = alloc(60 * MIB);
            if (round == 0) fill(others[i], 60 * MIB, 4);
        }
        for (int i = 0; i < 2; i++)
            rdt_arena_free(others[i]);
    }
    CHECK(stats().cached_bytes >= EXTENT + 60 * MIB,
          "%llu: what is in use each time was given back",
          (unsigned long long)stats().cached_bytes);
    rdt_arena_unpin(p.base);
    let_windows_pass();
}

static void refuse_two_extents(void)
{
    uint8_t *blocks[3];
    int num = 0;

    for (int i = 0; i < 3; i++)
        blocks[i] = alloc(EXTENT);
    for (int i = 0; i < 9; i++)
        if (blocks[i / 3] + EXTENT == blocks[i % 3]) {
            refuse_pin("two extents", blocks[i % 3] - 1, 2);
            num++;
        }
    CHECK(num > 0, "no extents that touch");
    for (int i = 0; i < 3; i++)
        rdt_arena_free(blocks[i]);
}

static void what_cannot_be_pinned(void)
{
    uint8_t *block = alloc(4 * PAGE);
    int here;
    size_t bytes;
    uint8_t *base = rdt_arena_base(&bytes);

    refuse_pin("a stack", &here, sizeof(here));
    refuse_pin("nothing", block, 0);
    refuse_pin("the last byte is outside", base + bytes - PAGE, PAGE + 1);
    refuse_pin("no extent is there", base + bytes - PAGE, PAGE);
    refuse_pin("more than there is", block, SIZE_MAX);
    refuse_two_extents();
    CHECK(rdt_arena_detach(block + PAGE, 1) == RDT_OK, "%s", rdt_last_error());
    refuse_pin("a detached block", block + 3 * PAGE, PAGE);
    rdt_arena_free(block);
    refuse_pin("freed after it was detached", block, PAGE);
    let_windows_pass();
}

/* The device still has the pages of the file, and the extent can be unpinned from its base. */
static void a_block_can_be_detached_from_a_pinned_extent(void)
{
    uint8_t *block = alloc(EXTENT);
    pin_t p = pin(block, EXTENT);

    fill(block, EXTENT, 5);
    CHECK(rdt_arena_detach(block, 1) == RDT_OK, "%s", rdt_last_error());
    touch(p, 6);
    CHECK(is_filled(block, EXTENT, 5), "the device wrote a detached block");
    rdt_arena_free(block);
    rdt_arena_unpin(p.base);
    let_windows_pass();
    CHECK_EQ(resident_in(p.base, p.len), 0);
}

/* -- fork -- */

static void look_in_child(int sock, void *arg)
{
    pin_t *p = arg;

    refuse_pin("in a child", p->base, PAGE);
    rdt_arena_unpin(p->base); /* has no effect: no arena, no pins */
    CHECK(is_filled(p->base, MIB, 11), "a child's view");
    fill(p->base, MIB, 13);
    CHECK(rdt_arena_open() == RDT_OK, "%s", rdt_last_error());
    refuse_pin("of the parent", p->base, PAGE);
    rdt_arena_unpin(p->base);
    say(sock);
    hear(sock);
    CHECK(is_filled(p->base, MIB, 13), "the device wrote a child's page");
}

static void a_fork_leaves_pins_and_pages(void)
{
    uint8_t *block = alloc(EXTENT);
    pin_t p = pin(block, EXTENT);
    child_t child;

    touch(p, 11);
    child = start(look_in_child, &p);
    hear(child.sock);
    CHECK(is_filled(block, EXTENT, 11), "a child wrote the parent's page");
    touch(p, 12);
    CHECK(is_filled(block, EXTENT, 12), "not the device's pages since the fork");
    rdt_arena_free(block); /* kept aside while the child lives */
    let_windows_pass();
    CHECK_EQ(resident_in(p.base, p.len), p.len);
    say(child.sock);
    finish(child);
    let_windows_pass();
    CHECK_EQ(rdt_arena_state.arena->num_quarantined, 0);
    CHECK_EQ(resident_in(p.base, p.len), p.len);
    CHECK(is_filled(p.base, p.len, 12), "other pages");
    rdt_arena_unpin(p.base);
    let_windows_pass();
    CHECK(resident_in(p.base, p.len) <= 3 * MIB, "%zu", resident_in(p.base, p.len));
}

static uint64_t count_free_dirty(const rdt_blocks_t *b)
{
    uint64_t num = 0;

    for (const rdt_extent_t *e = b->extents; e != NULL; e = e->next)
        for (const rdt_block_t *block = e->first; block != NULL; block = block->upper) {
            CHECK(block->extent == e, "of another extent");
            for (uint32_t page = block->page; page < block->page + block->num_pages; page++)
                num += b->dirty[page / 64] >> (page % 64) & (block->state == RDT_BLOCK_FREE);
        }
    return num;
}

/* Pins come and go while threads take and free. */
static void *pin_and_unpin(void *arg)
{
    void *block = alloc(PAGE);

    (void)arg;
    for (int i = 0; i < 500; i++) {
        pin_t p = pin(block, PAGE);

        rdt_arena_free(block);
        block = alloc(PAGE * (1 + (size_t)i % 3));
        rdt_arena_unpin(p.base);
    }
    rdt_arena_free(block);
    return NULL;
}

static void threads_pin(void)
{
    pthread_t threads[NUM_THREADS], pinners[2];

    start_threads(threads);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pthread_create(&pinners[i], NULL, pin_and_unpin, NULL), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(pinners[i], NULL);
    join_threads(threads);
    let_windows_pass();
    CHECK_EQ(stats().num_blocks, 0);
    CHECK_EQ(rdt_arena_state.arena->blocks.num_pinned, 0);
    CHECK_EQ(rdt_arena_state.arena->blocks.num_cached,
             count_free_dirty(&rdt_arena_state.arena->blocks));
}

int main(void)
{
    alarm(240); /* a deadlock ends as a failure */
    refuse_pin("no arena is open", main, 1);
    rdt_arena_unpin(main);
    rdt_arena_state.window_ns = RDT_NS_PER_MS;
    CHECK(rdt_arena_open() == RDT_OK, "%s", rdt_last_error());
    without_a_pin_pages_go();
    pinned_pages_stay();
    a_pinned_extent_is_not_given_back();
    pins_do_not_push_others_out();
    what_cannot_be_pinned();
    a_fork_leaves_pins_and_pages();
    threads_pin();
    a_block_can_be_detached_from_a_pinned_extent();
    return 0;
}
