/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/sock.h"

#define SOCK_FLAGS (SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)

/* A peer whose machine vanished sends no reset. The kernel gives up on it within about 10 s: on an
 * idle connection by keep-alive probes, on a busy one by unacknowledged data. */
#define ALIVE_IDLE_S 4
#define ALIVE_INTERVAL_S 2
#define ALIVE_PROBES 3
#define UNACKED_MS 10000
rdt_status_t rdt_sock_listen(const struct sockaddr *addr, socklen_t addr_len, int *fd_p)
{
    int fd = socket(addr->sa_family, SOCK_FLAGS, 0);

    if (fd < 0) return rdt_fail(RDT_IO_ERROR, "socket: %s", strerror(errno));
    if (bind(fd, addr, addr_len) < 0 || listen(fd, SOMAXCONN) < 0) {
        rdt_fail(RDT_IO_ERROR, "bind or listen: %s", strerror(errno));
        close(fd);
        return RDT_IO_ERROR;
    }
    *fd_p = fd;
    return RDT_OK;
}

static rdt_status_t parse(const char *text, struct sockaddr_storage *addr, socklen_t *len_p)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)addr;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)addr;

    memset(addr, 0, sizeof(*addr));
    if (text != NULL && inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        *len_p = sizeof(*v4);
        return RDT_OK;
    }
    if (text != NULL && inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        *len_p = sizeof(*v6);
        return RDT_OK;
    }
    return rdt_fail(RDT_BAD_ARG, "\"%s\" is not a numeric IPv4 or IPv6 address",
                    text != NULL ? text : "");
}

rdt_status_t rdt_sock_listen_at(const char *text, struct sockaddr_storage *addr, socklen_t *len_p,
                                int *fd_p)
{
    rdt_status_t st = parse(text, addr, len_p);

    if (st == RDT_OK) st = rdt_sock_listen((struct sockaddr *)addr, *len_p, fd_p);
    if (st != RDT_OK || getsockname(*fd_p, (struct sockaddr *)addr, len_p) == 0) return st;
    rdt_fail(RDT_IO_ERROR, "getsockname: %s", strerror(errno));
    close(*fd_p);
    *fd_p = -1;
    return RDT_IO_ERROR;
}

/* A connect that was only begun fails in whatever call comes next. */
static rdt_status_t fail_errno(const char *what)
{
    rdt_status_t st = RDT_IO_ERROR;

    if (errno == ECONNREFUSED || errno == EHOSTUNREACH || errno == ENETUNREACH) what = "connect";
    if (errno == ECONNREFUSED) st = RDT_PEER_REFUSED;
    if (errno == EPIPE || errno == ECONNRESET) st = RDT_PEER_LOST;
    return rdt_fail(st, "%s: %s", what, strerror(errno));
}

rdt_status_t rdt_sock_dial(const struct sockaddr *addr, socklen_t addr_len, int *fd_p)
{
    int fd = socket(addr->sa_family, SOCK_FLAGS, 0);
    rdt_status_t st;

    if (fd < 0) return rdt_fail(RDT_IO_ERROR, "socket: %s", strerror(errno));
    if (connect(fd, addr, addr_len) == 0 || errno == EINPROGRESS || errno == EINTR) {
        *fd_p = fd;
        return RDT_OK;
    }
    /* What a unix socket says whose backlog is full. */
    st = errno == EAGAIN ? RDT_AGAIN : fail_errno("connect");
    close(fd);
    return st;
}

rdt_status_t rdt_sock_accept(int listen_fd, int *fd_p)
{
    int fd;

    /* ECONNABORTED: that client left before we came; the next one may be the right one. */
    do {
        fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
    if (fd < 0 && errno == EAGAIN) return RDT_AGAIN;
    if (fd < 0) return rdt_fail(RDT_IO_ERROR, "accept: %s", strerror(errno));
    *fd_p = fd;
    return RDT_OK;
}

typedef union rdt_ctl {
    char bytes[CMSG_SPACE(RDT_SOCK_FDS * sizeof(int))];
    struct cmsghdr align;
} rdt_ctl_t;

static void attach_fds(struct msghdr *msg, rdt_ctl_t *ctl, const rdt_fds_t *fds)
{
    size_t num = 0;

    while (num < RDT_SOCK_FDS && fds->fd[num] >= 0)
        num++;
    if (num == 0) return;
    *ctl = (rdt_ctl_t){0};
    msg->msg_control = ctl->bytes;
    msg->msg_controllen = CMSG_SPACE(num * sizeof(int));
    ctl->align.cmsg_len = CMSG_LEN(num * sizeof(int));
    ctl->align.cmsg_level = SOL_SOCKET;
    ctl->align.cmsg_type = SCM_RIGHTS;
    memcpy(CMSG_DATA(&ctl->align), fds->fd, num * sizeof(int));
}

rdt_status_t rdt_sock_push(int fd, const void *buf, size_t len, size_t *done, const rdt_fds_t *fds)
{
    rdt_ctl_t ctl;

    while (*done < len) {
        struct iovec iov = {.iov_base = (char *)(uintptr_t)buf + *done, .iov_len = len - *done};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
        ssize_t n;

        if (fds != NULL && *done == 0) attach_fds(&msg, &ctl, fds);
        n = sendmsg(fd, &msg, MSG_NOSIGNAL);
        if (n >= 0)
            *done += (size_t)n;
        else if (errno == EAGAIN)
            return RDT_AGAIN;
        else if (errno != EINTR)
            return fail_errno("send");
    }
    return RDT_OK;
}

static rdt_status_t set_option(int sock, int level, int name, int value)
{
    if (setsockopt(sock, level, name, &value, sizeof(value)) == 0) return RDT_OK;
    return rdt_fail(RDT_IO_ERROR, "setsockopt %d/%d: %s", level, name, strerror(errno));
}

rdt_status_t rdt_sock_keep_alive(int sock)
{
    static const int options[][3] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, ALIVE_IDLE_S},
        {IPPROTO_TCP, TCP_KEEPINTVL, ALIVE_INTERVAL_S},
        {IPPROTO_TCP, TCP_KEEPCNT, ALIVE_PROBES},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, UNACKED_MS},
    };

    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        rdt_status_t st = set_option(sock, options[i][0], options[i][1], options[i][2]);

        if (st != RDT_OK) return st;
    }
    return RDT_OK;
}

void rdt_fds_close(rdt_fds_t *fds)
{
    for (int i = 0; i < RDT_SOCK_FDS; i++) {
        if (fds->fd[i] >= 0) close(fds->fd[i]);
        fds->fd[i] = -1;
    }
}

/* What came before stays; more than is wanted is closed. */
static void take_fds(struct msghdr *msg, rdt_fds_t *fds_p)
{
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg);
    rdt_fds_t came = RDT_NO_FDS;

    if (cmsg == NULL || cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS) return;
    memcpy(came.fd, CMSG_DATA(cmsg), cmsg->cmsg_len - CMSG_LEN(0));
    if (fds_p != NULL && fds_p->fd[0] < 0)
        *fds_p = came;
    else
        rdt_fds_close(&came);
}

rdt_status_t rdt_sock_pull(int fd, void *buf, size_t len, size_t *done, rdt_fds_t *fds_p)
{
    rdt_ctl_t ctl;

    while (*done < len) {
        struct iovec iov = {.iov_base = (char *)buf + *done, .iov_len = len - *done};
        struct msghdr msg = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = ctl.bytes,
                             .msg_controllen = sizeof(ctl.bytes)};
        ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);

        if (n == 0) return rdt_fail(RDT_PEER_LOST, "the peer closed the connection");
        if (n < 0 && errno == EAGAIN) return RDT_AGAIN;
        if (n < 0 && errno != EINTR) return fail_errno("receive");
        if (n < 0) continue;
        take_fds(&msg, fds_p);
        *done += (size_t)n;
    }
    return RDT_OK;
}
