/* SPDX-License-Identifier: Apache-2.0 */
#include "coll/layout.h"

#include <stdlib.h>

#include "base/error.h"

static uint32_t number_of(const uint32_t *hosts, uint32_t rank)
{
    return hosts != NULL ? hosts[rank] : 0;
}

/* Of the ranks before this one, how many are on its host. */
static uint32_t place_of(const uint32_t *hosts, uint32_t rank)
{
    uint32_t num = 0;

    for (uint32_t r = 0; r < rank; r++)
        num += number_of(hosts, r) == number_of(hosts, rank);
    return num;
}

static rdt_members_t all_ranks(uint32_t *to, uint32_t world, uint32_t rank)
{
    for (uint32_t r = 0; r < world; r++)
        to[r] = r;
    return (rdt_members_t){to, world, rank};
}

static rdt_members_t ranks_of_host(uint32_t *to, const uint32_t *hosts, uint32_t world,
                                   uint32_t rank)
{
    rdt_members_t members = {to, 0, place_of(hosts, rank)};

    for (uint32_t r = 0; r < world; r++)
        if (number_of(hosts, r) == number_of(hosts, rank)) to[members.num++] = r;
    return members;
}

/* The ranks with a place in their hosts, in the order of the hosts: first holds their first ranks. */
static uint32_t ranks_at(uint32_t *to, const uint32_t *hosts, uint32_t world, uint32_t place,
                         const rdt_members_t *first)
{
    uint32_t num = 0;

    for (uint32_t h = 0; h < first->num; h++)
        for (uint32_t r = first->ranks[h], at = 0; r < world; r++)
            if (number_of(hosts, r) == number_of(hosts, first->ranks[h]) && at++ == place)
                to[num++] = r;
    return num;
}

static rdt_members_t first_ranks(uint32_t *to, const uint32_t *hosts, uint32_t world)
{
    rdt_members_t members = {to, 0, 0};

    for (uint32_t r = 0; r < world; r++)
        if (place_of(hosts, r) == 0) to[members.num++] = r;
    return members;
}

static void find_places(uint32_t *host_of, uint32_t *place, const uint32_t *hosts, uint32_t world,
                        const rdt_members_t *first)
{
    for (uint32_t r = 0; r < world; r++) {
        place[r] = place_of(hosts, r);
        host_of[r] = 0;
        while (number_of(hosts, first->ranks[host_of[r]]) != number_of(hosts, r))
            host_of[r]++;
    }
}

static void find_ranks(uint32_t *rank_at, const rdt_layout_t *layout)
{
    for (uint32_t r = 0; r < layout->grid.world; r++)
        rank_at[layout->host_of[r] * layout->grid.per_host + layout->place_of[r]] = r;
}

/* By the first rank of each rank's host: the numbers of hosts do not matter. FNV-1a. */
static uint64_t digest_of(const uint32_t *host_of, uint32_t world, const rdt_members_t *first)
{
    uint64_t hash = 14695981039346656037u;

    for (uint32_t r = 0; r < world; r++)
        hash = (hash ^ first->ranks[host_of[r]]) * 1099511628211u;
    return hash;
}

rdt_status_t rdt_layout_make(const uint32_t *hosts, uint32_t world, uint32_t rank,
                             rdt_layout_t *layout_p)
{
    uint32_t *ranks = malloc((size_t)world * 7 * sizeof(*ranks));
    uint32_t *host_of = ranks + (size_t)world * 4, *places = host_of + world;
    rdt_layout_t layout = {.grid = {.world = world},
                           .host_of = host_of,
                           .place_of = places,
                           .rank_at = places + world,
                           .ranks = ranks};
    uint32_t place;
    rdt_members_t first;

    if (ranks == NULL) return rdt_fail(RDT_NO_MEMORY, "layout of %u ranks: out of memory", world);
    layout.all = all_ranks(ranks, world, rank);
    layout.host = ranks_of_host(ranks + world, hosts, world, rank);
    first = first_ranks(ranks + (size_t)world * 3, hosts, world);
    layout.grid.num_hosts = first.num;
    find_places(host_of, places, hosts, world, &first);
    layout.digest = digest_of(host_of, world, &first);
    place = layout.host.me;
    /* Hosts are alike when each of them has a rank at the last place of this one, and none more. */
    if (world == first.num * layout.host.num &&
        ranks_at(ranks + (size_t)world * 2, hosts, world, layout.host.num - 1, &first) == first.num)
        layout.grid.per_host = layout.host.num;
    if (layout.grid.per_host > 0) find_ranks(places + world, &layout);
    layout.rail.ranks = ranks + (size_t)world * 2;
    layout.rail.num = ranks_at(ranks + (size_t)world * 2, hosts, world, place, &first);
    while (layout.rail.ranks[layout.rail.me] != rank)
        layout.rail.me++;
    *layout_p = layout;
    return RDT_OK;
}

void rdt_layout_free(rdt_layout_t *layout)
{
    free(layout->ranks);
    layout->ranks = NULL;
}
