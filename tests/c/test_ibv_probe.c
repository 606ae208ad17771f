/* SPDX-License-Identifier: Apache-2.0 */
/* What is said of devices, ports and GIDs, with the fake as the machine. */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "check.h"
#include "ibv/ibv_fake.h"
#include "ibv/ibv_probe.h"

typedef struct seen {
    char text[16][400];
    int num;
} seen_t;

static void see_device(void *arg, const char *name)
{
    seen_t *seen = arg;

    snprintf(seen->text[seen->num++], sizeof(seen->text[0]), "%s", name);
}

static void see_port(void *arg, const rdt_port_t *p)
{
    seen_t *seen = arg;

    snprintf(seen->text[seen->num++], sizeof(seen->text[0]),
             "%s/%u %s %s lid=%u mtu=%u gids=%u pkeys=%u msg=%u gbps=%g fw=%s %s", p->device,
             p->port, p->state, p->link_layer, p->lid, p->active_mtu_bytes, p->num_gids,
             p->num_pkeys, p->max_msg_bytes, p->speed_gbps, p->firmware, p->error);
}

static rdt_ibv_api_t fake(const char *script)
{
    rdt_ibv_api_t api;

    CHECK(rdt_ibv_fake(script, &api) == RDT_OK, "%s", rdt_last_error());
    return api;
}

static seen_t ports(rdt_ibv_api_t api)
{
    seen_t seen = {.num = 0};

    CHECK(rdt_ibv_ports(&api, see_port, &seen) == RDT_OK, "%s", rdt_last_error());
    CHECK_EQ(rdt_ibv_fake_live(), 0);
    return seen;
}

static void expect(const seen_t *seen, int i, const char *want)
{
    CHECK(i < seen->num, "only %d", seen->num);
    CHECK(strcmp(seen->text[i], want) == 0, "\"%s\", expected \"%s\"", seen->text[i], want);
}

static void ports_are_described(void)
{
    seen_t seen = ports(fake("devices=2;mtu=1024;max_msg_sz=8388608"));

    CHECK_EQ(seen.num, 2);
    expect(&seen, 0,
           "fake0/1 ACTIVE Ethernet lid=0 mtu=1024 gids=4 pkeys=1 msg=8388608 gbps=100 fw=1.0 ");
    expect(&seen, 1,
           "fake1/1 ACTIVE Ethernet lid=0 mtu=1024 gids=4 pkeys=1 msg=8388608 gbps=100 fw=1.0 ");
    seen = ports(fake("devices=1;lid=17;state=1"));
    expect(&seen, 0,
           "fake0/1 DOWN InfiniBand lid=17 mtu=4096 gids=4 pkeys=1 msg=1073741824 "
           "gbps=100 fw=1.0 ");
    CHECK_EQ(ports(fake("devices=0")).num, 0);
}

static void devices_are_named(void)
{
    rdt_ibv_api_t api = fake("devices=3");
    seen_t seen = {.num = 0};

    CHECK_EQ(rdt_ibv_devices(&api, see_device, &seen), RDT_OK);
    CHECK_EQ(seen.num, 3);
    expect(&seen, 2, "fake2");
    api = fake("list=ENOSYS"); /* a kernel without RDMA */
    CHECK_EQ(rdt_ibv_devices(&api, see_device, &seen), RDT_OK);
    CHECK_EQ(seen.num, 3);
    CHECK_EQ(ports(api).num, 0);
    api = fake("list=EPERM");
    CHECK_EQ(rdt_ibv_devices(&api, see_device, &seen), RDT_IO_ERROR);
    CHECK_EQ(rdt_ibv_ports(&api, see_port, &seen), RDT_IO_ERROR);
    CHECK(strstr(rdt_last_error(), "Operation not permitted") != NULL, "%s", rdt_last_error());
    CHECK_EQ(rdt_ibv_fake_live(), 0);
}

/* -- one device that fails among others -- */

static struct ibv_context *(*really_open)(struct ibv_device *);
static int open_error;

static struct ibv_context *open_but_one(struct ibv_device *device)
{
    if (strcmp(device->name, "fake1") != 0) return really_open(device);
    errno = open_error;
    return NULL;
}

static void expect_advice(int error, const char *want)
{
    rdt_ibv_api_t api = fake("devices=3");
    seen_t seen;

    really_open = api.open_device;
    open_error = error;
    api.open_device = open_but_one;
    seen = ports(api);
    CHECK_EQ(seen.num, 3);
    CHECK(strncmp(seen.text[1], "fake1/0 UNKNOWN UNKNOWN ", 24) == 0, "%s", seen.text[1]);
    CHECK(strstr(seen.text[1], want) != NULL, "\"%s\" has no \"%s\"", seen.text[1], want);
    CHECK(strncmp(seen.text[2], "fake2/1 ACTIVE ", 15) == 0, "%s", seen.text[2]);
}

static void a_device_that_fails_hides_no_other(void)
{
    seen_t seen;

    expect_advice(EACCES, "opening RDMA device fake1: Permission denied (may this user open");
    expect_advice(ENOENT, "No such file or directory (in a container, mount /dev/infiniband");
    expect_advice(0, "Input/output error"); /* a provider that does not say */
    seen = ports(fake("devices=1;query=EIO"));
    CHECK(strstr(seen.text[0], "ibv_query_device fake0: Input/output error") != NULL, "%s",
          seen.text[0]);
}

/* A table where a call is what libibverbs might say one day, not what the fake says. */
static struct ibv_port_attr told;

static int tell_port(struct ibv_context *context, uint8_t port, struct ibv_port_attr *attr)
{
    (void)context, (void)port;
    *attr = told;
    return 0;
}

static void codes_become_numbers(void)
{
    static const struct {
        uint8_t width, speed;
        const char *gbps;
    } rates[] = {{1, 1, "gbps=2.5 "},   {2, 4, "gbps=40 "},    {2, 16, "gbps=56 "},
                 {16, 64, "gbps=100 "}, {2, 128, "gbps=400 "}, {8, 32, "gbps=300 "},
                 {2, 0, "gbps=0 "},     {32, 64, "gbps=0 "}};
    rdt_ibv_api_t api = fake("devices=1");
    seen_t seen;

    api.query_port = tell_port;
    for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
        told =
            (struct ibv_port_attr){.active_width = rates[i].width, .active_speed = rates[i].speed};
        seen = ports(api);
        CHECK(strstr(seen.text[0], rates[i].gbps) != NULL, "%s: not %s", seen.text[0],
              rates[i].gbps);
    }
    told = (struct ibv_port_attr){.state = (enum ibv_port_state)9, .active_mtu = (enum ibv_mtu)9};
    seen = ports(api);
    expect(&seen, 0, "fake0/1 UNKNOWN UNKNOWN lid=0 mtu=0 gids=0 pkeys=0 msg=0 gbps=0 fw=1.0 ");
}

/* -- GIDs -- */

static void expect_gid(const char *script, uint32_t index, const char *why)
{
    rdt_ibv_api_t api = fake(script);
    rdt_status_t st = rdt_ibv_test_gid(&api, "fake1", 1, index);

    CHECK_EQ(st, why == NULL ? RDT_OK : RDT_UNSUPPORTED);
    if (why != NULL)
        CHECK(strstr(rdt_last_error(), why) != NULL, "\"%s\" has no \"%s\"", rdt_last_error(), why);
    CHECK_EQ(rdt_ibv_fake_live(), 0);
}

static void gids_are_tested(void)
{
    expect_gid("", 0, NULL);
    expect_gid("", 1, NULL);
    expect_gid("", 2, "GID 2 of fake1 port 1 is not usable: it is empty");
    expect_gid("", 3, NULL);
    expect_gid("", 4, "GID 4 of fake1 port 1 is not usable: the table is shorter");
    expect_gid("", 261, "the table is shorter"); /* not taken modulo 256 */
    expect_gid("gid=EINVAL@1", 1, "it cannot be read: Invalid argument");
    expect_gid("gid=EINVAL@1", 3, NULL);
    expect_gid("ah=ENODEV@3", 3, "from this network namespace: No such device");
    expect_gid("ah=ENODEV@3", 1, NULL);
    expect_gid("lid=5", 0, NULL);
}

static void expect_bad(const char *script, const char *device, uint32_t port, rdt_status_t want,
                       const char *why)
{
    rdt_ibv_api_t api = fake(script);

    CHECK_EQ(rdt_ibv_test_gid(&api, device, port, 1), want);
    CHECK(strstr(rdt_last_error(), why) != NULL, "\"%s\" has no \"%s\"", rdt_last_error(), why);
    CHECK_EQ(rdt_ibv_fake_live(), 0);
}

static void what_is_not_there(void)
{
    expect_bad("", "fake9", 1, RDT_BAD_ARG, "no RDMA device fake9");
    expect_bad("devices=1", "fake1", 1, RDT_BAD_ARG, "no RDMA device fake1");
    expect_bad("", "fake1", 0, RDT_BAD_ARG, "no port 0");
    expect_bad("", "fake1", 257, RDT_BAD_ARG, "no port 257");
    expect_bad("", "fake1", 2, RDT_BAD_ARG, "fake1 port 2: Invalid argument");
    expect_bad("open=EACCES", "fake1", 1, RDT_IO_ERROR, "may this user open /dev/infiniband");
    expect_bad("list=ENOSYS", "fake1", 1, RDT_BAD_ARG, "no RDMA device fake1");
}

/* -- limits -- */

static void see_limits(void *arg, const rdt_limits_t *l)
{
    seen_t *seen = arg;

    snprintf(seen->text[seen->num++], sizeof(seen->text[0]),
             "%s mr=%u bytes=%llu qp=%u cq=%u pd=%u cqe=%u wr=%u sge=%u pkeys=%u %s", l->device,
             l->max_mr, (unsigned long long)l->max_mr_bytes, l->max_qp, l->max_cq, l->max_pd,
             l->max_cqe, l->max_qp_wr, l->max_sge, l->max_pkeys, l->error);
}

static seen_t limits(rdt_ibv_api_t api)
{
    seen_t seen = {.num = 0};

    CHECK(rdt_ibv_limits(&api, see_limits, &seen) == RDT_OK, "%s", rdt_last_error());
    CHECK_EQ(rdt_ibv_fake_live(), 0);
    return seen;
}

static void limits_are_told(void)
{
    rdt_ibv_api_t api = fake("devices=3;max_mr=7;max_cqe=300;max_qp_wr=99;max_sge=5");
    seen_t seen;

    really_open = api.open_device;
    open_error = EACCES;
    api.open_device = open_but_one;
    seen = limits(api);
    CHECK_EQ(seen.num, 3);
    expect(&seen, 0,
           "fake0 mr=7 bytes=18446744073709551615 qp=65536 cq=65536 pd=65536 cqe=300 wr=99 sge=5 "
           "pkeys=1 ");
    CHECK(strstr(seen.text[1], "fake1 mr=0 bytes=0 qp=0") != NULL, "%s", seen.text[1]);
    CHECK(strstr(seen.text[1], "opening RDMA device fake1: Permission denied (may") != NULL, "%s",
          seen.text[1]);
    CHECK(strncmp(seen.text[2], "fake2 mr=7 ", 11) == 0, "%s", seen.text[2]);
    seen = limits(fake("devices=1;query=EIO"));
    CHECK(strstr(seen.text[0], "pkeys=0 ibv_query_device fake0: Input/output error") != NULL, "%s",
          seen.text[0]);
    CHECK_EQ(limits(fake("list=ENOSYS")).num, 0);
}

static void see_dmabuf(void *arg, const rdt_limits_t *l)
{
    snprintf(arg, sizeof(((seen_t *)NULL)->text[0]), "%s", l->no_dmabuf);
}

static void expect_dmabuf(const char *script, const char *why_not)
{
    rdt_ibv_api_t api = fake(script);
    seen_t seen = {.num = 0};

    CHECK(rdt_ibv_limits(&api, see_dmabuf, seen.text[0]) == RDT_OK, "%s", rdt_last_error());
    CHECK(strcmp(seen.text[0], why_not) == 0, "%s: %s", script, seen.text[0]);
    CHECK_EQ(rdt_ibv_fake_live(), 0);
}

static void drivers_are_asked_for_dmabuf(void)
{
    expect_dmabuf("devices=1;dmabuf=1", "");
    expect_dmabuf("devices=1", "this libibverbs has no ibv_reg_dmabuf_mr");
    expect_dmabuf("devices=1;dmabuf=2", "its driver has no ibv_reg_dmabuf_mr");
    expect_dmabuf("devices=1;dmabuf=1;query=EIO", "");
    expect_dmabuf("devices=1;dmabuf=2;query=EIO", "");
}

/* -- registrations -- */

/* As the kernel counts, and refuses, under a limit of locked memory. */
static struct ibv_mr *(*really_reg)(struct ibv_pd *, void *, size_t, int);
static uint64_t lock_limit, locked;
static uint32_t num_refused;

static struct ibv_mr *reg_below_limit(struct ibv_pd *pd, void *addr, size_t length, int access)
{
    uint64_t pages = (length + 4095) / 4096 * 4096;

    if (locked + pages > lock_limit) {
        num_refused++;
        errno = ENOMEM;
        return NULL;
    }
    locked += pages;
    return really_reg(pd, addr, length, access);
}

static uint64_t registered_below(uint64_t limit, uint64_t nbytes, rdt_status_t want)
{
    rdt_ibv_api_t api = fake("");
    uint64_t registered = 1;

    really_reg = api.reg_mr;
    api.reg_mr = reg_below_limit;
    lock_limit = limit;
    locked = 0;
    num_refused = 0;
    CHECK_EQ(rdt_ibv_test_register(&api, "fake1", nbytes, &registered), want);
    CHECK_EQ(rdt_ibv_fake_live(), 0);
    return registered;
}

static void the_most_that_can_be_registered_is_found(void)
{
    static const uint64_t limits[] = {0, 4096, 65536, 3 * 4096, 8 << 20, (100 << 20) + 5 * 4096};
    const uint64_t enough = 512u << 20;

    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        CHECK_EQ(registered_below(limits[i], enough, RDT_NO_MEMORY), limits[i]);
        CHECK(strcmp(rdt_last_error(), "ibv_reg_mr with fake1: Cannot allocate memory") == 0, "%s",
              rdt_last_error());
        CHECK(num_refused < 20, "%u calls were refused", num_refused);
    }
    CHECK_EQ(registered_below(enough, enough, RDT_OK), enough);
    CHECK_EQ(num_refused, 0);
    CHECK_EQ(registered_below(enough, 1000, RDT_OK), 1000);
    CHECK_EQ(registered_below(enough, 0, RDT_OK), 0);
    CHECK_EQ(registered_below(5000, 3 * 4096 + 100, RDT_NO_MEMORY), 4096);
    /* More than half a second may take is no failure of the device. */
    CHECK(registered_below(UINT64_MAX, 1ull << 40, RDT_WAIT_TIMEOUT) >= 4u << 20, "too little");
}

static void expect_unregistered(const char *script, const char *device, rdt_status_t want,
                                const char *why)
{
    rdt_ibv_api_t api = fake(script);
    uint64_t registered = 1;

    CHECK_EQ(rdt_ibv_test_register(&api, device, 1 << 20, &registered), want);
    CHECK_EQ(registered, 0);
    CHECK(strstr(rdt_last_error(), why) != NULL, "\"%s\" has no \"%s\"", rdt_last_error(), why);
    CHECK_EQ(rdt_ibv_fake_live(), 0);
}

static struct ibv_mr *never_reg(struct ibv_pd *pd, void *addr, size_t length, int access)
{
    (void)pd, (void)addr, (void)length, (void)access;
    num_refused++;
    errno = EOPNOTSUPP;
    return NULL;
}

static void what_cannot_be_registered_says_why(void)
{
    rdt_ibv_api_t api = fake("");
    uint64_t registered;

    expect_unregistered("", "fake9", RDT_BAD_ARG, "no RDMA device fake9");
    expect_unregistered("open=EACCES", "fake1", RDT_IO_ERROR, "may this user open /dev/infiniband");
    expect_unregistered("max_mr=0", "fake1", RDT_NO_MEMORY, "ibv_reg_mr with fake1: Cannot");
    api.reg_mr = never_reg;
    num_refused = 0;
    CHECK_EQ(rdt_ibv_test_register(&api, "fake1", 1 << 20, &registered), RDT_NO_MEMORY);
    CHECK(strstr(rdt_last_error(), "Operation not supported") != NULL, "%s", rdt_last_error());
    CHECK_EQ(num_refused, 1); /* less memory would not help */
    CHECK_EQ(rdt_ibv_fake_live(), 0);
}

int main(void)
{
    ports_are_described();
    devices_are_named();
    a_device_that_fails_hides_no_other();
    codes_become_numbers();
    gids_are_tested();
    what_is_not_there();
    limits_are_told();
    drivers_are_asked_for_dmabuf();
    the_most_that_can_be_registered_is_found();
    what_cannot_be_registered_says_why();
    return 0;
}
