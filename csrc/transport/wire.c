/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/sock.h"
#include "transport/wire.h"

/* A caller that connects and then says nothing may hold up the others this long, no longer. */
#define HELLO_NS (2 * RDT_NS_PER_S)

static rdt_hello_t my_hello(const rdt_ctx_cfg_t *cfg)
{
    rdt_hello_t hello = {.magic = RDT_WIRE_MAGIC,
                         .rank = cfg->rank,
                         .world = cfg->world,
                         .chunk_bytes = cfg->chunk_bytes,
                         .tuning = cfg->tuning};

    memcpy(hello.token, cfg->token, RDT_TOKEN_BYTES);
    return hello;
}

/* Every byte is looked at whatever the first ones say, so that time tells nothing. */
static bool same_token(const uint8_t *a, const uint8_t *b)
{
    uint8_t diff = 0;

    for (int i = 0; i < RDT_TOKEN_BYTES; i++)
        diff |= a[i] ^ b[i];
    return diff == 0;
}

static rdt_status_t judge(const rdt_ctx_cfg_t *cfg, const rdt_hello_t *hello)
{
    if (hello->world != cfg->world)
        return rdt_fail(RDT_PEER_REFUSED, "rank %u has world size %u, rank %u has %u", hello->rank,
                        hello->world, cfg->rank, cfg->world);
    if (hello->chunk_bytes != cfg->chunk_bytes)
        return rdt_fail(RDT_PEER_REFUSED, "rank %u has chunks of %u bytes, rank %u of %u",
                        hello->rank, hello->chunk_bytes, cfg->rank, cfg->chunk_bytes);
    if (hello->tuning != cfg->tuning)
        return rdt_fail(RDT_PEER_REFUSED, "rank %u has another tuning table than rank %u",
                        hello->rank, cfg->rank);
    return RDT_OK;
}

static bool belongs(const rdt_ctx_cfg_t *cfg, const rdt_hello_t *hello)
{
    return hello->magic == RDT_WIRE_MAGIC && same_token(hello->token, cfg->token);
}

static rdt_status_t dial_lower(const rdt_dial_t *d, const rdt_peer_t *peer, uint64_t deadline_ns,
                               rdt_link_t *link)
{
    rdt_hello_t hello = my_hello(d->cfg);
    rdt_status_t st = d->dial(peer, deadline_ns, &link->fd);

    if (st == RDT_OK)
        st = rdt_sock_send(link->fd, &hello, sizeof(hello), &d->pass_fds, deadline_ns);
    return st;
}

/* The answer of a peer that was dialled. */
static rdt_status_t hear_lower(const rdt_dial_t *d, const rdt_peer_t *peer, uint64_t deadline_ns,
                               rdt_link_t *link)
{
    rdt_hello_t hello;
    rdt_status_t st = rdt_sock_recv(link->fd, &hello, sizeof(hello), &link->peer_fds, deadline_ns);

    if (st == RDT_PEER_LOST)
        return rdt_fail(st, "it closed the connection: it has failed, or belongs to another group");
    if (st != RDT_OK) return st;
    if (!belongs(d->cfg, &hello) || hello.rank != peer->rank)
        return rdt_fail(RDT_PEER_REFUSED, "what answers there belongs to another group");
    return judge(d->cfg, &hello);
}

static int find_peer(const rdt_peer_t *peers, uint32_t num, uint32_t rank)
{
    for (uint32_t i = 0; i < num; i++)
        if (peers[i].rank == rank) return (int)i;
    return -1;
}

/* Takes one caller. OK whether it was one of ours or a stranger that is now gone. */
static rdt_status_t accept_one(const rdt_dial_t *d, const rdt_peer_t *peers, uint32_t num,
                               uint64_t deadline_ns, rdt_link_t *links)
{
    rdt_hello_t hello, mine = my_hello(d->cfg);
    rdt_link_t link = {-1, RDT_NO_FDS};
    uint64_t limit = rdt_now_ns() + HELLO_NS;
    int i = -1;
    rdt_status_t st = rdt_sock_accept(d->listen_fd, deadline_ns, &link.fd);

    if (st != RDT_OK) return st;
    if (limit > deadline_ns) limit = deadline_ns;
    if (rdt_sock_recv(link.fd, &hello, sizeof(hello), &link.peer_fds, limit) == RDT_OK &&
        belongs(d->cfg, &hello))
        i = find_peer(peers, num, hello.rank);
    if (i >= 0 && links[i].fd < 0) {
        st = rdt_sock_send(link.fd, &mine, sizeof(mine), &d->pass_fds, limit);
        if (st == RDT_OK) st = judge(d->cfg, &hello);
        links[i] = link;
        return st;
    }
    close(link.fd);
    rdt_fds_close(&link.peer_fds);
    return RDT_OK;
}

static int first_missing(const rdt_peer_t *peers, uint32_t num, const rdt_link_t *links,
                         uint32_t rank)
{
    for (uint32_t i = 0; i < num; i++)
        if (peers[i].rank > rank && links[i].fd < 0) return (int)i;
    return -1;
}

static rdt_status_t named(rdt_status_t st, const char *doing, uint32_t rank)
{
    char cause[RDT_ERROR_BYTES];

    memcpy(cause, rdt_last_error(), sizeof(cause));
    cause[sizeof(cause) - 1] = '\0';
    return rdt_fail(st, "%s rank %u: %.400s", doing, rank, cause);
}

static rdt_status_t connect_all(const rdt_dial_t *d, const rdt_peer_t *peers, uint32_t num,
                                uint64_t deadline_ns, rdt_link_t *links)
{
    rdt_status_t st;
    int missing;

    /* Order matters: dialling needs only the peers' kernels, so every rank gets through it; a rank
     * answers once the lower ones have answered it, so nobody waits in a circle; and what a lower
     * rank objects to is heard before waiting for higher ones. */
    for (uint32_t i = 0; i < num; i++) {
        if (peers[i].rank > d->cfg->rank) continue;
        st = dial_lower(d, &peers[i], deadline_ns, &links[i]);
        if (st != RDT_OK) return named(st, "connecting to", peers[i].rank);
    }
    for (uint32_t i = 0; i < num; i++) {
        if (peers[i].rank > d->cfg->rank) continue;
        st = hear_lower(d, &peers[i], deadline_ns, &links[i]);
        if (st != RDT_OK) return named(st, "greeting", peers[i].rank);
    }
    while ((missing = first_missing(peers, num, links, d->cfg->rank)) >= 0) {
        st = accept_one(d, peers, num, deadline_ns, links);
        if (st != RDT_OK) return named(st, "waiting for", peers[missing].rank);
    }
    return RDT_OK;
}

rdt_status_t rdt_wire_connect(const rdt_dial_t *dial, const rdt_peer_t *peers, uint32_t num,
                              uint64_t deadline_ns, rdt_link_t *links)
{
    rdt_status_t st;

    for (uint32_t i = 0; i < num; i++)
        links[i] = (rdt_link_t){-1, RDT_NO_FDS};
    st = connect_all(dial, peers, num, deadline_ns, links);
    if (st == RDT_OK) return RDT_OK;
    for (uint32_t i = 0; i < num; i++) {
        if (links[i].fd >= 0) close(links[i].fd);
        rdt_fds_close(&links[i].peer_fds);
        links[i].fd = -1;
    }
    return st;
}
