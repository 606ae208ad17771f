/* SPDX-License-Identifier: Apache-2.0 */
#include "bind/peer_user.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>

typedef struct {
    struct sockaddr_in from, to; /* as the peer has them */
} ends_t;

typedef struct {
    unsigned state;
    uid_t user;
} row_t;

/* By name, so that it takes microseconds however many sockets there are. 0, or an errno. */
static int ask_kernel(const ends_t *ends, row_t *row_p)
{
    struct {
        struct nlmsghdr head;
        struct inet_diag_req_v2 body;
    } question = {
        .head = {.nlmsg_len = sizeof(question),
                 .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                 .nlmsg_flags = NLM_F_REQUEST},
        .body = {.sdiag_family = AF_INET,
                 .sdiag_protocol = IPPROTO_TCP,
                 .idiag_states = ~0U,
                 .id = {.idiag_sport = ends->from.sin_port,
                        .idiag_dport = ends->to.sin_port,
                        .idiag_src = {ends->from.sin_addr.s_addr},
                        .idiag_dst = {ends->to.sin_addr.s_addr},
                        .idiag_cookie = {INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE}}},
    };
    struct {
        struct nlmsghdr head;
        struct inet_diag_msg body;
    } answer;
    /* Kept, so that whoever takes the process's last descriptor can still be asked for. */
    static int sock = -1;
    ssize_t length = -1;

    if (sock < 0) sock = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (sock < 0) return errno;
    if (send(sock, &question, sizeof(question), 0) == sizeof(question))
        length = recv(sock, &answer, sizeof(answer), MSG_DONTWAIT); /* it was made meanwhile */
    if (length != sizeof(answer) || answer.head.nlmsg_type != SOCK_DIAG_BY_FAMILY) return ENOENT;
    *row_p = (row_t){answer.body.idiag_state, answer.body.idiag_uid};
    return 0;
}

/* Where there is no such interface, as in some sandboxes. 0, or an errno. */
static int read_table(const ends_t *ends, row_t *row_p)
{
    FILE *table = fopen("/proc/net/tcp", "re");
    char line[512];
    int found = ENOENT;

    if (table == NULL) return errno;
    while (found != 0 && fgets(line, sizeof(line), table) != NULL) {
        unsigned from, from_port, to, to_port;
        row_t row;

        if (sscanf(line, " %*u: %x:%x %x:%x %x %*x:%*x %*x:%*x %*x %u", &from, &from_port, &to,
                   &to_port, &row.state, &row.user) != 6)
            continue;
        if (from != ends->from.sin_addr.s_addr || from_port != ntohs(ends->from.sin_port) ||
            to != ends->to.sin_addr.s_addr || to_port != ntohs(ends->to.sin_port))
            continue;
        *row_p = row;
        found = 0;
    }
    fclose(table);
    return found;
}

static int look(const ends_t *ends, row_t *row_p)
{
    int problem = ask_kernel(ends, row_p);

    if (problem != 0) problem = read_table(ends, row_p);
    if (problem == 0 && row_p->state != TCP_ESTABLISHED) problem = ENOTCONN;
    return problem;
}

int rdt_peer_user(int sock, uid_t *user_p)
{
    ends_t ends = {0};
    socklen_t length = sizeof(ends.from);
    row_t row, again;
    int problem;

    if (getpeername(sock, (struct sockaddr *)&ends.from, &length) < 0) return errno;
    length = sizeof(ends.to);
    if (getsockname(sock, (struct sockaddr *)&ends.to, &length) < 0) return errno;
    if (ends.from.sin_family != AF_INET) return EAFNOSUPPORT;
    problem = look(&ends, &row);
    /* To some kernels a socket that is closed is root's, and it may be closed between its state and its
     * user. If it is still open after that, it was open then. */
    if (problem == 0) problem = look(&ends, &again);
    if (problem == 0) *user_p = row.user;
    return problem;
}
