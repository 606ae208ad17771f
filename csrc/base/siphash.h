/* SPDX-License-Identifier: Apache-2.0 */
/* SipHash-2-4 with 128 bits of output: a message authentication code for short messages. */
#ifndef RDT_BASE_SIPHASH_H
#define RDT_BASE_SIPHASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RDT_MAC_BYTES 16
#define RDT_MAC_KEY_BYTES 16

/* Without the key, nobody can tell the code of a message that they have not been shown. */
void rdt_siphash(const uint8_t key[RDT_MAC_KEY_BYTES], const void *data, size_t len,
                 uint8_t mac[RDT_MAC_BYTES]);

/* Takes the same time wherever the two differ, so that time tells nothing. */
bool rdt_mac_equal(const uint8_t *a, const uint8_t *b);

#endif
