/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the arena share: contents that depend on block and index, children, threads that
 * exchange blocks. */
#ifndef TESTS_C_ARENA_CHECK_H
#define TESTS_C_ARENA_CHECK_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arena/private.h"
#include "base/clock.h"
#include "check.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#ifdef __SANITIZE_THREAD__
/* In a child, the parent's other threads are neither leaked nor a reason not to go on. */
__attribute__((visibility("default"))) const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "report_thread_leaks=0:atexit_sleep_ms=0:die_after_fork=0";
}
#endif

#define MIB ((size_t)1 << 20)
#define PAGE ((size_t)RDT_ARENA_PAGE)
#define WORD sizeof(uint64_t)

static inline uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static inline uint64_t next_random(uint64_t *state)
{
    return mix(*state += 0x9e3779b97f4a7c15ull);
}

/* Words at both ends of every page, of values that depend on the block and the index. */
static inline size_t step(size_t i)
{
    return i % (PAGE / WORD) == 0 ? PAGE / WORD - 1 : 1;
}

static inline void fill(void *addr, size_t bytes, uint64_t id)
{
    uint64_t *words = addr;

    for (size_t i = 0; i < bytes / WORD; i += step(i))
        words[i] = mix(id * 0x10001 + i);
}

static inline bool is_filled(const void *addr, size_t bytes, uint64_t id)
{
    const uint64_t *words = addr;

    for (size_t i = 0; i < bytes / WORD; i += step(i))
        if (words[i] != mix(id * 0x10001 + i)) return false;
    return true;
}

static inline void *alloc(size_t bytes)
{
    void *addr = rdt_arena_alloc(bytes);

    CHECK(addr != NULL, "no room for %zu bytes", bytes);
    CHECK_EQ((uintptr_t)addr % PAGE, 0);
    return addr;
}

static inline rdt_arena_stats_t stats(void)
{
    rdt_arena_stats_t s;

    rdt_arena_get_stats(&s);
    return s;
}

static inline size_t resident_bytes(void)
{
    struct stat info;

    CHECK_EQ(fstat(rdt_arena_fd(), &info), 0);
    return (size_t)info.st_blocks * 512;
}

/* Lets time pass for the arena, whose windows these tests make a millisecond long. */
static inline void let_windows_pass(void)
{
    for (int i = 0; i < 4; i++) {
        usleep(1500);
        for (int op = 0; op < 40; op++)
            rdt_arena_free(alloc(1));
    }
}

/* -- threads -- */

#define NUM_THREADS 4
#define NUM_SHARED 64

static _Atomic(uint64_t *) shared_blocks[NUM_SHARED];
static atomic_bool stop_threads;

/* Blocks go from thread to thread, and are freed by another one than took them. */
static inline void *exchange_blocks(void *arg)
{
    uint64_t random = (uint64_t)(uintptr_t)arg;

    for (int i = 0; i < 3000 && !atomic_load(&stop_threads); i++) {
        size_t bytes = 16 + next_random(&random) % 150000;
        uint64_t id = next_random(&random), *block = alloc(bytes);

        block[0] = id;
        block[1] = bytes;
        fill(block + 2, bytes - 16, id);
        block = atomic_exchange(&shared_blocks[next_random(&random) % NUM_SHARED], block);
        if (block == NULL) continue;
        CHECK(is_filled(block + 2, block[1] - 16, block[0]), "a block of %llu bytes changed",
              (unsigned long long)block[1]);
        CHECK(rdt_arena_free(block), "not freed");
    }
    return NULL;
}

static inline void start_threads(pthread_t *threads)
{
    atomic_store(&stop_threads, false);
    for (uintptr_t i = 0; i < NUM_THREADS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, exchange_blocks, (void *)(i + 1)), 0);
}

static inline void join_threads(const pthread_t *threads)
{
    for (int i = 0; i < NUM_THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < NUM_SHARED; i++) {
        uint64_t *block = atomic_exchange(&shared_blocks[i], NULL);

        if (block != NULL) rdt_arena_free(block);
    }
}

/* -- children -- */

typedef struct child {
    pid_t pid;
    int sock; /* one byte each way is "go on" and "done" */
} child_t;

/* The child's life is body(sock, arg) and nothing else. */
static inline child_t start(void (*body)(int, void *), void *arg)
{
    int pair[2];
    child_t child;

    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    fflush(NULL);
    child.pid = fork();
    CHECK(child.pid >= 0, "fork: %s", strerror(errno));
    if (child.pid == 0) {
        close(pair[0]);
        body(pair[1], arg);
        _exit(0);
    }
    close(pair[1]);
    child.sock = pair[0];
    return child;
}

static inline void say(int sock)
{
    CHECK_EQ(write(sock, "x", 1), 1);
}

static inline void hear(int sock)
{
    char c;

    CHECK_EQ(read(sock, &c, 1), 1);
}

static inline void finish(child_t child)
{
    int status;

    CHECK_EQ(waitpid(child.pid, &status, 0), child.pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with status %x", status);
    close(child.sock);
}

#endif
