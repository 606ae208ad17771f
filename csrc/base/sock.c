/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/sock.h"

#define SOCK_FLAGS (SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)

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

static rdt_status_t finish_connect(int fd, uint64_t deadline_ns)
{
    socklen_t len = sizeof(int);
    int err = 0;
    rdt_status_t st = wait_for(fd, POLLOUT, deadline_ns);

    if (st != RDT_OK) return st;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
    if (err == 0) return RDT_OK;
    return rdt_fail(err == ECONNREFUSED ? RDT_PEER_REFUSED : RDT_IO_ERROR, "connect: %s",
                    strerror(err));
}

rdt_status_t rdt_sock_connect(const struct sockaddr *addr, socklen_t addr_len, uint64_t deadline_ns,
                              int *fd_p)
{
    int fd = socket(addr->sa_family, SOCK_FLAGS, 0);
    rdt_status_t st = RDT_OK;

    if (fd < 0) return rdt_fail(RDT_IO_ERROR, "socket: %s", strerror(errno));
    /* A unix socket whose backlog is full says EAGAIN: the peer is there, but busy. */
    while (connect(fd, addr, addr_len) < 0) {
        if (errno == EINPROGRESS) {
            st = finish_connect(fd, deadline_ns);
            break;
        }
        if ((errno == EAGAIN || errno == EINTR) && rdt_ms_until(deadline_ns) > 0) {
            poll(NULL, 0, 1);
            continue;
        }
        st = rdt_fail(errno == ECONNREFUSED ? RDT_PEER_REFUSED : RDT_IO_ERROR, "connect: %s",
                      strerror(errno));
        break;
    }
    if (st != RDT_OK) {
        close(fd);
        return st;
    }
    *fd_p = fd;
    return RDT_OK;
}

rdt_status_t rdt_sock_accept(int listen_fd, uint64_t deadline_ns, int *fd_p)
{
    for (;;) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        rdt_status_t st;

        if (fd >= 0) {
            *fd_p = fd;
            return RDT_OK;
        }
        /* ECONNABORTED: that client left before we came; the next one may be the right one. */
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
            return rdt_fail(RDT_IO_ERROR, "accept: %s", strerror(errno));
        st = wait_for(listen_fd, POLLIN, deadline_ns);
        if (st != RDT_OK) return st;
    }
}

/* The state of one blocking transfer after a short or failed call. */
static rdt_status_t retry_or_fail(int fd, short events, const char *what, uint64_t deadline_ns)
{
    if (errno == EINTR) return RDT_OK;
    if (errno == EAGAIN) return wait_for(fd, events, deadline_ns);
    if (errno == EPIPE || errno == ECONNRESET)
        return rdt_fail(RDT_PEER_LOST, "%s: %s", what, strerror(errno));
    return rdt_fail(RDT_IO_ERROR, "%s: %s", what, strerror(errno));
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

rdt_status_t rdt_sock_send(int fd, const void *buf, size_t len, const rdt_fds_t *fds,
                           uint64_t deadline_ns)
{
    rdt_ctl_t ctl;
    size_t done = 0;

    while (done < len) {
        struct iovec iov = {.iov_base = (char *)(uintptr_t)buf + done, .iov_len = len - done};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
        ssize_t n;

        if (fds != NULL && done == 0) attach_fds(&msg, &ctl, fds);
        n = sendmsg(fd, &msg, MSG_NOSIGNAL);
        if (n < 0) {
            rdt_status_t st = retry_or_fail(fd, POLLOUT, "send", deadline_ns);

            if (st != RDT_OK) return st;
            continue;
        }
        done += (size_t)n;
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

rdt_status_t rdt_sock_recv(int fd, void *buf, size_t len, rdt_fds_t *fds_p, uint64_t deadline_ns)
{
    rdt_ctl_t ctl;
    size_t done = 0;

    if (fds_p != NULL) *fds_p = RDT_NO_FDS;
    while (done < len) {
        struct iovec iov = {.iov_base = (char *)buf + done, .iov_len = len - done};
        struct msghdr msg = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = ctl.bytes,
                             .msg_controllen = sizeof(ctl.bytes)};
        ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);

        if (n == 0) return rdt_fail(RDT_PEER_LOST, "the peer closed the connection");
        if (n < 0) {
            rdt_status_t st = retry_or_fail(fd, POLLIN, "receive", deadline_ns);

            if (st != RDT_OK) return st;
            continue;
        }
        take_fds(&msg, fds_p);
        done += (size_t)n;
    }
    return RDT_OK;
}
