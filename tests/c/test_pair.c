/* SPDX-License-Identifier: Apache-2.0 */
/* Pings and writes between the two sides of a pair, under the sanitizers; what they report is looked at from
 * Python, in tests/unit/test_core_pair.py. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "check.h"
#include "ibv/ibv_fake.h"
#include "rdmatrain/pair.h"

#define LIMIT_NS (30 * RDT_NS_PER_S)
#define CALLS 20u
#define NUM_SIZES 4
#ifdef __SANITIZE_THREAD__
/* What is stored is seen before any completion, from memory alone: a race, to who knows no NIC. */
#define PINGS_OF_STORES false
#else
#define PINGS_OF_STORES true
#endif

static const uint64_t sizes[NUM_SIZES] = {1, 5000, 100000, 300000};

/* What a GPU has: addresses at which a CPU faults. The test looks through another mapping. */
typedef struct device {
    int fd;
    uint8_t *addr, *seen;
} device_t;

typedef struct side {
    rdt_pair_t *pair;
    uint8_t wire[RDT_COMM_WIRE_BYTES];
    uint32_t wire_len, number;
    bool pings;
    device_t device;
    const struct side *other;
    pthread_t thread;
} side_t;

static void run(const side_t *side, rdt_pair_op_t op, bool check)
{
    uint64_t ns[CALLS];
    rdt_pair_run_t what = {.op = op, .calls = CALLS, .check = check, .timeout_ns = LIMIT_NS};

    what.ns = ns;
    memset(ns, 0, sizeof(ns));
    CHECK(rdt_pair_run(side->pair, &what) == RDT_OK, "%s", rdt_last_error());
    CHECK_EQ(what.nwrong, 0);
    CHECK((ns[0] > 0) == (side->number == 0), "side %u says %llu ns", side->number,
          (unsigned long long)ns[0]);
}

static void *be_side(void *arg)
{
    side_t *side = arg;

    CHECK(rdt_pair_connect(side->pair, side->other->wire, side->other->wire_len, LIMIT_NS) ==
              RDT_OK,
          "%s", rdt_last_error());
    for (int i = 0; i < NUM_SIZES; i++) {
        CHECK(rdt_pair_reserve(side->pair, sizes[i]) == RDT_OK, "%s", rdt_last_error());
        for (int check = 0; check < 2; check++) {
            if (side->pings) run(side, RDT_PAIR_PINGPONG, check != 0);
            run(side, RDT_PAIR_WRITE, check != 0);
        }
    }
    return NULL;
}

/* Opens both sides, and has each do that in a thread. */
static void with_both(side_t *sides, const char *transport, const char *arg, void *(*body)(void *))
{
    for (uint32_t s = 0; s < 2; s++) {
        rdt_pair_cfg_t cfg = {.transport = transport, .arg = arg, .side = s};

        sides[s].number = s;
        sides[s].other = &sides[1 - s];
        CHECK(rdt_pair_open(&cfg, &sides[s].pair) == RDT_OK, "%s", rdt_last_error());
        sides[s].wire_len = rdt_pair_address(sides[s].pair, sides[s].wire);
    }
    for (int s = 0; s < 2; s++)
        pthread_create(&sides[s].thread, NULL, body, &sides[s]);
    for (int s = 0; s < 2; s++)
        pthread_join(sides[s].thread, NULL);
    for (int s = 0; s < 2; s++)
        rdt_pair_close(sides[s].pair);
}

static void what_is_sent_arrives(const char *transport, const char *arg, bool pings)
{
    side_t sides[2] = {{.pings = pings}, {.pings = pings}};

    with_both(sides, transport, arg, be_side);
}

/* -- memory of a device -- */

#define DEVICE_BYTES (512u << 10) /* of a side, in halves */
#define DEVICE_OFFSET 8192u       /* in its dmabuf */

static device_t make_device(void)
{
    device_t device = {.fd = memfd_create("device", MFD_CLOEXEC)};

    CHECK(ftruncate(device.fd, DEVICE_OFFSET + DEVICE_BYTES) == 0, "%s", strerror(errno));
    device.addr =
        mmap(NULL, DEVICE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    device.seen =
        mmap(NULL, DEVICE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, device.fd, DEVICE_OFFSET);
    CHECK(device.addr != MAP_FAILED && device.seen != MAP_FAILED, "%s", strerror(errno));
    return device;
}

static void free_device(const device_t *device)
{
    munmap(device->addr, DEVICE_BYTES);
    munmap(device->seen, DEVICE_BYTES);
    close(device->fd);
}

static uint8_t device_value(uint32_t side, size_t i)
{
    return (uint8_t)(i * 7 + i / 251 + side * 101 + 1);
}

static rdt_dmabuf_t dmabuf_of(const device_t *device, size_t nbytes)
{
    return (rdt_dmabuf_t){
        .fd = device->fd, .offset = DEVICE_OFFSET, .addr = device->addr, .len = 2 * nbytes};
}

static void expect_no_look(rdt_pair_t *pair, rdt_pair_op_t op, bool check)
{
    rdt_pair_run_t what = {.op = op, .calls = 1, .check = check, .timeout_ns = LIMIT_NS};

    CHECK_EQ(rdt_pair_run(pair, &what), RDT_BAD_ARG);
    CHECK(strstr(rdt_last_error(), "no CPU sees memory of a device") != NULL, "%s",
          rdt_last_error());
}

/* Sizes that would go inline, of one chunk and of several, each in its own registration of the same memory. */
static void *write_devices(void *arg)
{
    static const size_t nbytes[] = {1, 64, 5000, DEVICE_BYTES / 2};
    side_t *side = arg;

    CHECK(rdt_pair_connect(side->pair, side->other->wire, side->other->wire_len, LIMIT_NS) ==
              RDT_OK,
          "%s", rdt_last_error());
    for (size_t n = 0; n < sizeof(nbytes) / sizeof(nbytes[0]); n++) {
        rdt_dmabuf_t memory = dmabuf_of(&side->device, nbytes[n]);

        for (size_t i = 0; i < DEVICE_BYTES; i++)
            side->device.seen[i] = device_value(side->number, i);
        memory.addr = side->device.addr + 8;
        CHECK_EQ(rdt_pair_reserve_dmabuf(side->pair, &memory), RDT_BAD_ARG);
        memory.addr = side->device.addr;
        CHECK(rdt_pair_reserve_dmabuf(side->pair, &memory) == RDT_OK, "%s", rdt_last_error());
        expect_no_look(side->pair, RDT_PAIR_PINGPONG, false);
        expect_no_look(side->pair, RDT_PAIR_WRITE, true);
        run(side, RDT_PAIR_WRITE, false);
        for (size_t i = 0; i < DEVICE_BYTES; i++) {
            bool came = side->number == 1 && i >= nbytes[n] && i < 2 * nbytes[n];
            uint8_t want = came ? device_value(0, i - nbytes[n]) : device_value(side->number, i);

            CHECK(side->device.seen[i] == want, "side %u, %zu bytes: byte %zu is %u, not %u",
                  side->number, nbytes[n], i, side->device.seen[i], want);
        }
    }
    CHECK(rdt_pair_reserve(side->pair, sizes[1]) == RDT_OK, "%s", rdt_last_error());
    run(side, RDT_PAIR_WRITE, true);
    return NULL;
}

static void memory_of_devices_is_written_where_it_lies(const char *script)
{
    side_t sides[2] = {{.device = make_device()}, {.device = make_device()}};
    char arg[128];

    snprintf(arg, sizeof(arg), "rails=fake0/1/1 addr=127.0.0.1 fake=%s", script);
    with_both(sides, "verbs", arg, write_devices);
    for (int s = 0; s < 2; s++)
        free_device(&sides[s].device);
    CHECK_EQ(rdt_ibv_fake_live(), 0);
}

static void expect_no_device(const char *transport, const char *arg, size_t nbytes,
                             rdt_status_t status, const char *text)
{
    rdt_pair_cfg_t cfg = {.transport = transport, .arg = arg};
    device_t device = make_device();
    rdt_dmabuf_t memory = dmabuf_of(&device, nbytes);
    rdt_pair_t *pair;

    CHECK(rdt_pair_open(&cfg, &pair) == RDT_OK, "%s", rdt_last_error());
    CHECK_EQ(rdt_pair_reserve_dmabuf(pair, &memory), status);
    CHECK(strstr(rdt_last_error(), text) != NULL, "%s", rdt_last_error());
    rdt_pair_close(pair);
    free_device(&device);
    CHECK_EQ(rdt_ibv_fake_live(), 0);
}

static void who_cannot_says_so(void)
{
#define FAKE(script) "rails=fake0/1/1 addr=127.0.0.1 fake=" script
    expect_no_device("tcp", "127.0.0.1", 4096, RDT_UNSUPPORTED, "tcp reaches no memory of devices");
    expect_no_device("verbs", FAKE(""), 4096, RDT_UNSUPPORTED, "has no ibv_reg_dmabuf_mr");
    expect_no_device("verbs", FAKE("dmabuf=2"), 4096, RDT_UNSUPPORTED, "the driver of fake0");
    expect_no_device("verbs", FAKE("dmabuf=1;reg=1"), 4096, RDT_NO_MEMORY, "BAR1");
    expect_no_device("verbs", FAKE("dmabuf=1"), 0, RDT_BAD_ARG, "no two halves");
    /* The second rail refuses: what the first had registered is gone. */
    expect_no_device("verbs", "rails=fake0/1/1+fake0/1/1 addr=127.0.0.1 fake=dmabuf=1;reg=2", 4096,
                     RDT_NO_MEMORY, "BAR1");
#undef FAKE
}

int main(void)
{
    what_is_sent_arrives("shm", NULL, true);
    what_is_sent_arrives("tcp", "127.0.0.1", true);
    what_is_sent_arrives("verbs", "rails=fake0/1/1 addr=127.0.0.1 fake=delay=3;seed=2",
                         PINGS_OF_STORES);
    memory_of_devices_is_written_where_it_lies("dmabuf=1");
    memory_of_devices_is_written_where_it_lies("dmabuf=1;delay=3;seed=2;inline=0");
    who_cannot_says_so();
    return 0;
}
