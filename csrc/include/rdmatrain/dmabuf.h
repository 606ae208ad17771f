/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of a device, as its driver gives it to other drivers: CUDA's cuMemGetHandleForAddressRange, for
 * instance, gives the descriptor. */
#ifndef RDMATRAIN_DMABUF_H
#define RDMATRAIN_DMABUF_H

#include <stddef.h>
#include <stdint.h>

typedef struct rdt_dmabuf {
    int fd;          /* the caller's, who may close it afterwards */
    uint64_t offset; /* of the memory in the dmabuf; in its page the same as that of addr */
    void *addr;      /* what the memory is called; no CPU reads or writes there */
    size_t len;
} rdt_dmabuf_t;

#endif
