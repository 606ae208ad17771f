/* SPDX-License-Identifier: Apache-2.0 */
/* Whose process is at the other end: by the kernel's answer, and where it gives none, by its table. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/fsuid.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bind/peer_user.h"
#include "check.h"

#define STRANGER 54321

static int netlink_is_missing;

/* Stands before libc's. */
int socket(int domain, int type, int protocol)
{
    if (domain == AF_NETLINK && netlink_is_missing) {
        errno = EPROTONOSUPPORT;
        return -1;
    }
    return (int)syscall(SYS_socket, domain, type, protocol);
}

typedef struct {
    int near, far;
} pair_t;

static pair_t connected(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof(addr);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    pair_t pair = {.near = socket(AF_INET, SOCK_STREAM, 0)};

    CHECK_EQ(bind(listener, (struct sockaddr *)&addr, length), 0);
    CHECK_EQ(listen(listener, 1), 0);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&addr, &length), 0);
    CHECK_EQ(connect(pair.near, (struct sockaddr *)&addr, length), 0);
    pair.far = accept(listener, NULL, NULL);
    CHECK(pair.far >= 0, "accept: %d", errno);
    close(listener);
    return pair;
}

static void close_pair(pair_t pair)
{
    close(pair.near);
    close(pair.far);
}

static void own_user_is_told(void)
{
    pair_t pair = connected();
    uid_t user = STRANGER;

    CHECK_EQ(rdt_peer_user(pair.far, &user), 0);
    CHECK_EQ(user, geteuid());
    close_pair(pair);
}

/* A socket is its maker's, whoever holds it. */
static void another_user_is_told(void)
{
    uid_t user = 0;
    pair_t pair;

    setfsuid(STRANGER);
    if (setfsuid(STRANGER) != STRANGER) {
        puts("another user's sockets were left out: there is none in this user namespace");
        return;
    }
    pair = connected();
    setfsuid(geteuid());
    CHECK_EQ(rdt_peer_user(pair.far, &user), 0);
    CHECK_EQ(user, STRANGER);
    close_pair(pair);
}

/* Else one could say something, close, and be taken for root. */
static void who_has_left_is_nobody(void)
{
    pair_t pair = connected();
    uid_t user = STRANGER;

    CHECK_EQ(send(pair.near, "x", 1, 0), 1);
    close(pair.near);
    CHECK_EQ(rdt_peer_user(pair.far, &user), ENOTCONN);
    CHECK_EQ(user, STRANGER);
    close(pair.far);
}

/* Who comes last is still known. */
static void no_descriptor_need_be_free(void)
{
    pair_t pair = connected();
    uid_t user = STRANGER;
    struct rlimit limit, none;

    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    none = (struct rlimit){.rlim_cur = 0, .rlim_max = limit.rlim_max};
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    CHECK_EQ(dup(pair.far), -1);
    CHECK_EQ(rdt_peer_user(pair.far, &user), netlink_is_missing ? EMFILE : 0);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    CHECK_EQ(user, netlink_is_missing ? STRANGER : geteuid());
    close_pair(pair);
}

static void other_sockets_are_refused(void)
{
    uid_t user;
    int both[2], alone = socket(AF_INET, SOCK_STREAM, 0);

    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, both), 0);
    CHECK_EQ(rdt_peer_user(both[0], &user), EAFNOSUPPORT);
    CHECK_EQ(rdt_peer_user(alone, &user), ENOTCONN);
    close(both[0]);
    close(both[1]);
    close(alone);
}

int main(void)
{
    /* In this order: what netlink has opened once, it keeps. */
    for (netlink_is_missing = 1; netlink_is_missing >= 0; netlink_is_missing--) {
        own_user_is_told();
        no_descriptor_need_be_free();
        who_has_left_is_nobody();
        other_sockets_are_refused();
        if (geteuid() == 0) another_user_is_told();
    }
    if (geteuid() != 0) puts("another user's sockets were left out: only root can make them");
    return 0;
}
