/* SPDX-License-Identifier: Apache-2.0 */
/* The arenas of other processes: one mapping each, counted, found by the file that it shows. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "arena/private.h"
#include "base/error.h"

#define S rdt_arena_state

typedef struct peer {
    struct peer *next;
    dev_t dev;
    ino_t ino;
    uint8_t *base;
    size_t bytes;
    uint32_t num_users;
} peer_t;

static peer_t *peers;

static rdt_status_t check(int fd, struct stat *info)
{
    int seals = fcntl(fd, F_GET_SEALS);

    if (seals < 0 || fstat(fd, info) < 0)
        return rdt_fail(RDT_PROTOCOL, "peer's arena: descriptor %d is no memfd: %s", fd,
                        strerror(errno));
    if ((seals & F_SEAL_SHRINK) == 0)
        return rdt_fail(RDT_PROTOCOL, "peer's arena: it could shrink under its users");
    if (info->st_size <= 0 || info->st_size % RDT_ARENA_PAGE != 0)
        return rdt_fail(RDT_PROTOCOL, "peer's arena: no arena has %lld bytes",
                        (long long)info->st_size);
    return RDT_OK;
}

static rdt_status_t map_new(int fd, const struct stat *info, peer_t **peer_p)
{
    peer_t *peer = malloc(sizeof(*peer));
    size_t bytes = (size_t)info->st_size;
    void *base;

    if (peer == NULL) return rdt_fail(RDT_NO_MEMORY, "peer's arena: out of memory");
    base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED) {
        rdt_status_t st = errno == ENOMEM || errno == EAGAIN ? RDT_NO_MEMORY : RDT_PROTOCOL;

        free(peer);
        return rdt_fail(st,
                        "mapping a peer's arena, %zu GiB of address space: %s (RDMATRAIN_ARENA=off "
                        "does without)",
                        bytes >> 30, strerror(errno));
    }
    madvise(base, bytes, MADV_HUGEPAGE);
    madvise(base, bytes, MADV_DONTDUMP);
    madvise(base, bytes, MADV_DONTFORK); /* a child has no business with our peers */
    *peer = (peer_t){peers, info->st_dev, info->st_ino, base, bytes, 0};
    peers = peer;
    *peer_p = peer;
    return RDT_OK;
}

rdt_status_t rdt_arena_map_peer(int fd, uint8_t **base_p, size_t *bytes_p)
{
    struct stat info;
    rdt_status_t st = check(fd, &info);
    peer_t *peer;

    if (st != RDT_OK) return st;
    rdt_fork_watch();
    pthread_mutex_lock(&S.lock);
    for (peer = peers; peer != NULL; peer = peer->next)
        if (peer->dev == info.st_dev && peer->ino == info.st_ino) break;
    if (peer == NULL) st = map_new(fd, &info, &peer);
    if (st == RDT_OK) {
        peer->num_users++;
        *base_p = peer->base;
        *bytes_p = peer->bytes;
    }
    pthread_mutex_unlock(&S.lock);
    return st;
}

void rdt_arena_unmap_peer(uint8_t *base)
{
    peer_t **link = &peers, *peer = NULL;

    pthread_mutex_lock(&S.lock);
    while (*link != NULL && (*link)->base != base)
        link = &(*link)->next;
    if (*link != NULL && --(*link)->num_users == 0) { /* none: forgotten at a fork */
        peer = *link;
        *link = peer->next;
        munmap(peer->base, peer->bytes);
    }
    pthread_mutex_unlock(&S.lock);
    free(peer);
}

void rdt_peers_forget(void)
{
    while (peers != NULL) {
        peer_t *peer = peers;

        peers = peer->next;
        /* The address stays taken: whoever still holds it must not meet another peer there. */
        mmap(peer->base, peer->bytes, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        free(peer);
    }
}
