/* SPDX-License-Identifier: Apache-2.0 */
/* What fork() does to the arena. The child gets private mappings of the same file, which show the
 * file until the child writes a page. So what the child may still read must neither be punched nor
 * used for something else, until the child has ended. */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arena/private.h"

#define S rdt_arena_state

/* -- epochs -- */

/* No more children join: from here on the pipe tells when the last one is gone. */
static void seal(rdt_epoch_t *epoch)
{
    if (epoch->write_fd >= 0) close(epoch->write_fd);
    epoch->write_fd = -1;
}

static bool is_over(const rdt_epoch_t *epoch)
{
    struct pollfd pfd = {.fd = epoch->read_fd};

    return epoch->write_fd < 0 && poll(&pfd, 1, 0) == 1 && (pfd.revents & POLLHUP) != 0;
}

static bool sees(const rdt_epoch_t *epoch, const rdt_block_t *block)
{
    return epoch->last > block->born && epoch->first <= block->died;
}

static bool is_seen(const rdt_arena_t *a, const rdt_block_t *block)
{
    for (const rdt_epoch_t *epoch = a->epochs; epoch != NULL; epoch = epoch->next)
        if (sees(epoch, block)) return true;
    return a->untracked > block->born;
}

static void drop_epochs(rdt_arena_t *a)
{
    rdt_epoch_t **link = &a->epochs;

    while (*link != NULL) {
        rdt_epoch_t *epoch = *link;

        if (!is_over(epoch)) {
            link = &epoch->next;
            continue;
        }
        *link = epoch->next;
        close(epoch->read_fd);
        free(epoch);
        a->epoch_ended = true;
    }
}

bool rdt_fork_quarantine(rdt_arena_t *a, rdt_block_t *block)
{
    if (!is_seen(a, block)) return false;
    if (a->epochs != NULL) seal(a->epochs); /* only the newest can be open */
    drop_epochs(a);
    if (!is_seen(a, block)) return false;
    block->next = a->quarantine;
    a->quarantine = block;
    a->num_quarantined += block->num_pages;
    return true;
}

void rdt_fork_collect(rdt_arena_t *a)
{
    rdt_block_t **link = &a->quarantine;

    drop_epochs(a);
    if (!a->epoch_ended) return;
    a->epoch_ended = false;
    while (*link != NULL) {
        rdt_block_t *block = *link;

        if (is_seen(a, block)) {
            link = &block->next;
            continue;
        }
        *link = block->next;
        a->num_quarantined -= block->num_pages;
        rdt_arena_reuse(a, block);
    }
}

/* -- the three handlers -- */

/* Joins the newest epoch if it is open still: many workers, forked in a row, need one pipe. */
static void join_epoch(rdt_arena_t *a)
{
    rdt_epoch_t *epoch = a->epochs;
    int fds[2];

    a->num_forks++;
    if (epoch != NULL && epoch->write_fd >= 0) {
        epoch->last = a->num_forks;
        return;
    }
    epoch = malloc(sizeof(*epoch));
    if (epoch == NULL || pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0) {
        a->untracked = a->num_forks;
        free(epoch);
        return;
    }
    *epoch = (rdt_epoch_t){a->epochs, a->num_forks, a->num_forks, fds[0], fds[1]};
    a->epochs = epoch;
}

static void before(void)
{
    pthread_mutex_lock(&S.lock);
    if (S.arena == NULL) return;
    rdt_fork_collect(S.arena);
    join_epoch(S.arena);
}

static void after_in_parent(void)
{
    pthread_mutex_unlock(&S.lock);
}

/* The lowest detached block from page on: it is private memory, which the kernel has copied. */
static const rdt_block_t *next_detached(const rdt_arena_t *a, uint32_t page)
{
    const rdt_block_t *found = NULL;

    for (const rdt_block_t *block = a->detached; block != NULL; block = block->next_detached)
        if (block->page >= page && (found == NULL || block->page < found->page)) found = block;
    return found;
}

/* Better no memory than the parent's. */
static void close_off(const rdt_arena_t *a, uint32_t page, uint32_t end)
{
    if (page < end)
        mprotect(a->base + (size_t)page * RDT_ARENA_PAGE, (size_t)(end - page) * RDT_ARENA_PAGE,
                 PROT_NONE);
}

static void make_private(const rdt_arena_t *a, uint32_t page, uint32_t end)
{
    while (page < end) {
        const rdt_block_t *hole = next_detached(a, page);
        uint32_t stop = hole != NULL && hole->page < end ? hole->page : end;

        if (!rdt_arena_remap(a, page, stop, MAP_PRIVATE)) close_off(a, page, stop);
        page = stop < end ? hole->page + hole->num_pages : end;
    }
}

/* Extent by extent: a kernel that never overcommits counts what is private and could be written. */
static void leave(const rdt_arena_t *a)
{
    uint32_t page = 0;

    for (const rdt_extent_t *e = a->blocks.extents; e != NULL; e = e->next) {
        close_off(a, page, e->page);
        page = e->page + e->num_pages;
        make_private(a, e->page, page);
    }
    close_off(a, page, a->blocks.num_pages);
}

static void after_in_child(void)
{
    rdt_arena_t *a = S.arena;

    rdt_peers_forget();
    if (a != NULL) {
        leave(a);
        close(a->fd);
        while (a->epochs != NULL) { /* the writing end stays: it is this child's sign of life */
            rdt_epoch_t *epoch = a->epochs;

            a->epochs = epoch->next;
            close(epoch->read_fd);
            free(epoch);
        }
        a->older = atomic_load_explicit(&S.inherited, memory_order_relaxed);
        atomic_store_explicit(&S.inherited, a, memory_order_relaxed);
        S.arena = NULL;
        atomic_store_explicit(&S.bytes, 0, memory_order_relaxed);
        atomic_store_explicit(&S.num_detached, 0, memory_order_relaxed);
    }
    pthread_mutex_unlock(&S.lock);
}

static void watch(void)
{
    pthread_atfork(before, after_in_parent, after_in_child);
}

void rdt_fork_watch(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, watch);
}
