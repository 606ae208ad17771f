/* SPDX-License-Identifier: Apache-2.0 */
/* The arena among processes: what a child and a peer must and must not see. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "arena_check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/sock.h"

/* -- what a socket takes and gives, waiting: CONNECT_TIMEOUT at the deadline -- */

static rdt_status_t wait_for(int fd, short events, uint64_t deadline_ns)
{
    struct pollfd pfd = {.fd = fd, .events = events};

    for (;;) {
        int n = poll(&pfd, 1, rdt_ms_until(deadline_ns));

        if (n > 0) return RDT_OK;
        if (n < 0 && errno != EINTR) return rdt_fail(RDT_IO_ERROR, "poll: %s", strerror(errno));
        if (n == 0) return rdt_fail(RDT_CONNECT_TIMEOUT, "no answer before the deadline");
    }
}

static rdt_status_t send_all(int fd, const void *buf, size_t len, const rdt_fds_t *fds,
                             uint64_t deadline_ns)
{
    size_t done = 0;
    rdt_status_t st;

    while ((st = rdt_sock_push(fd, buf, len, &done, fds)) == RDT_AGAIN) {
        st = wait_for(fd, POLLOUT, deadline_ns);
        if (st != RDT_OK) return st;
    }
    return st;
}

static rdt_status_t recv_all(int fd, void *buf, size_t len, rdt_fds_t *fds_p, uint64_t deadline_ns)
{
    size_t done = 0;
    rdt_status_t st;

    if (fds_p != NULL) *fds_p = RDT_NO_FDS;
    while ((st = rdt_sock_pull(fd, buf, len, &done, fds_p)) == RDT_AGAIN) {
        st = wait_for(fd, POLLIN, deadline_ns);
        if (st != RDT_OK) return st;
    }
    return st;
}

/* -- fork -- */

static int num_fds(void)
{
    int num = 0;

    for (int fd = 0; fd < 1024; fd++)
        num += fcntl(fd, F_GETFD) >= 0;
    return num;
}

static void write_everything(int sock, void *arg)
{
    uint8_t *block = arg;

    CHECK(is_filled(block, 4 * PAGE, 5), "the child's view of the block");
    fill(block, 2 * PAGE, 6);
    say(sock);
    hear(sock); /* the parent has written pages 1 and 3 */
    CHECK(is_filled(block, 2 * PAGE, 6), "the parent's write reached pages of the child");
}

static void a_child_writes_its_own_copy(void)
{
    uint8_t *block = alloc(4 * PAGE), *peer;
    size_t bytes;
    uint64_t offset;
    child_t child;

    CHECK(rdt_arena_map_peer(rdt_arena_fd(), &peer, &bytes) == RDT_OK, "%s", rdt_last_error());
    CHECK(rdt_arena_offset(block, 4 * PAGE, &offset), "no offset");
    fill(block, 4 * PAGE, 5);
    child = start(write_everything, block);
    hear(child.sock);
    CHECK(is_filled(block, 4 * PAGE, 5), "the child's write reached the parent");
    CHECK(is_filled(peer + offset, 4 * PAGE, 5), "the child's write reached a peer");
    fill(block, 4 * PAGE, 7);
    say(child.sock);
    finish(child);
    CHECK(is_filled(peer + offset, 4 * PAGE, 7), "the parent is no longer shared");
    rdt_arena_unmap_peer(peer);
    rdt_arena_free(block);
}

static void read_grandparent(int sock, void *arg)
{
    uint64_t offset;

    (void)sock;
    CHECK(is_filled(arg, 8 * PAGE, 21), "what the child wrote");
    CHECK(!rdt_arena_offset(arg, 1, &offset), "the grandchild's copy has an offset");
    CHECK(rdt_arena_free(arg), "inherited twice");
    CHECK(rdt_arena_open() == RDT_OK, "%s", rdt_last_error());
    rdt_arena_free(alloc(PAGE));
}

static void make_an_arena(int sock, void *arg)
{
    uint64_t offset;
    uint8_t *mine;
    child_t child;

    (void)sock;
    CHECK(!rdt_arena_is_open(), "open in the child");
    CHECK(rdt_arena_alloc(PAGE) == NULL, "the child takes of the parent's");
    CHECK_EQ(rdt_arena_fd(), -1);
    CHECK(!rdt_arena_offset(arg, 1, &offset), "a private copy has an offset");
    CHECK(rdt_arena_open() == RDT_OK, "%s", rdt_last_error());
    mine = alloc(8 * PAGE);
    fill(mine, 8 * PAGE, 21);
    CHECK(rdt_arena_offset(mine, 8 * PAGE, &offset), "no offset");
    CHECK(rdt_arena_free(arg), "the inherited block");
    CHECK(is_filled(arg, 8 * PAGE, 20), "what is freed here is the parent's still");
    fill(arg, 8 * PAGE, 22);
    child = start(read_grandparent, mine);
    finish(child);
    CHECK(rdt_arena_free(mine), "its own block");
    CHECK_EQ(stats().num_blocks, 0);
}

static void a_child_can_have_an_arena_of_its_own(void)
{
    uint8_t *block = alloc(8 * PAGE);
    child_t child;

    fill(block, 8 * PAGE, 20);
    child = start(make_an_arena, block);
    finish(child);
    CHECK(is_filled(block, 8 * PAGE, 20), "the child reached the parent");
    rdt_arena_free(block);
}

static void sleep_in_a_grandchild(int sock, void *arg)
{
    if (fork() > 0) _exit(0);
    say(sock);
    hear(sock);
    CHECK(is_filled(arg, 3 * MIB, 30), "memory that a child reads was used again");
    say(sock);
}

/* The child goes at once; the grandchild reads what the parent has freed since. */
static void what_a_child_sees_is_not_used_again(void)
{
    uint8_t *block = alloc(3 * MIB), *later, *again, *others[8];
    child_t child;

    fill(block, 3 * MIB, 30);
    child = start(sleep_in_a_grandchild, block);
    hear(child.sock);
    later = alloc(3 * MIB);
    CHECK(rdt_arena_free(block), "not freed");
    CHECK(rdt_arena_free(later), "not freed");
    again = alloc(3 * MIB);
    CHECK(again == later, "what was taken after the fork can be used again");
    let_windows_pass();
    for (int i = 0; i < 8; i++) {
        others[i] = alloc(3 * MIB);
        CHECK(others[i] != block, "used again while a child sees it");
        fill(others[i], 3 * MIB, 31);
    }
    say(child.sock);
    hear(child.sock);
    close(child.sock);
    CHECK_EQ(waitpid(child.pid, NULL, 0), child.pid);
    for (int i = 0; i < 8; i++)
        rdt_arena_free(others[i]);
    rdt_arena_free(again);
    for (int i = 0; i < 100 && rdt_arena_state.arena->quarantine != NULL; i++)
        let_windows_pass(); /* nobody can wait for a grandchild */
    CHECK(rdt_arena_state.arena->quarantine == NULL, "the child is gone, its block is not back");
    CHECK_EQ(rdt_arena_state.arena->num_quarantined, 0);
}

static void wait_for_word(int sock, void *arg)
{
    (void)arg;
    hear(sock);
}

/* The end of the first child is noticed while a block is kept for the second. */
static void a_block_is_kept_for_its_own_children_only(void)
{
    void *first = alloc(MIB), *second = alloc(2 * MIB);
    child_t one = start(wait_for_word, NULL), two;

    rdt_arena_free(first);
    two = start(wait_for_word, NULL);
    CHECK_EQ(rdt_arena_state.arena->num_quarantined, MIB / PAGE);
    say(one.sock);
    finish(one);
    rdt_arena_free(second);
    let_windows_pass();
    CHECK_EQ(rdt_arena_state.arena->num_quarantined, 2 * MIB / PAGE);
    say(two.sock);
    finish(two);
    let_windows_pass();
    CHECK_EQ(rdt_arena_state.arena->num_quarantined, 0);
}

static void do_nothing(int sock, void *arg)
{
    (void)sock, (void)arg;
}

static void many_forks_leave_no_descriptors(void)
{
    void *block = alloc(PAGE);
    int before = num_fds();

    for (int i = 0; i < 200; i++) {
        finish(start(do_nothing, NULL));
        if (i % 3 == 0) { /* in use at the fork: the pipe is asked */
            rdt_arena_free(block);
            block = alloc(PAGE);
        }
    }
    CHECK(num_fds() <= before + 2, "%d descriptors, %d before", num_fds(), before);
    rdt_arena_free(block);
    let_windows_pass();
    CHECK(rdt_arena_state.arena->quarantine == NULL, "blocks of children that are gone");
}

static void open_and_leave(int sock, void *arg)
{
    (void)sock, (void)arg;
    CHECK(rdt_arena_open() == RDT_OK, "%s", rdt_last_error());
    for (size_t i = 1; i < 20; i++)
        rdt_arena_free(alloc(i * 5000));
}

static void forks_among_threads_do_not_deadlock(void)
{
    pthread_t threads[NUM_THREADS];

    start_threads(threads);
    for (int i = 0; i < 30; i++)
        finish(start(open_and_leave, NULL));
    atomic_store(&stop_threads, true);
    join_threads(threads);
}

/* -- detach -- */

static void read_detached(int sock, void *arg)
{
    (void)sock;
    CHECK(is_filled(arg, 4 * PAGE, 41), "a detached block in a child");
    fill(arg, 4 * PAGE, 44);
}

static void a_detached_block_is_out_of_reach(void)
{
    uint8_t *low = alloc(4 * PAGE), *block = alloc(4 * PAGE), *high = alloc(4 * PAGE), *peer;
    uint64_t offset, other;
    size_t bytes;

    CHECK(rdt_arena_map_peer(rdt_arena_fd(), &peer, &bytes) == RDT_OK, "%s", rdt_last_error());
    CHECK(rdt_arena_offset(block, 4 * PAGE, &offset), "no offset");
    fill(low, 4 * PAGE, 40);
    fill(block, 4 * PAGE, 41);
    fill(high, 4 * PAGE, 42);
    CHECK(rdt_arena_detach(block + PAGE + 3, 1) == RDT_OK, "%s", rdt_last_error());
    CHECK(rdt_arena_detach(block, 4 * PAGE) == RDT_OK, "twice: %s", rdt_last_error());
    CHECK(!rdt_arena_offset(block, 1, &other), "a detached block has an offset");
    CHECK(!rdt_arena_offset(block - 1, 2, &other), "half of it is detached");
    fill(peer + offset, 4 * PAGE, 43); /* a peer that is late */
    CHECK(is_filled(block, 4 * PAGE, 41), "a peer wrote a detached block");
    CHECK(is_filled(low, 4 * PAGE, 40) && is_filled(high, 4 * PAGE, 42), "its neighbours");
    CHECK(rdt_arena_offset(low, 4 * PAGE, &other), "the neighbour has lost its offset");
    CHECK(is_filled(peer + other, 4 * PAGE, 40), "the neighbour is no longer shared");
    finish(start(read_detached, block));
    CHECK(is_filled(block, 4 * PAGE, 41), "a child wrote a detached block of the parent");
    CHECK(rdt_arena_free(block), "not freed");
    let_windows_pass(); /* the child has ended, so nothing is kept for it */
    for (int i = 0; i < 1000; i++) {
        uint8_t *again = alloc(4 * PAGE);

        CHECK(again + 4 * PAGE <= block || again >= block + 4 * PAGE, "it is used again");
    }
    CHECK(!rdt_arena_offset(block, 1, &other), "a freed one has an offset");
    rdt_arena_unmap_peer(peer);
}

static void read_after_all(int sock, void *arg)
{
    hear(sock); /* the parent has detached it, freed it and taken others */
    CHECK(is_filled(arg, 3 * MIB, 45), "a child's view of a block that was detached and freed");
}

static void what_a_child_sees_outlives_detach_and_free(void)
{
    uint8_t *block = alloc(3 * MIB);
    child_t child;

    fill(block, 3 * MIB, 45);
    child = start(read_after_all, block);
    CHECK(rdt_arena_detach(block, 3 * MIB) == RDT_OK, "%s", rdt_last_error());
    CHECK(rdt_arena_free(block), "not freed");
    let_windows_pass();
    for (int i = 0; i < 8; i++) {
        uint8_t *other = alloc(3 * MIB);

        CHECK(other + 3 * MIB <= block || other >= block + 3 * MIB, "it is used again");
        fill(other, 3 * MIB, 46);
        rdt_arena_free(other);
    }
    say(child.sock);
    finish(child);
    let_windows_pass();
    CHECK_EQ(rdt_arena_state.arena->num_quarantined, 0);
}

/* -- peers -- */

static void own_an_arena(int sock, void *arg)
{
    uint64_t offset = 0, limit = rdt_now_ns() + 60 * RDT_NS_PER_S;
    rdt_fds_t mine = RDT_NO_FDS;
    uint8_t *block;

    (void)arg;
    CHECK(rdt_arena_open() == RDT_OK, "%s", rdt_last_error());
    mine.fd[0] = rdt_arena_fd();
    block = alloc(2 * MIB);
    CHECK(rdt_arena_offset(block, 2 * MIB, &offset), "no offset");
    fill(block, 2 * MIB, 50);
    CHECK(send_all(sock, &offset, sizeof(offset), &mine, limit) == RDT_OK, "%s", rdt_last_error());
    hear(sock);
    CHECK(is_filled(block, 2 * MIB, 51), "what the peer wrote did not arrive");
    block = alloc(100 * MIB); /* it grows, and the peer needs nothing for that */
    CHECK(rdt_arena_offset(block, 100 * MIB, &offset), "no offset");
    fill(block + 99 * MIB, PAGE, 52);
    CHECK(send_all(sock, &offset, sizeof(offset), NULL, limit) == RDT_OK, "%s", rdt_last_error());
    hear(sock);
}

static void a_peer_reads_and_writes_and_outlives_the_owner(void)
{
    uint64_t offset, limit = rdt_now_ns() + 60 * RDT_NS_PER_S;
    uint8_t *base, *same;
    size_t bytes;
    rdt_fds_t fds;
    int status;
    child_t child = start(own_an_arena, NULL);

    fcntl(child.sock, F_SETFL, O_NONBLOCK);
    CHECK(recv_all(child.sock, &offset, sizeof(offset), &fds, limit) == RDT_OK, "%s",
          rdt_last_error());
    CHECK(rdt_arena_map_peer(fds.fd[0], &base, &bytes) == RDT_OK, "%s", rdt_last_error());
    CHECK(rdt_arena_map_peer(fds.fd[0], &same, &bytes) == RDT_OK && same == base, "mapped twice");
    rdt_fds_close(&fds);
    rdt_arena_unmap_peer(same);
    CHECK(is_filled(base + offset, 2 * MIB, 50), "the peer's block");
    fill(base + offset, 2 * MIB, 51);
    say(child.sock);
    CHECK(recv_all(child.sock, &offset, sizeof(offset), NULL, limit) == RDT_OK, "%s",
          rdt_last_error());
    CHECK(is_filled(base + offset + 99 * MIB, PAGE, 52), "a block of an extent that came later");
    kill(child.pid, SIGKILL);
    CHECK_EQ(waitpid(child.pid, &status, 0), child.pid);
    close(child.sock);
    CHECK(is_filled(base + offset + 99 * MIB, PAGE, 52), "gone with its owner");
    rdt_arena_unmap_peer(base);
    CHECK(mincore(base, PAGE, (unsigned char[1]){0}) < 0 && errno == ENOMEM, "still mapped");
}

typedef struct mapped {
    int fd;
    uint8_t *base; /* in the process that mapped it, not in its children */
    uint64_t offset;
} mapped_t;

static void map_again(int sock, void *arg)
{
    const mapped_t *peer = arg;
    uint8_t *base;
    size_t bytes;

    (void)sock;
    CHECK(rdt_arena_map_peer(peer->fd, &base, &bytes) == RDT_OK, "%s", rdt_last_error());
    CHECK(base != peer->base, "the mapping of the parent, which no child has");
    CHECK(is_filled(base + peer->offset, 2 * MIB, 50), "the peer's block");
    fill(base + peer->offset, 2 * MIB, 51);
}

/* What forgets the peers in a child must be there though no arena is. */
static void map_without_an_arena(int sock, void *arg)
{
    uint64_t limit = rdt_now_ns() + 60 * RDT_NS_PER_S;
    child_t owner = start(own_an_arena, NULL);
    mapped_t peer;
    size_t bytes;
    rdt_fds_t fds;

    (void)sock, (void)arg;
    fcntl(owner.sock, F_SETFL, O_NONBLOCK);
    CHECK(recv_all(owner.sock, &peer.offset, sizeof(peer.offset), &fds, limit) == RDT_OK, "%s",
          rdt_last_error());
    peer.fd = fds.fd[0];
    CHECK(rdt_arena_map_peer(peer.fd, &peer.base, &bytes) == RDT_OK, "%s", rdt_last_error());
    finish(start(map_again, &peer));
    CHECK(!rdt_arena_is_open(), "open by itself");
    CHECK(is_filled(peer.base + peer.offset, 2 * MIB, 51), "what the child wrote");
    rdt_fds_close(&fds);
    say(owner.sock);
    CHECK(recv_all(owner.sock, &peer.offset, sizeof(peer.offset), NULL, limit) == RDT_OK, "%s",
          rdt_last_error());
    say(owner.sock);
    finish(owner);
    rdt_arena_unmap_peer(peer.base);
}

static void refuse(const char *what, int fd)
{
    uint8_t *base = NULL;
    size_t bytes;
    rdt_status_t st = rdt_arena_map_peer(fd, &base, &bytes);

    CHECK(st == RDT_PROTOCOL, "%s: %s", what, rdt_status_name(st));
    CHECK(base == NULL && rdt_last_error()[0] != 0, "%s: %s", what, rdt_last_error());
    if (fd >= 0) close(fd);
}

static int make_memfd(off_t bytes, int seals)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    CHECK_EQ(ftruncate(fd, bytes), 0);
    CHECK_EQ(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static void what_is_no_arena_is_refused(void)
{
    char path[64];
    int fds[2];

    refuse("no descriptor", -1);
    refuse("a device", open("/dev/null", O_RDWR | O_CLOEXEC));
    CHECK_EQ(pipe(fds), 0);
    refuse("a pipe", fds[0]);
    close(fds[1]);
    refuse("one that can shrink", make_memfd(1 << 20, F_SEAL_GROW));
    refuse("an empty one", make_memfd(0, F_SEAL_SHRINK));
    refuse("not whole pages", make_memfd(5000, F_SEAL_SHRINK));
    refuse("one that cannot be written", make_memfd(1 << 20, F_SEAL_SHRINK | F_SEAL_WRITE));
    snprintf(path, sizeof(path), "/proc/self/fd/%d", rdt_arena_fd());
    refuse("a descriptor for reading", open(path, O_RDONLY | O_CLOEXEC));
}

/* -- limits of the process -- */

static void open_in_little_address_space(int sock, void *arg)
{
    struct rlimit limit = {3ull << 30, 3ull << 30};

    (void)sock, (void)arg;
    CHECK_EQ(setrlimit(RLIMIT_AS, &limit), 0);
    CHECK(rdt_arena_open() == RDT_OK, "%s", rdt_last_error());
    CHECK(stats().reserved_bytes <= 2ull << 30, "%llu", (unsigned long long)stats().reserved_bytes);
    fill(alloc(MIB), MIB, 1);
}

static void refuse_in_no_address_space(int sock, void *arg)
{
    struct rlimit limit = {512 << 20, 512 << 20};

    (void)sock, (void)arg;
    CHECK_EQ(setrlimit(RLIMIT_AS, &limit), 0);
    CHECK_EQ(rdt_arena_open(), RDT_NO_MEMORY);
    CHECK(strstr(rdt_last_error(), "1024 MiB") != NULL, "%s", rdt_last_error());
    CHECK(!rdt_arena_is_open() && rdt_arena_alloc(1) == NULL, "open after all");
}

static void before_the_arena_is_open(void)
{
    int here;

    CHECK(!rdt_arena_is_open(), "open by itself");
    CHECK(rdt_arena_alloc(1) == NULL && !rdt_arena_free(&here), "it has memory");
    CHECK_EQ(rdt_arena_fd(), -1);
    CHECK_EQ(stats().reserved_bytes, 0);
    finish(start(map_without_an_arena, NULL));
    if (SANITIZED) {
        printf("skipped: limits of the address space, the sanitizer itself needs more\n");
        return;
    }
    finish(start(open_in_little_address_space, NULL));
    finish(start(refuse_in_no_address_space, NULL));
}

int main(void)
{
    alarm(240); /* a deadlock ends as a failure */
    before_the_arena_is_open();
    rdt_arena_state.window_ns = RDT_NS_PER_MS;
    CHECK(rdt_arena_open() == RDT_OK, "%s", rdt_last_error());
    a_child_writes_its_own_copy();
    a_child_can_have_an_arena_of_its_own();
    what_a_child_sees_is_not_used_again();
    a_block_is_kept_for_its_own_children_only();
    many_forks_leave_no_descriptors();
    forks_among_threads_do_not_deadlock();
    a_detached_block_is_out_of_reach();
    what_a_child_sees_outlives_detach_and_free();
    a_peer_reads_and_writes_and_outlives_the_owner();
    what_is_no_arena_is_refused();
    return 0;
}
