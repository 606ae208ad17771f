/* SPDX-License-Identifier: Apache-2.0 */
#include "transport/windows.h"

/* at: the number of the window, from 1, and the offset in it, which a peer adds to. */
#define OFFSET_BITS 48
#define OFFSET_MASK ((UINT64_C(1) << OFFSET_BITS) - 1)

rdt_status_t rdt_windows_expose(rdt_windows_t *table, void *addr, size_t len, uint64_t *at_p)
{
    if (table->revoked || len == 0 || len > OFFSET_MASK) return RDT_UNSUPPORTED;
    for (uint64_t i = 0; i < RDT_NUM_WINDOWS; i++) {
        if (table->windows[i].left > 0) continue;
        table->windows[i] = (rdt_window_t){addr, len, len};
        *at_p = (i + 1) << OFFSET_BITS;
        return RDT_OK;
    }
    return RDT_UNSUPPORTED;
}

uint8_t *rdt_windows_use(rdt_windows_t *table, uint64_t at, size_t len)
{
    uint64_t number = at >> OFFSET_BITS, offset = at & OFFSET_MASK;
    rdt_window_t *window;

    if (number == 0 || number > RDT_NUM_WINDOWS) return NULL;
    window = &table->windows[number - 1];
    if (len > window->left || offset > window->len - len) return NULL;
    window->left -= len;
    return window->addr + offset;
}
