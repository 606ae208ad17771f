/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/siphash.h"

#define WORD 8u
#define COMPRESSION_ROUNDS 2
#define FINAL_ROUNDS 4

/* The sum is defined over little-endian words, whatever the machine's order is. */
static uint64_t load(const uint8_t *bytes)
{
    uint64_t word = 0;

    for (unsigned i = 0; i < WORD; i++)
        word |= (uint64_t)bytes[i] << (8 * i);
    return word;
}

static void store(uint8_t *bytes, uint64_t word)
{
    for (unsigned i = 0; i < WORD; i++)
        bytes[i] = (uint8_t)(word >> (8 * i));
}

static uint64_t rotl(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static void mix(uint64_t v[4], int rounds)
{
    while (rounds-- > 0) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rotl(v[1], 13) ^ v[0];
        v[3] = rotl(v[3], 16) ^ v[2];
        v[0] = rotl(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = rotl(v[1], 17) ^ v[2];
        v[3] = rotl(v[3], 21) ^ v[0];
        v[2] = rotl(v[2], 32);
    }
}

static void absorb(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    mix(v, COMPRESSION_ROUNDS);
    v[0] ^= word;
}

static void squeeze(uint64_t v[4], uint8_t *half)
{
    mix(v, FINAL_ROUNDS);
    store(half, v[0] ^ v[1] ^ v[2] ^ v[3]);
}

void rdt_siphash(const uint8_t key[RDT_MAC_KEY_BYTES], const void *data, size_t len,
                 uint8_t mac[RDT_MAC_BYTES])
{
    const uint64_t k0 = load(key), k1 = load(key + WORD);
    uint64_t v[4] = {0x736f6d6570736575u ^ k0, 0x646f72616e646f6du ^ k1 ^ 0xee,
                     0x6c7967656e657261u ^ k0, 0x7465646279746573u ^ k1};
    const uint8_t *bytes = data;
    uint8_t last[WORD] = {0};
    size_t left = len;

    for (; left >= WORD; left -= WORD, bytes += WORD)
        absorb(v, load(bytes));
    if (left > 0) memcpy(last, bytes, left);
    last[WORD - 1] = (uint8_t)len;
    absorb(v, load(last));
    v[2] ^= 0xee;
    squeeze(v, mac);
    v[1] ^= 0xdd;
    squeeze(v, mac + WORD);
}

bool rdt_mac_equal(const uint8_t *a, const uint8_t *b)
{
    uint8_t diff = 0;

    for (int i = 0; i < RDT_MAC_BYTES; i++)
        diff |= a[i] ^ b[i];
    return diff == 0;
}
