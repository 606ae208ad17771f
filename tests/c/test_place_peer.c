/* SPDX-License-Identifier: Apache-2.0 */
/* A peer that is let in and then puts data wrongly: a communicator calls it a protocol error, whatever
 * the message says. Rank 1 is the transport alone, and makes its messages from those of rank 0. */
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "check.h"
#include "coll/comm.h"

#define COUNT 4096u /* two shards of two chunks */
#define CHUNK_BYTES 4096u
#define LIMIT_NS (20 * RDT_NS_PER_S)

typedef struct scene {
    rdt_comm_t *comms[2];
    rdt_peer_info_t infos[2];
    rdt_ctx_t *ctx; /* rank 1's */
    rdt_conn_t *conn;
    rdt_work_t *work;
    float data[COUNT];
    pthread_t thread;
} scene_t;

static void *connect_rank_0(void *arg)
{
    scene_t *scene = arg;

    CHECK(rdt_comm_connect(scene->comms[0], scene->infos, LIMIT_NS) == RDT_OK, "%s",
          rdt_last_error());
    return NULL;
}

static rdt_ctx_t *tcp_of(const rdt_comm_t *comm)
{
    for (int i = 0; i < RDT_NUM_TRANSPORTS; i++)
        if (comm->ctx[i] != NULL) return comm->ctx[i];
    CHECK(false, "no transport is open");
    return NULL;
}

static void open_scene(scene_t *scene)
{
    rdt_tuning_t tuning = rdt_tuning_default(2);
    rdt_peer_t peer = {.rank = 0};

    tuning.place = tuning.one_shot = 0;
    tuning.chunk = CHUNK_BYTES;
    for (uint32_t r = 0; r < 2; r++) {
        rdt_comm_cfg_t cfg = {.rank = r, .world = 2, .tuning = &tuning, .token = "all of a group"};
        rdt_peer_info_t *info = &scene->infos[r];

        CHECK(rdt_comm_open(&cfg, &scene->comms[r]) == RDT_OK, "%s", rdt_last_error());
        info->transport = "tcp";
        CHECK(rdt_comm_listen(scene->comms[r], "tcp", "127.0.0.1", info->wire, &info->wire_len) ==
                  RDT_OK,
              "%s", rdt_last_error());
    }
    scene->ctx = tcp_of(scene->comms[1]);
    peer.wire_len = scene->infos[0].wire_len;
    memcpy(peer.wire, scene->infos[0].wire, sizeof(peer.wire));
    pthread_create(&scene->thread, NULL, connect_rank_0, scene);
    CHECK(scene->ctx->ops->connect(scene->ctx, &peer, 1, rdt_now_ns() + LIMIT_NS, &scene->conn) ==
              RDT_OK,
          "%s", rdt_last_error());
    pthread_join(scene->thread, NULL);
}

/* Rank 0 calls all_reduce: its first message, which says where it wants its result. */
static rdt_hdr_t begin(scene_t *scene)
{
    rdt_call_t call = {.coll = RDT_ALL_REDUCE,
                       .dtype = RDT_F32,
                       .op = RDT_SUM,
                       .count = COUNT,
                       .in = scene->data,
                       .out = scene->data,
                       .timeout_ns = LIMIT_NS,
                       .background = true};
    uint64_t deadline = rdt_now_ns() + LIMIT_NS;
    rdt_msg_t msg;
    rdt_hdr_t hdr;

    for (uint32_t i = 0; i < COUNT; i++)
        scene->data[i] = 7;
    CHECK(rdt_post(scene->comms[0], &call, &scene->work) == RDT_OK, "%s", rdt_last_error());
    while (scene->ctx->ops->peek(scene->conn, RDT_LANE_COLL, &msg) == RDT_AGAIN &&
           rdt_now_ns() < deadline)
        scene->ctx->ops->poll(scene->ctx);
    memcpy(&hdr, msg.hdr, sizeof(hdr));
    CHECK_EQ(hdr.kind, RDT_KIND_INPUT);
    CHECK(hdr.out_at != 0, "rank 0 exposes nothing");
    return hdr;
}

/* One message of rank 1 that must end it: on the lane, put to at, or sent where that is 0. */
typedef struct wrong {
    const char *name, *text;
    rdt_kind_t kind;
    rdt_lane_t lane;
    bool put;
    uint64_t offset;
    uint32_t len;
} wrong_t;

static void run(const wrong_t *wrong)
{
    static const float poison[CHUNK_BYTES / sizeof(float)] = {1};
    static scene_t scene;
    rdt_status_t st;
    rdt_hdr_t hdr;

    scene = (scene_t){0};
    open_scene(&scene);
    hdr = begin(&scene);
    hdr.kind = (uint8_t)wrong->kind;
    if (wrong->put)
        st = rdt_tcp_ops.put(scene.conn, wrong->lane, &hdr, poison, wrong->len,
                             hdr.out_at + wrong->offset);
    else
        st = rdt_tcp_ops.send(scene.conn, wrong->lane, &hdr, poison, wrong->len);
    CHECK_EQ(st, RDT_OK);
    st = rdt_work_wait(scene.work, LIMIT_NS);
    CHECK(st == RDT_PROTOCOL, "%s: %s, %s", wrong->name, rdt_status_text(st),
          rdt_work_text(scene.work));
    CHECK(strstr(rdt_work_text(scene.work), wrong->text) != NULL, "%s: %s", wrong->name,
          rdt_work_text(scene.work));
    for (uint32_t i = 0; i < COUNT / 2; i++) /* its own shard is never exposed */
        CHECK(scene.data[i] == 7, "%s: element %u is %f", wrong->name, i, (double)scene.data[i]);
    rdt_work_free(scene.work);
    rdt_comm_close(scene.comms[0]);
    rdt_comm_close(scene.comms[1]);
    printf("%s: ok\n", wrong->name);
}

int main(void)
{
    static const wrong_t wrongs[] = {
        {"an input that is to be reduced, in place", "in place to rank 0 instead of 4096 through",
         RDT_KIND_INPUT, RDT_LANE_COLL, true, 0, CHUNK_BYTES},
        {"a result through a slot", "through a slot to rank 0 instead of 4096 in place",
         RDT_KIND_RESULT, RDT_LANE_COLL, false, 0, CHUNK_BYTES},
        {"a result that is too short", "sent 64 bytes in place", RDT_KIND_RESULT, RDT_LANE_COLL,
         true, 0, 64},
        {"a result beyond the shard", "does not understand", RDT_KIND_RESULT, RDT_LANE_COLL, true,
         CHUNK_BYTES + 64, CHUNK_BYTES},
        {"an announcement in place", "did not expect", RDT_KIND_EAGER, RDT_LANE_P2P, true, 0, 64},
        {"last words in place", "did not expect", RDT_KIND_ERROR, RDT_LANE_P2P, true, 0, 64},
        {"data for no recv", "did not expect", RDT_KIND_DATA, RDT_LANE_P2P, true, 0, 64},
    };

    for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++)
        run(&wrongs[i]);
    return 0;
}
