/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "transport/handshake.h"
#include "transport/wire.h"

#define NUM_CALLERS \
    64 /* that may be in their handshakes at once; more wait in the kernel's queue */
/* How long a caller may take: generous, since its process may have to wait for a CPU, while nobody
 * waits for its place; and what it is left with then. */
#define CALLER_NS (2 * RDT_NS_PER_S)
#define CROWDED_NS (100 * RDT_NS_PER_MS)
/* A call that ends before its welcome is made again: the peer may have had no time or no room. */
#define MAX_LOST 6
#define FIRST_REDIAL_NS (1 * RDT_NS_PER_MS)
/* A host that does not take a call is gone: as for a connection on which nothing is acknowledged. */
#define THROUGH_NS (10 * RDT_NS_PER_S)
#define NUM_EVENTS 64
#define STRANGER_BYTES 192
#define LISTENER \
    UINT64_MAX /* as an event's data; others are an index, callers' behind the peers' */

typedef struct target {
    rdt_peer_t peer;
    rdt_handshake_t call; /* fd -1 where none is under way */
    uint64_t deadline_ns; /* 0: not wanted */
    uint64_t redial_ns;   /* when to dial, or UINT64_MAX */
    uint32_t num_lost;
    bool dials; /* this rank calls, too */
    bool over;  /* joined or failed */
} target_t;

struct rdt_wire {
    rdt_dial_t dial;
    rdt_wire_listener_t listener;
    int epoll_fd;
    target_t *targets;
    uint32_t num_targets;
    rdt_handshake_t callers[NUM_CALLERS]; /* fd -1: free */
    uint32_t num_callers;
    bool deaf;                     /* the listening socket is not watched: no room */
    uint64_t due_ns;               /* nothing times out and nobody is to be dialled before */
    uint32_t num_strangers;        /* callers that were turned away, */
    char stranger[STRANGER_BYTES]; /* and what was wrong with the last one */
};

static void due_by(rdt_wire_t *wire, uint64_t ns)
{
    if (ns < wire->due_ns) wire->due_ns = ns;
}

/* Edge-triggered, as a handshake always moves until its socket says AGAIN. */
static rdt_status_t watch(rdt_wire_t *wire, int fd, uint64_t data)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.u64 = data};

    if (epoll_ctl(wire->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0) return RDT_OK;
    return rdt_fail(RDT_NO_MEMORY, "epoll: %s", strerror(errno));
}

/* The descriptor leaves the set by name: a forked child may hold it open. */
static void let_go(rdt_wire_t *wire, rdt_handshake_t *hs)
{
    if (hs->fd >= 0) (void)epoll_ctl(wire->epoll_fd, EPOLL_CTL_DEL, hs->fd, NULL);
    rdt_handshake_drop(hs);
}

static void set_deaf(rdt_wire_t *wire, bool deaf)
{
    struct epoll_event event = {.events = deaf ? 0 : EPOLLIN, .data.u64 = LISTENER};

    if (wire->deaf == deaf) return;
    wire->deaf = deaf;
    (void)epoll_ctl(wire->epoll_fd, EPOLL_CTL_MOD, wire->dial.listen_fd, &event);
}

/* -- peers -- */

static void fail_target(rdt_wire_t *wire, uint32_t i, rdt_status_t status)
{
    target_t *target = &wire->targets[i];
    char text[RDT_ERROR_BYTES];

    snprintf(text, sizeof(text), "%s", rdt_last_error());
    let_go(wire, &target->call);
    target->over = true;
    wire->listener.failed(wire->listener.arg, i, status, text);
}

/* The handshake of either side is complete: its socket changes hands, or the peer does not fit. */
static void join(rdt_wire_t *wire, uint32_t i, rdt_handshake_t *hs)
{
    rdt_link_t link = {hs->fd, hs->peer_fds};
    rdt_status_t st = rdt_handshake_judge(hs);

    if (st != RDT_OK) {
        let_go(wire, hs);
        fail_target(wire, i, st);
        return;
    }
    (void)epoll_ctl(wire->epoll_fd, EPOLL_CTL_DEL, hs->fd, NULL);
    hs->fd = -1;
    hs->peer_fds = RDT_NO_FDS;
    let_go(wire, &wire->targets[i].call);
    wire->targets[i].over = true;
    wire->listener.joined(wire->listener.arg, i, &link);
}

static void dial_later(rdt_wire_t *wire, target_t *target, uint64_t ns)
{
    let_go(wire, &target->call);
    target->redial_ns = rdt_now_ns() + ns;
    due_by(wire, target->redial_ns);
}

static void move_call(rdt_wire_t *wire, uint32_t i)
{
    target_t *target = &wire->targets[i];
    rdt_status_t st;

    if (target->over || target->call.fd < 0) return;
    st = rdt_handshake_step(&target->call);
    if (st == RDT_AGAIN) return;
    if (st == RDT_OK)
        join(wire, i, &target->call);
    else if (st == RDT_PEER_LOST && target->num_lost++ < MAX_LOST)
        dial_later(wire, target, FIRST_REDIAL_NS << target->num_lost);
    else
        fail_target(wire, i, st);
}

static void dial(rdt_wire_t *wire, uint32_t i)
{
    target_t *target = &wire->targets[i];
    int fd = -1;
    rdt_status_t st = wire->dial.dial(&target->peer, &fd);

    target->redial_ns = UINT64_MAX;
    if (st == RDT_AGAIN) {
        dial_later(wire, target, FIRST_REDIAL_NS);
        return;
    }
    if (st == RDT_OK)
        st = rdt_handshake_dial(&target->call, wire->dial.cfg, fd, &wire->dial.pass_fds,
                                target->peer.rank);
    target->call.limit_ns = rdt_now_ns() + THROUGH_NS;
    due_by(wire, target->call.limit_ns);
    if (st == RDT_OK) st = watch(wire, fd, i);
    if (st == RDT_OK)
        move_call(wire, i);
    else
        fail_target(wire, i, st);
}

/* -- callers -- */

static void drop_caller(rdt_wire_t *wire, rdt_handshake_t *caller)
{
    let_go(wire, caller);
    wire->num_callers--;
}

/* Not an error yet; but if some rank does not come, this may be why. */
static void turned_away(rdt_wire_t *wire)
{
    wire->num_strangers++;
    snprintf(wire->stranger, sizeof(wire->stranger), "%s", rdt_last_error());
}

static int find_target(const rdt_wire_t *wire, uint32_t rank)
{
    for (uint32_t i = 0; i < wire->num_targets; i++)
        if (wire->targets[i].peer.rank == rank) return (int)i;
    return -1;
}

/* Whether this call of a proven rank is the one to stand. */
static bool stands(const rdt_wire_t *wire, const target_t *target)
{
    bool dialling = target->call.fd >= 0 || target->redial_ns != UINT64_MAX;

    return !target->over && !(dialling && wire->dial.cfg->rank > target->peer.rank);
}

static void move_caller(rdt_wire_t *wire, rdt_handshake_t *caller)
{
    rdt_status_t st;
    int i;

    if (caller->fd < 0) return;
    st = rdt_handshake_step(caller);
    if (st == RDT_AGAIN) return;
    i = st == RDT_OK ? find_target(wire, rdt_handshake_rank(caller)) : -1;
    if (i >= 0 && stands(wire, &wire->targets[i]) && rdt_handshake_welcome(caller) == RDT_OK)
        join(wire, (uint32_t)i, caller);
    if (st == RDT_PROTOCOL) turned_away(wire);
    drop_caller(wire, caller);
}

static void take_caller(rdt_wire_t *wire, int fd)
{
    uint64_t slot = 0;
    rdt_handshake_t *caller;
    rdt_status_t st;

    while (wire->callers[slot].fd >= 0)
        slot++;
    caller = &wire->callers[slot];
    wire->num_callers++;
    st = rdt_handshake_answer(caller, wire->dial.cfg, fd, &wire->dial.pass_fds);
    caller->limit_ns = rdt_now_ns() + CALLER_NS;
    due_by(wire, caller->limit_ns);
    if (st == RDT_OK) st = watch(wire, fd, wire->num_targets + slot);
    if (st == RDT_OK)
        move_caller(wire, caller);
    else
        drop_caller(wire, caller);
}

static void take_callers(rdt_wire_t *wire)
{
    rdt_status_t st = RDT_OK;
    int fd;

    while (wire->num_callers < NUM_CALLERS &&
           (st = rdt_sock_accept(wire->dial.listen_fd, &fd)) == RDT_OK)
        take_caller(wire, fd);
    if (st == RDT_AGAIN) return;
    /* No room, here or, for example, for one more descriptor: not to be tried again at once. */
    if (st != RDT_OK) turned_away(wire);
    set_deaf(wire, true);
    due_by(wire, rdt_now_ns() + CROWDED_NS);
}

/* -- time -- */

static void tend_callers(rdt_wire_t *wire, uint64_t now)
{
    uint64_t less = wire->num_callers == NUM_CALLERS ? CALLER_NS - CROWDED_NS : 0;

    for (int i = 0; i < NUM_CALLERS; i++) {
        rdt_handshake_t *caller = &wire->callers[i];

        if (caller->fd < 0) continue;
        if (now >= caller->limit_ns - less)
            drop_caller(wire, caller);
        else
            due_by(wire, caller->limit_ns - less);
    }
    set_deaf(wire, wire->num_callers == NUM_CALLERS);
}

static void fail_late(rdt_wire_t *wire, uint32_t i)
{
    if (wire->stranger[0] == '\0')
        rdt_fail(RDT_CONNECT_TIMEOUT, "no answer before the deadline");
    else
        rdt_fail(RDT_CONNECT_TIMEOUT,
                 "no answer before the deadline; callers turned away: %u, the last: %s",
                 wire->num_strangers, wire->stranger);
    fail_target(wire, i, RDT_CONNECT_TIMEOUT);
}

static void fail_unheard(rdt_wire_t *wire, uint32_t i)
{
    rdt_fail(RDT_CONNECT_TIMEOUT, "connect: its host has not answered for %u s",
             (unsigned)(THROUGH_NS / RDT_NS_PER_S));
    fail_target(wire, i, RDT_CONNECT_TIMEOUT);
}

static void tend_target(rdt_wire_t *wire, uint32_t i, uint64_t now)
{
    target_t *target = &wire->targets[i];

    if (target->over || target->deadline_ns == 0) return;
    if (now >= target->deadline_ns) {
        fail_late(wire, i);
        return;
    }
    due_by(wire, target->deadline_ns);
    if (target->call.fd >= 0 && !rdt_handshake_is_through(&target->call)) {
        if (now >= target->call.limit_ns) fail_unheard(wire, i);
        due_by(wire, target->call.limit_ns);
        return;
    }
    if (now >= target->redial_ns)
        dial(wire, i);
    else
        due_by(wire, target->redial_ns);
}

void rdt_wire_want(rdt_wire_t *wire, uint32_t i, bool dials, uint64_t deadline_ns)
{
    target_t *target = &wire->targets[i];

    if (target->over) return;
    if (target->deadline_ns == 0) target->deadline_ns = deadline_ns;
    if (dials && !target->dials) target->redial_ns = 0;
    target->dials |= dials;
    wire->due_ns = 0;
}

void rdt_wire_step(rdt_wire_t *wire, uint64_t until_ns)
{
    struct epoll_event events[NUM_EVENTS];
    uint64_t wake_ns = until_ns < wire->due_ns ? until_ns : wire->due_ns, now;
    int num = epoll_wait(wire->epoll_fd, events, NUM_EVENTS, rdt_ms_until(wake_ns));

    for (int e = 0; e < num; e++) {
        uint64_t data = events[e].data.u64;

        if (data == LISTENER)
            take_callers(wire);
        else if (data < wire->num_targets)
            move_call(wire, (uint32_t)data);
        else
            move_caller(wire, &wire->callers[data - wire->num_targets]);
    }
    now = rdt_now_ns();
    if (now < wire->due_ns) return;
    wire->due_ns = UINT64_MAX;
    tend_callers(wire, now);
    for (uint32_t i = 0; i < wire->num_targets; i++)
        tend_target(wire, i, now);
}

int rdt_wire_fd(const rdt_wire_t *wire)
{
    return wire->epoll_fd;
}

bool rdt_wire_has_callers(const rdt_wire_t *wire)
{
    return wire->num_callers > 0;
}

/* -- from open to close -- */

static rdt_status_t watch_listener(rdt_wire_t *wire)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = LISTENER};

    wire->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (wire->epoll_fd >= 0 &&
        epoll_ctl(wire->epoll_fd, EPOLL_CTL_ADD, wire->dial.listen_fd, &event) == 0)
        return RDT_OK;
    return rdt_fail(RDT_NO_MEMORY, "epoll: %s", strerror(errno));
}

rdt_status_t rdt_wire_open(const rdt_dial_t *dial, const rdt_peer_t *peers, uint32_t num,
                           const rdt_wire_listener_t *listener, rdt_wire_t **wire_p)
{
    rdt_wire_t *wire = calloc(1, sizeof(*wire));
    target_t *targets = calloc(num, sizeof(*targets));
    rdt_status_t st;

    if (wire == NULL || targets == NULL) {
        free(wire);
        free(targets);
        return rdt_fail(RDT_NO_MEMORY, "connections to %u ranks: out of memory", num);
    }
    wire->dial = *dial;
    wire->listener = *listener;
    wire->targets = targets;
    wire->num_targets = num;
    wire->due_ns = UINT64_MAX;
    for (uint32_t i = 0; i < num; i++) {
        targets[i] = (target_t){.peer = peers[i], .redial_ns = UINT64_MAX};
        targets[i].call.fd = -1;
        targets[i].call.peer_fds = RDT_NO_FDS;
    }
    for (int i = 0; i < NUM_CALLERS; i++) {
        wire->callers[i].fd = -1;
        wire->callers[i].peer_fds = RDT_NO_FDS;
    }
    st = watch_listener(wire);
    if (st != RDT_OK) {
        rdt_wire_close(wire);
        return st;
    }
    *wire_p = wire;
    return RDT_OK;
}

void rdt_wire_close(rdt_wire_t *wire)
{
    for (uint32_t i = 0; i < wire->num_targets; i++)
        rdt_handshake_drop(&wire->targets[i].call);
    for (int i = 0; i < NUM_CALLERS; i++)
        rdt_handshake_drop(&wire->callers[i]);
    if (wire->epoll_fd >= 0) close(wire->epoll_fd);
    free(wire->targets);
    free(wire);
}
