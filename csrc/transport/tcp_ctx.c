/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/sock.h"
#include "transport/tcp.h"

/* A numeric address, port 0: the kernel chooses one, and the address is published. */
static rdt_status_t parse(const char *text, struct sockaddr_storage *addr, socklen_t *len_p)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)addr;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)addr;

    memset(addr, 0, sizeof(*addr));
    if (text != NULL && inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        *len_p = sizeof(*v4);
        return RDT_OK;
    }
    if (text != NULL && inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        *len_p = sizeof(*v6);
        return RDT_OK;
    }
    return rdt_fail(RDT_BAD_ARG, "\"%s\" is not a numeric IPv4 or IPv6 address",
                    text != NULL ? text : "");
}

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
    st = parse(cfg->addr, &ctx->addr, &ctx->addr_len);
    if (st == RDT_OK)
        st = rdt_sock_listen((struct sockaddr *)&ctx->addr, ctx->addr_len, &ctx->listen_fd);
    if (st == RDT_OK &&
        getsockname(ctx->listen_fd, (struct sockaddr *)&ctx->addr, &ctx->addr_len) < 0)
        st = rdt_fail(RDT_IO_ERROR, "getsockname: %s", strerror(errno));
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
    .poll = rdt_tcp_poll,
    .check = rdt_tcp_check,
    .arm = rdt_tcp_arm,
    .disarm = rdt_tcp_disarm,
};
