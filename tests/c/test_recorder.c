/* SPDX-License-Identifier: Apache-2.0 */
/* The flight recorder: what a record says, a ring that is full, readers beside several writers, events.
 * "test_recorder bench" prints what a record costs. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "check.h"
#include "coll/recorder.h"

#define SIZE 64u /* asked for as 50 */
#define NUM_WRITERS 3
#define PER_WRITER 200000u

static rdt_comm_t comms[NUM_WRITERS];

/* Every field says the same number, so that a torn record shows. */
static rdt_work_t numbered(rdt_comm_t *comm, uint32_t n)
{
    rdt_work_t work = {.comm = comm,
                       .call = {.coll = RDT_SEND,
                                .dtype = (rdt_dtype_t)(n % RDT_NUM_DTYPES),
                                .op = (rdt_redop_t)(n % RDT_NUM_REDOPS),
                                .peer = n % RDT_MAX_WORLD,
                                .tag = (int32_t)n,
                                .count = n,
                                .timeout_ns = n}};

    memcpy(work.call.shape.code, &n, sizeof(n));
    return work;
}

static void check_numbered(const rdt_record_t *record)
{
    uint32_t n = (uint32_t)record->tag, shape;

    memcpy(&shape, record->shape.code, sizeof(shape));
    CHECK(record->comm >= 1 && record->comm <= NUM_WRITERS, "communicator %u", record->comm);
    CHECK_EQ(record->dtype, n % RDT_NUM_DTYPES);
    CHECK_EQ(record->op, n % RDT_NUM_REDOPS);
    CHECK_EQ(record->peer, n % RDT_MAX_WORLD);
    CHECK_EQ(record->in_count, n);
    CHECK_EQ(record->timeout_ns, n);
    CHECK_EQ(record->created_ns, n);
    CHECK_EQ(shape, n);
    CHECK(record->seq == 0 || record->seq == n, "record %u has seq %llu", n,
          (unsigned long long)record->seq);
    CHECK_EQ(record->status, record->over_ns != 0 && n % 2 != 0 ? RDT_TIMEOUT : RDT_OK);
}

static void record(rdt_comm_t *comm, uint32_t n)
{
    rdt_work_t work = numbered(comm, n);

    rdt_record_created(&work, n);
    rdt_record_seq_st(&work, n);
    rdt_record_started_st(&work);
    rdt_record_over_st(&work, n % 2 != 0 ? RDT_TIMEOUT : RDT_OK);
}

static void says_what_was_posted_and_how_far_it_came(void)
{
    rdt_comm_t comm = {.cfg = {.rank = 1, .world = 3}, .number = 7};
    const uint64_t counts[] = {5, 0, 9};
    rdt_work_t gather = {.comm = &comm,
                         .call = {.coll = RDT_ALL_GATHER, .count = 10, .timeout_ns = 99}};
    rdt_work_t uneven = {.comm = &comm,
                         .call = {.coll = RDT_ALL_TO_ALL, .in_counts = counts, .count = 2}};
    rdt_record_t records[SIZE], waiting;
    uint64_t before = rdt_now_ns();

    CHECK(!rdt_recorder_waiting(&waiting), "nothing waits");
    rdt_record_created(&gather, before);
    rdt_record_created(&uneven, before + 1);
    rdt_record_seq_st(&gather, 41);
    rdt_record_started_st(&gather);
    CHECK(rdt_recorder_waiting(&waiting), "the first one waits");
    CHECK_EQ(waiting.id, gather.record);
    CHECK_EQ(waiting.seq, 41);
    CHECK_EQ(waiting.over_ns, 0);
    rdt_record_over_st(&gather, RDT_PEER_LOST);
    CHECK(rdt_recorder_waiting(&waiting), "the second one waits");
    CHECK_EQ(waiting.id, uneven.record);
    CHECK_EQ(rdt_recorder_read(records), 2);
    CHECK_EQ(records[0].id, gather.record);
    CHECK_EQ(records[0].comm, 7);
    CHECK_EQ(records[0].coll, RDT_ALL_GATHER);
    CHECK_EQ(records[0].in_count, 10);
    CHECK_EQ(records[0].out_count, 30);
    CHECK_EQ(records[0].seq, 41);
    CHECK_EQ(records[0].status, RDT_PEER_LOST);
    CHECK_EQ(records[0].created_ns, before);
    CHECK(records[0].started_ns >= before && records[0].over_ns >= records[0].started_ns &&
              records[0].over_ns <= rdt_now_ns(),
          "times out of order");
    CHECK_EQ(records[0].uneven, false);
    CHECK_EQ(records[1].uneven, true);
    CHECK_EQ(records[1].in_count, 14);
    CHECK_EQ(records[1].out_count, 6);
    CHECK_EQ(records[1].seq + records[1].started_ns + records[1].over_ns, 0);
}

static void a_full_ring_keeps_the_newest(void)
{
    rdt_record_t records[SIZE], waiting;
    rdt_work_t old = numbered(&comms[0], 1);
    uint64_t last;

    rdt_record_created(&old, 1);
    for (uint32_t n = 2; n < 3 * SIZE; n++)
        record(&comms[0], n);
    rdt_record_over_st(&old, RDT_CLOSED); /* its slot is another's by now */
    CHECK(!rdt_recorder_waiting(&waiting), "what waited has been overwritten");
    CHECK_EQ(rdt_recorder_read(records), SIZE);
    last = records[SIZE - 1].id;
    for (uint32_t i = 0; i < SIZE; i++) {
        CHECK_EQ(records[i].id, last - SIZE + 1 + i);
        CHECK_EQ(records[i].tag, 2 * SIZE + i);
        CHECK(records[i].seq != 0 && records[i].over_ns != 0, "record %u is not over", i);
        check_numbered(&records[i]);
    }
}

static _Atomic uint32_t num_running;

static void *write_many(void *arg)
{
    for (uint32_t n = 0; n < PER_WRITER; n++)
        record(arg, n);
    atomic_fetch_sub(&num_running, 1);
    return NULL;
}

static void readers_see_whole_records_only(void)
{
    pthread_t threads[NUM_WRITERS];
    rdt_record_t records[SIZE];
    size_t num, total = 0;

    atomic_store(&num_running, NUM_WRITERS);
    for (int i = 0; i < NUM_WRITERS; i++)
        pthread_create(&threads[i], NULL, write_many, &comms[i]);
    do {
        uint64_t last = 0;

        num = rdt_recorder_read(records);
        total += num;
        for (size_t i = 0; i < num; i++) {
            check_numbered(&records[i]);
            CHECK(records[i].id > last, "records are out of order");
            last = records[i].id;
        }
    } while (atomic_load(&num_running) > 0);
    for (int i = 0; i < NUM_WRITERS; i++)
        pthread_join(threads[i], NULL);
    CHECK(total > 0, "nothing was read");
    num = rdt_recorder_read(records);
    CHECK(num >= SIZE - NUM_WRITERS && num <= SIZE, "%zu records in the end", num);
}

static void expect_event(int fd, uint32_t errors, uint32_t signals, const char *want)
{
    char text[RDT_ERROR_BYTES];
    rdt_recorder_events_t events;
    uint64_t count = 0;

    CHECK(read(fd, &count, sizeof(count)) == sizeof(count) && count == 1, "no event");
    events = rdt_recorder_events(text, sizeof(text));
    CHECK_EQ(events.errors, errors);
    CHECK_EQ(events.signals, signals);
    CHECK(strcmp(text, want) == 0, "\"%s\"", text);
}

static void errors_and_signals_are_events(void)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    rdt_comm_cfg_t cfg = {.world = 1};
    rdt_peer_info_t self = {0};
    rdt_comm_t *comm;

    rdt_recorder_notify(fd);
    CHECK_EQ(rdt_recorder_on_signal(SIGUSR2), RDT_OK);
    CHECK_EQ(rdt_recorder_on_signal(SIGUSR2), RDT_OK); /* its own handler is no obstacle */
    raise(SIGUSR2);
    expect_event(fd, 0, 1, "");
    CHECK(rdt_comm_open(&cfg, &comm) == RDT_OK, "%s", rdt_last_error());
    CHECK(rdt_comm_connect(comm, &self, RDT_NS_PER_S) == RDT_OK, "%s", rdt_last_error());
    rdt_comm_latch(comm, RDT_TIMEOUT, "the %s", "cause");
    rdt_comm_latch(comm, RDT_TIMEOUT, "what comes later");
    expect_event(fd, 1, 1, "the cause");
    rdt_comm_close(comm);
    CHECK(rdt_comm_open(&cfg, &comm) == RDT_OK, "%s", rdt_last_error());
    rdt_comm_close(comm);
    CHECK(read(fd, &(uint64_t){0}, 8) < 0, "closing is no error");
    signal(SIGUSR1, SIG_IGN);
    CHECK_EQ(rdt_recorder_on_signal(SIGUSR1), RDT_BAD_ARG);
    CHECK_EQ(rdt_recorder_on_signal(12345), RDT_BAD_ARG);
    rdt_recorder_notify(-1);
    close(fd);
    raise(SIGUSR2); /* nobody watches */
}

static int bench(void)
{
    enum { ROUNDS = 2000000 };
    rdt_comm_t comm = {.cfg = {.world = 2}, .number = 1};
    uint64_t begun, clock, recorded;

    CHECK_EQ(rdt_recorder_open(RDT_RECORDER_SIZE), RDT_OK);
    begun = rdt_now_ns();
    for (uint32_t n = 0; n < ROUNDS; n++)
        (void)rdt_now_ns();
    clock = rdt_now_ns() - begun;
    begun = rdt_now_ns();
    for (uint32_t n = 0; n < ROUNDS; n++) {
        rdt_work_t work = {.comm = &comm, .call = {.coll = RDT_ALL_REDUCE, .count = n}};

        rdt_record_created(&work, begun); /* rdt_post has read the clock anyway */
        rdt_record_seq_st(&work, n);
        rdt_record_started_st(&work);
        rdt_record_over_st(&work, RDT_OK);
    }
    recorded = rdt_now_ns() - begun;
    fprintf(stderr, "%.1f ns a record, of which the clock, twice, is %.1f\n",
            (double)recorded / ROUNDS, 2.0 * (double)clock / ROUNDS);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "bench") == 0) return bench();
    for (uint32_t i = 0; i < NUM_WRITERS; i++)
        comms[i] = (rdt_comm_t){.cfg = {.world = 2}, .number = i + 1};
    CHECK_EQ(rdt_recorder_open(RDT_RECORDER_MAX + 1), RDT_BAD_ARG);
    CHECK_EQ(rdt_recorder_size(), 0);
    CHECK_EQ(rdt_recorder_open(50), RDT_OK);
    CHECK_EQ(rdt_recorder_open(5000), RDT_OK); /* the first one has decided */
    CHECK_EQ(rdt_recorder_size(), SIZE);
    says_what_was_posted_and_how_far_it_came();
    a_full_ring_keeps_the_newest();
    readers_see_whole_records_only();
    errors_and_signals_are_events();
    return 0;
}
