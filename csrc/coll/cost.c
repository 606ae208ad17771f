/* SPDX-License-Identifier: Apache-2.0 */
#include "coll/cost.h"

/* Of all inputs together, which every rank keeps for a gather. */
#define MAX_GATHER_BYTES (1u << 20)

typedef struct level {
    uint64_t latency_ns, message_ns, mb_per_s;
} level_t;

static level_t memory_of(const rdt_tuning_t *tuning)
{
    return (level_t){tuning->host_latency, tuning->host_message, tuning->host_bandwidth};
}

static level_t network_of(const rdt_tuning_t *tuning)
{
    return (level_t){tuning->net_latency, tuning->net_message, tuning->net_bandwidth};
}

static uint64_t exchange_ns(level_t level, uint64_t num_messages, uint64_t bytes)
{
    if (num_messages == 0) return 0;
    return level.latency_ns + num_messages * level.message_ns + bytes * 1000 / level.mb_per_s;
}

static uint64_t ceil_log2(uint64_t n)
{
    uint64_t steps = 0;

    while (((uint64_t)1 << steps) < n)
        steps++;
    return steps;
}

/* Of the fullest host, were the ranks spread evenly. */
static uint64_t ranks_per_host(const rdt_grid_t *grid)
{
    return (grid->world + grid->num_hosts - 1) / grid->num_hosts;
}

/* Of each rank, or for each. */
static bool has_blocks(rdt_coll_t coll)
{
    return coll == RDT_ALL_GATHER || coll == RDT_REDUCE_SCATTER;
}

/* Everything goes to everybody at once; else each rank, or the root, sends a part to each, which is then
 * passed on, or reduced and given back. */
static bool is_one_exchange(rdt_coll_t coll, uint64_t bytes, const rdt_tuning_t *tuning)
{
    if (has_blocks(coll)) return true;
    if (coll == RDT_BROADCAST) return bytes < tuning->scatter;
    return bytes <= tuning->one_shot && bytes <= tuning->chunk;
}

static uint64_t flat_ns(rdt_coll_t coll, const rdt_grid_t *grid, uint64_t bytes,
                        const rdt_tuning_t *tuning)
{
    const uint64_t near = ranks_per_host(grid), far = grid->world - near;
    const bool once = is_one_exchange(coll, bytes, tuning);
    const uint64_t piece = once ? bytes : (bytes + grid->world - 1) / grid->world;
    const uint64_t senders = coll == RDT_BROADCAST && once ? 1 : near;
    const uint64_t ns = exchange_ns(memory_of(tuning), near - 1, (near - 1) * piece) +
                        exchange_ns(network_of(tuning), far, senders * far * piece);

    return once ? ns : 2 * ns;
}

/* At each level a rank's piece becomes smaller; that of all ranks of a host is what the network carries. */
static uint64_t levels_ns(const rdt_levels_t *levels, uint64_t bytes, const rdt_tuning_t *tuning)
{
    uint64_t once = 0;

    for (uint32_t i = 0; i < levels->num; i++) {
        const bool is_host = levels->has_host && i == 0;
        const uint64_t others = levels->sizes[i] - 1;

        once += exchange_ns(is_host ? memory_of(tuning) : network_of(tuning), others,
                            others * bytes / levels->sizes[i]);
        if (!is_host) bytes /= levels->sizes[i];
    }
    return once;
}

/* Between hosts the blocks of a run of hosts are passed on together; in the host, those of one host. */
static uint64_t blocks_ns(const rdt_levels_t *levels, const rdt_grid_t *grid, uint64_t bytes,
                          const rdt_tuning_t *tuning)
{
    const uint64_t others = grid->per_host - 1;
    uint64_t hosts = grid->num_hosts,
             ns = hosts * exchange_ns(memory_of(tuning), others, others * bytes);

    for (uint32_t i = levels->has_host; i < levels->num; i++) {
        const uint64_t met = levels->sizes[i] - 1;

        hosts /= levels->sizes[i];
        ns += exchange_ns(network_of(tuning), met, grid->per_host * met * hosts * bytes);
    }
    return ns;
}

/* Each stage sends one message with data, and one without to whom it gets data from. */
static uint64_t gather_ns(const rdt_grid_t *grid, uint64_t bytes, const rdt_tuning_t *tuning)
{
    const level_t net = network_of(tuning);
    const uint64_t all_bytes = ranks_per_host(grid) * (grid->world - 1) * bytes;

    return ceil_log2(grid->world) * exchange_ns(net, 2, 0) + all_bytes * 1000 / net.mb_per_s;
}

const char *rdt_way_name(rdt_way_t way)
{
    static const char *const names[RDT_NUM_WAYS] = {[RDT_WAY_FLAT] = "flat",
                                                    [RDT_WAY_BY_HOST] = "by_host",
                                                    [RDT_WAY_GATHER] = "gather",
                                                    [RDT_WAY_HALVING] = "halving"};

    return (unsigned)way < RDT_NUM_WAYS ? names[way] : "unknown";
}

rdt_levels_t rdt_way_levels(rdt_way_t way, const rdt_grid_t *grid, const rdt_tuning_t *tuning)
{
    return way == RDT_WAY_HALVING
               ? rdt_levels_halving(grid, tuning->net_latency, tuning->net_message)
               : rdt_levels_by_host(grid);
}

static bool has_levels(rdt_way_t way, const rdt_grid_t *grid, const rdt_tuning_t *tuning)
{
    rdt_levels_t levels;

    if (way == RDT_WAY_BY_HOST) return grid->num_hosts > 1 && grid->per_host > 1;
    levels = rdt_way_levels(way, grid, tuning);
    return grid->per_host > 0 && levels.num > 1U + levels.has_host;
}

/* What gathers all inputs, which must be small. */
static bool can_gather(rdt_coll_t coll, const rdt_grid_t *grid, uint64_t bytes,
                       const rdt_tuning_t *tuning)
{
    return (coll == RDT_ALL_REDUCE || coll == RDT_BARRIER || coll == RDT_ALL_GATHER) &&
           grid->world > 2 && bytes <= tuning->chunk && grid->world * bytes <= MAX_GATHER_BYTES;
}

static bool can_be_in_levels(rdt_coll_t coll)
{
    return coll == RDT_ALL_REDUCE || coll == RDT_BARRIER || coll == RDT_BROADCAST ||
           has_blocks(coll);
}

bool rdt_way_fits(rdt_way_t way, rdt_coll_t coll, const rdt_grid_t *grid, uint64_t bytes,
                  const rdt_tuning_t *tuning)
{
    if (way == RDT_WAY_FLAT) return true;
    if (way == RDT_WAY_GATHER) return can_gather(coll, grid, bytes, tuning);
    return can_be_in_levels(coll) && has_levels(way, grid, tuning);
}

uint64_t rdt_way_cost_ns(rdt_way_t way, rdt_coll_t coll, const rdt_grid_t *grid, uint64_t bytes,
                         const rdt_tuning_t *tuning)
{
    rdt_levels_t levels;
    uint64_t once;

    if (way == RDT_WAY_FLAT) return flat_ns(coll, grid, bytes, tuning);
    if (way == RDT_WAY_GATHER) return gather_ns(grid, bytes, tuning);
    levels = rdt_way_levels(way, grid, tuning);
    if (has_blocks(coll)) return blocks_ns(&levels, grid, bytes, tuning);
    once = levels_ns(&levels, bytes, tuning);
    return coll == RDT_BARRIER ? once : 2 * once;
}

/* Of the ways that fit. */
static rdt_way_t cheapest(rdt_coll_t coll, const rdt_grid_t *grid, uint64_t bytes,
                          const rdt_tuning_t *tuning)
{
    uint64_t least = rdt_way_cost_ns(RDT_WAY_FLAT, coll, grid, bytes, tuning);
    rdt_way_t best = RDT_WAY_FLAT;

    for (int w = RDT_WAY_FLAT + 1; w < RDT_NUM_WAYS; w++) {
        const rdt_way_t way = (rdt_way_t)w;
        uint64_t cost;

        if (!rdt_way_fits(way, coll, grid, bytes, tuning)) continue;
        cost = rdt_way_cost_ns(way, coll, grid, bytes, tuning);
        if (cost >= least) continue;
        least = cost;
        best = way;
    }
    return best;
}

rdt_way_t rdt_way_choose(rdt_coll_t coll, const rdt_grid_t *grid, uint64_t bytes,
                         const rdt_tuning_t *tuning)
{
    const rdt_way_t said = (rdt_way_t)(tuning->way - 1); /* of 0: none that there is */

    if (tuning->way != 0)
        return rdt_way_fits(said, coll, grid, bytes, tuning) ? said : RDT_WAY_FLAT;
    return grid->num_hosts > 1 ? cheapest(coll, grid, bytes, tuning) : RDT_WAY_FLAT;
}

void rdt_coll_ways(rdt_coll_t coll, const rdt_tuning_t *tuning, uint32_t world, uint32_t num_hosts,
                   uint64_t bytes, rdt_way_info_t *ways)
{
    const rdt_grid_t grid = {world, num_hosts, world % num_hosts == 0 ? world / num_hosts : 0};

    for (int w = 0; w < RDT_NUM_WAYS; w++) {
        const rdt_way_t way = (rdt_way_t)w;

        ways[w] = (rdt_way_info_t){.name = rdt_way_name(way),
                                   .cost_ns = rdt_way_cost_ns(way, coll, &grid, bytes, tuning),
                                   .fits = rdt_way_fits(way, coll, &grid, bytes, tuning),
                                   .chosen = rdt_way_choose(coll, &grid, bytes, tuning) == way};
    }
}
