/* SPDX-License-Identifier: Apache-2.0 */
/* A slot is a row of atomic words behind the id of its record. The poster claims it, writes the words
 * and then the id (a sequence lock: a reader that finds another id after copying drops the copy).
 * Later the driver adds single words. By then the slot may belong to a newer record, so each of these
 * words carries the generation of its record, and one that a late driver left is not taken for its
 * successor's. */
#include "coll/recorder.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

enum {
    ID, /* 0: never used; BUSY: being written */
    CREATED,
    IN_COUNT,
    OUT_COUNT,
    TIMEOUT,
    SHAPE,
    COMM_TAG = SHAPE + 2, /* 32 bits each */
    KIND,                 /* coll, dtype, op, uneven: 8 bits each; peer: 32 */
    NUM_WRITTEN,          /* by the poster; the rest by the driver: */
    SEQ = NUM_WRITTEN,    /* generation, peer, seq */
    STARTED,              /* generation, ns since CREATED + 1 */
    OVER,                 /* generation, status, ns since CREATED + 1 */
    NUM_WORDS
};

#define BUSY UINT64_MAX
#define GENERATION_BITS 12
#define GENERATION_SHIFT (64 - GENERATION_BITS)
#define PEER_SHIFT 40 /* 12 bits: RDT_MAX_WORLD */
#define STATUS_SHIFT 44
#define ONES(bits) ((1ull << (bits)) - 1)

typedef struct slot {
    _Alignas(128) _Atomic uint64_t words[NUM_WORDS];
} slot_t;

typedef struct ring {
    _Alignas(128) _Atomic uint64_t last; /* id of the newest record */
    _Alignas(128) uint32_t bits;         /* 2^bits slots */
    slot_t slots[];
} ring_t;

_Static_assert(sizeof(rdt_shape_t) == 2 * sizeof(uint64_t), "a shape is two words");
_Static_assert(RDT_MAX_WORLD - 1 <= ONES(GENERATION_SHIFT - PEER_SHIFT), "a rank fits");

static _Atomic(ring_t *) the_ring; /* never freed: a signal may ask for it at any time */
static _Atomic bool decided;       /* set under lock, which guards: */
static char error_text[RDT_ERROR_BYTES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic uint32_t num_errors, num_signals, num_comms;
static _Atomic int notify_fd = -1;

static ring_t *new_ring(uint32_t num_records)
{
    uint32_t bits = 0;
    size_t bytes;
    ring_t *ring;

    while ((1u << bits) < num_records)
        bits++;
    bytes = sizeof(ring_t) + ((size_t)1 << bits) * sizeof(slot_t);
    ring = aligned_alloc(128, bytes);
    if (ring == NULL) return NULL;
    memset(ring, 0, bytes);
    ring->bits = bits;
    return ring;
}

rdt_status_t rdt_recorder_open(uint32_t num_records)
{
    rdt_status_t st = RDT_OK;

    if (atomic_load(&decided)) return RDT_OK;
    if (num_records > RDT_RECORDER_MAX)
        return rdt_fail(RDT_BAD_ARG, "a flight recorder of %u records: at most %u", num_records,
                        RDT_RECORDER_MAX);
    pthread_mutex_lock(&lock);
    if (!atomic_load(&decided) && num_records > 0) {
        ring_t *ring = new_ring(num_records);

        if (ring == NULL)
            st = rdt_fail(RDT_NO_MEMORY, "a flight recorder of %u records: out of memory",
                          num_records);
        atomic_store(&the_ring, ring);
    }
    if (st == RDT_OK) atomic_store(&decided, true);
    pthread_mutex_unlock(&lock);
    return st;
}

uint32_t rdt_recorder_number(void)
{
    (void)rdt_recorder_open(RDT_RECORDER_SIZE); /* without memory for it, nothing is recorded */
    return atomic_fetch_add(&num_comms, 1) + 1;
}

size_t rdt_recorder_size(void)
{
    const ring_t *ring = atomic_load(&the_ring);

    return ring != NULL ? (size_t)1 << ring->bits : 0;
}

/* -- writing -- */

static slot_t *slot_of(ring_t *ring, uint64_t id)
{
    return &ring->slots[id & ONES(ring->bits)];
}

static uint64_t generation(const ring_t *ring, uint64_t id)
{
    return (id >> ring->bits) << GENERATION_SHIFT;
}

static uint64_t sum(const uint64_t *counts, uint32_t world)
{
    uint64_t total = 0;

    for (uint32_t r = 0; r < world; r++)
        total += counts[r];
    return total;
}

static bool has_world_in(rdt_coll_t coll)
{
    return coll == RDT_SCATTER || coll == RDT_REDUCE_SCATTER || coll == RDT_ALL_TO_ALL;
}

static bool has_world_out(rdt_coll_t coll)
{
    return coll == RDT_ALL_GATHER || coll == RDT_GATHER || coll == RDT_ALL_TO_ALL;
}

static uint64_t elements(const rdt_call_t *call, const uint64_t *counts, bool has_world,
                         uint32_t world)
{
    if (counts != NULL) return sum(counts, world);
    return has_world ? call->count * world : call->count;
}

/* A release store keeps its place after the claim of the slot; pairs with copy_slot. */
static void put(slot_t *slot, int word, uint64_t value)
{
    atomic_store_explicit(&slot->words[word], value, memory_order_release);
}

void rdt_record_created(rdt_work_t *work, uint64_t now_ns)
{
    ring_t *ring = atomic_load_explicit(&the_ring, memory_order_acquire);
    const rdt_call_t *call = &work->call;
    uint32_t world = work->comm->cfg.world;
    uint64_t id, shape[2];
    slot_t *slot;

    if (ring == NULL) return;
    id = atomic_fetch_add_explicit(&ring->last, 1, memory_order_relaxed) + 1;
    slot = slot_of(ring, id);
    /* BUSY: by a poster that was stopped in here, a whole ring ago. It keeps the slot. */
    if (atomic_exchange(&slot->words[ID], BUSY) == BUSY) return;
    memcpy(shape, &call->shape, sizeof(shape));
    put(slot, CREATED, now_ns);
    put(slot, IN_COUNT, elements(call, call->in_counts, has_world_in(call->coll), world));
    put(slot, OUT_COUNT, elements(call, call->out_counts, has_world_out(call->coll), world));
    put(slot, TIMEOUT, call->timeout_ns);
    put(slot, SHAPE, shape[0]);
    put(slot, SHAPE + 1, shape[1]);
    put(slot, COMM_TAG, (uint64_t)work->comm->number << 32 | (uint32_t)call->tag);
    put(slot, KIND,
        (uint64_t)call->coll | (uint64_t)call->dtype << 8 | (uint64_t)call->op << 16 |
            (uint64_t)(call->in_counts != NULL || call->out_counts != NULL) << 24 |
            (uint64_t)call->peer << 32);
    for (int word = SEQ; word < NUM_WORDS; word++)
        put(slot, word, 0);
    put(slot, ID, id);
    work->record = id;
}

/* The slot of the work's record, or NULL when there is no record, or no longer. */
static slot_t *recorded(const rdt_work_t *work, uint64_t *generation_p)
{
    ring_t *ring = atomic_load_explicit(&the_ring, memory_order_acquire);
    slot_t *slot;

    if (ring == NULL || work->record == 0) return NULL;
    slot = slot_of(ring, work->record);
    *generation_p = generation(ring, work->record);
    return atomic_load_explicit(&slot->words[ID], memory_order_relaxed) == work->record ? slot
                                                                                        : NULL;
}

static uint64_t ns_since_created(const slot_t *slot)
{
    return rdt_now_ns() - atomic_load_explicit(&slot->words[CREATED], memory_order_relaxed) + 1;
}

void rdt_record_seq_st(const rdt_work_t *work, uint64_t seq)
{
    uint64_t gen;
    slot_t *slot = recorded(work, &gen);
    uint64_t peer = work->call.peer & ONES(GENERATION_SHIFT - PEER_SHIFT);

    if (slot != NULL) put(slot, SEQ, gen | peer << PEER_SHIFT | (seq & ONES(PEER_SHIFT)));
}

void rdt_record_started_st(const rdt_work_t *work)
{
    uint64_t gen;
    slot_t *slot = recorded(work, &gen);

    if (slot != NULL) put(slot, STARTED, gen | (ns_since_created(slot) & ONES(GENERATION_SHIFT)));
}

void rdt_record_over_st(const rdt_work_t *work, rdt_status_t status)
{
    uint64_t gen;
    slot_t *slot = recorded(work, &gen);

    if (slot != NULL)
        put(slot, OVER,
            gen | ((uint64_t)-status & 0xff) << STATUS_SHIFT |
                (ns_since_created(slot) & ONES(STATUS_SHIFT)));
}

/* -- reading -- */

static bool copy_slot(slot_t *slot, uint64_t id, uint64_t words[NUM_WORDS])
{
    if (atomic_load_explicit(&slot->words[ID], memory_order_acquire) != id) return false;
    /* The last one written is read first: what is over has been started. */
    for (int i = NUM_WORDS - 1; i >= 0; i--)
        words[i] = atomic_load_explicit(&slot->words[i], memory_order_acquire);
    return words[ID] == id;
}

/* What the driver has added: 0 when it has not, or when it was for an older record. */
static uint64_t added(const uint64_t words[NUM_WORDS], int word, uint64_t gen)
{
    return words[word] >> GENERATION_SHIFT == gen >> GENERATION_SHIFT
               ? words[word] & ONES(GENERATION_SHIFT)
               : 0;
}

static rdt_record_t unpack(const uint64_t words[NUM_WORDS], uint64_t gen)
{
    uint64_t seq = added(words, SEQ, gen), started = added(words, STARTED, gen);
    uint64_t over = added(words, OVER, gen), over_ns = over & ONES(STATUS_SHIFT);
    uint64_t kind = words[KIND], created = words[CREATED];
    rdt_record_t record = {.id = words[ID],
                           .created_ns = created,
                           .started_ns = started != 0 ? created + started - 1 : 0,
                           .over_ns = over_ns != 0 ? created + over_ns - 1 : 0,
                           .seq = seq & ONES(PEER_SHIFT),
                           .in_count = words[IN_COUNT],
                           .out_count = words[OUT_COUNT],
                           .timeout_ns = words[TIMEOUT],
                           .comm = (uint32_t)(words[COMM_TAG] >> 32),
                           .peer = (uint32_t)(kind >> 32),
                           .tag = (int32_t)(uint32_t)words[COMM_TAG],
                           .coll = (rdt_coll_t)(kind & 0xff),
                           .dtype = (rdt_dtype_t)(kind >> 8 & 0xff),
                           .op = (rdt_redop_t)(kind >> 16 & 0xff),
                           .uneven = (kind >> 24 & 1) != 0,
                           .status = (rdt_status_t) - (int)(over >> STATUS_SHIFT)};

    if (seq != 0) record.peer = (uint32_t)(seq >> PEER_SHIFT);
    memcpy(&record.shape, &words[SHAPE], sizeof(record.shape));
    return record;
}

size_t rdt_recorder_read(rdt_record_t *records)
{
    ring_t *ring = atomic_load(&the_ring);
    size_t num = 0, size = rdt_recorder_size();
    uint64_t last, words[NUM_WORDS];

    if (ring == NULL) return 0;
    last = atomic_load(&ring->last);
    for (uint64_t id = last > size ? last - size + 1 : 1; id <= last; id++)
        if (copy_slot(slot_of(ring, id), id, words))
            records[num++] = unpack(words, generation(ring, id));
    return num;
}

bool rdt_recorder_waiting(rdt_record_t *record)
{
    ring_t *ring = atomic_load(&the_ring);
    size_t size = rdt_recorder_size();
    uint64_t last, words[NUM_WORDS];

    if (ring == NULL) return false;
    if (size > RDT_RECORDER_SIZE) size = RDT_RECORDER_SIZE;
    last = atomic_load(&ring->last);
    for (uint64_t id = last > size ? last - size + 1 : 1; id <= last; id++) {
        slot_t *slot = slot_of(ring, id);
        uint64_t gen = generation(ring, id);

        words[OVER] = atomic_load_explicit(&slot->words[OVER], memory_order_relaxed);
        if (added(words, OVER, gen) != 0 || !copy_slot(slot, id, words)) continue;
        *record = unpack(words, gen);
        if (record->over_ns == 0) return true;
    }
    return false;
}

/* -- events -- */

/* Also in a signal handler. */
static void notify(void)
{
    int fd = atomic_load(&notify_fd), saved = errno;
    uint64_t one = 1;

    if (fd >= 0 && write(fd, &one, sizeof(one)) < 0) {
        /* whoever watched has closed it */
    }
    errno = saved;
}

void rdt_recorder_error(const char *text)
{
    pthread_mutex_lock(&lock);
    memcpy(error_text, text, strnlen(text, sizeof(error_text) - 1) + 1);
    error_text[sizeof(error_text) - 1] = '\0';
    pthread_mutex_unlock(&lock);
    atomic_fetch_add(&num_errors, 1);
    notify();
}

rdt_recorder_events_t rdt_recorder_events(char *text, size_t text_bytes)
{
    pthread_mutex_lock(&lock);
    snprintf(text, text_bytes, "%s", error_text);
    pthread_mutex_unlock(&lock);
    return (rdt_recorder_events_t){.errors = atomic_load(&num_errors),
                                   .signals = atomic_load(&num_signals)};
}

void rdt_recorder_notify(int fd)
{
    atomic_store(&notify_fd, fd);
}

static void on_signal(int signum)
{
    (void)signum;
    atomic_fetch_add(&num_signals, 1);
    notify();
}

rdt_status_t rdt_recorder_on_signal(int signum)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, old;

    if (sigaction(signum, NULL, &old) != 0)
        return rdt_fail(RDT_BAD_ARG, "signal %d: %s", signum, strerror(errno));
    if (old.sa_handler == on_signal) return RDT_OK;
    if (old.sa_handler != SIG_DFL)
        return rdt_fail(RDT_BAD_ARG, "signal %d has a handler of the program's own, or is ignored",
                        signum);
    if (sigaction(signum, &action, NULL) != 0)
        return rdt_fail(RDT_BAD_ARG, "signal %d: %s", signum, strerror(errno));
    return RDT_OK;
}
