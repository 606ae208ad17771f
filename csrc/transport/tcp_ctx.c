/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/sock.h"
#include "transport/tcp.h"

static void tcp_close(rdt_ctx_t *base)
{
    tcp_ctx_t *ctx = (tcp_ctx_t *)base;

    rdt_tcp_disconnect(ctx);
    if (ctx->listen_fd >= 0) close(ctx->listen_fd);
    free(ctx);
}

static rdt_status_t tcp_open(const rdt_ctx_cfg_t *cfg, rdt_ctx_t **ctx_p)
{
    tcp_ctx_t *ctx = calloc(1, sizeof(*ctx));
    rdt_status_t st;

    if (ctx == NULL) return rdt_fail(RDT_NO_MEMORY, "tcp context: out of memory");
    ctx->base = (rdt_ctx_t){.ops = &rdt_tcp_ops, .cfg = *cfg};
    ctx->listen_fd = -1;
    st = rdt_sock_listen_at(cfg->addr, &ctx->addr, &ctx->addr_len, &ctx->listen_fd);
    if (st != RDT_OK) {
        tcp_close(&ctx->base);
        return st;
    }
    *ctx_p = &ctx->base;
    return RDT_OK;
}

static uint32_t tcp_address(const rdt_ctx_t *base, uint8_t *wire)
{
    const tcp_ctx_t *ctx = (const tcp_ctx_t *)base;

    _Static_assert(sizeof(struct sockaddr_in6) <= RDT_WIRE_BYTES, "an address fits");
    memcpy(wire, &ctx->addr, ctx->addr_len);
    return ctx->addr_len;
}

const rdt_transport_ops_t rdt_tcp_ops = {
    .name = "tcp",
    .open = tcp_open,
    .address = tcp_address,
    .connect = rdt_tcp_connect,
    .cut = rdt_tcp_cut,
    .revoke = rdt_tcp_revoke,
    .close = tcp_close,
    .send = rdt_tcp_send,
    .expose = rdt_tcp_expose,
    .put = rdt_tcp_put,
    .peek = rdt_tcp_peek,
    .release = rdt_tcp_release,
    .expect = rdt_tcp_expect,
    .let_in = rdt_tcp_let_in,
    .poll = rdt_tcp_poll,
    .check = rdt_tcp_check,
    .arm = rdt_tcp_arm,
    .disarm = rdt_tcp_disarm,
};
