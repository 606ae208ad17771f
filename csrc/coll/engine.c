/* SPDX-License-Identifier: Apache-2.0 */
/* Posting, waiting, and who drives.
 *
 * Whoever waits drives the communicator itself: that costs no thread switch. The progress thread
 * drives only while works are pending and nobody waits. Either polls for spin_ns after the last
 * thing that moved, then sleeps until a peer rings, another thread posts, or SLICE_NS have passed,
 * which bounds how late a death or a deadline is noticed.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/futex.h"
#include "coll/direct.h"
#include "coll/recorder.h"

#define REST_NS RDT_NS_PER_S             /* of the thread, with nothing pending; */
#define LAZY_REST_NS (RDT_NS_PER_S / 10) /* where ranks that need this one may have to be let in; */
#define CALLED_REST_NS RDT_NS_PER_MS     /* and while one is */
#define SLICE_NS (50 * RDT_NS_PER_MS)
#define CHECK_NS (10 * RDT_NS_PER_MS)
#define THREAD_SPIN_NS 5000ull  /* it takes its time from whoever computes */
#define YIELD_SPIN_NS 100000ull /* with more ranks than cores, before sleeping */
#define POLLS_PER_CLOCK 64
#define TURNS_PER_CLOCK 16 /* turns that moved something: up to a slice of data each */

/* -- works -- */

static void unref(rdt_work_t *work)
{
    if (atomic_fetch_sub(&work->refs, 1) > 1) return;
    free(work->arrays);
    free(work->refusal);
    free(work->text);
    free(work);
}

static const char *text_of(const rdt_work_t *work)
{
    if (work->status == RDT_OK) return "";
    return work->text != NULL ? work->text : rdt_status_text(work->status);
}

void rdt_work_over_st(rdt_work_t *work, rdt_status_t status, const char *text)
{
    rdt_comm_t *comm = work->comm;

    rdt_record_over_st(work, status);
    work->status = status;
    if (status != RDT_OK) work->text = strndup(text, RDT_ERROR_BYTES);
    work->next = NULL;
    *comm->over_tail = work;
    comm->over_tail = &work->next;
}

static rdt_work_t *take_over_st(rdt_comm_t *comm)
{
    rdt_work_t *list = comm->over;

    comm->over = NULL;
    comm->over_tail = &comm->over;
    return list;
}

/* The usual waiter drives and rests on nothing, so this is usually one load. */
static void wake_waiters(rdt_comm_t *comm)
{
    if (atomic_load(&comm->resting) == 0) return;
    atomic_fetch_add(&comm->turn, 1);
    rdt_futex_wake(&comm->turn);
}

/* Without the role. The callback comes before DONE: who waited may rely on its effects. */
static void run_over(rdt_comm_t *comm, rdt_work_t *list)
{
    while (list != NULL) {
        rdt_work_t *work = list;

        list = work->next;
        if (work->call.done != NULL) work->call.done(work->call.arg, work->status, text_of(work));
        atomic_store(&work->state, RDT_WORK_DONE);
        unref(work);
        wake_waiters(comm);
        atomic_fetch_sub(&comm->pending, 1);
    }
}

/* -- one turn -- */

/* The stack is newest first; works begin oldest first. */
static rdt_work_t *take_submitted(rdt_comm_t *comm)
{
    rdt_work_t *work, *list = NULL;

    if (atomic_load_explicit(&comm->submitted, memory_order_relaxed) == NULL) return NULL;
    work = atomic_exchange(&comm->submitted, NULL);
    while (work != NULL) {
        rdt_work_t *next = work->next;

        work->next = list;
        list = work;
        work = next;
    }
    return list;
}

static void begin_works_st(rdt_comm_t *comm)
{
    rdt_work_t *work = take_submitted(comm);

    while (work != NULL) {
        rdt_work_t *next = work->next;

        if (work->call.coll == RDT_SEND || work->call.coll == RDT_RECV) {
            rdt_p2p_begin_st(comm, work);
        } else {
            work->seq = ++comm->coll_seq;
            rdt_record_seq_st(work, work->seq);
            work->next = NULL;
            *comm->queue_tail = work;
            comm->queue_tail = &work->next;
        }
        work = next;
    }
}

static void fail_works_st(rdt_comm_t *comm)
{
    rdt_status_t st = (rdt_status_t)atomic_load(&comm->status);

    rdt_comm_tell_st(comm);
    rdt_direct_revoke_st(comm); /* before the buffers go back to their owners */
    comm->active = false;
    while (comm->queue != NULL) {
        rdt_work_t *work = comm->queue;

        comm->queue = work->next;
        rdt_work_over_st(work, st, comm->error);
    }
    comm->queue_tail = &comm->queue;
    rdt_p2p_fail_st(comm, st, comm->error);
}

/* HOT. True when something moved. */
static bool progress_st(rdt_comm_t *comm)
{
    bool moved = false;

    begin_works_st(comm);
    for (int i = 0; i < RDT_NUM_TRANSPORTS; i++)
        if (comm->ctx[i] != NULL) comm->ctx[i]->ops->poll(comm->ctx[i]);
    moved |= rdt_p2p_step_st(comm);
    moved |= rdt_collectives_step_st(comm);
    if (__builtin_expect(atomic_load_explicit(&comm->status, memory_order_relaxed) != RDT_OK, 0))
        fail_works_st(comm);
    return moved || comm->over != NULL;
}

static void check_st(rdt_comm_t *comm, uint64_t now_ns)
{
    comm->next_check_ns = now_ns + CHECK_NS;
    for (int i = 0; i < RDT_NUM_TRANSPORTS; i++)
        if (comm->ctx[i] != NULL) comm->ctx[i]->ops->check(comm->ctx[i]);
    rdt_collective_compare_st(comm);
    for (rdt_work_t *work = comm->queue; work != NULL; work = work->next)
        if (now_ns >= work->deadline_ns) rdt_collective_timeout_st(comm, work);
    rdt_p2p_deadlines_st(comm, now_ns);
}

/* While there is no end of what moves. */
static void check_in_time_st(rdt_comm_t *comm)
{
    uint64_t now = rdt_now_ns();

    if (now >= comm->next_check_ns) check_st(comm, now);
}

/* -- sleeping -- */

static void arm_st(rdt_comm_t *comm, rdt_sleep_t *sleep)
{
    int num_ctx = 0, num_futex = 0;

    for (int i = 0; i < RDT_NUM_TRANSPORTS; i++) {
        num_ctx += comm->ctx[i] != NULL;
        num_futex += comm->ctx[i] != NULL && comm->ctx[i]->ops->has_futex;
    }
    *sleep = (rdt_sleep_t){.use_futex = num_ctx == 1 && num_futex == 1, .fds = comm->fds};
    for (int i = 0; i < RDT_NUM_TRANSPORTS; i++)
        if (comm->ctx[i] != NULL) comm->ctx[i]->ops->arm(comm->ctx[i], sleep);
    atomic_store(&comm->sleep_futex, sleep->futex);
    atomic_store(&comm->asleep, true); /* pairs with wake_driver: one of the two sees the other */
}

static void disarm_st(rdt_comm_t *comm)
{
    atomic_store(&comm->asleep, false);
    for (int i = 0; i < RDT_NUM_TRANSPORTS; i++)
        if (comm->ctx[i] != NULL) comm->ctx[i]->ops->disarm(comm->ctx[i]);
}

static void sleep_on_fds(rdt_comm_t *comm, rdt_sleep_t *sleep, uint64_t ns)
{
    uint64_t count;

    sleep->fds[sleep->num_fds] = (struct pollfd){.fd = comm->event_fd, .events = POLLIN};
    (void)poll(sleep->fds, sleep->num_fds + 1, (int)((ns + RDT_NS_PER_MS - 1) / RDT_NS_PER_MS));
    if (sleep->fds[sleep->num_fds].revents != 0 && read(comm->event_fd, &count, sizeof(count)) < 0)
        return; /* another wake-up read it: nothing is lost */
}

/* True when something moved meanwhile. */
static bool sleep_st(rdt_comm_t *comm, uint64_t ns)
{
    rdt_sleep_t sleep;
    bool moved;

    arm_st(comm, &sleep);
    moved = progress_st(comm);
    if (!moved && atomic_load(&comm->submitted) == NULL) {
        if (sleep.futex != NULL)
            rdt_futex_wait(sleep.futex, sleep.futex_value, ns);
        else
            sleep_on_fds(comm, &sleep, ns);
    }
    disarm_st(comm);
    check_st(comm, rdt_now_ns());
    return moved;
}

static void wake_driver(rdt_comm_t *comm)
{
    _Atomic uint32_t *futex;
    uint64_t one = 1;

    if (!atomic_load(&comm->asleep)) return;
    futex = atomic_load(&comm->sleep_futex);
    if (futex != NULL) {
        atomic_fetch_add(futex, 1);
        rdt_futex_wake(futex);
    } else if (write(comm->event_fd, &one, sizeof(one)) < 0) {
        return; /* the counter is full: the driver will wake */
    }
}

/* -- driving -- */

static bool take_role(rdt_comm_t *comm)
{
    return !atomic_load_explicit(&comm->role, memory_order_relaxed) &&
           !atomic_exchange(&comm->role, true);
}

/* Gives the role up and runs the callbacks that are due. A work that was submitted in between, by a
 * thread that found the role taken, is begun before leaving. */
static void leave(rdt_comm_t *comm)
{
    rdt_work_t *over;

    for (;;) {
        over = take_over_st(comm);
        atomic_store(&comm->role, false);
        run_over(comm, over);
        if (atomic_load(&comm->submitted) == NULL || !take_role(comm)) return;
        progress_st(comm);
    }
}

void rdt_kick_thread(rdt_comm_t *comm)
{
    atomic_fetch_add(&comm->kick, 1);
    rdt_futex_wake(&comm->kick);
}

typedef struct drive {
    const rdt_work_t *until; /* NULL for the progress thread */
    uint64_t deadline_ns;
    uint64_t spin_ns;
} drive_t;

static bool drive_is_over(rdt_comm_t *comm, const drive_t *drive)
{
    if (drive->until != NULL) return atomic_load(&drive->until->state) == RDT_WORK_DONE;
    return atomic_load(&comm->waiting) > 0 || atomic_load(&comm->pending) == 0 ||
           atomic_load(&comm->stop);
}

/* Between polls that found nothing. False when the drive's own deadline has passed. */
static bool idle_st(rdt_comm_t *comm, const drive_t *drive, uint32_t *polls, uint64_t *idle_ns)
{
    uint64_t now, left;

    if (comm->cfg.spin_ns == 0)
        sched_yield();
    else
        rdt_pause();
    if (++*polls % POLLS_PER_CLOCK != 0 && comm->cfg.spin_ns != 0) return true;
    now = rdt_now_ns();
    if (now >= drive->deadline_ns) return false;
    if (*idle_ns == 0) *idle_ns = now;
    if (now >= comm->next_check_ns) check_st(comm, now);
    if (now - *idle_ns < drive->spin_ns) return true;
    left = drive->deadline_ns - now;
    if (sleep_st(comm, left < SLICE_NS ? left : SLICE_NS)) *idle_ns = 0;
    return true;
}

/* With the role; returns without it. */
static void drive(rdt_comm_t *comm, const drive_t *drive)
{
    uint64_t idle_ns = 0;
    uint32_t polls = 0, turns = 0;

    while (!drive_is_over(comm, drive)) {
        bool moved = progress_st(comm);

        if (comm->over != NULL) {
            leave(comm);
            if (drive_is_over(comm, drive) || !take_role(comm)) return;
        }
        if (moved && ++turns % TURNS_PER_CLOCK == 0) check_in_time_st(comm);
        if (moved)
            idle_ns = 0;
        else if (!idle_st(comm, drive, &polls, &idle_ns))
            break;
    }
    leave(comm);
}

/* With nothing pending the peers are read all the same, now and then: a tcp peer whose data stays
 * unread for long would be given up by its kernel. Credits guarantee a slot for whatever comes. True when
 * one of them is about to join. */
static bool look_after_peers(rdt_comm_t *comm)
{
    bool called;

    if (atomic_load(&comm->waiting) > 0 || !take_role(comm)) return false;
    progress_st(comm);
    called = rdt_comm_let_in_st(comm);
    leave(comm);
    return called;
}

void *rdt_progress_thread(void *arg)
{
    rdt_comm_t *comm = arg;
    drive_t thread_drive = {.deadline_ns = UINT64_MAX, .spin_ns = THREAD_SPIN_NS};
    uint64_t rest_ns = comm->cfg.lazy ? LAZY_REST_NS : REST_NS;
    bool called = false;

    while (!atomic_load(&comm->stop)) {
        uint32_t kick = atomic_load(&comm->kick);

        if (atomic_load(&comm->pending) == 0 || atomic_load(&comm->waiting) > 0) {
            rdt_futex_wait(&comm->kick, kick, called ? CALLED_REST_NS : rest_ns);
            called = look_after_peers(comm);
        } else if (take_role(comm)) {
            drive(comm, &thread_drive);
        } else {
            sched_yield(); /* a poster has the role for a moment */
        }
        wake_waiters(comm);
    }
    return NULL;
}

/* -- the calls of other threads -- */

/* Until another thread gives the role up, or has done the work. Resting is counted before the role is
 * looked at: whoever gives it up later sees that, and changes turn. Where both share a CPU
 * the progress thread does so as soon as it is woken, before this thread sleeps. */
static void rest(rdt_comm_t *comm, const rdt_work_t *work)
{
    uint32_t turn;

    atomic_fetch_add(&comm->resting, 1);
    turn = atomic_load(&comm->turn);
    if (atomic_load(&comm->role) && atomic_load(&work->state) != RDT_WORK_DONE) {
        wake_driver(comm); /* the progress thread gives way to whoever waits */
        rdt_futex_wait(&comm->turn, turn, RDT_NS_PER_MS);
    }
    atomic_fetch_sub(&comm->resting, 1);
}

static rdt_status_t wait_turn(rdt_comm_t *comm, rdt_work_t *work, uint64_t deadline_ns)
{
    drive_t mine = {.until = work, .deadline_ns = deadline_ns, .spin_ns = comm->cfg.spin_ns};

    if (mine.spin_ns == 0) mine.spin_ns = YIELD_SPIN_NS;
    while (atomic_load(&work->state) != RDT_WORK_DONE) {
        if (deadline_ns != UINT64_MAX && rdt_now_ns() >= deadline_ns) return RDT_WAIT_TIMEOUT;
        if (take_role(comm))
            drive(comm, &mine);
        else
            rest(comm, work);
    }
    return work->status;
}

rdt_status_t rdt_work_wait(rdt_work_t *work, uint64_t timeout_ns)
{
    rdt_comm_t *comm = work->comm;
    uint64_t deadline_ns = UINT64_MAX;
    rdt_status_t st;

    if (atomic_load(&work->state) == RDT_WORK_DONE) return work->status;
    if (rdt_comm_is_forked(comm))
        return rdt_fail(RDT_CLOSED,
                        "this process was forked from the rank that waits for this work");
    atomic_fetch_add(&comm->waiting, 1);
    if (timeout_ns != RDT_NO_TIMEOUT) deadline_ns = rdt_deadline_after(rdt_now_ns(), timeout_ns);
    st = wait_turn(comm, work, deadline_ns);
    wake_waiters(comm);
    if (atomic_fetch_sub(&comm->waiting, 1) == 1 && atomic_load(&comm->pending) > 0)
        rdt_kick_thread(comm); /* what is left is the thread's */
    if (st == RDT_WAIT_TIMEOUT) rdt_fail(st, "%s", rdt_status_text(st));
    return st;
}

rdt_status_t rdt_work_test(const rdt_work_t *work)
{
    return atomic_load(&work->state) == RDT_WORK_DONE ? work->status : RDT_AGAIN;
}

const char *rdt_work_text(const rdt_work_t *work)
{
    return atomic_load(&work->state) == RDT_WORK_DONE ? text_of(work) : "";
}

uint32_t rdt_work_peer(const rdt_work_t *work)
{
    return work->call.peer;
}

void rdt_work_free(rdt_work_t *work)
{
    unref(work);
}

static void submit(rdt_comm_t *comm, rdt_work_t *work)
{
    atomic_fetch_add(&comm->pending, 1);
    work->next = atomic_load_explicit(&comm->submitted, memory_order_relaxed);
    while (!atomic_compare_exchange_weak(&comm->submitted, &work->next, work)) {
    }
}

rdt_status_t rdt_post(rdt_comm_t *comm, const rdt_call_t *call, rdt_work_t **work_p)
{
    rdt_status_t st = rdt_call_check(comm, call);
    char text[RDT_ERROR_BYTES];
    rdt_work_t *work;

    if (st != RDT_OK) return st;
    if (!atomic_load(&comm->connected))
        return rdt_fail(RDT_BAD_ARG, "rank %u is not connected", comm->cfg.rank);
    if (__builtin_expect(rdt_comm_is_forked(comm), 0))
        return rdt_fail(RDT_CLOSED,
                        "this process was forked from rank %u: only rank %u itself may "
                        "use its group",
                        comm->cfg.rank, comm->cfg.rank);
    if (__builtin_expect(atomic_load(&comm->status) != RDT_OK, 0)) {
        st = rdt_comm_status(comm, text, sizeof(text));
        return rdt_fail(st, "%s", text);
    }
    work = rdt_work_new(comm, call);
    if (work == NULL) return rdt_fail(RDT_NO_MEMORY, "work: out of memory");
    *work_p = work;
    submit(comm, work);
    if (take_role(comm)) {
        progress_st(comm); /* the first chunks leave now, not when somebody waits */
        leave(comm);
        wake_waiters(comm);
    } else {
        wake_driver(comm);
    }
    /* A small send is usually done by now. */
    if (call->background && atomic_load(&work->state) != RDT_WORK_DONE) rdt_kick_thread(comm);
    return RDT_OK;
}

void rdt_fail_all(rdt_comm_t *comm)
{
    atomic_fetch_add(&comm->waiting, 1); /* the progress thread gives way */
    while (!take_role(comm)) {
        wake_driver(comm);
        sched_yield();
    }
    progress_st(comm);
    leave(comm);
    atomic_fetch_sub(&comm->waiting, 1);
    wake_waiters(comm);
}
