/* SPDX-License-Identifier: Apache-2.0 */
/* All connections of a transport at once, for set-up that waits. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "transport/wire.h"

typedef struct all {
    const rdt_dial_t *dial;
    const rdt_peer_t *peers;
    rdt_link_t *links;
    uint32_t num_left;
    rdt_status_t status; /* of the first peer that failed, with its text */
    char text[RDT_ERROR_BYTES];
} all_t;

static void all_joined(void *arg, uint32_t i, rdt_link_t *link)
{
    all_t *all = arg;

    all->links[i] = *link;
    all->num_left--;
}

static void all_failed(void *arg, uint32_t i, rdt_status_t status, const char *text)
{
    all_t *all = arg;
    uint32_t rank = all->peers[i].rank;

    if (all->status != RDT_OK) return;
    all->status = status;
    snprintf(all->text, sizeof(all->text), "%s rank %u: %.440s",
             rank < all->dial->cfg->rank ? "connecting to" : "waiting for", rank, text);
}

/* Who called and was not taken hears at once that nobody will. */
static void hang_up(const rdt_dial_t *dial, rdt_link_t *links, uint32_t num)
{
    int fd;

    shutdown(dial->listen_fd, SHUT_RDWR);
    while (rdt_sock_accept(dial->listen_fd, &fd) == RDT_OK)
        close(fd);
    for (uint32_t i = 0; i < num; i++) {
        if (links[i].fd >= 0) close(links[i].fd);
        rdt_fds_close(&links[i].peer_fds);
        links[i].fd = -1;
    }
}

rdt_status_t rdt_wire_connect(const rdt_dial_t *dial, const rdt_peer_t *peers, uint32_t num,
                              uint64_t deadline_ns, rdt_link_t *links)
{
    all_t all = {.dial = dial, .peers = peers, .links = links, .num_left = num};
    rdt_wire_listener_t listener = {all_joined, all_failed, &all};
    rdt_wire_t *wire;
    rdt_status_t st;

    for (uint32_t i = 0; i < num; i++)
        links[i] = (rdt_link_t){-1, RDT_NO_FDS};
    st = rdt_wire_open(dial, peers, num, &listener, &wire);
    if (st != RDT_OK) return st;
    for (uint32_t i = 0; i < num; i++)
        rdt_wire_want(wire, i, peers[i].rank < dial->cfg->rank, deadline_ns);
    while (all.num_left > 0 && all.status == RDT_OK)
        rdt_wire_step(wire, UINT64_MAX);
    rdt_wire_close(wire);
    if (all.status == RDT_OK) return RDT_OK;
    hang_up(dial, links, num);
    return rdt_fail(all.status, "%s", all.text);
}
