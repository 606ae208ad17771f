/* SPDX-License-Identifier: Apache-2.0 */
#include "transport/lazy.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"

/* How long a higher rank may take to call, before this one does as well. */
#define PATIENCE_NS (20 * RDT_NS_PER_MS)

static void settle(rdt_lazy_t *lazy, uint32_t i)
{
    lazy->needs[i].settled = true;
    lazy->num_unmet--;
    lazy->num_wanted -= lazy->needs[i].since_ns != 0;
}

static void on_joined(void *arg, uint32_t i, rdt_link_t *link)
{
    rdt_lazy_t *lazy = arg;

    settle(lazy, i);
    lazy->listener.joined(lazy->listener.arg, i, link);
}

static void on_failed(void *arg, uint32_t i, rdt_status_t status, const char *text)
{
    rdt_lazy_t *lazy = arg;

    settle(lazy, i);
    lazy->listener.failed(lazy->listener.arg, i, status, text);
}

rdt_status_t rdt_lazy_open(rdt_lazy_t *lazy, const rdt_dial_t *dial, const rdt_peer_t *peers,
                           uint32_t num, const rdt_wire_listener_t *listener)
{
    rdt_wire_listener_t inner = {on_joined, on_failed, lazy};
    rdt_status_t st;

    *lazy = (rdt_lazy_t){.cfg = dial->cfg,
                         .listener = *listener,
                         .needs = calloc(num, sizeof(*lazy->needs)),
                         .num = num};
    if (lazy->needs == NULL) return rdt_fail(RDT_NO_MEMORY, "peers to be met: out of memory");
    for (uint32_t i = 0; i < num; i++)
        lazy->needs[i].rank = peers[i].rank;
    st = rdt_wire_open(dial, peers, num, &inner, &lazy->wire);
    if (st == RDT_OK) lazy->num_unmet = num;
    return st;
}

uint64_t rdt_lazy_deadline(const rdt_lazy_t *lazy, uint32_t i)
{
    uint64_t since_ns = lazy->needs[i].since_ns;

    if (since_ns == 0 || lazy->cfg->timeout_ns == 0) return UINT64_MAX;
    return rdt_deadline_after(since_ns, lazy->cfg->timeout_ns);
}

void rdt_lazy_need(rdt_lazy_t *lazy, uint32_t i, bool dials)
{
    rdt_need_t *need = &lazy->needs[i];

    if (need->since_ns != 0 && need->dials >= dials) return;
    if (need->since_ns == 0) {
        need->since_ns = rdt_now_ns();
        lazy->num_wanted += !need->settled;
    }
    need->dials = dials || lazy->cfg->rank > need->rank;
    if (!need->settled) rdt_wire_want(lazy->wire, i, need->dials, rdt_lazy_deadline(lazy, i));
}

void rdt_lazy_step(rdt_lazy_t *lazy)
{
    if (lazy->num_unmet > 0) rdt_wire_step(lazy->wire, 0);
}

void rdt_lazy_hurry(rdt_lazy_t *lazy)
{
    uint64_t now = rdt_now_ns();

    for (uint32_t i = 0; i < lazy->num && lazy->num_wanted > 0; i++) {
        const rdt_need_t *need = &lazy->needs[i];

        if (!need->settled && need->since_ns != 0 && now - need->since_ns > PATIENCE_NS)
            rdt_lazy_need(lazy, i, true);
    }
}

bool rdt_lazy_has_callers(const rdt_lazy_t *lazy)
{
    return lazy->num_unmet > 0 && rdt_wire_has_callers(lazy->wire);
}

bool rdt_lazy_is_busy(const rdt_lazy_t *lazy)
{
    return lazy->num_wanted > 0 || rdt_lazy_has_callers(lazy);
}

void rdt_lazy_fail(rdt_conn_t *conn, rdt_status_t status, const char *text)
{
    if (conn->status != RDT_OK) return;
    conn->status = status;
    snprintf(conn->detail, sizeof(conn->detail), "%s", text);
}

void rdt_lazy_watch(const rdt_lazy_t *lazy, rdt_sleep_t *sleep)
{
    if (lazy->num_unmet == 0) return;
    sleep->fds[sleep->num_fds++] = (struct pollfd){.fd = rdt_wire_fd(lazy->wire), .events = POLLIN};
}

void rdt_lazy_close(rdt_lazy_t *lazy)
{
    if (lazy->wire != NULL) rdt_wire_close(lazy->wire);
    free(lazy->needs);
    *lazy = (rdt_lazy_t){0};
}
