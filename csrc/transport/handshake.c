/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "transport/handshake.h"

/* The first byte under a code, so that none can be sent back as another. */
enum { ROLE_CALLED = 1, ROLE_DIALLED, ROLE_WELCOME };

static rdt_hello_t *mine(rdt_handshake_t *hs)
{
    return &hs->hellos[hs->dialled ? 0 : 1];
}

static rdt_hello_t *theirs(rdt_handshake_t *hs)
{
    return &hs->hellos[hs->dialled ? 1 : 0];
}

static void sign(const rdt_handshake_t *hs, uint8_t role, uint8_t *mac)
{
    uint8_t text[1 + sizeof(hs->hellos)];

    text[0] = role;
    memcpy(text + 1, hs->hellos, sizeof(hs->hellos));
    rdt_siphash(hs->cfg->token, text, sizeof(text), mac);
}

static bool is_signed(const rdt_handshake_t *hs, uint8_t role, const uint8_t *mac)
{
    uint8_t want[RDT_MAC_BYTES];

    sign(hs, role, want);
    return rdt_mac_equal(want, mac);
}

static void say(rdt_handshake_t *hs, const void *text, size_t len)
{
    memcpy(hs->out, text, len);
    hs->out_len = len;
    hs->out_done = 0;
}

static void say_code(rdt_handshake_t *hs, uint8_t role)
{
    uint8_t mac[RDT_MAC_BYTES];

    sign(hs, role, mac);
    say(hs, mac, sizeof(mac));
}

static void hear(rdt_handshake_t *hs, rdt_hears_t next)
{
    hs->hears = next;
    hs->in_done = 0;
}

static rdt_status_t begin(rdt_handshake_t *hs, const rdt_ctx_cfg_t *cfg, int fd,
                          const rdt_fds_t *pass_fds, bool dialled)
{
    *hs = (rdt_handshake_t){
        .cfg = cfg, .fd = fd, .dialled = dialled, .pass_fds = *pass_fds, .peer_fds = RDT_NO_FDS};
    *mine(hs) = (rdt_hello_t){.magic = RDT_WIRE_MAGIC,
                              .version = RDT_WIRE_VERSION,
                              .rank = cfg->rank,
                              .world = cfg->world,
                              .chunk_bytes = cfg->chunk_bytes,
                              .tuning = cfg->tuning};
    if (getrandom(mine(hs)->nonce, RDT_NONCE_BYTES, 0) == RDT_NONCE_BYTES) return RDT_OK;
    return rdt_fail(RDT_IO_ERROR, "getrandom: %s", strerror(errno));
}

rdt_status_t rdt_handshake_dial(rdt_handshake_t *hs, const rdt_ctx_cfg_t *cfg, int fd,
                                const rdt_fds_t *pass_fds, uint32_t rank)
{
    rdt_status_t st = begin(hs, cfg, fd, pass_fds, true);

    hs->expected = rank;
    hear(hs, RDT_HEARS_ANSWER);
    say(hs, mine(hs), sizeof(rdt_hello_t));
    return st;
}

rdt_status_t rdt_handshake_answer(rdt_handshake_t *hs, const rdt_ctx_cfg_t *cfg, int fd,
                                  const rdt_fds_t *pass_fds)
{
    rdt_status_t st = begin(hs, cfg, fd, pass_fds, false);

    hear(hs, RDT_HEARS_HELLO);
    return st;
}

/* A caller of another version is told this rank's, which is no secret, and then dropped. */
static rdt_status_t refuse_version(rdt_handshake_t *hs, uint32_t version)
{
    size_t done = 0;

    if (!hs->dialled) (void)rdt_sock_push(hs->fd, mine(hs), sizeof(rdt_hello_t), &done, NULL);
    return rdt_fail(hs->dialled ? RDT_PEER_REFUSED : RDT_PROTOCOL,
                    "what %s there speaks version %u of the handshake, rank %u version %u: install "
                    "the same rdmatrain for all ranks",
                    hs->dialled ? "answers" : "calls", version, hs->cfg->rank, RDT_WIRE_VERSION);
}

/* Looks at what has come of the first message: a stranger need not be waited for. */
static rdt_status_t check_start(rdt_handshake_t *hs)
{
    const uint64_t magic = RDT_WIRE_MAGIC;
    size_t have = hs->in_done < sizeof(magic) ? hs->in_done : sizeof(magic);
    rdt_hello_t hello;

    if (hs->hears != RDT_HEARS_HELLO && hs->hears != RDT_HEARS_ANSWER) return RDT_OK;
    if (memcmp(hs->in, &magic, have) != 0)
        return rdt_fail(hs->dialled ? RDT_PEER_REFUSED : RDT_PROTOCOL,
                        "what %s there is no rank of a group", hs->dialled ? "answers" : "calls");
    if (hs->in_done < offsetof(rdt_hello_t, rank)) return RDT_OK;
    memcpy(&hello, hs->in, offsetof(rdt_hello_t, rank));
    return hello.version == RDT_WIRE_VERSION ? RDT_OK : refuse_version(hs, hello.version);
}

static rdt_status_t heard_hello(rdt_handshake_t *hs)
{
    rdt_answer_t answer;

    memcpy(theirs(hs), hs->in, sizeof(rdt_hello_t));
    answer.hello = *mine(hs);
    sign(hs, ROLE_CALLED, answer.proof);
    say(hs, &answer, sizeof(answer));
    hear(hs, RDT_HEARS_PROOF);
    return RDT_OK;
}

static rdt_status_t heard_answer(rdt_handshake_t *hs)
{
    rdt_answer_t answer;

    memcpy(&answer, hs->in, sizeof(answer));
    *theirs(hs) = answer.hello;
    if (!is_signed(hs, ROLE_CALLED, answer.proof))
        return rdt_fail(RDT_PEER_REFUSED, "what answers there belongs to another group");
    if (answer.hello.rank != hs->expected)
        return rdt_fail(RDT_PEER_REFUSED, "what answers there is rank %u", answer.hello.rank);
    say_code(hs, ROLE_DIALLED);
    hear(hs, RDT_HEARS_WELCOME);
    return RDT_OK;
}

static rdt_status_t heard_proof(rdt_handshake_t *hs)
{
    if (!is_signed(hs, ROLE_DIALLED, hs->in))
        return rdt_fail(RDT_PROTOCOL, "a caller belongs to another group");
    hear(hs, RDT_HEARS_NOTHING);
    return RDT_OK;
}

static rdt_status_t heard_welcome(rdt_handshake_t *hs)
{
    if (!is_signed(hs, ROLE_WELCOME, hs->in))
        return rdt_fail(RDT_PEER_REFUSED, "what answers there did not say the welcome of a rank");
    hear(hs, RDT_HEARS_NOTHING);
    return RDT_OK;
}

static const struct {
    size_t len;
    rdt_status_t (*heard)(rdt_handshake_t *hs);
} messages[] = {
    [RDT_HEARS_HELLO] = {sizeof(rdt_hello_t), heard_hello},
    [RDT_HEARS_ANSWER] = {sizeof(rdt_answer_t), heard_answer},
    [RDT_HEARS_PROOF] = {RDT_MAC_BYTES, heard_proof},
    [RDT_HEARS_WELCOME] = {RDT_MAC_BYTES, heard_welcome},
};

static rdt_status_t push(rdt_handshake_t *hs)
{
    /* Who dials has seen the proof of who is called when it waits for its welcome; who is called has
     * seen that of its caller when it waits for nothing more. */
    bool proven = hs->hears == RDT_HEARS_WELCOME || hs->hears == RDT_HEARS_NOTHING;

    return rdt_sock_push(hs->fd, hs->out, hs->out_len, &hs->out_done,
                         proven ? &hs->pass_fds : NULL);
}

static rdt_status_t pull(rdt_handshake_t *hs)
{
    bool first = hs->hears == RDT_HEARS_HELLO || hs->hears == RDT_HEARS_ANSWER;
    rdt_status_t st = rdt_sock_pull(hs->fd, hs->in, messages[hs->hears].len, &hs->in_done,
                                    first ? NULL : &hs->peer_fds);
    rdt_status_t start = check_start(hs);

    return start != RDT_OK ? start : st;
}

rdt_status_t rdt_handshake_step(rdt_handshake_t *hs)
{
    while (hs->hears != RDT_HEARS_NOTHING) {
        rdt_status_t st = push(hs);

        if (st == RDT_OK) st = pull(hs);
        if (st == RDT_OK) st = messages[hs->hears].heard(hs);
        if (st != RDT_OK) return st;
    }
    return RDT_OK;
}

/* Sixteen bytes after the peer has read all before them always find room. */
rdt_status_t rdt_handshake_welcome(rdt_handshake_t *hs)
{
    say_code(hs, ROLE_WELCOME);
    return push(hs);
}

rdt_status_t rdt_handshake_judge(const rdt_handshake_t *hs)
{
    const rdt_hello_t *hello = &hs->hellos[hs->dialled ? 1 : 0];
    const rdt_ctx_cfg_t *cfg = hs->cfg;

    if (hello->world != cfg->world)
        return rdt_fail(RDT_PEER_REFUSED, "rank %u has world size %u, rank %u has %u", hello->rank,
                        hello->world, cfg->rank, cfg->world);
    if (hello->chunk_bytes != cfg->chunk_bytes)
        return rdt_fail(RDT_PEER_REFUSED, "rank %u has chunks of %u bytes, rank %u of %u",
                        hello->rank, hello->chunk_bytes, cfg->rank, cfg->chunk_bytes);
    if (hello->tuning != cfg->tuning)
        return rdt_fail(RDT_PEER_REFUSED,
                        "rank %u has another tuning table, or list of hosts, than rank %u",
                        hello->rank, cfg->rank);
    return RDT_OK;
}

bool rdt_handshake_is_through(const rdt_handshake_t *hs)
{
    return hs->hears != RDT_HEARS_ANSWER || hs->out_done > 0;
}

uint32_t rdt_handshake_rank(const rdt_handshake_t *hs)
{
    return hs->hellos[hs->dialled ? 1 : 0].rank;
}

void rdt_handshake_drop(rdt_handshake_t *hs)
{
    if (hs->fd >= 0) {
        shutdown(hs->fd, SHUT_RDWR); /* a forked child may hold it open */
        close(hs->fd);
    }
    hs->fd = -1;
    rdt_fds_close(&hs->peer_fds);
}
