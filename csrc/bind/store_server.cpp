/* SPDX-License-Identifier: Apache-2.0 */
/* torch's TCPStore as a process of its own: the launcher starts it (rdmatrain/launcher/store.py), so
 * that it needs no torch itself and a job's store is there before a worker has imported torch.
 *
 * Standard input is a Unix socket. Each listening socket that comes over it gets a new, empty store,
 * the one before ends, and a byte says that it is ready. When the other end closes, so does this.
 *
 * The port is in reach of every user of the host, and who may write a store leads the job's workers where
 * it likes: so only this process's own user is let in. */
#include "bind/peer_user.h"

#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <system_error>

namespace {

constexpr int kParent = STDIN_FILENO;
constexpr std::chrono::seconds kConnectTimeout{30}; /* of the store to itself */

/* Ctrl-C and whoever ends a service signal this process too, while workers still save their work. */
void leave_signals_to_parent()
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE})
        std::signal(number, SIG_IGN);
}

/* Each rank has a connection or more, and the usual limit is 1024. */
void allow_many_connections()
{
    rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* Says so of the first one that is not. */
bool is_of_this_user(int sock)
{
    static bool told;
    uid_t user = 0;
    int problem = rdt_peer_user(sock, &user);

    if (problem == 0 && user == geteuid()) return true;
    if (told || problem == ENOTCONN) return false;
    told = true;
    if (problem != 0)
        fprintf(stderr,
                "rdmatrain: the job's store lets nobody in whose user the kernel does not "
                "tell: %s; is /proc mounted?\n",
                strerror(problem));
    else
        fprintf(stderr,
                "rdmatrain: user %u was kept out of the job's store, which is for user %u, who "
                "runs the job\n",
                static_cast<unsigned>(user), static_cast<unsigned>(geteuid()));
    return false;
}

/* Returns the next listening socket, or -1 when the parent has gone. */
int receive_socket()
{
    char byte;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    iovec text{&byte, sizeof(byte)};
    msghdr message{};
    ssize_t length;

    message.msg_iov = &text;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    do
        length = recvmsg(kParent, &message, MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    if (length < 0) throw std::system_error(errno, std::generic_category(), "standard input");
    if (length == 0) return -1;

    const cmsghdr *header = CMSG_FIRSTHDR(&message);
    int listener;

    if (header == nullptr || header->cmsg_type != SCM_RIGHTS)
        throw std::runtime_error("standard input: expected a listening socket");
    memcpy(&listener, CMSG_DATA(header), sizeof(listener));
    return listener;
}

std::unique_ptr<c10d::TCPStore> serve(int listener)
{
    c10d::TCPStoreOptions options;

    options.port = 0;
    options.isServer = true;
    options.waitWorkers = false;
    options.masterListenFd = listener;
    options.timeout = kConnectTimeout;
    return std::make_unique<c10d::TCPStore>("127.0.0.1", options);
}

void serve_until_parent_goes()
{
    std::unique_ptr<c10d::TCPStore> store;

    for (int listener; (listener = receive_socket()) >= 0;) {
        store.reset(); /* before the next one listens: the socket may be the same */
        store = serve(listener);
        if (send(kParent, "r", 1, MSG_NOSIGNAL) != 1) break;
    }
    /* Without destructors: nobody is left to be told anything. */
    _exit(0);
}

} // namespace

/* What libtorch calls finds this before libc's, as it would a preloaded one. */
extern "C" __attribute__((visibility("default"))) int accept4(int listener, sockaddr *address,
                                                              socklen_t *length_p, int flags)
{
    const socklen_t room = length_p != nullptr ? *length_p : 0;

    for (;;) {
        auto sock = static_cast<int>(syscall(SYS_accept4, listener, address, length_p, flags));

        if (sock < 0 || is_of_this_user(sock)) return sock;
        close(sock);
        if (length_p != nullptr) *length_p = room;
    }
}

int main()
{
    leave_signals_to_parent();
    allow_many_connections();
    try {
        serve_until_parent_goes();
    } catch (const std::exception &error) {
        std::string text = error.what(); /* torch's texts go on with a stack */

        fprintf(stderr, "rdmatrain: the job's store has failed: %s\n",
                text.substr(0, text.find('\n')).c_str());
    }
    _exit(1);
}
