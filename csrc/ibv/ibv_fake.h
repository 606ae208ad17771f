/* SPDX-License-Identifier: Apache-2.0 */
/* RDMA without a device: the table of ibv_api.h over the memory of this process, with a script that
 * makes trouble. Ranks are threads of one process. One lock; slow and simple on purpose.
 *
 * Devices "fake0" to "fake3" have one port and four GIDs: 0 link-local, 1 IPv4-mapped (RoCE v2), 2
 * zero, 3 global IPv6. All contexts of all threads are on one network. RC queue pairs do RDMA WRITE and
 * WRITE_WITH_IMM. Keys, bounds, access flags, states, masks, depths, MTUs and PSNs are checked as
 * devices check them. A transfer is done at once where nothing forbids it, else when someone polls
 * the sender's context or, without that, by a thread of the fake every 200 us.
 *
 * A payload is there before its completion. Without immediate data its last 64 bytes are stored in
 * order, words of 8 aligned bytes whole and as releases: a flag may lie there, to be polled.
 *
 * Where libibverbs waits for events to be acknowledged, destroy_qp and destroy_cq wait 1 s, and
 * then fail with EDEADLK. After a fork a child can use nothing of it.
 *
 * A script is a list of items, separated by ';' without spaces. N counts from 1, within a context;
 * E is an errno value, and S a completion status, by name (without IBV_WC_) or number.
 *   post=N          the Nth work request that is posted to a send queue is refused: ENOMEM
 *   recv=N          the same of receive queues
 *   wc=S@N          the Nth send work request ends with S, and transfers nothing
 *   rwc=S@N         the Nth receive ends with S, the sender's request with REM_OP_ERR
 *   reg=N           the Nth registration fails: ENOMEM, as under a small memlock limit
 *   overrun=N       the Nth completion finds its CQ full
 *   event=NAME@N    an event (IBV_EVENT_ left out) after N send work requests; N=0: on opening. With
 *                   effect: QP_FATAL (the QP of that request), CQ_ERR (its send CQ), PORT_ERR and
 *                   PORT_ACTIVE (the port), DEVICE_FATAL (all QPs, and everything later)
 *   rtr=E@I         a move to RTR fails with E where the source GID index is I
 *   gid=E@I         reading the GID at index I fails with E, and nothing can use it
 *   ah=E@I          an address handle with source GID index I fails with E
 *   list=E, open=E  get_device_list, open_device fail with E
 *   query=E         query_device fails with E
 *   devices=N       how many there are, at most 4
 *   inline=N        bytes that go inline, 220 at most; a QP that asks for more is EINVAL
 *   inline_grant=N  a QP that asks for more gets N instead
 *   max_msg_sz=N, max_qp_wr=N, max_sge=N, max_cqe=N, max_mr=N   limits of the device
 *   mtu=N           active MTU in bytes
 *   lid=N           not 0: the port is InfiniBand and has this LID
 *   state=N         of the port, an ibv_port_state
 *   delay=N         a request is executed, and again completed, after up to N polls
 *   seed=N          of the delays
 *   iova2=0         the library has no ibv_reg_mr_iova2
 *   dmabuf=1        it has ibv_reg_dmabuf_mr; any descriptor that can be mapped is a dmabuf
 *   dmabuf=2        it has that, and the driver of the device does not: EOPNOTSUPP
 *   fork=1          the kernel needs ibv_fork_init: nothing is registered before that was called
 *   fork=2          and it is too late for that */
#ifndef RDT_IBV_IBV_FAKE_H
#define RDT_IBV_IBV_FAKE_H

#include "ibv/ibv_api.h"

/* Fills the table. The script is that of the contexts that this thread opens from here on: NULL or ""
 * for no trouble. BAD_ARG says from where on it is not understood. Any thread. */
rdt_status_t rdt_ibv_fake(const char *script, rdt_ibv_api_t *api_p);

/* Objects of the process that are not destroyed yet: contexts, PDs, MRs, CQs, ..., device lists. */
unsigned rdt_ibv_fake_live(void);

#endif
