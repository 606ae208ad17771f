/* SPDX-License-Identifier: Apache-2.0 */
/* Pings and writes between the two sides of a pair, under the sanitizers; what they report is looked at from
 * Python, in tests/unit/test_core_pair.py. */
#include <pthread.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "check.h"
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

typedef struct side {
    rdt_pair_t *pair;
    uint8_t wire[RDT_COMM_WIRE_BYTES];
    uint32_t wire_len, number;
    bool pings;
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

static void what_is_sent_arrives(const char *transport, const char *arg, bool pings)
{
    side_t sides[2] = {{.number = 0, .other = &sides[1], .pings = pings},
                       {.number = 1, .other = &sides[0], .pings = pings}};

    for (uint32_t s = 0; s < 2; s++) {
        rdt_pair_cfg_t cfg = {.transport = transport, .arg = arg, .side = s};

        CHECK(rdt_pair_open(&cfg, &sides[s].pair) == RDT_OK, "%s", rdt_last_error());
        sides[s].wire_len = rdt_pair_address(sides[s].pair, sides[s].wire);
    }
    for (int s = 0; s < 2; s++)
        pthread_create(&sides[s].thread, NULL, be_side, &sides[s]);
    for (int s = 0; s < 2; s++)
        pthread_join(sides[s].thread, NULL);
    for (int s = 0; s < 2; s++)
        rdt_pair_close(sides[s].pair);
}

int main(void)
{
    what_is_sent_arrives("shm", NULL, true);
    what_is_sent_arrives("tcp", "127.0.0.1", true);
    what_is_sent_arrives("verbs", "rails=fake0/1/1 addr=127.0.0.1 fake=delay=3;seed=2",
                         PINGS_OF_STORES);
    return 0;
}
