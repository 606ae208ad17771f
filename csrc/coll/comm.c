/* SPDX-License-Identifier: Apache-2.0 */
/* Set-up and end of a communicator, and its one latched error. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "coll/recorder.h"

/* How long last words may wait for a slot, or for a full socket. */
#define GOODBYE_NS (RDT_NS_PER_S / 5)

static const rdt_transport_ops_t *const transports[RDT_NUM_TRANSPORTS] = {
    &rdt_shm_ops, &rdt_verbs_ops, &rdt_tcp_ops, &rdt_fake_ops};

static int find_transport(const char *name)
{
    for (int i = 0; name != NULL && i < RDT_NUM_TRANSPORTS; i++)
        if (strcmp(transports[i]->name, name) == 0) return i;
    return -1;
}

const rdt_transport_ops_t *rdt_transport_named(const char *name)
{
    int i = find_transport(name);

    return i < 0 ? NULL : transports[i];
}

static rdt_status_t check_cfg(const rdt_comm_cfg_t *cfg)
{
    if (cfg->world == 0 || cfg->world > RDT_MAX_WORLD)
        return rdt_fail(RDT_BAD_ARG, "world size %u is not between 1 and %u", cfg->world,
                        RDT_MAX_WORLD);
    if (cfg->rank >= cfg->world)
        return rdt_fail(RDT_BAD_ARG, "rank %u is not below world size %u", cfg->rank, cfg->world);
    return cfg->tuning != NULL ? rdt_tuning_check(cfg->tuning) : RDT_OK;
}

/* Who shares a host with whom, and what is made of it. */
static rdt_status_t open_stages(rdt_comm_t *comm)
{
    rdt_status_t st =
        rdt_layout_make(comm->cfg.hosts, comm->cfg.world, comm->cfg.rank, &comm->layout);

    comm->cfg.hosts = NULL; /* the caller's */
    if (st != RDT_OK) return st;
    rdt_kernels_get(rdt_reduce_best_isa(), &comm->kernels);
    return rdt_stages_open(&comm->layout, &comm->kernels, &comm->tuning, &comm->stages);
}

/* How many forks lie between this process and the first one: cheaper to ask than the pid. */
static _Atomic uint32_t num_forks;

static void count_fork(void)
{
    atomic_fetch_add(&num_forks, 1);
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, count_fork);
}

rdt_status_t rdt_comm_open(const rdt_comm_cfg_t *cfg, rdt_comm_t **comm_p)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    rdt_status_t st = check_cfg(cfg);
    rdt_comm_t *comm;

    if (st != RDT_OK) return st;
    comm = calloc(1, sizeof(*comm));
    if (comm == NULL) return rdt_fail(RDT_NO_MEMORY, "communicator: out of memory");
    comm->cfg = *cfg;
    pthread_once(&once, watch_forks);
    comm->num_forks = atomic_load(&num_forks);
    comm->number = rdt_recorder_number();
    comm->tuning = cfg->tuning != NULL ? *cfg->tuning : rdt_tuning_default(cfg->world);
    comm->cfg.tuning = &comm->tuning;
    pthread_mutex_init(&comm->error_lock, NULL);
    comm->queue_tail = &comm->queue;
    comm->over_tail = &comm->over;
    comm->peers = calloc(cfg->world, sizeof(*comm->peers));
    comm->srcs = calloc(cfg->world, sizeof(*comm->srcs));
    comm->fds = calloc(cfg->world + 1 + RDT_NUM_TRANSPORTS * RDT_SLEEP_FDS, sizeof(*comm->fds));
    comm->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (comm->peers == NULL || comm->srcs == NULL || comm->fds == NULL || comm->event_fd < 0) {
        rdt_fail(RDT_NO_MEMORY, "communicator of %u ranks: %s", cfg->world, strerror(errno));
        rdt_comm_close(comm);
        return RDT_NO_MEMORY;
    }
    st = open_stages(comm);
    if (st == RDT_OK)
        *comm_p = comm;
    else
        rdt_comm_close(comm);
    return st;
}

static uint32_t clamp_u32(uint64_t n)
{
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

static uint32_t fnv1a(uint32_t hash, const void *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ ((const uint8_t *)data)[i]) * 16777619u;
    return hash;
}

/* Of what decides which messages there are: the table, and which ranks share a host. */
static uint32_t digest(const rdt_comm_t *comm)
{
    const rdt_tuning_t *t = &comm->tuning;
    const uint64_t fields[] = {
        t->one_shot,    t->direct,        t->place,           t->scatter,        t->chunk,
        t->way,         t->host_latency,  t->host_message,    t->host_bandwidth, t->net_latency,
        t->net_message, t->net_bandwidth, comm->layout.digest};

    return fnv1a(2166136261u, fields, sizeof(fields));
}

rdt_status_t rdt_comm_listen(rdt_comm_t *comm, const char *transport, const char *arg,
                             uint8_t wire[RDT_COMM_WIRE_BYTES], uint32_t *wire_len_p)
{
    rdt_ctx_cfg_t cfg = {.rank = comm->cfg.rank,
                         .world = comm->cfg.world,
                         .chunk_bytes = (uint32_t)comm->tuning.chunk,
                         .tuning = digest(comm),
                         .stream_from = clamp_u32(comm->tuning.stream_from),
                         .stream_to = clamp_u32(comm->tuning.stream_to),
                         .lazy = comm->cfg.lazy,
                         .timeout_ns = comm->cfg.timeout_ns,
                         .addr = arg};
    int i = find_transport(transport);
    rdt_status_t st;

    if (i < 0 || comm->ctx[i] != NULL)
        return rdt_fail(RDT_BAD_ARG, "transport \"%s\" is unknown or already open",
                        transport != NULL ? transport : "");
    memcpy(cfg.token, comm->cfg.token, sizeof(cfg.token));
    st = transports[i]->open(&cfg, &comm->ctx[i]);
    if (st == RDT_OK) *wire_len_p = transports[i]->address(comm->ctx[i], wire);
    return st;
}

/* Gathers the ranks that transport i reaches; their number. */
static uint32_t peers_of(const rdt_comm_t *comm, int i, const rdt_peer_info_t *infos,
                         rdt_peer_t *peers)
{
    uint32_t num = 0;

    for (uint32_t r = 0; r < comm->cfg.world; r++) {
        if (r == comm->cfg.rank || find_transport(infos[r].transport) != i) continue;
        peers[num] = (rdt_peer_t){.rank = r, .wire_len = infos[r].wire_len};
        memcpy(peers[num].wire, infos[r].wire, sizeof(peers[num].wire));
        num++;
    }
    return num;
}

static rdt_status_t connect_transport(rdt_comm_t *comm, int i, const rdt_peer_info_t *infos,
                                      uint64_t deadline_ns)
{
    rdt_peer_t *peers = calloc(comm->cfg.world, sizeof(*peers));
    rdt_conn_t **conns = calloc(comm->cfg.world, sizeof(*conns));
    rdt_status_t st = RDT_NO_MEMORY;
    uint32_t num = 0;

    if (peers != NULL && conns != NULL) {
        num = peers_of(comm, i, infos, peers);
        st =
            num > 0 ? transports[i]->connect(comm->ctx[i], peers, num, deadline_ns, conns) : RDT_OK;
    } else {
        rdt_fail(st, "connecting: out of memory");
    }
    for (uint32_t k = 0; st == RDT_OK && k < num; k++) {
        comm->peers[peers[k].rank].conn = conns[k];
        comm->shares_arena |= conns[k]->shares_arena;
    }
    free(peers);
    free(conns);
    return st;
}

static rdt_status_t check_infos(rdt_comm_t *comm, const rdt_peer_info_t *infos)
{
    for (uint32_t r = 0; r < comm->cfg.world; r++) {
        int i = find_transport(infos[r].transport);

        memcpy(comm->peers[r].label, infos[r].label, RDT_COMM_LABEL_BYTES - 1);
        if (r != comm->cfg.rank && (i < 0 || comm->ctx[i] == NULL))
            return rdt_fail(RDT_BAD_ARG, "rank %u is to be reached over \"%s\", which is not open",
                            r, infos[r].transport != NULL ? infos[r].transport : "");
    }
    return RDT_OK;
}

rdt_status_t rdt_comm_connect(rdt_comm_t *comm, const rdt_peer_info_t *infos, uint64_t timeout_ns)
{
    uint64_t deadline_ns = rdt_now_ns() + timeout_ns;
    rdt_status_t st;
    int err;

    if (atomic_exchange(&comm->connecting, true))
        return rdt_fail(RDT_BAD_ARG, "rank %u has connected, or tried to, before", comm->cfg.rank);
    st = check_infos(comm, infos);
    for (int i = 0; st == RDT_OK && i < RDT_NUM_TRANSPORTS; i++)
        if (comm->ctx[i] != NULL) st = connect_transport(comm, i, infos, deadline_ns);
    if (st != RDT_OK) return st;
    err = pthread_create(&comm->thread, NULL, rdt_progress_thread, comm);
    if (err != 0) return rdt_fail(RDT_NO_MEMORY, "progress thread: %s", strerror(err));
    comm->has_thread = true;
    atomic_store(&comm->connected, true);
    return RDT_OK;
}

void rdt_comm_latch(rdt_comm_t *comm, rdt_status_t status, const char *fmt, ...)
{
    va_list args;

    pthread_mutex_lock(&comm->error_lock);
    if (atomic_load(&comm->status) == RDT_OK) {
        va_start(args, fmt);
        vsnprintf(comm->error, sizeof(comm->error), fmt, args);
        va_end(args);
        atomic_store(&comm->status, status);
        if (status != RDT_CLOSED) rdt_recorder_error(comm->error);
    }
    pthread_mutex_unlock(&comm->error_lock);
}

static const char *why_lost(const rdt_conn_t *conn)
{
    if (conn->detail[0] != '\0') return conn->detail;
    return conn->sys_errno != 0 ? strerror(conn->sys_errno) : rdt_status_text(conn->status);
}

/* What happened to the peer, as far as this rank can tell. */
static const char *fate(const rdt_conn_t *conn)
{
    if (conn->unjoined) return "could not be reached";
    if (conn->status == RDT_IO_ERROR) return "cannot be reached any more";
    return conn->status == RDT_PROTOCOL ? "broke the protocol" : "died or closed its connection";
}

void rdt_comm_lost_st(rdt_comm_t *comm, uint32_t rank, const char *doing)
{
    const rdt_peer_state_t *peer = &comm->peers[rank];
    const rdt_conn_t *conn = peer->conn;

    rdt_p2p_last_words_st(comm, rank); /* a cause that the peer told comes before its loss */
    if (peer->bye)
        rdt_comm_latch(comm, RDT_PEER_LOST,
                       "rank %u (%s) has left the group, while rank %u was in %s", rank,
                       peer->label, comm->cfg.rank, doing);
    else
        rdt_comm_latch(comm, conn->status != RDT_OK ? conn->status : RDT_PEER_LOST,
                       "rank %u (%s) %s (%s: %s), while rank %u was in %s", rank, peer->label,
                       fate(conn), conn->ops->name, why_lost(conn), comm->cfg.rank, doing);
}

rdt_status_t rdt_comm_status(rdt_comm_t *comm, char *text, size_t text_bytes)
{
    rdt_status_t st;

    pthread_mutex_lock(&comm->error_lock);
    st = (rdt_status_t)atomic_load(&comm->status);
    snprintf(text, text_bytes, "%s", st == RDT_OK ? "" : comm->error);
    pthread_mutex_unlock(&comm->error_lock);
    return st;
}

uint32_t rdt_comm_number(const rdt_comm_t *comm)
{
    return comm->number;
}

const char *rdt_comm_transport(const rdt_comm_t *comm, uint32_t rank)
{
    if (rank >= comm->cfg.world) return "none";
    if (rank == comm->cfg.rank) return "self";
    return comm->peers[rank].conn != NULL ? comm->peers[rank].conn->ops->name : "none";
}

rdt_status_t rdt_comm_stats(const rdt_comm_t *comm, uint32_t peer, rdt_peer_stats_t *stats_p)
{
    const rdt_conn_t *conn;

    if (peer >= comm->cfg.world)
        return rdt_fail(RDT_BAD_ARG, "rank %u is not below world size %u", peer, comm->cfg.world);
    conn = comm->peers[peer].conn;
    *stats_p = (rdt_peer_stats_t){0};
    if (conn == NULL) return RDT_OK;
    stats_p->sent_bytes = atomic_load_explicit(&conn->sent_bytes, memory_order_relaxed);
    stats_p->received_bytes = atomic_load_explicit(&conn->received_bytes, memory_order_relaxed);
    stats_p->staged_bytes = atomic_load_explicit(&conn->staged_bytes, memory_order_relaxed);
    if (conn->ops->rails != NULL) stats_p->num_rails = conn->ops->rails(conn, stats_p->rails);
    return RDT_OK;
}

static bool is_flushed(const rdt_conn_t *conn)
{
    for (int l = 0; l < RDT_NUM_LANES; l++)
        if (conn->flushed[l] < conn->posted[l]) return false;
    return true;
}

static rdt_hdr_t last_words(const rdt_comm_t *comm, uint32_t *len_p)
{
    rdt_status_t st = (rdt_status_t)atomic_load(&comm->status);
    bool error = st != RDT_OK && st != RDT_CLOSED;
    size_t len = error ? strlen(comm->error) : 0;

    *len_p = (uint32_t)(len < comm->tuning.chunk ? len : comm->tuning.chunk);
    return (rdt_hdr_t){.kind = error ? RDT_KIND_ERROR : RDT_KIND_BYE, .seq = comm->coll_done};
}

/* One attempt for each peer; how many of them have not got everything yet. */
static uint32_t tell_more(rdt_comm_t *comm, const rdt_hdr_t *hdr, uint32_t len)
{
    uint32_t num_open = 0;

    for (uint32_t r = 0; r < comm->cfg.world; r++) {
        rdt_peer_state_t *peer = &comm->peers[r];
        rdt_conn_t *conn = peer->conn;

        if (conn == NULL || conn->status != RDT_OK || conn->unjoined) continue;
        if (!peer->told)
            peer->told = conn->ops->send(conn, RDT_LANE_P2P, hdr, comm->error, len) == RDT_OK;
        num_open += !peer->told || !is_flushed(conn);
    }
    return num_open;
}

/* The buffers of failed works go back to their owners, so what could not go out in time is cut off. A
 * peer that did not hear the words sees its connection end. */
static void cut_rest(rdt_comm_t *comm)
{
    for (uint32_t r = 0; r < comm->cfg.world; r++) {
        const rdt_peer_state_t *peer = &comm->peers[r];
        rdt_conn_t *conn = peer->conn;

        if (conn != NULL && conn->status == RDT_OK && !conn->unjoined &&
            !(peer->told && is_flushed(conn)))
            conn->ops->cut(conn);
    }
}

bool rdt_comm_let_in_st(rdt_comm_t *comm)
{
    bool busy = false;

    for (int i = 0; i < RDT_NUM_TRANSPORTS; i++)
        if (comm->ctx[i] != NULL && transports[i]->let_in != NULL)
            busy |= transports[i]->let_in(comm->ctx[i]);
    return busy;
}

/* Who is about to join is to hear it, too. True while somebody has not. */
static bool tell_all(rdt_comm_t *comm, const rdt_hdr_t *hdr, uint32_t len)
{
    bool coming = rdt_comm_let_in_st(comm);

    return tell_more(comm, hdr, len) > 0 || coming;
}

void rdt_comm_tell_st(rdt_comm_t *comm)
{
    uint64_t deadline_ns = rdt_now_ns() + GOODBYE_NS;
    uint32_t len;
    rdt_hdr_t hdr = last_words(comm, &len);

    if (comm->told) { /* those who have joined since must not wait for what will not come */
        if (comm->cfg.lazy) (void)tell_more(comm, &hdr, len);
        return;
    }
    comm->told = true;
    while (tell_all(comm, &hdr, len) && rdt_now_ns() < deadline_ns)
        for (int i = 0; i < RDT_NUM_TRANSPORTS; i++)
            if (comm->ctx[i] != NULL) transports[i]->poll(comm->ctx[i]);
    cut_rest(comm);
}

bool rdt_comm_is_forked(const rdt_comm_t *comm)
{
    return atomic_load_explicit(&num_forks, memory_order_relaxed) != comm->num_forks;
}

void rdt_comm_abort(rdt_comm_t *comm, const char *reason)
{
    if (rdt_comm_is_forked(comm)) return;
    rdt_comm_latch(comm, RDT_CLOSED, "rank %u: %s", comm->cfg.rank, reason);
    rdt_fail_all(comm);
}

void rdt_comm_close(rdt_comm_t *comm)
{
    if (rdt_comm_is_forked(comm)) return; /* its memory is a copy, its sockets are the parent's */
    if (comm->peers != NULL) rdt_comm_abort(comm, "the communicator was closed");
    if (comm->has_thread) {
        atomic_store(&comm->stop, true);
        rdt_kick_thread(comm);
        pthread_join(comm->thread, NULL);
    }
    for (int i = 0; i < RDT_NUM_TRANSPORTS; i++)
        if (comm->ctx[i] != NULL) transports[i]->close(comm->ctx[i]);
    for (uint32_t r = 0; comm->peers != NULL && r < comm->cfg.world; r++)
        while (comm->peers[r].rts != NULL) {
            rdt_rts_t *rts = comm->peers[r].rts;

            comm->peers[r].rts = rts->next;
            free(rts);
        }
    if (comm->event_fd >= 0) close(comm->event_fd);
    pthread_mutex_destroy(&comm->error_lock);
    rdt_stages_close(&comm->stages);
    rdt_layout_free(&comm->layout);
    free(comm->fds);
    free(comm->srcs);
    free(comm->peers);
    free(comm);
}
