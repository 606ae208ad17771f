/* SPDX-License-Identifier: Apache-2.0 */
/* Plays every stage of what has several by plain copies, for many groups and sizes, and compares the end
 * with sums made host by host, or with what was sent. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "coll/stages.h"
#include "reduce/half.h"

#define MAX_WORLD 24
#define MAX_COUNT 1000
#define NOTHING 0xff /* what no element is made of */

static rdt_kernels_t kernels;
static rdt_tuning_t tuning;
static rdt_layout_t layouts[MAX_WORLD];
static rdt_stages_t stages[MAX_WORLD];
static rdt_call_t calls[MAX_WORLD];
static void **calls_shards[MAX_WORLD]; /* their out_shards, or in_shards of a reduce_scatter */
static uint32_t hosts[MAX_WORLD], world;
static float in[MAX_WORLD][MAX_COUNT], out[MAX_WORLD][MAX_COUNT];
static float all[MAX_WORLD][MAX_WORLD * MAX_COUNT]; /* a block of each rank, or for each */
static float moved[MAX_WORLD][MAX_WORLD * MAX_COUNT];
static uint32_t known[MAX_WORLD]; /* of whom a rank has heard, by way of others too */

/* many: of halving, rather many levels than many messages. */
static void open_group(uint32_t num_hosts, uint32_t per_host, rdt_way_t way, bool many)
{
    world = num_hosts * per_host;
    tuning = rdt_tuning_default(world);
    tuning.way = 1 + way;
    tuning.net_latency = many ? 0 : 1000000;
    tuning.net_message = 1000;
    for (uint32_t r = 0; r < world; r++)
        hosts[r] = r % num_hosts; /* hosts take turns */
    for (uint32_t r = 0; r < world; r++) {
        CHECK_EQ(rdt_layout_make(hosts, world, r, &layouts[r]), RDT_OK);
        CHECK_EQ(rdt_stages_open(&layouts[r], &kernels, &tuning, &stages[r]), RDT_OK);
        known[r] = 1u << r;
    }
}

static void close_group(void)
{
    for (uint32_t r = 0; r < world; r++) {
        rdt_stages_close(&stages[r]);
        rdt_layout_free(&layouts[r]);
    }
}

static const rdt_stages_t *member(uint32_t r, uint32_t m)
{
    return &stages[stages[r].members.ranks[m]];
}

/* Which member of the peer's stage a rank is. */
static uint32_t index_of(const rdt_stages_t *peer, uint32_t rank)
{
    for (uint32_t m = 0; m < peer->members.num; m++)
        if (peer->members.ranks[m] == rank) return m;
    CHECK(false, "rank %u counts on a rank that does not know of it", rank);
    return 0;
}

/* What is stored is nothing that others have still to get: its own shard, or memory apart from all. */
static void check_apart(const rdt_stages_t *st)
{
    const char *out = st->call.out, *end = out + st->call.count * rdt_dtype_bytes(st->step.to);
    const size_t bytes = rdt_dtype_bytes(st->step.from);

    for (uint32_t m = 0; st->call.in_counts != NULL && m < st->members.num; m++) {
        const char *in = st->call.in_shards[m], *in_end = in + st->call.in_counts[m] * bytes;

        if (m == st->members.me && in == out) continue;
        CHECK(in >= end || in_end <= out || st->call.count == 0 || in == in_end,
              "a result is stored to shard %u of what is added", m);
    }
}

/* What rank r has at the end of the stage, before anybody writes what others still read. */
static void play_reduction(uint32_t r)
{
    const rdt_stages_t *st = &stages[r];
    const void *src[MAX_WORLD];

    check_apart(st);

    for (uint32_t m = 0; m < st->members.num; m++) {
        const rdt_call_t *call = &member(r, m)->call;

        src[m] = call->in_shards != NULL ? call->in_shards[st->members.me] : call->in;
        if (call->in_shards == NULL && call->coll == RDT_REDUCE_SCATTER)
            src[m] = (const char *)call->in +
                     st->members.me * call->count * rdt_dtype_bytes(call->dtype);
        if (call->in_counts != NULL) CHECK_EQ(call->in_counts[st->members.me], st->call.count);
    }
    rdt_step_reduce(&st->step, moved[r], src, st->members.num, st->call.count);
}

static void play_gather(uint32_t r)
{
    const rdt_stages_t *st = &stages[r];

    for (uint32_t m = 0; m < st->members.num; m++) {
        const rdt_call_t *call = &member(r, m)->call;

        CHECK_EQ(call->count, st->call.out_counts[m]);
        if (call->count == 0) continue;
        memmove(st->call.out_shards[m], call->in, call->count * rdt_dtype_bytes(call->dtype));
    }
}

static void play_exchange(uint32_t r)
{
    const rdt_stages_t *st = &stages[r];

    for (uint32_t m = 1; m < st->members.num; m++) {
        const rdt_stages_t *peer = member(r, m);
        uint32_t me = index_of(peer, r);

        CHECK_EQ(peer->call.in_counts[me], st->call.out_counts[m]);
        if (st->call.out_counts[m] == 0) continue;
        memcpy(st->call.out_shards[m], peer->call.in_shards[me],
               st->call.out_counts[m] * rdt_dtype_bytes(st->call.dtype));
    }
}

/* What a rank without the data has before is not what it passes on: the roots of a stage are others. */
static void play_from_root(uint32_t r)
{
    const rdt_call_t *call = &stages[r].call, *root = &member(r, call->peer)->call;
    const uint32_t me = stages[r].members.me;
    uint8_t nothing[16];

    memset(nothing, NOTHING, sizeof(nothing));
    CHECK_EQ(root->coll, call->coll);
    CHECK_EQ(root->peer, call->peer);
    CHECK_EQ(root->in_counts[me], call->count);
    if (call->count == 0) return;
    CHECK(memcmp(root->in_shards[me], nothing, rdt_dtype_bytes(call->dtype)) != 0,
          "rank %u gets what its root has not", r);
    if (call->peer != me)
        memcpy(call->out, root->in_shards[me], call->count * rdt_dtype_bytes(call->dtype));
}

/* Two ranks never write one line: what is cut begins on whole ones. Blocks are as they are. */
static void check_lines(const rdt_stages_t *st)
{
    const rdt_call_t *call = &st->call;
    const size_t bytes = rdt_dtype_bytes(call->dtype);

    if (st->way == RDT_WAY_GATHER || st->whole->coll == RDT_ALL_GATHER ||
        st->whole->coll == RDT_REDUCE_SCATTER)
        return;
    for (uint32_t m = 1; m < st->members.num; m++) {
        if (call->in_shards != NULL && call->in_counts[m] > 0)
            CHECK_EQ(((const char *)call->in_shards[m] - (const char *)call->in_shards[0]) % 64, 0);
        if (call->out_shards != NULL && call->out_counts[m] > 0)
            CHECK_EQ(((char *)call->out_shards[m] - (char *)call->out_shards[m - 1]) %
                         (ptrdiff_t)(64 / bytes * bytes),
                     0);
    }
}

static void play_stage(void)
{
    uint32_t heard[MAX_WORLD];

    for (uint32_t r = 0; r < world; r++) {
        const rdt_stages_t *st = &stages[r];

        heard[r] = known[r];
        for (uint32_t m = 0; m < st->members.num; m++) {
            index_of(member(r, m), r);
            heard[r] |= known[st->members.ranks[m]];
        }
        if (st->call.coll == RDT_REDUCE_SCATTER || st->call.coll == RDT_ALL_REDUCE)
            play_reduction(r);
        if (st->call.coll == RDT_ALL_GATHER) play_gather(r);
        if (st->call.coll == RDT_ALL_TO_ALL) play_exchange(r);
        if (st->call.coll == RDT_SCATTER) play_from_root(r);
    }
    for (uint32_t r = 0; r < world; r++) {
        const rdt_stages_t *st = &stages[r];

        check_lines(st);
        known[r] = heard[r];
        if (st->call.count == 0) continue;
        if (st->call.coll == RDT_REDUCE_SCATTER || st->call.coll == RDT_ALL_REDUCE)
            memcpy(st->call.out, moved[r], st->call.count * rdt_dtype_bytes(st->step.to));
    }
}

/* Number of stages. Buffers of a rank are so many bytes behind those of the one before it. */
static uint32_t play_apart(const rdt_call_t *call, void *ins, size_t in_stride, void *outs,
                           size_t out_stride)
{
    uint32_t num = 0;
    bool more;

    for (uint32_t r = 0; r < world; r++) {
        calls[r] = *call;
        calls[r].in = (char *)ins + r * in_stride;
        calls[r].out = (char *)outs + r * out_stride;
        if (call->coll == RDT_REDUCE_SCATTER)
            calls[r].in_shards = (const void *const *)calls_shards[r];
        else
            calls[r].out_shards = calls_shards[r];
        CHECK_EQ(rdt_stages_begin(&stages[r], &calls[r]), RDT_OK);
    }
    do {
        play_stage();
        num++;
        more = rdt_stages_next(&stages[0]);
        for (uint32_t r = 1; r < world; r++)
            CHECK_EQ(rdt_stages_next(&stages[r]), more);
    } while (more);
    return num;
}

static uint32_t play(const rdt_call_t *call, void *ins, void *outs)
{
    return play_apart(call, ins, sizeof(in[0]), outs, sizeof(out[0]));
}

/* Large numbers that cancel around small ones, so that the order of a sum shows. */
static float number(uint32_t rank, uint64_t i)
{
    static const float pattern[] = {1e8F, -1e8F, 1, 3, 0.25F};

    return pattern[(rank + i) % 5] * (float)(1 + i % 3);
}

static float sum_by_host(uint32_t num_hosts, uint64_t i)
{
    float sum = 0;

    for (uint32_t h = 0; h < num_hosts; h++) {
        float part = 0;

        for (uint32_t r = h; r < world; r += num_hosts)
            part = r == h ? number(r, i) : part + number(r, i);
        sum = h == 0 ? part : sum + part;
    }
    return sum;
}

/* What halving makes of so many hosts: where an exchange costs most, and where a message does. */
static const struct {
    uint32_t num_hosts, few[3], many[5]; /* sizes of levels, and 0 */
} halvings[] = {
    {4, {2, 2}, {2, 2}},        {6, {3, 2}, {3, 2}},     {8, {4, 2}, {2, 2, 2}},
    {9, {3, 3}, {3, 3}},        {12, {4, 3}, {3, 2, 2}}, {14, {7, 2}, {7, 2}},
    {16, {4, 4}, {2, 2, 2, 2}}, {18, {6, 3}, {3, 3, 2}}, {24, {6, 4}, {3, 2, 2, 2}},
};

static float sum_in_host(uint32_t num_hosts, uint32_t host, uint64_t i)
{
    float sum = number(host, i);

    for (uint32_t r = host + num_hosts; r < world; r += num_hosts)
        sum += number(r, i);
    return sum;
}

/* The sum of a level's members, each the sum of a level before it: they begin at host. */
static float sum_by_levels(const uint32_t *sizes, uint32_t num_levels, uint32_t num_hosts,
                           uint32_t host, uint64_t i)
{
    uint32_t stride = 1;
    float sum;

    if (num_levels == 0) return sum_in_host(num_hosts, host, i);
    for (uint32_t level = 0; level + 1 < num_levels; level++)
        stride *= sizes[level];
    sum = sum_by_levels(sizes, num_levels - 1, num_hosts, host, i);
    for (uint32_t m = 1; m < sizes[num_levels - 1]; m++)
        sum += sum_by_levels(sizes, num_levels - 1, num_hosts, host + m * stride, i);
    return sum;
}

/* The sizes, and their number. */
static const uint32_t *levels_of(uint32_t num_hosts, bool many, uint32_t *num_p)
{
    size_t h = 0;
    const uint32_t *sizes;
    uint32_t max = many ? 5 : 3;

    while (halvings[h].num_hosts != num_hosts)
        h++;
    sizes = many ? halvings[h].many : halvings[h].few;
    *num_p = 0;
    while (*num_p < max && sizes[*num_p] != 0)
        ++*num_p;
    return sizes;
}

static float sum_by_halving(uint32_t num_hosts, bool many, uint64_t i)
{
    uint32_t num;
    const uint32_t *sizes = levels_of(num_hosts, many, &num);

    return sum_by_levels(sizes, num, num_hosts, 0, i);
}

/* Of a reduce_scatter of hosts of one rank: the sums of the last level, whose members are far apart, come
 * first; sizes are the smallest first. */
static float sum_far_first(const uint32_t *sizes, uint32_t num_levels, uint32_t num_hosts,
                           uint32_t host, uint32_t stride, uint64_t i)
{
    float sum = 0;

    if (num_levels == 0) return sum_in_host(num_hosts, host, i);
    for (uint32_t m = 0; m < sizes[0]; m++) {
        const float part = sum_far_first(sizes + 1, num_levels - 1, num_hosts, host + m * stride,
                                         stride * sizes[0], i);

        sum = m == 0 ? part : sum + part;
    }
    return sum;
}

static float sum_of_block(rdt_way_t way, bool many, uint32_t num_hosts, uint64_t i)
{
    uint32_t num, up[5];
    const uint32_t *sizes;

    if (way == RDT_WAY_BY_HOST) return sum_by_host(num_hosts, i);
    if (world > num_hosts) return sum_by_halving(num_hosts, many, i);
    sizes = levels_of(num_hosts, many, &num);
    for (uint32_t k = 0; k < num; k++)
        up[k] = sizes[num - 1 - k];
    return sum_far_first(up, num, num_hosts, 0, 1, i);
}

static float sum_by_rank(uint64_t i)
{
    float sum = number(0, i);

    for (uint32_t r = 1; r < world; r++)
        sum += number(r, i);
    return sum;
}

static float wanted(rdt_way_t way, bool many, uint32_t num_hosts, uint64_t i)
{
    if (way == RDT_WAY_HALVING) return sum_by_halving(num_hosts, many, i);
    return way == RDT_WAY_BY_HOST ? sum_by_host(num_hosts, i) : sum_by_rank(i);
}

/* A factor of 2 is exact, and would show if a level multiplied again. */
static void float_sums(uint32_t num_hosts, uint32_t per_host, rdt_way_t way, bool many,
                       uint64_t count)
{
    const rdt_redop_t op = count % 2 == 0 ? RDT_PREMUL_SUM : RDT_SUM;
    const float factor = op == RDT_PREMUL_SUM ? 2 : 1;
    rdt_call_t call = {
        .coll = RDT_ALL_REDUCE, .dtype = RDT_F32, .op = op, .factor = factor, .count = count};

    open_group(num_hosts, per_host, way, many);
    for (int in_place = 0; in_place < 2; in_place++) {
        for (uint32_t r = 0; r < world; r++)
            for (uint64_t i = 0; i < count; i++)
                (in_place ? out : in)[r][i] = number(r, i);
        play(&call, in_place ? out : in, out);
        for (uint32_t r = 0; r < world; r++)
            for (uint64_t i = 0; i < count; i++) {
                float want = factor * wanted(way, many, num_hosts, i);

                CHECK(out[r][i] == want,
                      "%u x %u, %s: element %llu of %llu of rank %u is %g, not %g", num_hosts,
                      per_host, rdt_way_name(way), (unsigned long long)i, (unsigned long long)count,
                      r, (double)out[r][i], (double)want);
            }
    }
    close_group();
}

/* Small integers are exact; the average is one of halves. */
static void half_averages(uint32_t num_hosts, uint32_t per_host, rdt_way_t way, bool many,
                          uint64_t count)
{
    rdt_call_t call = {.coll = RDT_ALL_REDUCE, .dtype = RDT_BF16, .op = RDT_AVG, .count = count};
    uint16_t *ins = (uint16_t *)in, *outs = (uint16_t *)out;

    open_group(num_hosts, per_host, way, many);
    for (uint32_t r = 0; r < world; r++)
        for (uint64_t i = 0; i < count; i++)
            ins[r * 2 * MAX_COUNT + i] = rdt_f32_to_bf16((float)((r * 7 + i * 3) % 11));
    /* Of two ranks, a sum of the host is as many bytes as the inputs: one stage of all, and two back. */
    CHECK_EQ(play(&call, in, out),
             way == RDT_WAY_BY_HOST && per_host == 2 ? 3 : 2 * stages[0].levels.num);
    if (way == RDT_WAY_BY_HOST && per_host == 2) CHECK_EQ(stages[0].scratch_bytes, 0);
    for (uint32_t r = 0; r < world; r++)
        for (uint64_t i = 0; i < count; i++) {
            float sum = 0;

            for (uint32_t k = 0; k < world; k++)
                sum += (float)((k * 7 + i * 3) % 11);
            CHECK_EQ(outs[r * 2 * MAX_COUNT + i], rdt_f32_to_bf16(sum / (float)world));
        }
    close_group();
}

static void barriers(uint32_t num_hosts, uint32_t per_host, rdt_way_t way)
{
    rdt_call_t call = {.coll = RDT_BARRIER, .dtype = RDT_U8};
    uint32_t log = 0, num;

    open_group(num_hosts, per_host, way, true);
    while ((1u << log) < world)
        log++;
    num = play(&call, in, out);
    if (way == RDT_WAY_BY_HOST) CHECK_EQ(num, 2);
    if (way == RDT_WAY_GATHER) CHECK_EQ(num, log);
    for (uint32_t r = 0; r < world; r++)
        CHECK(known[r] == (1u << world) - 1, "rank %u of %u knows of %#x", r, world, known[r]);
    close_group();
}

/* Bytes of element i as the root has it. */
static uint8_t byte_of(uint32_t root, uint64_t i)
{
    return (uint8_t)((root * 31 + i * 7) % 251);
}

static void check_all_have(uint32_t root, uint64_t count, size_t bytes)
{
    for (uint32_t r = 0; r < world; r++) {
        const uint8_t *got = (const uint8_t *)out[r];

        CHECK(known[r] == (1u << world) - 1, "rank %u of %u knows of %#x", r, world, known[r]);
        for (uint64_t i = 0; i < count * bytes; i++)
            CHECK(got[i] == byte_of(root, i / bytes), "root %u: byte %llu of rank %u is %u", root,
                  (unsigned long long)i, r, got[i]);
    }
}

/* From every root; the others have had something else there. */
static void broadcasts(uint32_t num_hosts, uint32_t per_host, rdt_way_t way, bool many,
                       uint64_t count)
{
    static const rdt_dtype_t dtypes[] = {RDT_F32, RDT_BF16, RDT_U8};

    for (uint32_t root = 0; root < num_hosts * per_host; root++) {
        const rdt_dtype_t dtype = dtypes[root % 3];
        const size_t bytes = rdt_dtype_bytes(dtype);
        rdt_call_t call = {.coll = RDT_BROADCAST, .dtype = dtype, .count = count, .peer = root};

        open_group(num_hosts, per_host, way, many);
        memset(out, NOTHING, sizeof(out));
        for (uint64_t i = 0; i < count * bytes; i++)
            ((uint8_t *)out[root])[i] = byte_of(root, i / bytes);
        CHECK_EQ(play(&call, out, out), 2 * stages[0].levels.num);
        check_all_have(root, count, bytes);
        close_group();
    }
}

/* How the blocks of a rank lie: in a row; in a row, but as a list; backwards, and apart. */
typedef enum rows { ROW, LISTED_ROW, APART, NUM_ROWS } rows_t;

static char *block_of(rows_t rows, uint32_t r, uint32_t k, size_t bytes)
{
    return (char *)all[r] + (rows == APART ? (world - 1 - k) * sizeof(in[0]) : k * bytes);
}

static void set_shards(rows_t rows, size_t bytes)
{
    static void *shards[MAX_WORLD][MAX_WORLD];

    for (uint32_t r = 0; r < world; r++) {
        for (uint32_t k = 0; k < world; k++)
            shards[r][k] = block_of(rows, r, k, bytes);
        calls_shards[r] = rows == ROW ? NULL : shards[r];
    }
}

/* Of blocks, a rank meets those of its host once for each host, and of the others its rail. */
static uint32_t num_block_stages(rdt_way_t way, uint32_t num_hosts, uint32_t per_host, bool many)
{
    uint32_t num = 1;

    if (way == RDT_WAY_HALVING) levels_of(num_hosts, many, &num);
    return num + (per_host > 1 ? num_hosts : 0);
}

/* Nothing, or the blocks of a rail. */
static void check_scratch(bool has, uint32_t num_hosts, size_t bytes)
{
    for (uint32_t r = 0; r < world; r++)
        CHECK_EQ(stages[r].scratch_bytes, has ? num_hosts * bytes : 0);
}

static void all_gathers(uint32_t num_hosts, uint32_t per_host, rdt_way_t way, bool many,
                        uint64_t count)
{
    const size_t bytes = count * sizeof(float);
    rdt_call_t call = {.coll = RDT_ALL_GATHER, .dtype = RDT_F32, .count = count};

    for (rows_t rows = ROW; rows < NUM_ROWS; rows++) {
        uint32_t num;

        open_group(num_hosts, per_host, way, many);
        memset(all, 0, sizeof(all));
        set_shards(rows, bytes);
        for (uint32_t r = 0; r < world; r++)
            for (uint64_t i = 0; i < count; i++)
                in[r][i] = number(r, i);
        num = play_apart(&call, in, sizeof(in[0]), all, sizeof(all[0]));
        if (way != RDT_WAY_GATHER) {
            CHECK_EQ(num, num_block_stages(way, num_hosts, per_host, many));
            check_scratch(rows == APART || (per_host > 1 && num > num_hosts + 1), num_hosts, bytes);
        }
        for (uint32_t r = 0; r < world; r++)
            for (uint32_t k = 0; k < world; k++)
                CHECK(memcmp(block_of(rows, r, k, bytes), in[k], bytes) == 0,
                      "%u x %u, %s, %u: rank %u's input, on rank %u", num_hosts, per_host,
                      rdt_way_name(way), rows, k, r);
        memset(calls_shards, 0, sizeof(calls_shards));
        close_group();
    }
}

/* As of a rank that wants none of them: what it passes on is what came. */
static void a_list_that_names_one_tensor_spoils_its_own_rank_alone(void)
{
    static void *same[MAX_WORLD];
    const uint64_t count = 100;
    rdt_call_t call = {.coll = RDT_ALL_GATHER, .dtype = RDT_F32, .count = count};

    open_group(2, 2, RDT_WAY_BY_HOST, false);
    set_shards(APART, count * sizeof(float));
    for (uint32_t r = 0; r < world; r++) {
        same[r] = all[3];
        for (uint64_t i = 0; i < count; i++)
            in[r][i] = number(r, i);
    }
    calls_shards[3] = same;
    play_apart(&call, in, sizeof(in[0]), all, sizeof(all[0]));
    for (uint32_t r = 0; r < 3; r++)
        for (uint32_t k = 0; k < world; k++)
            CHECK(memcmp(block_of(APART, r, k, 0), in[k], count * sizeof(float)) == 0,
                  "rank %u's input, on rank %u", k, r);
    memset(calls_shards, 0, sizeof(calls_shards));
    close_group();
}

/* What each rank adds is not to be seen in its input afterwards. */
static void reduce_scatters(uint32_t num_hosts, uint32_t per_host, rdt_way_t way, bool many,
                            uint64_t count)
{
    const size_t bytes = count * sizeof(float);
    const rdt_redop_t op = count % 2 == 0 ? RDT_PREMUL_SUM : RDT_SUM;
    const float factor = op == RDT_PREMUL_SUM ? 2 : 1;
    rdt_call_t call = {
        .coll = RDT_REDUCE_SCATTER, .dtype = RDT_F32, .op = op, .factor = factor, .count = count};

    for (rows_t rows = ROW; rows < NUM_ROWS; rows++) {
        open_group(num_hosts, per_host, way, many);
        set_shards(rows, bytes);
        for (uint32_t r = 0; r < world; r++)
            for (uint64_t i = 0; i < world * count; i++)
                ((float *)block_of(rows, r, (uint32_t)(i / count), bytes))[i % count] =
                    number(r, i);
        CHECK_EQ(play_apart(&call, all, sizeof(all[0]), out, sizeof(out[0])),
                 num_block_stages(way, num_hosts, per_host, many));
        for (uint32_t r = 0; r < world; r++)
            for (uint64_t i = 0; i < count; i++) {
                const float want = factor * sum_of_block(way, many, num_hosts, r * count + i);

                CHECK(out[r][i] == want, "%u x %u, %s, %u: element %llu of rank %u is %g, not %g",
                      num_hosts, per_host, rdt_way_name(way), rows, (unsigned long long)i, r,
                      (double)out[r][i], (double)want);
            }
        for (uint32_t r = 0; r < world; r++)
            for (uint64_t i = 0; i < world * count; i++)
                CHECK(((float *)block_of(rows, r, (uint32_t)(i / count), bytes))[i % count] ==
                          number(r, i),
                      "input of rank %u", r);
        memset(calls_shards, 0, sizeof(calls_shards));
        close_group();
    }
}

/* In a row, as a list, or over its own input. */
static void half_averages_of_blocks(uint32_t num_hosts, uint32_t per_host, rdt_way_t way, bool many,
                                    uint64_t count)
{
    rdt_call_t call = {
        .coll = RDT_REDUCE_SCATTER, .dtype = RDT_BF16, .op = RDT_AVG, .count = count};
    const size_t bytes = count * sizeof(uint16_t);

    for (rows_t rows = ROW; rows <= NUM_ROWS; rows++) {
        const bool in_place = rows == NUM_ROWS;

        open_group(num_hosts, per_host, way, many);
        set_shards(in_place ? ROW : rows, bytes);
        for (uint32_t r = 0; r < world; r++)
            for (uint64_t i = 0; i < world * count; i++)
                ((uint16_t *)block_of(rows, r, (uint32_t)(i / count), bytes))[i % count] =
                    rdt_f32_to_bf16((float)((r * 7 + i * 3) % 11));
        CHECK_EQ(play_apart(&call, all, sizeof(all[0]), in_place ? (void *)all : out,
                            in_place ? sizeof(all[0]) + bytes : sizeof(out[0])),
                 way == RDT_WAY_BY_HOST && per_host == 2
                     ? 1
                     : num_block_stages(way, num_hosts, per_host, many));
        for (uint32_t r = 0; r < world; r++)
            for (uint64_t i = 0; i < count; i++) {
                const uint16_t *got =
                    (uint16_t *)(in_place ? block_of(ROW, r, r, bytes) : (char *)out[r]);
                float sum = 0;

                for (uint32_t k = 0; k < world; k++)
                    sum += (float)((k * 7 + (r * count + i) * 3) % 11);
                CHECK_EQ(got[i], rdt_f32_to_bf16(sum / (float)world));
            }
        memset(calls_shards, 0, sizeof(calls_shards));
        close_group();
    }
}

static void blocks(uint32_t num_hosts, uint32_t per_host, rdt_way_t way, bool many, uint64_t count)
{
    all_gathers(num_hosts, per_host, way, many, count);
    reduce_scatters(num_hosts, per_host, way, many, count);
    half_averages_of_blocks(num_hosts, per_host, way, many, count);
}

/* Where shards differ in size, the inputs of all ranks are not alike. */
static void other_collectives_are_one_stage_of_all(void)
{
    static const uint64_t sizes[4] = {1, 2, 3, 4};
    rdt_call_t call = {.coll = RDT_REDUCE, .dtype = RDT_F32, .count = 100, .peer = 2};
    const rdt_call_t uneven[] = {
        {.coll = RDT_ALL_GATHER, .dtype = RDT_F32, .count = 1, .out_counts = sizes},
        {.coll = RDT_REDUCE_SCATTER, .dtype = RDT_F32, .count = 1, .in_counts = sizes}};

    for (rdt_way_t way = RDT_WAY_BY_HOST; way <= RDT_WAY_HALVING; way++)
        for (int i = 0; i < 2; i++) {
            open_group(way == RDT_WAY_BY_HOST ? 2 : 4, way == RDT_WAY_BY_HOST ? 2 : 1, way, false);
            CHECK_EQ(rdt_stages_begin(&stages[0], &uneven[i]), RDT_OK);
            CHECK_EQ(stages[0].members.num, 4);
            CHECK_EQ(stages[0].num, 1);
            close_group();
        }
    open_group(2, 2, RDT_WAY_BY_HOST, false);
    for (uint32_t r = 0; r < world; r++) {
        CHECK_EQ(rdt_stages_begin(&stages[r], &call), RDT_OK);
        CHECK_EQ(stages[r].members.num, 4);
        CHECK_EQ(stages[r].call.coll, RDT_REDUCE);
        CHECK_EQ(rdt_stages_next(&stages[r]), false);
    }
    close_group();
}

/* A sum of four bytes: of up to three ranks' inputs it is more than they are; of hosts of one rank, too. */
static void sums_of_more_bytes_than_they_save_are_flat(void)
{
    const rdt_call_t call = {.coll = RDT_REDUCE_SCATTER, .dtype = RDT_F8E4M3FN, .count = 100};

    for (uint32_t per_host = 1; per_host <= 5; per_host++) {
        open_group(4, per_host, RDT_WAY_HALVING, false);
        CHECK_EQ(rdt_stages_begin(&stages[0], &call), RDT_OK);
        CHECK_EQ(stages[0].num,
                 per_host < 4 ? 1 : num_block_stages(RDT_WAY_HALVING, 4, per_host, false));
        close_group();
    }
}

static const uint64_t counts[] = {0, 1, 15, 16, 17, 64, 65, 333, MAX_COUNT};
#define NUM_COUNTS (sizeof(counts) / sizeof(counts[0]))

static void halvings_of(uint32_t num_hosts)
{
    for (uint32_t per_host = 1; num_hosts * per_host <= MAX_WORLD; per_host++) {
        for (size_t c = 0; c < NUM_COUNTS; c++)
            for (int many = 0; many < 2; many++) {
                float_sums(num_hosts, per_host, RDT_WAY_HALVING, many, counts[c]);
                half_averages(num_hosts, per_host, RDT_WAY_HALVING, many, counts[c]);
                broadcasts(num_hosts, per_host, RDT_WAY_HALVING, many, counts[c]);
                blocks(num_hosts, per_host, RDT_WAY_HALVING, many, counts[c]);
            }
        barriers(num_hosts, per_host, RDT_WAY_HALVING);
    }
}

int main(void)
{
    rdt_kernels_get(rdt_reduce_best_isa(), &kernels);
    for (uint32_t h = 2; h <= 5; h++)
        for (uint32_t l = 2; h * l <= MAX_WORLD && l <= 4; l++) {
            for (size_t c = 0; c < NUM_COUNTS; c++) {
                float_sums(h, l, RDT_WAY_BY_HOST, false, counts[c]);
                half_averages(h, l, RDT_WAY_BY_HOST, false, counts[c]);
                broadcasts(h, l, RDT_WAY_BY_HOST, false, counts[c]);
                blocks(h, l, RDT_WAY_BY_HOST, false, counts[c]);
            }
            barriers(h, l, RDT_WAY_BY_HOST);
        }
    for (uint32_t n = 3; n <= MAX_WORLD; n++) {
        for (size_t c = 0; c < NUM_COUNTS; c++) {
            float_sums(n, 1, RDT_WAY_GATHER, false, counts[c]);
            all_gathers(n, 1, RDT_WAY_GATHER, false, counts[c]);
        }
        barriers(n, 1, RDT_WAY_GATHER);
    }
    for (size_t h = 0; h < sizeof(halvings) / sizeof(halvings[0]); h++)
        halvings_of(halvings[h].num_hosts);
    other_collectives_are_one_stage_of_all();
    a_list_that_names_one_tensor_spoils_its_own_rank_alone();
    sums_of_more_bytes_than_they_save_are_flat();
    return 0;
}
