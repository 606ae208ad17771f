/* SPDX-License-Identifier: Apache-2.0 */
#include "coll/levels.h"

/* Prime factors, the smallest first. */
static rdt_levels_t primes_of(uint32_t n)
{
    rdt_levels_t primes = {0};

    for (uint32_t p = 2; (uint64_t)p * p <= n; p++)
        for (; n % p == 0; n /= p)
            primes.sizes[primes.num++] = p;
    if (n > 1) primes.sizes[primes.num++] = n;
    return primes;
}

static void sort_down(rdt_levels_t *levels)
{
    for (uint32_t i = 1; i < levels->num; i++)
        for (uint32_t k = i; k > 0 && levels->sizes[k] > levels->sizes[k - 1]; k--) {
            const uint32_t size = levels->sizes[k];

            levels->sizes[k] = levels->sizes[k - 1];
            levels->sizes[k - 1] = size;
        }
}

/* As even as large factors first into the smallest level make them. The largest level comes first: in an
 * all_reduce it has most to move, and narrow types are still narrow there. */
static rdt_levels_t spread(const rdt_levels_t *primes, uint32_t num)
{
    rdt_levels_t levels = {.num = num};

    for (uint32_t i = 0; i < num; i++)
        levels.sizes[i] = 1;
    for (uint32_t i = primes->num; i-- > 0;) {
        uint32_t least = 0;

        for (uint32_t k = 1; k < num; k++)
            if (levels.sizes[k] < levels.sizes[least]) least = k;
        levels.sizes[least] *= primes->sizes[i];
    }
    sort_down(&levels);
    return levels;
}

static uint64_t cost_of(const rdt_levels_t *levels, uint64_t latency, uint64_t message)
{
    uint64_t cost = 0;

    for (uint32_t i = 0; i < levels->num; i++)
        cost += latency + (levels->sizes[i] - 1) * message;
    return cost;
}

static rdt_levels_t below_host(const rdt_grid_t *grid, const rdt_levels_t *hosts)
{
    rdt_levels_t levels = {.has_host = grid->per_host > 1};

    if (levels.has_host) levels.sizes[levels.num++] = grid->per_host;
    for (uint32_t i = 0; i < hosts->num; i++)
        levels.sizes[levels.num++] = hosts->sizes[i];
    return levels;
}

rdt_levels_t rdt_levels_by_host(const rdt_grid_t *grid)
{
    const rdt_levels_t hosts = {.num = 1, .sizes = {grid->num_hosts}};

    return below_host(grid, &hosts);
}

rdt_levels_t rdt_levels_halving(const rdt_grid_t *grid, uint64_t latency, uint64_t message)
{
    const rdt_levels_t primes = primes_of(grid->num_hosts);
    rdt_levels_t best;

    if (primes.num < 2) return rdt_levels_by_host(grid);
    best = spread(&primes, 2);
    for (uint32_t num = 3; num <= primes.num; num++) {
        const rdt_levels_t levels = spread(&primes, num);

        if (cost_of(&levels, latency, message) < cost_of(&best, latency, message)) best = levels;
    }
    return below_host(grid, &best);
}

/* From one host of a level to the next one, in hosts. */
static uint32_t stride_of(const rdt_levels_t *levels, uint32_t level)
{
    uint32_t stride = 1;

    for (uint32_t i = levels->has_host; i < level; i++)
        stride *= levels->sizes[i];
    return stride;
}

static bool is_host(const rdt_levels_t *levels, uint32_t level)
{
    return levels->has_host && level == 0;
}

uint32_t rdt_levels_place(const rdt_levels_t *levels, const rdt_layout_t *layout, uint32_t level,
                          uint32_t rank)
{
    if (is_host(levels, level)) return layout->place_of[rank];
    return layout->host_of[rank] / stride_of(levels, level) % levels->sizes[level];
}

rdt_members_t rdt_levels_members(const rdt_levels_t *levels, const rdt_layout_t *layout,
                                 uint32_t level, uint32_t *ranks)
{
    const uint32_t size = levels->sizes[level], stride = stride_of(levels, level);
    const uint32_t me = rdt_levels_place(levels, layout, level, layout->all.me);

    if (is_host(levels, level)) return layout->host;
    for (uint32_t i = 0; i < size; i++)
        ranks[i] = layout->rail.ranks[layout->rail.me - me * stride + i * stride];
    return (rdt_members_t){ranks, size, me};
}
