/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks as processes with arenas of their own: groups that end, fail or are late while others go on,
 * and random short jobs over shm and tcp that close straight after their last collective. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "arena_check.h"
#include "rdmatrain/coll.h"

#define MAX_WORLD 4
#define NUM_GROUPS 2
#define NUM_TRANSPORTS 2
#define NUM_JOBS 400
#define MAX_LEAD 8   /* words */
#define COUNT 20001u /* several chunks and a rest, direct, and scattered in a broadcast */
#define MANY 8000u   /* elements of the larger collectives of a job */
#define LATE_NS 50000000ull
#define LIMIT_NS (20 * RDT_NS_PER_S)

typedef struct rank {
    uint32_t rank, world;
    uint32_t host[MAX_WORLD]; /* ranks of one host use shm, others tcp */
    bool has_arena[MAX_WORLD];
    uint32_t job;
    uint64_t seed; /* of the job: what the ranks must agree on */
    uint64_t own;  /* state of the random numbers for what is a rank's own business */
    void (*body)(struct rank *);
    int sock; /* to the parent, see child_t */
} rank_t;

/* What the ranks of a job tell each other before they are connected: shared memory. */
typedef struct board {
    uint8_t wire[NUM_GROUPS][NUM_TRANSPORTS][MAX_WORLD][RDT_COMM_WIRE_BYTES];
    uint32_t wire_len[NUM_GROUPS][NUM_TRANSPORTS][MAX_WORLD];
    _Atomic uint32_t num_listening[NUM_GROUPS];
} board_t;

static const char *const transports[NUM_TRANSPORTS] = {"shm", "tcp"};
static board_t *board;

/* -- groups -- */

static uint32_t transport_to(const rank_t *me, uint32_t peer)
{
    return me->host[peer] != me->host[me->rank];
}

static void listen_where_needed(const rank_t *me, rdt_comm_t *comm, uint32_t group)
{
    bool needed[NUM_TRANSPORTS] = {false};

    for (uint32_t r = 0; r < me->world; r++)
        if (r != me->rank) needed[transport_to(me, r)] = true;
    for (uint32_t t = 0; t < NUM_TRANSPORTS; t++) {
        if (!needed[t]) continue;
        CHECK(rdt_comm_listen(comm, transports[t], t == 1 ? "127.0.0.1" : NULL,
                              board->wire[group][t][me->rank],
                              &board->wire_len[group][t][me->rank]) == RDT_OK,
              "job %u, rank %u, %s: %s", me->job, me->rank, transports[t], rdt_last_error());
    }
    atomic_fetch_add(&board->num_listening[group], 1);
    for (uint64_t limit = rdt_now_ns() + LIMIT_NS;
         atomic_load(&board->num_listening[group]) < me->world; usleep(100))
        CHECK(rdt_now_ns() < limit, "job %u, rank %u: a rank does not listen", me->job, me->rank);
}

static rdt_comm_t *join(const rank_t *me, uint32_t group)
{
    rdt_tuning_t tuning = rdt_tuning_default(me->world);
    rdt_comm_cfg_t cfg = {.rank = me->rank, .world = me->world, .tuning = &tuning};
    rdt_peer_info_t infos[MAX_WORLD] = {{0}};
    rdt_comm_t *comm;

    tuning.direct = 256;
    tuning.one_shot = 512;
    tuning.scatter = tuning.chunk = 4096;
    tuning.bypass = 64 << 10;
    cfg.token[0] = (uint8_t)(group + 1);
    CHECK(rdt_comm_open(&cfg, &comm) == RDT_OK, "%s", rdt_last_error());
    listen_where_needed(me, comm, group);
    for (uint32_t r = 0; r < me->world; r++) {
        uint32_t t = transport_to(me, r);

        infos[r].transport = transports[t];
        memcpy(infos[r].wire, board->wire[group][t][r], RDT_COMM_WIRE_BYTES);
        infos[r].wire_len = board->wire_len[group][t][r];
        snprintf(infos[r].label, sizeof(infos[r].label), "process of rank %u", r);
    }
    CHECK(rdt_comm_connect(comm, infos, LIMIT_NS) == RDT_OK, "job %u, rank %u: %s", me->job,
          me->rank, rdt_last_error());
    return comm;
}

static void rank_main(int sock, void *arg)
{
    rank_t *me = arg;

    prctl(PR_SET_PDEATHSIG, SIGKILL); /* the others of a job that failed end with it */
    me->sock = sock;
    if (me->has_arena[me->rank]) CHECK(rdt_arena_open() == RDT_OK, "%s", rdt_last_error());
    me->body(me);
}

/* All ranks of the job, which differ in their rank only. */
static void start_ranks(rank_t job, child_t *children)
{
    memset(board, 0, sizeof(*board));
    for (job.rank = 0; job.rank < job.world; job.rank++)
        children[job.rank] = start(rank_main, &job);
}

/* -- what goes in and what must come out -- */

typedef struct op {
    rdt_coll_t coll;
    uint32_t k, root; /* k: how many follow in a job */
    uint64_t count;
} op_t;

/* Small enough for a sum over all ranks. */
static int64_t value(uint32_t rank, uint32_t k, uint64_t i)
{
    return (int64_t)(mix(((uint64_t)k * MAX_WORLD + rank) << 32 | i) >> 8);
}

static int64_t sum(uint32_t world, uint32_t k, uint64_t i)
{
    int64_t all = 0;

    for (uint32_t r = 0; r < world; r++)
        all += value(r, k, i);
    return all;
}

static int64_t expected(const rank_t *me, const op_t *op, uint64_t i)
{
    uint64_t first = me->rank * op->count; /* of this rank's shard */

    switch (op->coll) {
    case RDT_ALL_REDUCE:
    case RDT_REDUCE:
        return sum(me->world, op->k, i);
    case RDT_BROADCAST:
        return value(op->root, op->k, i);
    case RDT_SCATTER:
        return value(op->root, op->k, first + i);
    case RDT_ALL_GATHER:
    case RDT_GATHER:
        return value((uint32_t)(i / op->count), op->k, i % op->count);
    case RDT_ALL_TO_ALL:
        return value((uint32_t)(i / op->count), op->k, first + i % op->count);
    default:
        return sum(me->world, op->k, first + i);
    }
}

static uint64_t num_in(const rank_t *me, const op_t *op)
{
    bool shards =
        op->coll == RDT_REDUCE_SCATTER || op->coll == RDT_SCATTER || op->coll == RDT_ALL_TO_ALL;

    return op->count * (shards ? me->world : 1);
}

static uint64_t num_out(const rank_t *me, const op_t *op)
{
    bool shards =
        op->coll == RDT_ALL_GATHER || op->coll == RDT_GATHER || op->coll == RDT_ALL_TO_ALL;

    if ((op->coll == RDT_REDUCE || op->coll == RDT_GATHER) && me->rank != op->root) return 0;
    return op->count * (shards ? me->world : 1);
}

static void give_input(const rank_t *me, const op_t *op, int64_t *in)
{
    for (uint64_t i = 0; i < num_in(me, op); i++)
        in[i] = value(me->rank, op->k, i);
}

static void check_output(const rank_t *me, const op_t *op, const int64_t *out)
{
    for (uint64_t i = 0; i < num_out(me, op); i++)
        CHECK(out[i] == expected(me, op, i),
              "job %u, rank %u of %u, #%u %s: element %llu of %llu is %lld, expected %lld", me->job,
              me->rank, me->world, op->k, rdt_coll_name(op->coll), (unsigned long long)i,
              (unsigned long long)num_out(me, op), (long long)out[i],
              (long long)expected(me, op, i));
}

static rdt_work_t *post(rdt_comm_t *comm, const op_t *op, const int64_t *in, int64_t *out,
                        uint64_t timeout_ns)
{
    rdt_call_t call = {.coll = op->coll,
                       .dtype = RDT_I64,
                       .op = RDT_SUM,
                       .peer = op->root,
                       .count = op->count,
                       .in = in,
                       .out = out,
                       .timeout_ns = timeout_ns};
    rdt_work_t *work;

    CHECK(rdt_post(comm, &call, &work) == RDT_OK, "#%u %s: %s", op->k, rdt_coll_name(op->coll),
          rdt_last_error());
    return work;
}

/* Until then the rank has said to its peers what they may reach. */
static void begin(rdt_work_t *work)
{
    CHECK(rdt_work_wait(work, LATE_NS) == RDT_WAIT_TIMEOUT, "over without its peers: %s",
          rdt_work_text(work));
}

static void finish_work(const rank_t *me, const op_t *op, rdt_work_t *work)
{
    rdt_status_t st = rdt_work_wait(work, RDT_NO_TIMEOUT);

    CHECK(st == RDT_OK, "job %u, rank %u of %u, #%u %s of %llu: %s: %s", me->job, me->rank,
          me->world, op->k, rdt_coll_name(op->coll), (unsigned long long)op->count,
          rdt_status_name(st), rdt_work_text(work));
    rdt_work_free(work);
}

/* -- a receiver that is late -- */

static void broadcast_from_0(rank_t *me)
{
    const op_t op = {.coll = RDT_BROADCAST, .count = COUNT};
    rdt_comm_t *comm = join(me, 0);
    int64_t *x = alloc(COUNT * sizeof(*x));
    rdt_work_t *work;

    give_input(me, &op, x);
    if (me->rank != 1) hear(me->sock);
    work = post(comm, &op, NULL, x, LIMIT_NS);
    if (me->rank == 1) {
        begin(work);
        say(me->sock);
    }
    finish_work(me, &op, work);
    check_output(me, &op, x);
    if (me->rank == 0) hear(me->sock); /* the root stays until rank 1 has what it wants */
    rdt_comm_close(comm);
    say(me->sock);
}

/* Rank 1 sleeps while rank 2 gets its copy and leaves: it must not miss it, but read the root's. */
static void a_late_receiver_of_a_broadcast_needs_only_the_root(void)
{
    child_t children[3];
    int status;

    start_ranks((rank_t){.world = 3, .has_arena = {true, true, true}, .body = broadcast_from_0},
                children);
    hear(children[1].sock);
    usleep(LATE_NS / 1000); /* it sleeps by then, and looks at the connections as it wakes */
    kill(children[1].pid, SIGSTOP);
    CHECK_EQ(waitpid(children[1].pid, &status, WUNTRACED), children[1].pid);
    CHECK(WIFSTOPPED(status), "rank 1 ended with status %x", status);
    say(children[0].sock);
    say(children[2].sock);
    hear(children[2].sock);
    finish(children[2]);
    kill(children[1].pid, SIGCONT);
    hear(children[1].sock);
    say(children[0].sock);
    finish(children[1]);
    finish(children[0]);
}

/* -- two groups on one block -- */

/* Rank 0 loses the first group, and with it the block that rank 1 is yet to store to. */
static void reduce_in_two_groups(rank_t *me)
{
    const op_t first = {.coll = RDT_ALL_REDUCE, .count = COUNT}, second = {first.coll, 1, 0, COUNT};
    rdt_comm_t *comms[NUM_GROUPS] = {join(me, 0), join(me, 1)};
    int64_t *x = alloc(2 * COUNT * sizeof(*x)), *y = x + COUNT;
    rdt_work_t *work, *lost;
    uint64_t offset;

    give_input(me, &first, x);
    give_input(me, &second, y);
    if (me->rank == 1) hear(me->sock);
    work = post(comms[1], &second, y, y, LIMIT_NS);
    if (me->rank == 0) {
        begin(work);
        lost = post(comms[0], &first, x, x, LATE_NS);
        CHECK(rdt_work_wait(lost, RDT_NO_TIMEOUT) != RDT_OK, "the first group lacks rank 1");
        CHECK(!rdt_arena_offset(x, 1, &offset), "its output is within the reach of peers");
        rdt_work_free(lost);
        say(me->sock);
    }
    if (rdt_work_wait(work, RDT_NO_TIMEOUT) == RDT_OK)
        check_output(me, &second, y);
    else
        CHECK(rdt_work_text(work)[0] != 0, "the second group failed without a reason");
    rdt_work_free(work);
    CHECK(rdt_arena_free(x), "not freed");
    for (int i = 0; i < NUM_GROUPS; i++)
        rdt_comm_close(comms[i]);
}

static void a_group_that_fails_spoils_no_result_of_another(void)
{
    child_t children[2];

    start_ranks((rank_t){.world = 2, .has_arena = {true, true}, .body = reduce_in_two_groups},
                children);
    hear(children[0].sock);
    say(children[1].sock);
    finish(children[0]);
    finish(children[1]);
}

/* -- a group without shm -- */

static void time_out_over_tcp(rank_t *me)
{
    const op_t op = {.coll = RDT_ALL_REDUCE, .count = COUNT};
    rdt_comm_t *comm = join(me, 0);
    int64_t *x = alloc(COUNT * sizeof(*x));
    uint64_t before, after = 0;
    rdt_work_t *work;

    CHECK(strcmp(rdt_comm_transport(comm, 1 - me->rank), "tcp") == 0, "not over tcp");
    give_input(me, &op, x);
    if (me->rank == 0) {
        CHECK(rdt_arena_offset(x, COUNT * sizeof(*x), &before), "no offset");
        work = post(comm, &op, x, x, LATE_NS);
        CHECK(rdt_work_wait(work, RDT_NO_TIMEOUT) != RDT_OK, "the other rank took no part");
        CHECK(rdt_arena_offset(x, COUNT * sizeof(*x), &after) && after == before,
              "detached, though no peer could reach it");
        rdt_work_free(work);
    } else {
        hear(me->sock);
    }
    CHECK(rdt_arena_free(x), "not freed");
    rdt_comm_close(comm);
}

static void what_no_peer_maps_stays_in_the_arena(void)
{
    child_t children[2];

    start_ranks(
        (rank_t){.world = 2, .host = {0, 1}, .has_arena = {true, true}, .body = time_out_over_tcp},
        children);
    finish(children[0]);
    say(children[1].sock);
    finish(children[1]);
}

/* -- random short jobs -- */

static uint64_t below(uint64_t *state, uint64_t num)
{
    return next_random(state) % num;
}

static op_t draw_op(const rank_t *me, uint64_t *shared, uint32_t k)
{
    static const uint64_t sizes[] = {2, 50, 1000, MANY};
    op_t op = {.k = k};

    op.coll = (rdt_coll_t)below(shared, RDT_BARRIER);
    op.root = (uint32_t)below(shared, me->world);
    op.count = below(shared, sizes[below(shared, 4)]);
    if (k == 0) op = (op_t){RDT_BROADCAST, k, op.root, MANY}; /* the last */
    return op;
}

/* num elements behind a lead that no page or line begins with. */
static int64_t *take(rank_t *me, uint64_t num, void **block_p)
{
    size_t bytes = (num + MAX_LEAD) * sizeof(int64_t);

    *block_p = me->has_arena[me->rank] && below(&me->own, 3) > 0 ? alloc(bytes) : malloc(bytes);
    CHECK(*block_p != NULL, "no memory for %zu bytes", bytes);
    memset(*block_p, 0x5C, bytes);
    return (int64_t *)*block_p + below(&me->own, MAX_LEAD);
}

static void give_back(void *block)
{
    if (!rdt_arena_free(block)) free(block);
}

static void run_op(rank_t *me, rdt_comm_t *comm, const op_t *op)
{
    void *in_block, *out_block;
    int64_t *in = take(me, num_in(me, op), &in_block), *out = take(me, num_out(me, op), &out_block);

    if (op->coll == RDT_BROADCAST || (op->coll == RDT_ALL_REDUCE && below(&me->own, 2) == 0))
        in = out;
    if (op->coll == RDT_ALL_GATHER && below(&me->own, 2) == 0) in = out + me->rank * op->count;
    if (op->coll != RDT_BROADCAST || me->rank == op->root) give_input(me, op, in);
    if (below(&me->own, 3) == 0) usleep((useconds_t)below(&me->own, 2000));
    finish_work(me, op, post(comm, op, in, out, LIMIT_NS));
    check_output(me, op, out);
    give_back(in_block);
    give_back(out_block);
}

static void run_ops_and_close(rank_t *me)
{
    uint64_t shared = me->seed, num;
    rdt_comm_t *comm = join(me, 0);

    me->own = mix(me->seed + me->rank + 1);
    num = 1 + below(&shared, 6);
    for (uint32_t k = (uint32_t)num; k-- > 0;) {
        op_t op = draw_op(me, &shared, k);

        run_op(me, comm, &op);
    }
    rdt_comm_close(comm);
}

/* Some rank loses its core for a while, perhaps when others leave. */
static void stop_one(const rank_t *job, const child_t *children, uint64_t *random)
{
    pid_t pid = children[below(random, job->world)].pid;

    usleep((useconds_t)below(random, 10000));
    kill(pid, SIGSTOP);
    usleep((useconds_t)below(random, 5000));
    kill(pid, SIGCONT);
}

static void run_job(uint32_t number, uint64_t *random)
{
    rank_t job = {.job = number, .body = run_ops_and_close};
    bool mixed = number % 2 == 1;
    child_t children[MAX_WORLD];

    job.world = 2 + (uint32_t)below(random, MAX_WORLD - 1);
    for (uint32_t r = 0; r < job.world; r++) {
        job.host[r] = mixed ? (uint32_t)below(random, 2) : 0;
        job.has_arena[r] = number % 4 == 0 || below(random, 4) != 0;
    }
    job.seed = next_random(random);
    start_ranks(job, children);
    stop_one(&job, children, random);
    for (uint32_t r = 0; r < job.world; r++)
        finish(children[r]);
}

static void ranks_may_leave_after_their_last_collective(void)
{
    uint64_t random = 7;

    for (uint32_t i = 0; i < NUM_JOBS; i++)
        run_job(i, &random);
}

int main(void)
{
    alarm(120); /* a hang ends as a failure, of the children too */
    board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(board != MAP_FAILED, "mmap: %s", strerror(errno));
    a_late_receiver_of_a_broadcast_needs_only_the_root();
    a_group_that_fails_spoils_no_result_of_another();
    what_no_peer_maps_stays_in_the_arena();
    ranks_may_leave_after_their_last_collective();
    return 0;
}
