/* SPDX-License-Identifier: Apache-2.0 */
/* Layouts of hosts, and the cost model against what it gives by hand. */
#include <string.h>

#include "check.h"
#include "coll/cost.h"

static rdt_layout_t layout_of(const uint32_t *hosts, uint32_t world, uint32_t rank)
{
    rdt_layout_t layout;

    CHECK_EQ(rdt_layout_make(hosts, world, rank, &layout), RDT_OK);
    return layout;
}

static void check_members(const rdt_members_t *got, const uint32_t *want, uint32_t num, uint32_t me)
{
    CHECK_EQ(got->num, num);
    CHECK_EQ(got->me, me);
    for (uint32_t i = 0; i < num; i++)
        CHECK_EQ(got->ranks[i], want[i]);
}

/* Hosts by any numbers, their ranks not in a row: 0 and 3 on one, 1 and 4 on the next, 2 and 5. */
static void rails_join_the_same_places_of_hosts(void)
{
    const uint32_t hosts[] = {7, 900, 3, 7, 900, 3};
    rdt_layout_t layout = layout_of(hosts, 6, 4);

    CHECK_EQ(layout.grid.num_hosts, 3);
    CHECK_EQ(layout.grid.per_host, 2);
    check_members(&layout.all, (const uint32_t[]){0, 1, 2, 3, 4, 5}, 6, 4);
    check_members(&layout.host, (const uint32_t[]){1, 4}, 2, 1);
    check_members(&layout.rail, (const uint32_t[]){3, 4, 5}, 3, 1);
    for (uint32_t i = 0; i < 6; i++)
        CHECK_EQ(layout.rank_at[i], ((const uint32_t[]){0, 3, 1, 4, 2, 5})[i]);
    rdt_layout_free(&layout);
}

/* The order of the hosts is that of their first ranks, on every rail: by ranks this one would be 1, 3. */
static void every_rail_has_the_hosts_in_the_same_order(void)
{
    const uint32_t hosts[] = {1, 2, 2, 1};
    rdt_layout_t layout = layout_of(hosts, 4, 2);

    check_members(&layout.rail, (const uint32_t[]){3, 2}, 2, 1);
    rdt_layout_free(&layout);
}

static void hosts_that_differ_in_ranks_are_not_alike(void)
{
    const uint32_t uneven[] = {0, 0, 1, 2, 2, 2}, alone[] = {5, 5, 5};

    for (uint32_t rank = 0; rank < 6; rank++) {
        rdt_layout_t layout = layout_of(uneven, 6, rank);

        CHECK_EQ(layout.grid.num_hosts, 3);
        CHECK_EQ(layout.grid.per_host, 0);
        rdt_layout_free(&layout);
    }
    for (uint32_t rank = 0; rank < 3; rank++) {
        rdt_layout_t layout = layout_of(rank == 0 ? NULL : alone, 3, rank);

        CHECK_EQ(layout.grid.num_hosts, 1);
        CHECK_EQ(layout.grid.per_host, 3);
        check_members(&layout.host, (const uint32_t[]){0, 1, 2}, 3, rank);
        rdt_layout_free(&layout);
    }
}

/* Numbers that are easy to add up: 1 byte takes 1 ns in memory, and 10 on the network. */
static rdt_tuning_t easy(void)
{
    rdt_tuning_t tuning = rdt_tuning_default(4);

    tuning.one_shot = 100;
    tuning.host_latency = 10;
    tuning.host_message = 1;
    tuning.host_bandwidth = 1000;
    tuning.net_latency = 1000;
    tuning.net_message = 100;
    tuning.net_bandwidth = 100;
    return tuning;
}

static void costs_are_those_of_the_table(void)
{
    const rdt_tuning_t tuning = easy();
    const rdt_grid_t grid = {.world = 4, .num_hosts = 2, .per_host = 2}, four = {8, 4, 2};

    /* 1 message in the host with 8 bytes; 2 to the other one, of 2 ranks: 32 bytes. */
    CHECK_EQ(rdt_way_cost_ns(RDT_WAY_FLAT, RDT_ALL_REDUCE, &grid, 8, &tuning),
             10 + 1 + 8 + 1000 + 200 + 320);
    /* Twice: 250 bytes in the host, 4 x 250 to the other. */
    CHECK_EQ(rdt_way_cost_ns(RDT_WAY_FLAT, RDT_ALL_REDUCE, &grid, 1000, &tuning),
             2 * (10 + 1 + 250 + 1000 + 200 + 10000));
    /* Twice: 500 in the host, 2 ranks' 250 to the other. */
    CHECK_EQ(rdt_way_cost_ns(RDT_WAY_BY_HOST, RDT_ALL_REDUCE, &grid, 1000, &tuning),
             2 * (10 + 1 + 500 + 1000 + 100 + 5000));
    /* 2 stages; the 2 ranks of a host each send what they have of 3 inputs. */
    CHECK_EQ(rdt_way_cost_ns(RDT_WAY_GATHER, RDT_ALL_REDUCE, &grid, 8, &tuning), 2 * 1200 + 480);
    /* 4 hosts in levels of 2: 500 bytes to one, of 2 ranks, then 250. */
    CHECK_EQ(rdt_way_cost_ns(RDT_WAY_HALVING, RDT_ALL_REDUCE, &four, 1000, &tuning),
             2 * (10 + 1 + 500 + 1000 + 100 + 5000 + 1000 + 100 + 2500));
    /* A barrier has no second half. */
    CHECK_EQ(rdt_way_cost_ns(RDT_WAY_BY_HOST, RDT_BARRIER, &grid, 0, &tuning), 10 + 1 + 1000 + 100);
}

static void check_levels(rdt_levels_t got, bool has_host, uint32_t num, const uint32_t *sizes)
{
    CHECK_EQ(got.has_host, has_host);
    CHECK_EQ(got.num, num);
    for (uint32_t i = 0; i < num; i++)
        CHECK_EQ(got.sizes[i], sizes[i]);
}

/* A level costs an exchange and a message for each rank that is met, here 10 and 1, or 1 and 10. */
static void hosts_are_cut_into_the_levels_that_cost_least(void)
{
    const rdt_grid_t of_1 = {128, 128, 1}, of_8 = {96, 12, 8}, many = {4096, 4096, 1};
    const rdt_grid_t prime = {26, 13, 2}, twice = {94, 94, 1}, sixteen = {16, 16, 1};

    check_levels(rdt_levels_halving(&of_1, 10, 1), false, 2, (const uint32_t[]){16, 8});
    check_levels(rdt_levels_halving(&of_1, 1, 10), false, 7,
                 (const uint32_t[]){2, 2, 2, 2, 2, 2, 2});
    check_levels(rdt_levels_halving(&of_1, 2, 1), false, 4, (const uint32_t[]){4, 4, 4, 2});
    check_levels(rdt_levels_halving(&of_8, 10, 1), true, 3, (const uint32_t[]){8, 4, 3});
    check_levels(rdt_levels_halving(&of_8, 1, 10), true, 4, (const uint32_t[]){8, 3, 2, 2});
    check_levels(rdt_levels_halving(&many, 25000, 4000), false, 4, (const uint32_t[]){8, 8, 8, 8});
    check_levels(rdt_levels_halving(&twice, 10, 1), false, 2, (const uint32_t[]){47, 2});
    check_levels(rdt_levels_halving(&prime, 10, 1), true, 2, (const uint32_t[]){2, 13});
    check_levels(rdt_levels_halving(&sixteen, 1, 1), false, 2, (const uint32_t[]){4, 4});
    check_levels(rdt_levels_by_host(&of_8), true, 2, (const uint32_t[]){8, 12});
}

/* Hosts 0 to 5 in levels of 3 and 2, two ranks each: rank 9 is the second one of host 4. */
static void members_of_a_level_differ_in_it_alone(void)
{
    const uint32_t hosts[] = {0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5};
    const rdt_layout_t layout = layout_of(hosts, 12, 9);
    const rdt_levels_t levels = rdt_levels_halving(&layout.grid, 10, 1);
    uint32_t ranks[12];
    rdt_members_t met = rdt_levels_members(&levels, &layout, 0, ranks);

    check_levels(levels, true, 3, (const uint32_t[]){2, 3, 2});
    check_members(&met, (const uint32_t[]){8, 9}, 2, 1);
    met = rdt_levels_members(&levels, &layout, 1, ranks);
    check_members(&met, (const uint32_t[]){7, 9, 11}, 3, 1);
    met = rdt_levels_members(&levels, &layout, 2, ranks);
    check_members(&met, (const uint32_t[]){3, 9}, 2, 1);
    rdt_layout_free((rdt_layout_t *)&layout);
}

static void costs_of_what_is_no_all_reduce(void)
{
    rdt_tuning_t tuning = easy();
    const rdt_grid_t grid = {4, 2, 2}, five = {5, 5, 1}, uneven = {5, 2, 0};
    const rdt_grid_t four = {8, 4, 2};

    tuning.scatter = 1000;
    /* From one rank: 8 bytes to the other one of its host, and to 2 of the other host. */
    CHECK_EQ(rdt_way_cost_ns(RDT_WAY_FLAT, RDT_BROADCAST, &grid, 8, &tuning),
             10 + 1 + 8 + 1000 + 200 + 160);
    /* In parts, which all pass on. */
    CHECK_EQ(rdt_way_cost_ns(RDT_WAY_FLAT, RDT_BROADCAST, &grid, 1000, &tuning),
             2 * (10 + 1 + 250 + 1000 + 200 + 10000));
    CHECK_EQ(rdt_way_cost_ns(RDT_WAY_BY_HOST, RDT_BROADCAST, &grid, 1000, &tuning),
             2 * (10 + 1 + 500 + 1000 + 100 + 5000));
    /* Every rank's 1000 bytes to all. */
    CHECK_EQ(rdt_way_cost_ns(RDT_WAY_FLAT, RDT_ALL_GATHER, &grid, 1000, &tuning),
             10 + 1 + 1000 + 1000 + 200 + 40000);
    CHECK_EQ(rdt_way_cost_ns(RDT_WAY_FLAT, RDT_REDUCE_SCATTER, &grid, 1000, &tuning),
             10 + 1 + 1000 + 1000 + 200 + 40000);
    /* Once to the rank with its place on the other host, 2 ranks each; and in the host for each host. */
    CHECK_EQ(rdt_way_cost_ns(RDT_WAY_BY_HOST, RDT_ALL_GATHER, &grid, 1000, &tuning),
             2 * (10 + 1 + 1000) + 1000 + 100 + 20000);
    /* 4 hosts in levels of 2: a block, then two. */
    CHECK_EQ(rdt_way_cost_ns(RDT_WAY_HALVING, RDT_REDUCE_SCATTER, &four, 1000, &tuning),
             4 * (10 + 1 + 1000) + 1000 + 100 + 20000 + 1000 + 100 + 40000);
    /* 3 stages of 5 ranks, who each send 4 inputs. */
    CHECK_EQ(rdt_way_cost_ns(RDT_WAY_GATHER, RDT_ALL_GATHER, &five, 8, &tuning), 3 * 1200 + 320);
    /* Were 5 ranks on 2 hosts alike, there would be 3 on one: 2 to the other one. */
    CHECK_EQ(rdt_way_cost_ns(RDT_WAY_FLAT, RDT_ALL_REDUCE, &uneven, 8, &tuning),
             10 + 2 + 16 + 1000 + 200 + 480);
    /* One shot is one chunk. */
    tuning.one_shot = 1 << 20;
    tuning.chunk = 512;
    CHECK_EQ(rdt_way_cost_ns(RDT_WAY_FLAT, RDT_ALL_REDUCE, &grid, 1000, &tuning),
             2 * (10 + 1 + 250 + 1000 + 200 + 10000));
}

static void what_each_collective_can_be_made_of(void)
{
    const rdt_tuning_t tuning = rdt_tuning_default(16);
    const rdt_grid_t sixteen = {16, 4, 4}, two = {2, 2, 1};
    static const struct {
        rdt_coll_t coll;
        bool levels, gather;
    } of[] = {{RDT_ALL_REDUCE, true, true}, {RDT_BARRIER, true, true},
              {RDT_BROADCAST, true, false}, {RDT_ALL_GATHER, true, true},
              {RDT_REDUCE, false, false},   {RDT_REDUCE_SCATTER, true, false},
              {RDT_GATHER, false, false},   {RDT_ALL_TO_ALL, false, false}};

    for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
        CHECK(rdt_way_fits(RDT_WAY_FLAT, of[i].coll, &sixteen, 64, &tuning), "flat");
        CHECK_EQ(rdt_way_fits(RDT_WAY_BY_HOST, of[i].coll, &sixteen, 64, &tuning), of[i].levels);
        CHECK_EQ(rdt_way_fits(RDT_WAY_HALVING, of[i].coll, &sixteen, 64, &tuning), of[i].levels);
        CHECK_EQ(rdt_way_fits(RDT_WAY_GATHER, of[i].coll, &sixteen, 64, &tuning), of[i].gather);
    }
    /* All inputs: 1 MiB. */
    CHECK(rdt_way_fits(RDT_WAY_GATHER, RDT_ALL_GATHER, &sixteen, 65536, &tuning), "1 MiB");
    CHECK(!rdt_way_fits(RDT_WAY_GATHER, RDT_ALL_GATHER, &sixteen, 65537, &tuning), "more");
    CHECK(!rdt_way_fits(RDT_WAY_GATHER, RDT_ALL_REDUCE, &two, 8, &tuning), "two ranks");
}

static void the_cheapest_way_is_taken(void)
{
    rdt_tuning_t tuning = easy();
    const rdt_grid_t small = {4, 2, 2}, uneven = {5, 2, 0}, wide = {64, 64, 1}, one = {4, 1, 4};
    const rdt_grid_t prime = {61, 61, 1}, four = {4, 4, 1};

    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &small, 8, &tuning), RDT_WAY_FLAT);
    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &small, 1000, &tuning), RDT_WAY_BY_HOST);
    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &uneven, 1000, &tuning), RDT_WAY_FLAT);
    /* A barrier: 63 messages of 100 ns, 6 stages of 1200 ns, or 2 levels with 7 messages, 1700 ns each;
     * an all_reduce goes through the levels twice, and has less to move in them. */
    CHECK_EQ(rdt_way_choose(RDT_BARRIER, &wide, 0, &tuning), RDT_WAY_HALVING);
    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &wide, 1 << 30, &tuning), RDT_WAY_HALVING);
    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &wide, 8, &tuning), RDT_WAY_HALVING);
    /* As many bytes in any way, and two exchanges instead of 63 messages. */
    CHECK_EQ(rdt_way_choose(RDT_ALL_GATHER, &wide, 1 << 30, &tuning), RDT_WAY_HALVING);
    CHECK_EQ(rdt_way_choose(RDT_REDUCE_SCATTER, &wide, 1 << 30, &tuning), RDT_WAY_HALVING);
    /* A block to each host, and not to each of its ranks. */
    CHECK_EQ(rdt_way_choose(RDT_ALL_GATHER, &small, 1 << 30, &tuning), RDT_WAY_BY_HOST);
    CHECK_EQ(rdt_way_choose(RDT_REDUCE_SCATTER, &small, 1 << 30, &tuning), RDT_WAY_BY_HOST);
    CHECK_EQ(rdt_way_choose(RDT_ALL_TO_ALL, &small, 1 << 30, &tuning), RDT_WAY_FLAT);
    /* Where a message costs 200 ns, 60 of them are 12000 ns, 6 stages 8400 ns, and there are no levels. */
    tuning.net_message = 200;
    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &prime, 8, &tuning), RDT_WAY_GATHER);
    tuning.net_message = 10; /* 63 of them are less than an exchange more */
    CHECK_EQ(rdt_way_choose(RDT_BARRIER, &wide, 0, &tuning), RDT_WAY_FLAT);
    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &one, 1 << 30, &tuning), RDT_WAY_FLAT);
    tuning.net_message = 100;
    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &prime, 1 << 30, &tuning), RDT_WAY_FLAT);
    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &four, 1 << 30, &tuning), RDT_WAY_FLAT);
}

/* 16 hosts of one rank, 4096 bytes each. */
static void what_verbs_costs_is_another_row(void)
{
    const rdt_grid_t hosts = {16, 16, 1};
    const rdt_tuning_t tcp = rdt_tuning_default(16);
    rdt_tuning_t verbs = tcp;

    rdt_tuning_verbs(&verbs, 16, 400000);
    CHECK_EQ(verbs.net_bandwidth, 49000);
    CHECK(verbs.net_latency < tcp.net_latency && verbs.net_latency > tcp.host_latency, "latency");
    CHECK(verbs.net_message < tcp.net_message && verbs.net_message > tcp.host_message, "message");
    CHECK_EQ(verbs.chunk, tcp.chunk);
    CHECK_EQ(verbs.one_shot, tcp.one_shot);
    CHECK_EQ(verbs.host_latency, tcp.host_latency);
    CHECK_EQ(rdt_way_cost_ns(RDT_WAY_FLAT, RDT_ALL_REDUCE, &hosts, 4096, &verbs),
             2 * (2500 + 15 * 400 + 15 * 256 * 1000 / 49000));
    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &hosts, 4096, &tcp), RDT_WAY_HALVING);
    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &hosts, 4096, &verbs), RDT_WAY_GATHER);
    rdt_tuning_verbs(&verbs, 16, 25000);
    CHECK_EQ(verbs.net_bandwidth, 3062);
    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &hosts, 4096, &verbs), RDT_WAY_HALVING);
}

static void what_the_table_says_is_done_where_it_fits(void)
{
    rdt_tuning_t tuning = easy();
    const rdt_grid_t grid = {4, 2, 2}, uneven = {5, 2, 0}, one = {4, 1, 4};
    const rdt_grid_t six = {6, 6, 1}, four_uneven = {5, 4, 0};

    tuning.way = 1 + RDT_WAY_FLAT;
    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &grid, 1 << 20, &tuning), RDT_WAY_FLAT);
    tuning.way = 1 + RDT_WAY_BY_HOST;
    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &grid, 8, &tuning), RDT_WAY_BY_HOST);
    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &uneven, 1 << 20, &tuning), RDT_WAY_FLAT);
    tuning.way = 1 + RDT_WAY_GATHER;
    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &one, 1000, &tuning), RDT_WAY_GATHER);
    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &grid, tuning.chunk + 1, &tuning), RDT_WAY_FLAT);
    tuning.way = 1 + RDT_WAY_HALVING;
    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &grid, 1 << 20, &tuning),
             RDT_WAY_FLAT); /* 2 hosts are a prime number */
    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &six, 8, &tuning), RDT_WAY_HALVING);
    CHECK_EQ(rdt_way_choose(RDT_ALL_REDUCE, &four_uneven, 8, &tuning), RDT_WAY_FLAT);
    tuning.way = 5;
    CHECK_EQ(rdt_tuning_check(&tuning), RDT_BAD_ARG);
    tuning.way = 0;
    tuning.net_bandwidth = 0;
    CHECK_EQ(rdt_tuning_check(&tuning), RDT_BAD_ARG);
}

int main(void)
{
    rails_join_the_same_places_of_hosts();
    every_rail_has_the_hosts_in_the_same_order();
    hosts_that_differ_in_ranks_are_not_alike();
    hosts_are_cut_into_the_levels_that_cost_least();
    members_of_a_level_differ_in_it_alone();
    costs_are_those_of_the_table();
    costs_of_what_is_no_all_reduce();
    what_each_collective_can_be_made_of();
    the_cheapest_way_is_taken();
    what_verbs_costs_is_another_row();
    what_the_table_says_is_done_where_it_fits();
    return 0;
}
